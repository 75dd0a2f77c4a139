//! Hosts, volumes and snapshots in memory, with hosts that go silent and answers that get lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Hosts, Placed, Roll, Snapshots};
use crate::controller::paging::model::piece_of;
use crate::controller::placement::HostFacts;
use crate::domain::health::Ailment;
use crate::domain::listing::{Piece, Slice};
use crate::domain::record::{CutMember, VolumeRecord};
use crate::domain::{
    Bytes, CutId, CutKind, Fault, HostName, Incarnation, NameHash, NewVolume, PoolId, PoolInfo, SnapshotId,
    VolumeId, VolumeInfo,
};

/// What happens to the next creation on a host.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// It is refused.
    Refused(Fault),
    /// It is done and the answer is lost.
    AnswerLost(Fault),
}

#[derive(Debug, Default)]
struct ModelHost {
    pools: Vec<PoolInfo>,
    volumes: BTreeMap<VolumeId, VolumeInfo>,
    silent: bool,
    troubles: VecDeque<Trouble>,
    creations: usize,
}

/// The model.
#[derive(Debug, Default)]
pub(crate) struct Model {
    hosts: Mutex<BTreeMap<HostName, ModelHost>>,
    snapshots: Mutex<BTreeMap<SnapshotId, CutMember>>,
    /// What was copied to which host.
    pub(crate) copies: Mutex<Vec<(HostName, SnapshotId)>>,
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(crate) fn pool_id(n: u8) -> PoolId {
    PoolId::from_random([n; 6])
}

impl Model {
    /// Hosts a, b and c with btrfs pools 1, 2, 3 of 100, 200 and 300 GiB; c also has xfs pool 4 of 50 GiB.
    pub(crate) fn three() -> Self {
        let model = Self::default();
        for (name, n, backend, gib) in
            [("a", 1, "btrfs", 100), ("b", 2, "btrfs", 200), ("c", 3, "btrfs", 300), ("c", 4, "xfs", 50)]
        {
            let pool = PoolInfo {
                id: pool_id(n),
                backend: backend.into(),
                total: Bytes::gib(gib),
                available: Bytes::gib(gib),
                path: format!("/pools/{n}").into(),
                conditions: vec![],
            };
            model.table().entry(host(name)).or_default().pools.push(pool);
        }
        model
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<HostName, ModelHost>> {
        self.hosts.lock().unwrap()
    }

    fn of(&self, name: &str, change: impl FnOnce(&mut ModelHost)) {
        change(self.table().get_mut(&host(name)).unwrap());
    }

    pub(crate) fn silence(&self, name: &str, silent: bool) {
        self.of(name, |host| host.silent = silent);
    }

    /// What is wrong with the pools of a host.
    pub(crate) fn ail(&self, name: &str, conditions: Vec<Ailment>) {
        self.of(name, |host| {
            for pool in &mut host.pools {
                pool.conditions.clone_from(&conditions);
            }
        });
    }

    pub(crate) fn trouble(&self, name: &str, trouble: Trouble) {
        self.of(name, |host| host.troubles.push_back(trouble));
    }

    pub(crate) fn add_snapshot(&self, member: CutMember) {
        self.snapshots.lock().unwrap().insert(member.snapshot.clone(), member);
    }

    pub(crate) fn remove_snapshot(&self, id: &SnapshotId) {
        self.snapshots.lock().unwrap().remove(id);
    }

    /// How many volumes were really made.
    pub(crate) fn creations(&self) -> usize {
        self.table().values().map(|host| host.creations).sum()
    }

    fn each<T>(&self, ask: impl Fn(&ModelHost) -> T) -> Vec<(HostName, Result<T, Fault>)> {
        let answer = |host: &ModelHost| if host.silent { Err(silence()) } else { Ok(ask(host)) };
        self.table().iter().map(|(name, host)| (name.clone(), answer(host))).collect()
    }

    fn home<T>(
        &self,
        pool: &PoolId,
        work: impl FnOnce(&HostName, &mut ModelHost) -> Result<Option<T>, Fault>,
    ) -> Result<Option<T>, Fault> {
        let mut table = self.table();
        let home = table.iter_mut().find(|(_, host)| host.pools.iter().any(|info| info.id == *pool));
        match home {
            None => Ok(None),
            Some((_, host)) if host.silent => Err(silence()),
            Some((name, host)) => work(name, host),
        }
    }
}

fn silence() -> Fault {
    Fault::unavailable("no connection")
}

#[async_trait]
impl Hosts for Model {
    async fn survey(&self) -> Vec<HostFacts> {
        let answers = self.each(|host| host.pools.clone()).into_iter();
        answers.map(|(host, pools)| HostFacts { host, pools }).collect()
    }

