//! What can go wrong with a pool, and what a caller is told.

use std::path::PathBuf;
use std::time::Duration;

use super::headroom::{Freeing, Overcommit};
use crate::backend::BackendKind;
use crate::domain::{Bytes, Code, CutId, Fault, Filesystem, Incarnation, PoolId, SnapshotId, VolumeId};
use crate::host::HostError;

/// A failure of a pool: what, why, fix.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are the words of the messages")]
pub enum PoolError {
    /// A kernel call failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no filesystem of its own at the directory.
    #[error("{dir} is not a pool: nothing is mounted there; mount the pool's filesystem, or make a pool with `stillpoint pool create --dir {dir}`", dir = dir.display())]
    NotMounted { dir: PathBuf },
    /// The filesystem is of another kind than the backend.
    #[error("{dir} carries {found}, but a {backend} pool needs {}; choose the backend that fits or format the device anew", backend.filesystem(), dir = dir.display())]
    WrongFilesystem { dir: PathBuf, found: String, backend: BackendKind },
    /// A pool is only made where nothing is.
    #[error("{dir} is not empty: it has {entry:?}; a pool is made only in an empty filesystem, so that nothing of yours is touched", dir = dir.display())]
    NotEmpty { dir: PathBuf, entry: String },
    /// It is one already.
    #[error("{dir} is a pool already, with id {id}; nothing is to be done", dir = dir.display())]
    AlreadyPool { dir: PathBuf, id: PoolId },
    /// Mounted, but not a pool.
    #[error("{dir} is not a pool: stillpoint.json is missing; make one with `stillpoint pool create --dir {dir}`, or mount the filesystem that has it", dir = dir.display())]
    NotAPool { dir: PathBuf },
    /// Made by another version of Stillpoint.
    #[error("the pool at {dir} has format {found}, this version reads format {}; use the version of Stillpoint that made it", crate::domain::record::FORMAT, dir = dir.display())]
    OtherFormat { dir: PathBuf, found: u64 },
    /// A record that is not what it should be.
    #[error("record {path} cannot be read: {why}; it is damaged or was edited, put it back from a backup or remove the object by hand", path = path.display())]
    Torn { path: PathBuf, why: String },
    /// The filesystem is mounted read-only.
    #[error("the pool at {dir} is read-only: nothing can be made, changed or deleted; look for disk errors in the kernel log and mount it writable", dir = dir.display())]
    ReadOnly { dir: PathBuf },
    /// An id that names another pool.
    #[error("{id} does not live on pool {pool}; ask the host that has its pool")]
    OtherPool { id: String, pool: PoolId },
    /// No such volume.
    #[error("volume {0} does not exist; it was never made or has been deleted")]
    NoVolume(VolumeId),
    /// No such snapshot.
    #[error("snapshot {0} does not exist; it was never made, has been deleted, or its cut was not completed")]
    NoSnapshot(SnapshotId),
    /// No such cut.
    #[error("cut {0} does not exist; it was never made, has been deleted, or was given up")]
    NoCut(CutId),
    /// The name is taken.
    #[error(
        "volume {id} exists with another {property}: {have}, asked for {want}; use another name or ask for the same"
    )]
    Differs { id: VolumeId, property: &'static str, have: String, want: String },
    /// Capacity below what is possible.
    #[error("{want} is too small: {reason} needs at least {minimum}; ask for more")]
    TooSmall { want: Bytes, minimum: Bytes, reason: String },
    /// Capacity above what the pool could ever hold.
    #[error(
        "{want} is more than pool {pool} can promise ({limit}: {why}); ask for less or use a larger pool"
    )]
    TooLarge { pool: PoolId, want: Bytes, limit: Bytes, why: &'static str },
    /// A copy carries the filesystem of its source.
    #[error(
        "the source carries {have}, but {want} was asked for; a copy keeps its filesystem, ask for {have}"
    )]
    OtherFilesystem { have: String, want: Filesystem },
    /// In use.
    #[error("volume {id} is in use: attached as {device}; unpublish and unstage it first", device = device.display())]
    Attached { id: VolumeId, device: PathBuf },
    /// Its move has not begun, or was ended.
    #[error(
        "volume {0} does not leave (any more): it was used, grown or sent elsewhere since its move began; ask for the move again"
    )]
    NotLeaving(VolumeId),
    /// It is another pool's.
    #[error("volume {id} has moved to {to}, and what is left of it here is still to be removed; ask again")]
    HasLeft { id: VolumeId, to: VolumeId },
    /// Nothing whole of it has arrived.
    #[error("nothing of volume {0} waits here to be adopted; the data is where it came from")]
    NotWaiting(VolumeId),
    /// Below the reserve.
    #[error(
        "pool {pool} is too full: {free} free of {total}, {reserve} of it held in reserve so that existing volumes stay writable, {need} needed; delete volumes or snapshots, or enlarge the pool{freeing}"
    )]
    Full { pool: PoolId, free: Bytes, total: Bytes, reserve: Bytes, need: Bytes, freeing: Freeing },
    /// More than the pool could honour if its volumes were filled.
    #[error(
        "pool {pool} cannot promise {more} more: its volumes and snapshots may come to need {promised} of {limit} (its size without the reserve, times its overcommit factor); delete volumes or snapshots, enlarge the pool, or raise its overcommit factor (now {factor}){freeing}"
    )]
    Promised {
        pool: PoolId,
        more: Bytes,
        promised: Bytes,
        limit: Bytes,
        factor: Overcommit,
        freeing: Freeing,
    },
    /// The copy would hold writers for too long.
    #[error("cutting volume {volume} would hold its writers for about {} ms, more than the {} ms allowed: its image is in very many extents; copy it into a new volume, or use a btrfs pool", predicted.as_millis(), budget.as_millis())]
    SlowCut { volume: VolumeId, predicted: Duration, budget: Duration },
    /// Another operation on it is under way.
    #[error("another operation on {0} is under way; try again when it is done")]
    Busy(String),
    /// A sealed cut is deleted, not voided.
    #[error("cut {0} is sealed: it exists and cannot be voided; delete it instead")]
    Sealed(CutId),
    /// An attempt at it is or was under way.
    #[error(
        "cut {id} has an unfinished attempt {attempt}; it must be voided before anything else is done with it"
    )]
    Unfinished { id: CutId, attempt: Incarnation },
    /// Fenced.
    #[error(
        "cut {id}: this is attempt {attempt}, but the pool knows attempt {known}; this attempt is over, start a new one"
    )]
    Fenced { id: CutId, attempt: Incarnation, known: Incarnation },
    /// A record that contradicts itself.
    #[error("the record of cut {id} is wrong: {why}")]
    Malformed { id: CutId, why: String },
    /// A member was not copied, so the cut cannot be sealed.
    #[error("the cut cannot be sealed: its copy {0} is missing; void it and start a new attempt")]
    NotCopied(SnapshotId),
}

