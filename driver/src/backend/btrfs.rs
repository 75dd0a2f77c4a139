//! btrfs: a tree is a subvolume, a copy is a snapshot of it. A copy takes 1–5 ms at any size and is
//! crash-atomic: it commits a transaction, so the pool is synced beforehand to have little to commit.

use std::path::Path;
use std::time::Duration;

use super::{Backend, BackendKind, remove_plain};
use crate::domain::Bytes;
use crate::host::{BlockGroups, Host, Result};

/// A snapshot on a pool that was synced just before.
const SNAPSHOT_COST: Duration = Duration::from_millis(4);

/// So much should belong to no block group, or this share of a smaller pool (one part in …): room for a new group of
/// metadata in two copies.
const KEPT_UNALLOCATED: Bytes = Bytes::gib(1);
const KEPT_SHARE: u64 = 10;

/// Trees as btrfs subvolumes.
#[derive(Debug, Clone, Copy)]
pub struct Btrfs;

impl Backend for Btrfs {
    fn kind(&self) -> BackendKind {
        BackendKind::Btrfs
    }

    fn create(&self, host: &dyn Host, tree: &Path) -> Result<()> {
        host.create_subvolume(tree)
    }

    fn copy(&self, host: &dyn Host, from: &Path, to: &Path, read_only: bool) -> Result<()> {
        host.snapshot_subvolume(from, to, read_only)
    }

    fn remove(&self, host: &dyn Host, tree: &Path) -> Result<()> {
        if host.stat(tree)?.is_none() {
            return Ok(());
        }
        match host.delete_subvolume(tree) {
            // Not a subvolume: a plain directory that somebody put there.
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOTTY)) => {
                remove_plain(host, tree)
            }
            other => other,
        }
    }

    fn predict_copy(&self, _host: &dyn Host, _tree: &Path) -> Result<Duration> {
        Ok(SNAPSHOT_COST)
    }

    fn dying(&self, host: &dyn Host, pool: &Path) -> Result<usize> {
        host.dying_subvolumes(pool)
    }

    fn hasten(&self, host: &dyn Host, pool: &Path) -> Result<()> {
        host.hasten_cleaning(pool)
    }

    /// btrfs gives space to data or to metadata in block groups. What data has once had it keeps, also when it is empty for
    /// the most part; metadata that then needs a new group finds no space.
    fn wants_compacting(&self, host: &dyn Host, pool: &Path) -> Result<bool> {
        let BlockGroups { total, unallocated, free_in_data } = host.block_groups(pool)?;
        let least = KEPT_UNALLOCATED.min(Bytes(total.0 / KEPT_SHARE));
        Ok(unallocated < least && free_in_data.0 / 2 > least.0)
    }

    fn compact(&self, host: &dyn Host, pool: &Path, usage: u8) -> Result<bool> {
        host.compact_data(pool, usage)
    }

    fn stop_compacting(&self, host: &dyn Host, pool: &Path) -> Result<()> {
        host.stop_compacting(pool)
    }
}
