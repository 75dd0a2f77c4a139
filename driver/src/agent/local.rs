//! What a controller may ask of one host, in domain types. All calls block; [`super::service`] puts gRPC in front.

use std::sync::Arc;

use super::blocks::{self, WalkStream};
use super::health;
use super::locks::{Purpose, VolumeLocks};
use super::mounts::Sight;
use super::orphans::Counts;
use super::pool::{Fence, Pool};
use super::pools::Pools;
use super::volumes::NodeVolumes;
use crate::domain::blocks::WalkOrder;
use crate::domain::health::Ailment;
use crate::domain::record::{CutRecord, CutState, VolumeRecord};
use crate::domain::{
    Bytes, Code, CutId, CutKind, Fault, HostInfo, HostName, NameHash, NewVolume, PoolInfo, VolumeId,
    VolumeInfo,
};
use crate::host::{Host, HostError, Mounted};

/// One host.
pub struct LocalHost {
    name: HostName,
    pub(super) host: Arc<dyn Host>,
    pools: Pools,
    pub(super) locks: VolumeLocks,
    pub(super) node: Arc<NodeVolumes>,
    orphans: Counts,
}

impl LocalHost {
    /// The host of this name with these pools.
    pub fn new(
        name: HostName,
        host: Arc<dyn Host>,
        pools: Pools,
        locks: VolumeLocks,
        node: Arc<NodeVolumes>,
    ) -> Self {
        Self { name, host, pools, locks, node, orphans: Counts::default() }
    }

    /// Its pools.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// What was collected since the start.
    pub fn orphan_counts(&self) -> &Counts {
        &self.orphans
    }

    /// Who this is and what it has.
    pub fn describe(&self) -> Result<HostInfo, Fault> {
        let describe = |pool: Arc<Pool>| {
            // A pool that has failed takes nothing new, and its host still tells of the others.
            let (space, conditions) = health::of_pool(&pool);
            PoolInfo {
                id: pool.id().clone(),
                backend: pool.kind().to_string(),
                total: space.map_or(Bytes(0), |space| space.total),
                // Space of deleted volumes counts: who makes one waits for it.
                available: pool.space_to_come().or(space.ok_or(())).map_or(Bytes(0), |space| space.room()),
                path: pool.dir().to_owned(),
                conditions,
            }
        };
        Ok(HostInfo {
            host: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pools: self.pools.iter().map(describe).collect(),
        })
    }

    /// Makes a volume, or finds the one that was made before.
    pub fn create_volume(&self, volume: NewVolume) -> Result<VolumeInfo, Fault> {
        let pool = self.pools.get(&volume.id.pool)?;
        let _guard = self.locks.try_lock(&volume.id, Purpose::Create)?;
        let record = pool.create_volume(&volume)?;
        self.info(&pool, record, &self.mounts()?)
    }

    /// Removes a volume; one that is not there is fine, one in use is refused.
    pub fn delete_volume(&self, id: &VolumeId) -> Result<(), Fault> {
        let pool = self.pools.get(&id.pool)?;
        let _guard = self.locks.try_lock(id, Purpose::Delete)?;
        // A device that a crash left between attach and mount would make the pool refuse for ever.
        self.node.drop_leftovers(id)?;
        Ok(pool.delete_volume(id)?)
    }

    /// One volume, or where it went.
    pub fn volume(&self, id: &VolumeId) -> Result<VolumeInfo, Fault> {
        let pool = self.pools.get(&id.pool)?;
        match pool.volume(id) {
            Ok(record) => self.info(&pool, record, &self.mounts()?),
            Err(error) => self.departed(id).ok_or_else(|| error.into()),
        }
    }

