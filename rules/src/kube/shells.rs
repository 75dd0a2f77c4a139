//! Which containers were found to have no shell.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ports::PodTarget;

/// So many are remembered; finding out again costs one attempt.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Shells(Arc<Mutex<BTreeSet<(String, String)>>>);

impl Shells {
    pub(super) fn is_there(&self, target: &PodTarget) -> bool {
        !self.lock().contains(&(target.uid.clone(), target.container.clone()))
    }

    pub(super) fn is_missing(&self, target: &PodTarget) {
        let mut missing = self.lock();
        if missing.len() >= REMEMBERED {
            missing.clear();
        }
        missing.insert((target.uid.clone(), target.container.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<(String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
