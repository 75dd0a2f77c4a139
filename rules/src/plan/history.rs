//! How long the application stood still when the rule ran before.

use serde::{Deserialize, Serialize};

use crate::run::Run;

use super::{Action, Plan};

/// Earlier runs that are looked at.
const LOOKED_AT: usize = 50;

/// How long earlier runs of a rule held. Lengths in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct ExpectedPause {
    /// How many runs were looked at, the newest ones.
    pub runs: usize,
    /// Half of them held at most so long.
    pub window_us_p50: u64,
    /// The longest.
    pub window_us_max: u64,
    /// The longest session, from its start to its end; nothing when there were none.
    pub session_us_max: Option<u64>,
}

impl Plan {
    /// Adds what earlier runs (the newest first) tell about the pause.
    #[must_use]
    pub fn with_history(mut self, earlier: &[Run]) -> Self {
        let same = |run: &&Run| run.rule == self.rule && run.cut.as_ref().is_some_and(|cut| cut.sealed);
        let runs: Vec<&Run> = earlier.iter().filter(same).take(LOOKED_AT).collect();
        let mut windows: Vec<u64> = runs.iter().filter_map(|run| Some(run.cut.as_ref()?.window_us)).collect();
        windows.sort_unstable();
        let (Some(p50), Some(max)) = (windows.get(windows.len().saturating_sub(1) / 2), windows.last())
        else {
            return self;
        };
        let attempts = runs.iter().flat_map(|run| &run.attempts);
        let sessions = attempts.filter(|attempt| attempt.action == Action::Hold);
        self.expected = Some(ExpectedPause {
            runs: windows.len(),
            window_us_p50: *p50,
            window_us_max: *max,
            session_us_max: sessions.map(|attempt| attempt.duration_us).max(),
        });
        self
    }
}
