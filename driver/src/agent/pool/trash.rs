//! Garbage: trees with a `.gone-` name. Removing a btrfs snapshot sets the kernel's cleaner to work, which triples
//! the window of a cut that is under way, so it waits for rounds to end.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Pool, Result, layout};

#[derive(Debug, Default)]
pub(super) struct Trash {
    waiting: Mutex<VecDeque<Garbage>>,
    next: AtomicU64,
    pauses: Arc<AtomicUsize>,
}

/// A deleted tree, by its `.gone-` name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Garbage {
    /// The name survives a crash.
    Durable(PathBuf),
    /// The name may not: its directory is synced before the tree is touched, or a crash could bring back half of it.
    Unsynced(PathBuf),
}

/// While this lives, [`Pool::empty_trash`] removes nothing.
#[derive(Debug)]
pub struct TrashPause(Arc<AtomicUsize>);

impl Trash {
    pub(super) fn new(found: Vec<PathBuf>, next: u64) -> Self {
        let waiting = found.into_iter().map(Garbage::Durable).collect();
        Self { waiting: Mutex::new(waiting), next: AtomicU64::new(next), ..Self::default() }
    }

    /// A name that no garbage in this pool has.
    pub(super) fn name_in(&self, directory: &Path) -> PathBuf {
        directory.join(layout::gone(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn push(&self, garbage: Garbage) {
        self.lock().push_back(garbage);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Garbage>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TrashPause {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pool {
    /// Keeps the cleaner away for the length of a round.
    pub fn pause_trash(&self) -> TrashPause {
        self.trash.pauses.fetch_add(1, Ordering::SeqCst);
        self.stop_compacting();
        TrashPause(Arc::clone(&self.trash.pauses))
    }

    /// Whether a round keeps the cleaner away.
    pub(super) fn is_paused(&self) -> bool {
        self.trash.pauses.load(Ordering::SeqCst) > 0
    }

    /// How many deleted trees wait to be removed.
    pub fn trash_len(&self) -> usize {
        self.trash.lock().len()
    }

    /// Removes at most `limit` deleted trees, fewer when a round begins meanwhile; returns how many. A tree that
    /// cannot be removed goes to the end of the queue.
    pub fn empty_trash(&self, limit: usize) -> Result<usize> {
        self.check_writable()?;
        for removed in 0..limit {
            if self.is_paused() {
                return Ok(removed);
            }
            let Some(garbage) = self.trash.lock().pop_front() else { return Ok(removed) };
            if let Err(error) = self.remove_garbage(&garbage) {
                self.trash.push(garbage);
                return Err(error);
            }
        }
        Ok(limit)
    }

    fn remove_garbage(&self, garbage: &Garbage) -> Result<()> {
        let tree = match garbage {
            Garbage::Durable(tree) => tree,
            Garbage::Unsynced(tree) => {
                self.host.sync_directory(layout::parent(tree))?;
                tree
            }
        };
        self.backend.remove(&*self.host, tree)?;
        self.remove_if_deserted(layout::parent(tree));
        Ok(())
    }

    /// Removes the snapshot directory of a volume when the volume and all its snapshots are gone.
    fn remove_if_deserted(&self, directory: &Path) {
        let volume = directory.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(volume) = volume else { return };
        // Nobody can begin a cut of it between the look and the removal.
        let Ok(_claim) = self.claims.exclusive(&volume) else { return };
        if self.index().volume(&volume).is_none() {
            self.remove_empty(directory);
        }
    }

    /// Removes the snapshot directory of a volume that is gone, unless it still has snapshots or is not there. Whoever
    /// calls this has the volume to himself.
    pub(super) fn remove_empty(&self, directory: &Path) {
        // Not empty is the usual case; an empty directory that stays does no harm, the sweep takes it.
        let _ = self.host.remove_directory(directory);
    }
}
