//! Runs that are over but still owe something to their application.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::defaults;
use crate::machine::Phase;
use crate::run::{DebtState, Run};

use super::conduct::Over;

/// Runs of one process, by id. Clones share them.
#[derive(Clone, Default)]
pub(super) struct OverdueRuns(Arc<Mutex<BTreeMap<String, Overdue>>>);

struct Overdue {
    run: Run,
    /// `None` while it is being tried.
    over: Option<Over>,
    due: Instant,
    pause: Duration,
}

impl OverdueRuns {
    /// Keeps the run if it owes something; `pause` is how long it was waited for before this try. Gives its record.
    pub(super) fn keep(&self, over: Over, pause: Option<Duration>) -> Run {
        let run = over.run.clone();
        let mut runs = self.lock();
        if run.phase != Phase::Overdue {
            runs.remove(&run.id);
            return run;
        }
        let forgotten = pause.is_some() && !runs.contains_key(&run.id);
        if !forgotten {
            let pause = pause.map_or(defaults::OVERDUE_PAUSE, |pause| pause * 2);
            let pause = pause.min(defaults::OVERDUE_PAUSE_MAX);
            let entry = Overdue { run: run.clone(), over: Some(over), due: Instant::now() + pause, pause };
            runs.insert(run.id.clone(), entry);
        }
        run
    }

    /// Those whose time has come, with how long they were waited for.
    pub(super) fn due(&self) -> Vec<(Over, Duration)> {
        let now = Instant::now();
        let mut runs = self.lock();
        let due = runs.values_mut().filter(|overdue| overdue.due <= now);
        due.filter_map(|overdue| Some((overdue.over.take()?, overdue.pause))).collect()
    }

    pub(super) fn all(&self) -> Vec<Run> {
        self.lock().values().map(|overdue| overdue.run.clone()).collect()
    }

    /// People have given up what the run of this cut still has to do; it ends the next time that it is tried.
    pub(super) fn give_up(&self, cut: &str) {
        let mut runs = self.lock();
        for overdue in runs.values_mut().filter(|overdue| overdue.run.name == cut) {
            let Some(over) = &mut overdue.over else { continue };
            for debt in over.run.debts.iter_mut().filter(|debt| !debt.state.is_settled()) {
                debt.state = DebtState::GivenUp;
            }
            overdue.due = Instant::now();
        }
    }

    /// Somebody waits for the end of this run: it is tried again within this time.
    pub(super) fn hasten(&self, cut: &str, within: Duration) {
        let mut runs = self.lock();
        for overdue in runs.values_mut().filter(|overdue| overdue.run.name == cut) {
            overdue.due = overdue.due.min(Instant::now() + within);
            overdue.pause = overdue.pause.min(within);
        }
    }

    pub(super) fn forget(&self, cut: &str) {
        self.lock().retain(|_, overdue| overdue.run.name != cut);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Overdue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
