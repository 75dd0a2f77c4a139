//! The record that a run leaves: written to the journal while it runs, shown to people afterwards.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::machine::Phase;
use crate::plan::{Action, Plan, PlannedCommand};
use crate::ports::{PodTarget, StorageLevel};

/// Version of this record.
pub const FORMAT: u32 = 2;

/// One invocation of a rule around a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Run {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// Unique; also a safe file name.
    pub id: String,
    /// Name of the cut.
    pub name: String,
    /// Name of the rule.
    pub rule: Option<String>,
    /// Where it stands, or how it ended.
    pub phase: Phase,
    /// When it began.
    #[cfg_attr(feature = "kube", schemars(with = "String"))]
    pub started_at: Timestamp,
    /// When it ended.
    #[cfg_attr(feature = "kube", schemars(with = "Option<String>"))]
    pub ended_at: Option<Timestamp>,
    /// What was to be done.
    pub plan: Option<Plan>,
    /// What was done, in the order in which it ended.
    pub attempts: Vec<Attempt>,
    /// What is owed to the application.
    pub debts: Vec<Debt>,
    /// The cut.
    pub cut: Option<CutOutcome>,
    /// The level reached; `None` without a sealed cut.
    pub level: Option<Level>,
    /// Why the level is not higher.
    pub reasons: Vec<String>,
    /// Why the run failed.
    pub failures: Vec<Failure>,
    /// Failures of steps that the rule allows to be ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<Failure>,
    /// Between the first and the last session that said that it holds, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_skew_us: Option<u64>,
    /// Its time, as it was when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<TimeBudget>,
    /// The steps were run without a cut, to try them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rehearsal: bool,
}

/// The time of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct TimeBudget {
    /// How long it had to prepare and cut, in milliseconds; 0 for one that only undoes what a dead process left.
    pub until_cut_ms: u64,
    /// It prepares and cuts no more: it releases, seals and undoes.
    pub letting_go: bool,
    /// What is left for what it does now, in milliseconds.
    pub left_ms: u64,
}

/// How consistent the cut is, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Members are not at one instant.
    Crash,
    /// One instant.
    Group,
    /// One instant, filesystems flushed and frozen.
    Filesystem,
    /// And the application did what its rule says.
    Application,
}

/// One action in one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Attempt {
    /// The step.
    pub step: String,
    /// What was done.
    pub action: Action,
    /// Where.
    #[serde(flatten)]
    pub target: PodTarget,
    /// The pod's host.
    pub host: String,
    /// Which try of it, from 1.
    pub number: u32,
    /// The command line or request, quoted for people.
    pub command: String,
    /// When it began.
    #[cfg_attr(feature = "kube", schemars(with = "String"))]
    pub started_at: Timestamp,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// Exit code, where it was a command that ended by itself.
    pub exit_code: Option<i32>,
    /// Status, where it was a request that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// How long after its start a session said that it holds, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_after_us: Option<u64>,
    /// Head and tail of what it printed.
    pub output: String,
    /// Bytes left out of `output`.
    pub omitted_bytes: u64,
    /// Why it counts as failed; `None` when it succeeded.
    pub error: Option<String>,
    /// The same as a word that programs read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<AttemptFault>,
}

/// How one action failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AttemptFault {
    /// Its exit code or status was not the expected one.
    Answer,
    /// It was not true in time.
    NotTrue,
    /// It ran longer than allowed.
    TimedOut,
    /// It did not begin.
    NotStarted,
    /// The connection to it was lost.
    Lost,
    /// The pod is gone or another one.
    PodChanged,
    /// A secret that it needs cannot be read.
    Secret,
    /// The run was stopped meanwhile.
    GivenUp,
}

impl AttemptFault {
    /// Whether what was asked for may have happened all the same.
    pub fn is_uncertain(self) -> bool {
        match self {
            Self::TimedOut | Self::Lost | Self::GivenUp => true,
            Self::Answer | Self::NotTrue | Self::NotStarted | Self::PodChanged | Self::Secret => false,
        }
    }
}