    async fn find(&self, name: &NameHash) -> Vec<(HostName, Result<Option<VolumeInfo>, Fault>)> {
        self.each(|host| host.volumes.values().find(|info| info.record.id.hash == *name).cloned())
    }

    fn everybody(&self) -> Result<Roll, Fault> {
        Ok(Roll { hosts: self.table().keys().cloned().collect(), generation: 0 })
    }

    async fn check_complete(&self) -> Result<(), Fault> {
        if self.table().values().any(|host| host.silent) { Err(silence()) } else { Ok(()) }
    }

    async fn volumes(&self, host: &HostName, slice: &Slice<VolumeId>) -> Result<Piece<VolumeInfo>, Fault> {
        let table = self.table();
        let host = table.get(host).ok_or_else(silence)?;
        if host.silent {
            return Err(silence());
        }
        Ok(piece_of(&host.volumes, slice))
    }

    async fn create(&self, host: &HostName, volume: NewVolume) -> Result<VolumeInfo, Fault> {
        let mut table = self.table();
        let host = table.get_mut(host).unwrap();
        if host.silent {
            return Err(silence());
        }
        let trouble = host.troubles.pop_front();
        if let Some(Trouble::Refused(fault)) = trouble {
            return Err(fault);
        }
        let is_there = |info: &&VolumeInfo| {
            (&info.record.id.pool, &info.record.id.hash) == (&volume.id.pool, &volume.id.hash)
        };
        if let Some(there) = host.volumes.values().find(is_there) {
            return Ok(there.clone());
        }
        let pool = host.pools.iter_mut().find(|pool| pool.id == volume.id.pool).unwrap();
        pool.available = pool.available.saturating_sub(volume.capacity);
        let record = VolumeRecord {
            known_as: None,
            id: volume.id.clone(),
            name: volume.name,
            capacity: volume.capacity,
            filesystem: volume.filesystem,
            source: volume.source,
            created_at: Timestamp::UNIX_EPOCH,
        };
        let backend = pool.backend.clone();
        let info = VolumeInfo {
            record,
            backend,
            allocated: Bytes(0),
            published_at: None,
            conditions: vec![],
            moved: None,
        };
        host.volumes.insert(volume.id, info.clone());
        host.creations += 1;
        match trouble {
            Some(Trouble::AnswerLost(fault)) => Err(fault),
            Some(Trouble::Refused(_)) | None => Ok(info),
        }
    }

    async fn copy(&self, host: &HostName, volume: NewVolume, from: &SnapshotId) -> Result<VolumeInfo, Fault> {
        if !self.snapshots.lock().unwrap().contains_key(from) {
            return Err(Fault::not_found("no such snapshot"));
        }
        self.copies.lock().unwrap().push((host.clone(), from.clone()));
        self.create(host, volume).await
    }

    async fn volume(&self, id: &VolumeId) -> Result<Option<Placed>, Fault> {
        self.home(&id.pool, |name, host| {
            Ok(host.volumes.get(id).map(|info| Placed { host: name.clone(), info: info.clone() }))
        })
    }

    async fn delete(&self, id: &VolumeId) -> Result<(), Fault> {
        self.home(&id.pool, |_, host| Ok(host.volumes.remove(id))).map(drop)
    }

    async fn expand(&self, id: &VolumeId, to: Bytes) -> Result<Placed, Fault> {
        let grown = self.home(&id.pool, |name, host| {
            Ok(host.volumes.get_mut(id).map(|info| {
                info.record.capacity = to;
                Placed { host: name.clone(), info: info.clone() }
            }))
        })?;
        grown.ok_or_else(|| Fault::not_found("no such volume"))
    }
}

#[async_trait]
impl Snapshots for Model {
    async fn member(&self, snapshot: &SnapshotId) -> Result<Option<CutMember>, Fault> {
        Ok(self.snapshots.lock().unwrap().get(snapshot).cloned())
    }

    async fn temporary(&self, volume: &VolumeId, name: &str) -> Result<CutMember, Fault> {
        let placed = self.volume(volume).await?.ok_or_else(|| Fault::not_found("no such volume"))?;
        let cut = CutId::new(CutKind::Single, name, [volume]).unwrap();
        let member = CutMember {
            known_as: None,
            volume: volume.clone(),
            volume_name: placed.info.record.name,
            snapshot: SnapshotId::of(volume, &cut, Incarnation(1)),
            host: placed.host,
            capacity: placed.info.record.capacity,
            filesystem: placed.info.record.filesystem,
        };
        self.add_snapshot(member.clone());
        Ok(member)
    }

    async fn end_temporary(&self, snapshot: &SnapshotId) -> Result<(), Fault> {
        self.remove_snapshot(snapshot);
        Ok(())
    }
}
