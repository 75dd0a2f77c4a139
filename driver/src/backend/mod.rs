//! How a pool stores volumes. A backend knows how to make, copy, measure and remove a **tree**: the directory
//! of one volume or one snapshot, with `disk.img` in it. Everything else (names, records, publishing, headroom,
//! sweep) is the same for all backends and lives in `agent::pool`.

pub mod btrfs;
pub mod conformance;
pub mod memory;
pub mod xfs;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::domain::Bytes;
use crate::host::{FileKind, Host, HostError, Result, Space};

/// The image's name inside a tree.
pub const IMAGE: &str = "disk.img";

/// The backends that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// btrfs subvolumes: the default.
    Btrfs,
    /// Reflinks on XFS.
    Xfs,
    /// In the process's memory: for trying the API and for tests; gone with the process.
    Memory,
}

/// A backend name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backend {0:?} does not exist; use btrfs, xfs or memory")]
pub struct UnknownBackend(String);

impl BackendKind {
    /// The name used in records and parameters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
            Self::Memory => "memory",
        }
    }
}

impl FromStr for BackendKind {
    type Err = UnknownBackend;
    fn from_str(text: &str) -> std::result::Result<Self, UnknownBackend> {
        match text {
            "btrfs" => Ok(Self::Btrfs),
            "xfs" => Ok(Self::Xfs),
            "memory" => Ok(Self::Memory),
            other => Err(UnknownBackend(other.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How trees are stored.
pub trait Backend: Send + Sync + 'static {
    /// Which one this is.
    fn kind(&self) -> BackendKind;
    /// Makes an empty tree at `tree`; it must not exist.
    fn create(&self, host: &dyn Host, tree: &Path) -> Result<()>;
    /// Makes `to` an instant copy of the tree `from`. Called between hold and release: it must do nothing but the copy.
    /// The copy is durable only after [`Backend::settle`].
    fn copy(&self, host: &dyn Host, from: &Path, to: &Path, read_only: bool) -> Result<()>;
    /// Makes copies made so far durable. Called after release, before the seal.
    fn settle(&self, host: &dyn Host, pool: &Path) -> Result<()> {
        host.sync_filesystem(pool)
    }
    /// Called before the hold, so that [`Backend::copy`] finds a quiet pool.
    fn calm(&self, host: &dyn Host, pool: &Path) -> Result<()> {
        host.sync_filesystem(pool)
    }
    /// Removes a tree; a missing one is fine. Also removes half-made ones.
    fn remove(&self, host: &dyn Host, tree: &Path) -> Result<()>;
    /// How long [`Backend::copy`] of this tree will take, from measured costs.
    fn predict_copy(&self, host: &dyn Host, tree: &Path) -> Result<Duration>;
    /// What new volumes and snapshots can surely use.
    fn space(&self, host: &dyn Host, pool: &Path) -> Result<Space> {
        host.space(pool)
    }
    /// How many trees were removed whose space is not free yet.
    fn dying(&self, _host: &dyn Host, _pool: &Path) -> Result<usize> {
        Ok(0)
    }
    /// Has the space of removed trees freed now rather than later; returns at once.
    fn hasten(&self, _host: &dyn Host, _pool: &Path) -> Result<()> {
        Ok(())
    }
    /// Whether space that data does not use any more should be given back to the pool.
    fn wants_compacting(&self, _host: &dyn Host, _pool: &Path) -> Result<bool> {
        Ok(false)
    }
    /// Gives back a piece of such space of which at most this share (percent) is in use; whether there was one.
    fn compact(&self, _host: &dyn Host, _pool: &Path, _usage: u8) -> Result<bool> {
        Ok(false)
    }
    /// Ends [`Backend::compact`] now.
    fn stop_compacting(&self, _host: &dyn Host, _pool: &Path) -> Result<()> {
        Ok(())
    }
    /// Bytes that a tree has allocated (shared ones included).
    fn allocated(&self, host: &dyn Host, tree: &Path) -> Result<Bytes> {
        Ok(host.stat(&tree.join(IMAGE))?.map(|meta| meta.allocated).unwrap_or_default())
    }
}

impl BackendKind {
    /// The backend of this kind.
    pub fn backend(self) -> Box<dyn Backend> {
        match self {
            Self::Btrfs => Box::new(btrfs::Btrfs),
            Self::Xfs => Box::new(xfs::Xfs),
            Self::Memory => Box::new(memory::Memory),
        }
    }

    /// The filesystem that a pool of this kind must be on, as `/proc/self/mountinfo` calls it.
    pub const fn filesystem(self) -> &'static str {
        self.as_str()
    }
}

/// Makes a directory that must not exist yet.
fn create_plain(host: &dyn Host, tree: &Path) -> Result<()> {
    if host.stat(tree)?.is_some() {
        let exists = std::io::Error::from_raw_os_error(libc::EEXIST);
        return Err(HostError::new("mkdir", tree.display(), exists));
    }
    host.make_directory(tree)
}

/// Copies the image of a tree; records are the pool's business.
fn copy_by_reflink(host: &dyn Host, from: &Path, to: &Path) -> Result<()> {
    host.make_directory(to)?;
    host.reflink(&from.join(IMAGE), &to.join(IMAGE))
}

/// Removes a directory with the files in it; a missing one is fine.
fn remove_plain(host: &dyn Host, tree: &Path) -> Result<()> {
    if host.stat(tree)?.is_none() {
        return Ok(());
    }
    for (name, kind) in host.list(tree)? {
        match kind {
            FileKind::Directory => host.remove_directory(&tree.join(name))?,
            FileKind::File | FileKind::Block | FileKind::Other => host.remove_file(&tree.join(name))?,
        }
    }
    host.remove_directory(tree)
}
