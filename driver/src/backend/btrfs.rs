//! btrfs: a tree is a subvolume, a copy is a snapshot of it. A copy takes 1–5 ms at any size and is
//! crash-atomic: it commits a transaction, so the pool is synced beforehand to have little to commit.

use std::path::Path;
use std::time::Duration;

use super::{Backend, BackendKind, remove_plain};
use crate::host::{Host, Result};

/// A snapshot on a pool that was synced just before.
const SNAPSHOT_COST: Duration = Duration::from_millis(4);

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
}
