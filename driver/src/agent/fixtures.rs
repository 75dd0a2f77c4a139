//! An agent's insides on a host in memory, for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::local::LocalHost;
use super::locks::VolumeLocks;
use super::pool::Pool;
use super::pools::Pools;
use super::volumes::NodeVolumes;
use crate::backend::BackendKind;
use crate::domain::node::{Access, PublishRequest, StageRequest};
use crate::domain::record::{CutMember, CutRecord, CutState};
use crate::domain::{
    Bytes, CutId, CutKind, Filesystem, Incarnation, Level, NewVolume, PoolId, SnapshotId, VolumeId,
};
use crate::host::fake::FakeHost;
use crate::host::{Host, Loops, Mounts};

pub const STAGING: &str = "/kubelet/staging";
pub const TARGET: &str = "/kubelet/target";

/// One host with one pool in memory.
pub struct Bench {
    pub host: FakeHost,
    pub pools: Pools,
    pub locks: VolumeLocks,
    pub node: Arc<NodeVolumes>,
    pub local: Arc<LocalHost>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_pool(BackendKind::Memory)
    }

    /// A host with a pool of this kind.
    pub fn with_pool(kind: BackendKind) -> Self {
        let dir = Path::new("/pool");
        let host = FakeHost::with_disk(kind.filesystem(), Bytes::gib(64), dir);
        Pool::make(&host, kind, dir).unwrap();
        host.make_all(Path::new(STAGING));
        Self::on(host)
    }

    /// The agent started (again) on this host.
    pub fn on(host: FakeHost) -> Self {
        let kernel: Arc<dyn Host> = Arc::new(host.clone());
        let pools = Pools::open(&kernel, &[PathBuf::from("/pool")], &BTreeMap::new());
        let locks = VolumeLocks::default();
        let catalogue = Arc::new(pools.clone());
        let node = Arc::new(NodeVolumes::new(Arc::clone(&kernel), catalogue, locks.clone()));
        let name = "node-1".parse().unwrap();
        let local = LocalHost::new(name, kernel, pools.clone(), locks.clone(), Arc::clone(&node));
        Self { host, pools, locks, node, local: Arc::new(local) }
    }

    pub fn restarted(&self) -> Self {
        Self::on(self.host.clone())
    }

    pub fn pool_id(&self) -> PoolId {
        self.pools.iter().next().unwrap().id().clone()
    }

    pub fn new_volume(&self, name: &str, filesystem: Option<Filesystem>) -> NewVolume {
        NewVolume {
            id: VolumeId::new(self.pool_id(), name, Incarnation(1)),
            name: name.into(),
            capacity: Bytes::gib(1),
            filesystem,
            source: None,
        }
    }

    pub fn volume(&self, name: &str, filesystem: Option<Filesystem>) -> VolumeId {
        self.local.create_volume(self.new_volume(name, filesystem)).unwrap().record.id
    }

    /// Nothing of the volume is attached or mounted.
    pub fn is_idle(&self, volume: &VolumeId) -> bool {
        let image = self.pools.iter().next().unwrap().image(volume).unwrap();
        self.host.attached(&image).unwrap().is_empty() && self.host.mounts().unwrap().len() == 2
    }
}

pub fn stage(volume: &VolumeId, access: Access) -> StageRequest {
    StageRequest { volume: volume.clone(), target: STAGING.into(), access, read_only: false }
}

pub fn publish(volume: &VolumeId, access: Access) -> PublishRequest {
    PublishRequest {
        volume: volume.clone(),
        staging: STAGING.into(),
        target: TARGET.into(),
        access,
        read_only: false,
        single_writer: false,
    }
}

/// The record of a group of these, as a controller opens a round with it.
pub fn round_record(volumes: &[VolumeId]) -> CutRecord {
    let id = CutId::new(CutKind::Group, "cut", volumes).unwrap();
    let member = |volume: &VolumeId| CutMember {
        known_as: None,
        volume_name: "volume".into(),
        snapshot: SnapshotId::of(volume, &id, Incarnation(1)),
        host: "node-1".parse().unwrap(),
        capacity: Bytes::gib(1),
        filesystem: None,
        volume: volume.clone(),
    };
    let mut members: Vec<_> = volumes.iter().map(member).collect();
    members.sort_by(|left, right| left.volume.cmp(&right.volume));
    CutRecord {
        id,
        name: "cut".into(),
        state: CutState::Round,
        attempt: Incarnation(1),
        members,
        cut_at: jiff::Timestamp::UNIX_EPOCH,
        level: Level::Crash,
        reasons: vec![],
        timeline: None,
    }
}