impl PoolError {
    /// For programs.
    pub fn code(&self) -> Code {
        match self {
            Self::Host(error) => match error.errno() {
                Some(libc::ENOSPC | libc::EDQUOT) => Code::Exhausted,
                Some(libc::EROFS) => Code::Precondition,
                _ => Code::Internal,
            },
            Self::NotMounted { .. }
            | Self::WrongFilesystem { .. }
            | Self::NotEmpty { .. }
            | Self::NotAPool { .. }
            | Self::OtherFormat { .. }
            | Self::ReadOnly { .. }
            | Self::Attached { .. }
            | Self::SlowCut { .. }
            | Self::Sealed(_)
            | Self::NotCopied(_) => Code::Precondition,
            Self::AlreadyPool { .. } | Self::Differs { .. } => Code::AlreadyExists,
            Self::Torn { .. } => Code::Internal,
            Self::OtherPool { .. } | Self::NoVolume(_) | Self::NoSnapshot(_) | Self::NoCut(_) => {
                Code::NotFound
            }
            Self::TooSmall { .. } => Code::OutOfRange,
            Self::TooLarge { .. } | Self::Full { .. } | Self::Promised { .. } => Code::Exhausted,
            Self::OtherFilesystem { .. } | Self::Malformed { .. } => Code::Invalid,
            Self::Busy(_)
            | Self::Unfinished { .. }
            | Self::Fenced { .. }
            | Self::NotLeaving(_)
            | Self::HasLeft { .. } => Code::Aborted,
            Self::NotWaiting(_) => Code::Precondition,
        }
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