/// An `after` command that is owed because its step was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Debt {
    /// Index of the step in the plan.
    pub step: usize,
    /// Its name.
    pub step_name: String,
    /// Where it runs.
    #[serde(flatten)]
    pub target: PodTarget,
    /// The pod's host.
    pub host: String,
    /// What runs.
    pub command: PlannedCommand,
    /// Whether it was paid.
    pub state: DebtState,
}

/// Whether a debt was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DebtState {
    /// Not yet.
    Owed,
    /// Its command succeeded.
    Paid,
    /// Tried and failed; it is tried again.
    Unpaid,
    /// Whether it was paid is not known, and it may not be repeated: somebody must look at the application.
    Unknown,
    /// Its pod is gone, and what was to be undone with it.
    Gone,
}

impl DebtState {
    /// Whether nothing is owed any more.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Paid | Self::Gone => true,
            Self::Owed | Self::Unpaid | Self::Unknown => false,
        }
    }

    /// Whether it is tried (again) by itself.
    pub fn is_collectable(self) -> bool {
        match self {
            Self::Owed | Self::Unpaid => true,
            Self::Paid | Self::Unknown | Self::Gone => false,
        }
    }

    /// As it is written in records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Paid => "paid",
            Self::Unpaid => "unpaid",
            Self::Unknown => "unknown",
            Self::Gone => "gone",
        }
    }
}

/// The cut of a run. Lengths in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct CutOutcome {
    /// Its id.
    pub id: String,
    /// Whether it is real.
    pub sealed: bool,
    /// What storage reached by itself.
    pub level: StorageLevel,
    /// When the first hold was requested.
    #[cfg_attr(feature = "kube", schemars(with = "String"))]
    pub hold_requested_at: Timestamp,
    /// First hold requested to last release.
    pub window_us: u64,
    /// Between first and last member's cut.
    pub skew_us: u64,
}

/// One pod's part in a timeline. Instants in microseconds relative to the first hold requested (to the start of
/// the run where nothing was held); negative for what came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLane {
    /// `namespace/name`.
    pub pod: String,
    /// Its host.
    pub host: String,
    /// By start.
    pub spans: Vec<PodSpan>,
}

/// One thing that was done in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpan {
    /// The step.
    pub step: String,
    /// What.
    pub action: Action,
    /// Start.
    pub start_us: i64,
    /// End.
    pub end_us: i64,
    /// Whether it failed.
    pub failed: bool,
}

impl Debt {
    /// `` `command` in namespace/pod ``.
    pub fn in_words(&self) -> String {
        format!("`{}` in {}/{}", self.command, self.target.namespace, self.target.pod)
    }
}

impl Run {
    /// A run of which nothing was done.
    pub fn new(name: &str, rule: Option<&str>, started_at: Timestamp) -> Self {
        Self {
            format: FORMAT,
            id: run_id(name, started_at),
            name: name.to_owned(),
            rule: rule.map(str::to_owned),
            phase: Phase::Pending,
            started_at,
            ended_at: None,
            plan: None,
            attempts: Vec::new(),
            debts: Vec::new(),
            cut: None,
            level: None,
            reasons: Vec::new(),
            failures: Vec::new(),
            ignored: Vec::new(),
            session_skew_us: None,
            budget: None,
            rehearsal: false,
        }
    }

    /// Whether everything went as the rule says.
    pub fn succeeded(&self) -> bool {
        self.phase == Phase::Succeeded
    }

    /// Whether the same request may succeed, or find what it made, when it is made again at once: nothing that
    /// failed must be put right by people.
    pub fn may_be_repeated(&self) -> bool {
        !self.failures.is_empty() && self.failures.iter().all(|failure| failure.retry)
    }

    /// What is still owed to the application.
    pub fn owed(&self) -> impl Iterator<Item = &Debt> {
        self.debts.iter().filter(|debt| !debt.state.is_settled())
    }

