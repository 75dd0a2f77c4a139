//! Open runs that one process knows by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::OpenRun;

/// Open runs by id. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct OpenRuns(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    runs: Mutex<BTreeMap<String, OpenRun>>,
    changed: Notify,
}

impl OpenRuns {
    /// Remembers a run as it was written down.
    pub fn keep(&self, run: OpenRun) {
        let gives_way = !run.claimed;
        self.lock().insert(run.id.clone(), run);
        if gives_way {
            self.0.changed.notify_waiters();
        }
    }

    /// The run has ended.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
        self.0.changed.notify_waiters();
    }

    /// All of them.
    pub fn all(&self) -> Vec<OpenRun> {
        self.lock().values().cloned().collect()
    }

    /// Returns when a run has ended or taken its claim back. Changes before the call do not count.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OpenRun>> {
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
