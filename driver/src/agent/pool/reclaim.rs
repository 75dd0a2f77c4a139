//! Space of what was deleted. It comes back late: trees wait for the cleaner ([`super::trash`]), btrfs frees a deleted
//! subvolume in the background, and space that data once had stays set aside for data until it is compacted.
//!
//! Whoever is refused for want of room first waits for that ([`Pool::with_room`]), for [`RECLAIM_WAIT`] at most and never
//! during a round: removing things triples the time for which writers are held.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::headroom::Freeing;
use super::{Pool, PoolError, Result};
use crate::domain::{Bytes, VolumeId};

/// How long a request waits for the space of what was deleted; below the limits of those who ask.
pub const RECLAIM_WAIT: Duration = Duration::from_secs(20);
const RECLAIM_POLL: Duration = Duration::from_millis(50);
/// After everything was removed the filesystem's figures may lag so many looks behind (XFS frees in the background).
const LOOKS_AFTER: u32 = 10;
/// Trees removed at a time, so that a round that begins is noticed.
const REMOVED_AT_ONCE: usize = 4;
/// Data block groups that are at most so full (percent) are given back, one at a time, the emptiest first.
const COMPACTED_USAGE: [u8; 5] = [10, 30, 50, 70, 85];

/// What was deleted and may not be free yet.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// Bytes that deleted trees had to themselves, since the last time that nothing was left to free.
    coming: AtomicU64,
    is_compacting: AtomicBool,
}

impl Pool {
    /// So much may come free by itself.
    pub(super) fn being_freed(&self) -> Result<Bytes> {
        if self.freeing()?.trees == 0 {
            self.reclaim.coming.store(0, Ordering::SeqCst);
        }
        Ok(Bytes(self.reclaim.coming.load(Ordering::SeqCst)))
    }

    /// A tree of this volume, its own or that of a snapshot of it, is deleted: what it has comes free where nothing else
    /// can share it.
    pub(super) fn count_as_coming(&self, volume: &VolumeId, tree: &Path) -> Result<()> {
        if !self.index().is_last_tree_of(volume) {
            return Ok(());
        }
        let allocated = self.backend.allocated(&*self.host, tree)?;
        self.reclaim.coming.fetch_add(allocated.0, Ordering::SeqCst);
        Ok(())
    }

    fn freeing(&self) -> Result<Freeing> {
        let dying = self.backend.dying(&*self.host, self.dir())?;
        Ok(Freeing { trees: self.trash_len() + dying })
    }

    /// Does something that needs room. What is refused for want of it is tried again as long as deleted things are being
    /// freed; `None`: something changed meanwhile, try again at once.
    pub(super) fn with_room<T>(&self, attempt: impl Fn(Freeing) -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + RECLAIM_WAIT;
        let mut looks = 0;
        let mut freeing = Freeing::default();
        loop {
            let refusal = match attempt(freeing) {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => continue,
                Err(refusal @ (PoolError::Full { .. } | PoolError::Promised { .. })) => refusal,
                Err(error) => return Err(error),
            };
            let known = std::mem::replace(&mut freeing, self.freeing()?);
            if self.is_paused() || Instant::now() >= deadline {
                if known == freeing {
                    return Err(refusal);
                }
                continue;
            }
            if freeing.trees == 0 {
                looks += 1;
                if looks > LOOKS_AFTER || self.reclaim.coming.load(Ordering::SeqCst) == 0 {
                    return Err(refusal);
                }
            }
            let removed = self.empty_trash(REMOVED_AT_ONCE)?;
            if removed > 0 || known.trees == 0 {
                self.backend.hasten(&*self.host, self.dir())?;
            }
            std::thread::sleep(RECLAIM_POLL);
        }
    }

    /// Gives one data block group back where all of the pool belongs to such, half empty as they may be: without space of
    /// its own the metadata of the filesystem cannot grow, and then nothing can be written although much is free. Says
    /// whether there may be more to do. Never during a round; a round that begins ends it.
    pub fn compact(&self) -> Result<bool> {
        self.check_writable()?;
        if self.is_paused() || !self.backend.wants_compacting(&*self.host, self.dir())? {
            return Ok(false);
        }
        self.reclaim.is_compacting.store(true, Ordering::SeqCst);
        let outcome = COMPACTED_USAGE.iter().try_fold(false, |done, usage| {
            if done || self.is_paused() {
                Ok(done)
            } else {
                self.backend.compact(&*self.host, self.dir(), *usage)
            }
        });
        self.reclaim.is_compacting.store(false, Ordering::SeqCst);
        Ok(outcome?)
    }

    /// Ends what [`Pool::compact`] does now. A failure is told by the compaction itself.
    pub(super) fn stop_compacting(&self) {
        if self.reclaim.is_compacting.load(Ordering::SeqCst)
            && let Err(error) = self.backend.stop_compacting(&*self.host, self.dir())
        {
            tracing::warn!(pool = %self.id(), %error, "a compaction of the pool could not be stopped");
        }
    }
}

#[cfg(test)]
mod tests;
