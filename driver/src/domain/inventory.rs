//! What an agent tells about its host, and what it is asked to make.

use std::path::PathBuf;

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