    /// The volume whose name has this hash.
    pub fn find_volume(&self, name: &NameHash) -> Result<VolumeInfo, Fault> {
        let of_this_name = |pool: Arc<Pool>| pool.find_volume_by_hash(name).map(|record| (pool, record));
        let found = self.pools.iter().find_map(of_this_name);
        let Some((pool, record)) = found else {
            // One that has left and is not settled may not exist anywhere else yet.
            let mut left = self.pools.iter().flat_map(|pool| pool.moves());
            let left = left.find(|record| record.volume.id.hash == *name);
            return left.and_then(|record| self.departed(&record.volume.id)).ok_or_else(|| {
                Fault::not_found(format!("no volume on this host has a name with hash {name}"))
            });
        };
        self.info(&pool, record, &self.mounts()?)
    }

    /// Makes a volume at least this large; its filesystem follows when it is staged or grown on its host.
    pub fn expand_volume(&self, id: &VolumeId, capacity: Bytes) -> Result<VolumeInfo, Fault> {
        let pool = self.pools.get(&id.pool)?;
        let _guard = self.locks.try_lock(id, Purpose::Expand)?;
        let record = pool.expand_volume(id, capacity)?;
        self.info(&pool, record, &self.mounts()?)
    }

    /// Makes a cut exist on the member pools of this host, its home first.
    pub fn seal(&self, record: &CutRecord) -> Result<(), Fault> {
        let mut members: Vec<_> = self
            .pools
            .iter()
            .filter(|pool| record.members.iter().any(|member| member.volume.pool == *pool.id()))
            .collect();
        if members.is_empty() {
            return Err(Fault::invalid(format!("record: cut {} has no member on this host", record.id)));
        }
        members.sort_by_key(|pool| *pool.id() != record.id.home);
        members.into_iter().try_for_each(|pool| Ok(pool.seal_cut(record)?))
    }

    /// Removes everything of an unsealed cut. While its round goes on, it is ABORTED: the round removes it itself.
    pub fn void(&self, id: &CutId, fence: &Fence) -> Result<(), Fault> {
        let found = self.cut_if_any(id)?.filter(|record| fence.admits(record));
        let Some(record) = found else { return Ok(()) };
        let members: Vec<_> = record.members.into_iter().map(|member| member.volume).collect();
        let _guard = self.locks.try_lock_all(&members, Purpose::Round(id.clone()))?;
        self.pools.iter().try_for_each(|pool| Ok(pool.void_of(id, fence)?))
    }

    /// The record of a cut, with its timeline.
    pub fn cut(&self, id: &CutId) -> Result<CutRecord, Fault> {
        self.cut_if_any(id)?.ok_or_else(|| Fault::not_found(format!("cut {id} is not on this host")))
    }

    /// Whether the round of this cut has not ended on this host.
    pub fn is_under_way(&self, record: &CutRecord) -> bool {
        let round = Purpose::Round(record.id.clone());
        record.members.iter().any(|member| self.locks.purpose(&member.volume).as_ref() == Some(&round))
    }

