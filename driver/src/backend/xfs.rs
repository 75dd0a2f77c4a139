//! XFS: a tree is a directory, a copy is a reflink of its image (`FICLONE`).
//!
//! Two things differ from btrfs. The copy costs time for every extent, so it is predicted before anybody is held.
//! And it is not crash-atomic: what a power failure left of it is removed at start-up, because a snapshot exists
//! only with a sealed record and a volume only under its own name. There is no read-only tree: the pool never
//! attaches a snapshot's image at all.

use std::path::Path;
use std::time::Duration;

use super::{Backend, BackendKind, IMAGE, copy_by_reflink, create_plain, remove_plain};
use crate::host::{Host, Result};

/// `FICLONE` on XFS, measured with 200 000 extents.
const COST_PER_EXTENT: Duration = Duration::from_micros(15);
/// What it costs besides: a directory, a file, a transaction.
const COST_PER_COPY: Duration = Duration::from_micros(500);

/// Trees as directories on XFS.
#[derive(Debug, Clone, Copy)]
pub struct Xfs;

impl Backend for Xfs {
    fn kind(&self) -> BackendKind {
        BackendKind::Xfs
    }

    fn create(&self, host: &dyn Host, tree: &Path) -> Result<()> {
        create_plain(host, tree)
    }

    fn copy(&self, host: &dyn Host, from: &Path, to: &Path, _read_only: bool) -> Result<()> {
        copy_by_reflink(host, from, to)
    }

    fn remove(&self, host: &dyn Host, tree: &Path) -> Result<()> {
        remove_plain(host, tree)
    }

    fn predict_copy(&self, host: &dyn Host, tree: &Path) -> Result<Duration> {
        let extents = u32::try_from(host.extents(&tree.join(IMAGE))?).unwrap_or(u32::MAX);
        Ok(COST_PER_COPY + COST_PER_EXTENT.saturating_mul(extents))
    }
}
