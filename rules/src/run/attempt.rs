//! One action in one pod, as it went.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::limits;
use crate::output::Output;
use crate::plan::Action;
use crate::ports::PodTarget;

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
    /// It ran longer than allowed, and was ended.
    TimedOut,
    /// It ran longer than allowed, and its end could not be proven.
    MayRun,
    /// What it undoes may still be running, so it does not count yet.
    Unproven,
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

impl Attempt {
    /// It does not count, because what it undoes may still be running. `begun` is whether it was done all the same.
    pub(crate) fn not_final(&mut self, why: &str, begun: bool) {
        if self.fault == Some(AttemptFault::PodChanged) {
            return;
        }
        let done = match (begun, self.error.take()) {
            (true, None) => "it was done and will be done again".to_owned(),
            (true, Some(error)) => format!("{error}; it will be done again"),
            (false, _) => "it was not begun, because it may not be repeated".to_owned(),
        };
        self.error = Some(format!(
            "{done}: what it undoes may still be running ({why}); end that in the pod, or replace the pod"
        ));
        self.fault = Some(AttemptFault::Unproven);
    }

    /// Keeps only head and tail of what it printed, `limit` bytes in all.
    pub(crate) fn shorten(&mut self, limit: usize) {
        let mut kept = Output::new(limit);
        kept.push(self.output.as_bytes());
        let (output, omitted) = kept.finish();
        self.output = output;
        self.omitted_bytes += omitted;
    }
}

/// Adds attempts to a run's. Once the run has printed a lot, only a little is kept of each: more of those that failed.
pub(crate) fn keep(all: &mut Vec<Attempt>, more: Vec<Attempt>) {
    let mut kept: usize = all.iter().map(|attempt| attempt.output.len()).sum();
    for mut attempt in more {
        if kept > limits::RUN_OUTPUT_BYTES {
            let times = if attempt.error.is_some() { 4 } else { 1 };
            attempt.shorten(times * limits::SCANT_OUTPUT_BYTES);
        }
        kept += attempt.output.len();
        all.push(attempt);
    }
}

impl AttemptFault {
    /// Whether what was asked for may have happened all the same.
    pub fn is_uncertain(self) -> bool {
        match self {
            Self::TimedOut | Self::MayRun | Self::Lost | Self::GivenUp => true,
            Self::Answer
            | Self::NotTrue
            | Self::Unproven
            | Self::NotStarted
            | Self::PodChanged
            | Self::Secret => false,
        }
    }

    /// Whether it may still have an effect: nobody has seen its end.
    pub fn may_come_later(self) -> bool {
        match self {
            Self::MayRun | Self::Lost | Self::GivenUp => true,
            Self::Answer
            | Self::NotTrue
            | Self::TimedOut
            | Self::Unproven
            | Self::NotStarted
            | Self::PodChanged
            | Self::Secret => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(output: &str, error: Option<&str>) -> Attempt {
        let target =
            PodTarget { namespace: "n".into(), pod: "p".into(), uid: "u".into(), container: "c".into() };
        Attempt {
            step: "s".into(),
            action: Action::Before,
            target,
            host: "h".into(),
            number: 1,
            command: "x".into(),
            started_at: Timestamp::UNIX_EPOCH,
            duration_us: 1,
            exit_code: Some(0),
            http_status: None,
            held_after_us: None,
            output: output.into(),
            omitted_bytes: 7,
            error: error.map(str::to_owned),
            fault: None,
        }
    }

    #[test]
    fn of_a_run_that_prints_a_lot_a_little_is_kept_of_each_and_more_of_those_that_failed() {
        let text = format!("begin{}end", "x".repeat(16 * 1024));
        let mut all = Vec::new();
        for number in 0..500 {
            keep(&mut all, vec![attempt(&text, (number % 2 == 0).then_some("exit code 1"))]);
        }
        let kept: usize = all.iter().map(|attempt| attempt.output.len()).sum();
        assert!(kept < 2 * limits::RUN_OUTPUT_BYTES, "{kept}");
        let [first, .., failed, good] = all.as_slice() else { panic!() };
        assert_eq!((first.output.len(), first.omitted_bytes), (text.len(), 7));
        for (short, limit) in [(good, 1024), (failed, 4096)] {
            assert!(short.output.starts_with("begin") && short.output.ends_with("end"));
            assert!(short.output.len() <= limit + 64, "{}", short.output.len());
            assert_eq!(short.omitted_bytes, 7 + (text.len() - limit) as u64);
        }
    }
}
