//! The record that a run leaves: written to the journal while it runs, shown to people afterwards.

mod attempt;
mod debt;
mod lanes;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::machine::{Phase, Stage};
use crate::plan::Plan;
use crate::ports::StorageLevel;
use crate::turns::Turn;

pub(crate) use attempt::keep;
pub use attempt::{Attempt, AttemptFault};
pub use debt::{Debt, DebtState};
pub use lanes::{PodLane, PodSpan};

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
    /// Its turn among runs that use the same pods or volumes; absent before it is planned and where it has no steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
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

impl Level {
    /// As it is written in records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Group => "group",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
        }
    }
}

impl From<StorageLevel> for Level {
    fn from(level: StorageLevel) -> Self {
        match level {
            StorageLevel::Crash => Self::Crash,
            StorageLevel::Group => Self::Group,
            StorageLevel::Filesystem => Self::Filesystem,
        }
    }
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
            turn: None,
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
        match self.phase.stage() {
            Stage::Succeeded => "succeeded",
            Stage::Failed if self.cut.as_ref().is_some_and(|cut| cut.sealed) => "failed after the cut",
            Stage::Failed => "failed",
            Stage::Overdue => "overdue",
            Stage::Pending | Stage::Waiting | Stage::Running | Stage::Undoing => "unfinished",
        }
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
}