    fn cut_if_any(&self, id: &CutId) -> Result<Option<CutRecord>, Fault> {
        let mut best: Option<(Standing, CutRecord)> = None;
        for pool in self.pools.iter() {
            match pool.cut(id) {
                Ok(record) => keep_better(&mut best, Standing::of(&pool, &record), record),
                // Who asks for it next makes sure that it is gone for good, and gone from lists.
                Err(error) if error.code() == Code::NotFound => pool.finish_broken_removal(id)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(best.map(|(_, record)| record))
    }

    /// The cut of this kind and name; a sealed one where attempts left several.
    pub fn find_cut(&self, kind: CutKind, name: &NameHash) -> Result<CutRecord, Fault> {
        let mut found: Vec<_> =
            self.pools.iter().filter_map(|pool| pool.find_cut_by_hash(kind, name)).collect();
        found.sort_by_key(|record| record.state != CutState::Sealed);
        match found.first() {
            Some(record) => self.cut(&record.id),
            None => Err(Fault::not_found(format!("no cut on this host has a name with hash {name}"))),
        }
    }

    /// Removes this host's part of a sealed cut, its home first: without that the cut does not exist any more.
    pub fn delete_cut(&self, id: &CutId, fence: &Fence) -> Result<(), Fault> {
        let mut pools: Vec<_> = self.pools.iter().collect();
        pools.sort_by_key(|pool| *pool.id() != id.home);
        pools.into_iter().try_for_each(|pool| Ok(pool.delete_of(id, fence)?))
    }

    /// Begins to tell the blocks of a snapshot.
    pub fn walk(&self, order: WalkOrder) -> Result<WalkStream, Fault> {
        let pool = self.pools.get(&order.target.volume.pool)?;
        Ok(blocks::walk(pool, Arc::clone(&self.host), order))
    }

    pub(super) fn mounts(&self) -> Result<Arc<[Mounted]>, Fault> {
        self.host.mounts().map(Arc::from).map_err(kernel)
    }

    pub(super) fn info(
        &self,
        pool: &Pool,
        record: VolumeRecord,
        mounts: &Arc<[Mounted]>,
    ) -> Result<VolumeInfo, Fault> {
        let image = pool.image(&record.id)?;
        let backend = pool.kind().to_string();
        if self.host.stat(&image).map_err(kernel)?.is_none() {
            // Deleted since it was listed is another matter.
            let conditions = vec![health::image_missing(&pool.volume(&record.id)?.id)];
            return Ok(VolumeInfo {
                allocated: Bytes(0),
                backend,
                published_at: None,
                record,
                conditions,
                moved: None,
            });
        }
        let sight = Sight::among(&*self.host, &image, mounts).map_err(kernel)?;
        let mut conditions = health::of_volume(&*self.host, &sight).map_err(kernel)?;
        conditions.extend(self.node.noted.of(&record.id));
        Ok(VolumeInfo {
            moved: None,
            allocated: pool.allocated(&record.id)?,
            backend,
            published_at: sight.staged().map(|place| place.target.clone()),
            conditions,
            record,
        })
    }

    /// Everything that is wrong on this host, each with what it is about.
    pub fn ailments(&self) -> Result<Vec<(String, Ailment)>, Fault> {
        let mut found = Vec::new();
        for pool in self.pools.iter() {
            let conditions = health::of_pool(&pool).1;
            found.extend(conditions.into_iter().map(|ailment| (format!("pool {}", pool.id()), ailment)));
            // They cannot be in the list of volumes.
            for (id, why) in pool.unreadable_volumes() {
                let mut conditions = vec![health::volume_failed(&id, &why.into())];
                conditions.extend(self.node.noted.of(&id));
                found.extend(conditions.into_iter().map(|ailment| (format!("volume {id}"), ailment)));
            }
        }
        let closed = self.pools.closed().into_iter();
        found.extend(closed.map(|(dir, ailment)| (format!("pool {}", dir.display()), ailment)));
        for volume in self.volumes()? {
            let object = format!("volume {}", volume.record.id);
            found.extend(volume.conditions.into_iter().map(|ailment| (object.clone(), ailment)));
        }
        Ok(found)
    }
}

/// How much a record counts where several pools have one of the same cut: the home's decides, and elsewhere a
/// sealed one is newer than an unsealed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Unsealed,
    Sealed,
    Home,
}

impl Standing {
    pub(super) fn of(pool: &Pool, record: &CutRecord) -> Self {
        if *pool.id() == record.id.home {
            return Self::Home;
        }
        match record.state {
            CutState::Round => Self::Unsealed,
            CutState::Sealed => Self::Sealed,
        }
    }
}

fn keep_better(best: &mut Option<(Standing, CutRecord)>, standing: Standing, record: CutRecord) {
    if best.as_ref().is_none_or(|(kept, _)| standing > *kept) {
        *best = Some((standing, record));
    }
}

pub(super) fn kernel(error: HostError) -> Fault {
    Fault::internal(error.to_string())
}
