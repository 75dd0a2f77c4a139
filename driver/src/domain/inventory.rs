//! What an agent tells about its host, and what it is asked to make.

use std::path::PathBuf;

use jiff::Timestamp;

use super::health::Ailment;
use super::record::{Source, VolumeRecord};
use super::{Bytes, Filesystem, HostName, PoolId, VolumeId};

/// One host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    /// Its name.
    pub host: HostName,
    /// Version of the agent.
    pub version: String,
    /// Its pools.
    pub pools: Vec<PoolInfo>,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolInfo {
    /// Its id.
    pub id: PoolId,
    /// `btrfs`, `xfs` or `memory`.
    pub backend: String,
    /// Size of its filesystem.
    pub total: Bytes,
    /// What may still be promised to new volumes, the reserve taken off.
    pub available: Bytes,
    /// Its directory on the host.
    pub path: PathBuf,
    /// What is wrong with it.
    pub conditions: Vec<Ailment>,
}

/// One volume as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// What the pool has recorded.
    pub record: VolumeRecord,
    /// `btrfs`, `xfs` or `memory`.
    pub backend: String,
    /// Bytes really allocated, shared ones included.
    pub allocated: Bytes,
    /// Where it is staged on its host.
    pub published_at: Option<PathBuf>,
    /// What is wrong with it.
    pub conditions: Vec<Ailment>,
    /// Set where it is not here any more.
    pub moved: Option<Departure>,
}

/// Where a volume has moved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Its id there.
    pub to: VolumeId,
    /// Nothing is left to be done at the pool that it came from.
    pub is_settled: bool,
}

/// A volume that moves: kept aside where it arrives until its source has let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The id by which orchestrators know it.
    pub known_as: VolumeId,
    /// Its id in the pool that it comes from.
    pub from: VolumeId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A volume that leaves, or has left and is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The volume as it was.
    pub volume: VolumeInfo,
    /// Its id in the pool to which it goes.
    pub to: VolumeId,
    /// Names what is copied.
    pub content: String,
    /// Whether it is the other pool's already.
    pub has_left: bool,
}

/// A volume that has arrived whole and waits for its source to let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its id here.
    pub volume: VolumeId,
    /// What has arrived.
    pub content: String,
    /// Its id in the pool that it comes from.
    pub from: VolumeId,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its id, which names the pool.
    pub id: VolumeId,
    /// The orchestrator's name for it.
    pub name: String,
    /// Its capacity; at least the source's.
    pub capacity: Bytes,
    /// The filesystem to make; `None` for a raw block volume. A copy keeps the source's: ask for the same, or for
    /// none to get the source's bytes as a raw block volume.
    pub filesystem: Option<Filesystem>,
    /// A snapshot or volume of the same pool to copy.
    pub source: Option<Source>,
}