    /// `Succeeded`, `Failed` or where it stands, for people.
    pub fn verdict(&self) -> &'static str {
        match self.phase {
            Phase::Succeeded => "succeeded",
            Phase::Failed if self.cut.as_ref().is_some_and(|cut| cut.sealed) => "failed after the cut",
            Phase::Failed => "failed",
            Phase::Overdue => "overdue",
            Phase::Pending
            | Phase::Planning
            | Phase::Choosing
            | Phase::Preparing(_)
            | Phase::Opening
            | Phase::Holding
            | Phase::Cutting
            | Phase::Checking
            | Phase::Releasing
            | Phase::Sealing
            | Phase::Undoing(_) => "unfinished",
        }
    }

    /// A lane per pod, for a timeline.
    pub fn lanes(&self) -> Vec<PodLane> {
        let origin = self.cut.as_ref().map_or(self.started_at, |cut| cut.hold_requested_at);
        let mut lanes: Vec<PodLane> = Vec::new();
        for attempt in &self.attempts {
            let start_us = attempt.started_at.as_microsecond() - origin.as_microsecond();
            let length = i64::try_from(attempt.duration_us).unwrap_or(i64::MAX);
            let span = PodSpan {
                step: attempt.step.clone(),
                action: attempt.action,
                start_us,
                end_us: start_us.saturating_add(length),
                failed: attempt.error.is_some(),
            };
            let pod = format!("{}/{}", attempt.target.namespace, attempt.target.pod);
            match lanes.iter_mut().find(|lane| lane.pod == pod) {
                Some(lane) => lane.spans.push(span),
                None => lanes.push(PodLane { pod, host: attempt.host.clone(), spans: vec![span] }),
            }
        }
        for lane in &mut lanes {
            lane.spans.sort_by_key(|span| span.start_us);
        }
        lanes.sort_by(|a, b| a.pod.cmp(&b.pod));
        lanes
    }
}

/// The JSON schema of [`Run`], for programs that read what `-o json` prints and what the journal holds.
#[cfg(feature = "kube")]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Run).to_value()
}

/// Readable, unique, and safe as a file name whatever the cut is called.
fn run_id(name: &str, started_at: Timestamp) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNTER: AtomicU32 = AtomicU32::new(0);

    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' };
    let readable: String = name.chars().take(80).map(safe).collect();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{readable}-{:x}-{:x}-{number}", started_at.as_microsecond(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_is_a_safe_file_name_and_never_the_same_twice() {
        let now = Timestamp::UNIX_EPOCH;
        for name in ["../../etc/passwd", "", ".", "ü/\0\n", &"x".repeat(1000)] {
            let (one, two) = (run_id(name, now), run_id(name, now));
            assert_ne!(one, two);
            assert!(one.len() < 160, "{one}");
            assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{one}");
        }
    }

    #[test]
    fn lanes_are_relative_to_the_hold_and_joined_by_pod() {
        let at = |us| Timestamp::from_microsecond(us).unwrap();
        let mut run = Run::new("cut", Some("rule"), at(1_000));
        let attempt = |pod: &str, action, start, length| Attempt {
            step: "s".into(),
            action,
            target: PodTarget {
                namespace: "n".into(),
                pod: pod.into(),
                uid: "u".into(),
                container: "c".into(),
            },
            host: "h".into(),
            number: 1,
            command: "x".into(),
            started_at: at(start),
            duration_us: length,
            exit_code: Some(0),
            http_status: None,
            held_after_us: None,
            output: String::new(),
            omitted_bytes: 0,
            error: None,
            fault: None,
        };
        run.attempts = vec![
            attempt("b", Action::Before, 2_000, 500),
            attempt("a", Action::After, 9_000, 10),
            attempt("a", Action::Before, 2_500, 500),
        ];
        run.cut = Some(CutOutcome {
            id: "c".into(),
            sealed: true,
            level: StorageLevel::Filesystem,
            hold_requested_at: at(5_000),
            window_us: 10,
            skew_us: 1,
        });
        let lanes = run.lanes();
        assert_eq!(lanes.iter().map(|lane| lane.pod.as_str()).collect::<Vec<_>>(), ["n/a", "n/b"]);
        let spans: Vec<_> = lanes[0].spans.iter().map(|span| (span.start_us, span.end_us)).collect();
        assert_eq!(spans, [(-2_500, -2_000), (4_000, 4_010)]);
    }
}
