//! A pool: a mounted directory that holds volumes and snapshots, and everything that is known about them.
//!
//! ```text
//! <pool>/stillpoint.json                              id, backend, format version; written last when a pool is made
//! <pool>/volumes/<volume>/{disk.img,volume.json}      a volume exists iff its tree is here
//! <pool>/cuts/<cut>.json                              state round or sealed, with all members on all hosts
//! <pool>/moves/<volume>.json                          a volume that leaves for another pool, or has left (`moves`)
//! <pool>/snapshots/<volume>/<snapshot>/disk.img       a snapshot exists iff a sealed record in cuts/ lists it
//! ```
//! **A name that begins with a dot is garbage.** `.new-…` is something half made, `.gone-…` something deleted; only
//! `.part-…` is gone on with for a day: a volume that arrives from another host (`arrivals`).
//! Deletes are renames to a dot name *in the same directory* (the kernel refuses to move a read-only btrfs
//! snapshot into another one), and a background cleaner empties them ([`Pool::empty_trash`]), never during a round
//! ([`Pool::pause_trash`]).
//!
//! **Publish by rename.** Whatever is made is made under a `.new-` name, synced, renamed, and the directory is
//! synced. A crash between any two calls leaves the old or the new, and [`Pool::open`] sweeps away the rest. The
//! in-memory index is changed only after the disk, and whoever decides between keep and remove reads the disk.
//!
//! **Presumed abort.** A cut is a record of state `round` before anything is copied, and `sealed` at the end. Found
//! unsealed at start-up on its home pool it is void; on another pool the home decides, so it is only reported.
//!
//! **Thin.** Volumes and snapshots take space when they are written. What they may come to need is promised, and nothing is
//! made that the pool could not honour, unless it is told to overcommit: see [`headroom`]. Space of what was deleted comes
//! back late, and is waited for: see `reclaim`.
//!
//! One process may have a pool open. All calls block.

mod arrivals;
mod claims;
#[cfg(test)]
mod crash_tests;
mod cuts;
mod error;
mod exports;
mod figures;
pub mod headroom;
mod index;
mod layout;
mod making;
#[cfg(test)]
mod move_tests;
mod moves;
mod orphans;
mod promises;
mod reclaim;
mod records;
mod sweep;
mod trash;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use arrivals::{Arrival, Begun, Content, Mark};
pub use cuts::{CUT_BUDGET, Fence, MemberPaths};
pub use error::PoolError;
pub use exports::SnapshotImage;
pub use headroom::{Overcommit, PoolSpace};
pub use making::{PoolSummary, inspect, make};
pub use moves::LeavingImage;
pub use orphans::{Orphan, OrphanKind};
pub use sweep::{Broken, SweepReport};
pub use trash::TrashPause;

use crate::backend::{Backend, BackendKind};
pub use crate::domain::NewVolume;
use crate::domain::PoolId;
use crate::domain::record::PoolRecord;
use crate::host::Host;
use claims::Claims;
use index::Index;
use layout::Layout;
use promises::Promises;
use reclaim::Reclaim;
use trash::{Garbage, Trash};

/// Result of a call to a pool.
pub type Result<T> = std::result::Result<T, PoolError>;

/// An open pool.
pub struct Pool {
    host: Arc<dyn Host>,
    backend: Box<dyn Backend>,
    layout: Layout,
    record: PoolRecord,
    access: Access,
    index: RwLock<Index>,
    claims: Claims,
    trash: Trash,
    promises: Promises,
    reclaim: Reclaim,
}

/// Whether a pool can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// As it should be.
    Writable,
    /// Its filesystem is mounted read-only: what is there can be read, nothing can be changed.
    ReadOnly,
}

impl Pool {
    /// Makes a pool in an empty directory that is the mount point of a filesystem of the backend's kind.
    pub fn make(host: &dyn Host, kind: BackendKind, dir: &Path) -> Result<PoolRecord> {
        make(host, kind, dir)
    }

    /// Opens a pool and sweeps away what crashes left in it. A read-only pool is opened without the sweep.
    pub fn open(host: Arc<dyn Host>, dir: &Path) -> Result<(Self, SweepReport)> {
        sweep::open(host, dir)
    }

    /// The pool's id.
    pub fn id(&self) -> &PoolId {
        &self.record.id
    }

    /// How it stores volumes.
    pub fn kind(&self) -> BackendKind {
        self.backend.kind()
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        self.layout.root()
    }

    /// Whether it can be written.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Whether it could be written when it was opened and still can: btrfs becomes read-only after an error.
    pub fn access_now(&self) -> Access {
        match making::mounted_at(&*self.host, self.dir()) {
            Ok(mounted) if !mounted.read_only => self.access,
            Ok(_) | Err(_) => Access::ReadOnly,
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        // Changes of the index are single map operations: a panic cannot leave it half changed.
        self.index.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn check_writable(&self) -> Result<()> {
        match self.access {
            Access::Writable => Ok(()),
            Access::ReadOnly => Err(PoolError::ReadOnly { dir: self.dir().to_owned() }),
        }
    }

    fn check_own(&self, id: &dyn std::fmt::Display, pool: &PoolId) -> Result<()> {
        if pool == self.id() {
            return Ok(());
        }
        Err(PoolError::OtherPool { id: id.to_string(), pool: self.id().clone() })
    }

    /// Gives a tree a name that says it is garbage, durably, and queues it for the cleaner.
    fn discard(&self, tree: &Path) -> Result<()> {
        let away = self.put_away(tree)?;
        self.finish_discard(tree, away)
    }

    /// From here on there is nothing under the tree's name, unless a crash brings it back.
    fn put_away(&self, tree: &Path) -> Result<Away> {
        let gone: PathBuf = self.trash.name_in(layout::parent(tree));
        match self.host.rename(tree, &gone) {
            Ok(()) => Ok(Away::Renamed(gone)),
            // A full btrfs has no room for a new name, but still some for removing: the way out of being full.
            Err(error) if error.errno() == Some(libc::ENOSPC) => {
                self.backend.remove(&*self.host, tree)?;
                Ok(Away::Removed)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it durable that a tree was put away.
    fn finish_discard(&self, tree: &Path, away: Away) -> Result<()> {
        let synced = self.host.sync_directory(layout::parent(tree));
        match away {
            Away::Renamed(gone) if synced.is_ok() => self.trash.push(Garbage::Durable(gone)),
            Away::Renamed(gone) => self.trash.push(Garbage::Unsynced(gone)),
            Away::Removed => {}
        }
        Ok(synced?)
    }
}

/// How a tree lost its name.
enum Away {
    Renamed(PathBuf),
    Removed,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("record", &self.record).field("dir", &self.dir()).finish_non_exhaustive()
    }
}
