//! The use cases of volumes over all hosts.
//!
//! A volume's name is its identity: before anything is made, all hosts that answer are asked for the name, so a
//! retry finds what the first try made, wherever that was. A host that is silent does not stop new volumes, except
//! when this controller has sent it that very name and does not know what became of it: then the request waits for
//! that host (UNAVAILABLE), for otherwise a second volume of the name could arise elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use stillpoint_guard::fault::point;

use super::consumers::{self, ConsumerLookup, Course};
use super::merge::HostList;
use super::orders::{CapacityQuery, Copies, Place, SizeRange, VolumeOrder};
use super::paging::{Page, PageRequest, page};
use super::placement::{self, HostFacts, Policy, Spot, Wish};
use super::transfers;
use crate::domain::listing::{Keyed, Piece, Slice};
use crate::domain::record::{CutMember, Source};
use crate::domain::{
    Bytes, Code, Fault, Filesystem, HostName, NameHash, NewVolume, PoolId, PoolInfo, SnapshotId, VolumeId,
    VolumeInfo,
};

mod fleet;
mod wanted;

use wanted::{differences, filesystem, size};

/// Names whose fate is unknown that are remembered at once; beyond this any of them gives way.
const DOUBTS_LIMIT: usize = 4096;

/// What is asked of the hosts. [`crate::controller::fleet::Fleet`] is the real one.
#[async_trait]
pub trait Hosts: Send + Sync + 'static {
    /// All hosts and their pools now.
    async fn survey(&self) -> Vec<HostFacts>;
    /// Every host's answer to: which volume of yours has a name with this hash?
    async fn find(&self, name: &NameHash) -> Vec<(HostName, Result<Option<VolumeInfo>, Fault>)>;
    /// All hosts now, for lists.
    fn everybody(&self) -> Result<Roll, Fault>;
    /// UNAVAILABLE while a host is silent or a remembered pool is on no host: what all hosts say is not all there is.
    async fn check_complete(&self) -> Result<(), Fault>;
    /// A piece of one host's volumes.
    async fn volumes(&self, host: &HostName, slice: &Slice<VolumeId>) -> Result<Piece<VolumeInfo>, Fault>;
    /// Makes a volume on this host.
    async fn create(&self, host: &HostName, volume: NewVolume) -> Result<VolumeInfo, Fault>;
    /// Makes a volume on this host out of a snapshot of another pool; goes on with what an earlier call copied.
    async fn copy(&self, host: &HostName, volume: NewVolume, from: &SnapshotId) -> Result<VolumeInfo, Fault>;
    /// One volume; `None` when it or its pool exists nowhere.
    async fn volume(&self, id: &VolumeId) -> Result<Option<Placed>, Fault>;
    /// Removes a volume; one that does not exist is fine.
    async fn delete(&self, id: &VolumeId) -> Result<(), Fault>;
    /// Grows a volume.
    async fn expand(&self, id: &VolumeId, to: Bytes) -> Result<Placed, Fault>;
}

/// The hosts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roll {
    /// Sorted.
    pub hosts: Vec<HostName>,
    /// Another one when the hosts have changed.
    pub generation: u64,
}

/// Looks snapshots up, for restoring.
#[async_trait]
pub trait Snapshots: Send + Sync + 'static {
    /// The member of a sealed cut that this snapshot is.
    async fn member(&self, snapshot: &SnapshotId) -> Result<Option<CutMember>, Fault>;
    /// Takes a snapshot of a volume that is only needed to copy it; the same name gives the same snapshot.
    async fn temporary(&self, volume: &VolumeId, _name: &str) -> Result<CutMember, Fault> {
        Err(Fault::unimplemented(format!("volume {volume} cannot be copied to another host from here")))
    }
    /// Removes it; one that is gone is fine.
    async fn end_temporary(&self, snapshot: &SnapshotId) -> Result<(), Fault> {
        Err(Fault::unimplemented(format!("snapshot {snapshot} cannot be removed from here")))
    }
}

/// A volume and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The host of its pool.
    pub host: HostName,
    /// The volume.
    pub info: VolumeInfo,
}

impl Placed {
    /// The id by which orchestrators know it.
    pub fn id(&self) -> &VolumeId {
        self.info.record.known_as()
    }
}

impl Keyed for Placed {
    type Key = VolumeId;
    /// By the id in its pool, as its host lists it.
    fn key(&self) -> VolumeId {
        self.info.record.id.clone()
    }
}

/// Where what was asked for comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was made now.
    Made,
    /// It was there already.
    Found,
}

/// Free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// In all pools that were asked for.
    pub available: Bytes,
    /// In the one that has most: the largest volume that can be made now.
    pub largest: Bytes,
}

/// What a new volume is copied from.
struct SourceFacts {
    pool: PoolId,
    capacity: Bytes,
    filesystem: Option<Filesystem>,
}

/// The use cases.
pub struct Volumes {
    hosts: Arc<dyn Hosts>,
    snapshots: Arc<dyn Snapshots>,
    policy: Policy,
    consumers: Option<Arc<dyn ConsumerLookup>>,
    /// Where a volume of this name may have been made.
    doubts: Mutex<HashMap<NameHash, HostName>>,
}

impl Volumes {
    /// Over these hosts.
    pub fn new(hosts: Arc<dyn Hosts>, snapshots: Arc<dyn Snapshots>, policy: Policy) -> Self {
        Self { hosts, snapshots, policy, consumers: None, doubts: Mutex::default() }
    }

    /// Puts volumes where the pods that wait for them can run, as this lookup knows them.
    #[must_use]
    pub fn with_consumers(self, lookup: Arc<dyn ConsumerLookup>) -> Self {
        Self { consumers: Some(lookup), ..self }
    }

    /// Makes a volume, or finds the one that the same order made before.
    pub async fn create(&self, order: &VolumeOrder) -> Result<Placed, Fault> {
        self.make_or_find(order).await.map(|(placed, _)| placed)
    }

    /// The same, and which of both it was.
    pub async fn make_or_find(&self, order: &VolumeOrder) -> Result<(Placed, Origin), Fault> {
        let name = NameHash::of(&order.name);
        if let Some(found) = self.existing(&name).await? {
            self.settled(&name);
            differences(order, &found)?;
            return Ok((found, Origin::Found));
        }
        let source = self.source(order).await?;
        let filesystem = filesystem(order, source.as_ref())?;
        let size = size(order, filesystem, source.as_ref())?;
        let facts = self.hosts.survey().await;
        let course = self.course(order, source.as_ref(), &facts).await?;
        let wish = Wish {
            size,
            backend: order.backend,
            places: &course.places,
            source: source.as_ref().map(|source| &source.pool),
            copies: course.copies,
        };
        let spots = placement::rank(wish, &facts, &self.policy)?;
        let source = source.map(|source| source.pool);
        let placed = self.make(order, &name, filesystem, size, source.as_ref(), spots).await?;
        Ok((placed, Origin::Made))
    }

    /// Where the volume may and should be, so that the pods that wait for it can run.
    async fn course(
        &self,
        order: &VolumeOrder,
        source: Option<&SourceFacts>,
        facts: &[HostFacts],
    ) -> Result<Course, Fault> {
        let is_settled = source.is_some() && order.copies == Copies::BesideSource;
        let (Some(lookup), Some(claim), false) = (&self.consumers, &order.claim, is_settled) else {
            return Ok(Course::as_requested(&order.places, order.copies));
        };
        let has = |facts: &HostFacts, is_meant: &dyn Fn(&PoolInfo) -> bool| {
            facts.pools.as_ref().map_or(true, |pools| pools.iter().any(is_meant))
        };
        // A node that is silent may have a pool: it counts, or the node that is chosen would change with it.
        let nodes: Vec<HostName> = facts
            .iter()
            .filter(|facts| has(facts, &|pool| placement::serves(pool, order.backend)))
            .map(|facts| facts.host.clone())
            .collect();
        let at_source = source.and_then(|source| {
            let holds = |facts: &&HostFacts| facts.pools.iter().flatten().any(|pool| pool.id == source.pool);
            facts.iter().find(holds).map(|facts| facts.host.clone())
        });
        let stays = at_source.as_ref().filter(|_| order.copies == Copies::Auto);
        let consumers = lookup.consumers(claim, &nodes, stays).await?;
        let course = consumers::decide(order.copies, &order.places, &consumers, &nodes, at_source.as_ref());
        tracing::info!(
            volume = order.name,
            claim = format!("{}/{}", claim.namespace, claim.name),
            nodes = ?course.places.requisite,
            "the volume's node: {}",
            course.why
        );
        Ok(course)
    }

    /// Tries one pool after the other as long as they refuse for want of space.
    async fn make(
        &self,
        order: &VolumeOrder,
        name: &NameHash,
        filesystem: Option<Filesystem>,
        size: Bytes,
        source: Option<&PoolId>,
        spots: Vec<Spot>,
    ) -> Result<Placed, Fault> {
        let mut spots = spots;
        if let Some(doubted) = self.doubted(name) {
            // What the earlier try started there may still be under way: meet it rather than make a second one.
            spots.sort_by_key(|spot| spot.host != doubted);
        }
        // Where a try that nobody remembers has left a volume of this name, that one's counts.
        let birth = super::incarnation()?;
        let mut refused = None;
        for Spot { host, pool } in spots {
            let volume = NewVolume {
                id: VolumeId::new(pool, &order.name, birth),
                name: order.name.clone(),
                capacity: size,
                filesystem,
                source: order.source.clone(),
            };
            point("controller.create.placed");
            match self.make_there(&host, volume, source).await {
                Ok(info) => {
                    point("controller.create.made");
                    self.settled(name);
                    return Ok(Placed { host, info });
                }
                Err(fault) if fault.code == Code::Exhausted => refused = Some(fault),
                Err(fault) if leaves_doubt(fault.code) => {
                    self.doubt(name, host);
                    return Err(not_final(fault));
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(refused.unwrap_or_else(|| Fault::internal("placement named no pool and no reason")))
    }

    /// Makes a volume in its pool: at once where its source is in that pool too, else by copying all data.
    async fn make_there(
        &self,
        host: &HostName,
        volume: NewVolume,
        source: Option<&PoolId>,
    ) -> Result<VolumeInfo, Fault> {
        match volume.source.clone().filter(|_| source != Some(&volume.id.pool)) {
            Some(Source::Snapshot(from)) => self.hosts.copy(host, volume, &from).await,
            Some(Source::Volume(from)) => self.clone_there(host, volume, &from).await,
            None => self.hosts.create(host, volume).await,
        }
    }

    /// A live volume is copied from a snapshot of it, which is removed when the copy is there or given up for good.
    async fn clone_there(
        &self,
        host: &HostName,
        volume: NewVolume,
        from: &VolumeId,
    ) -> Result<VolumeInfo, Fault> {
        let temporary = self.snapshots.temporary(from, &transfers::temporary_name(&volume.name)).await?;
        let made = self.hosts.copy(host, volume, &temporary.snapshot).await;
        let goes_on = made.as_ref().is_err_and(|fault| leaves_doubt(fault.code));
        if !goes_on && let Err(fault) = self.snapshots.end_temporary(&temporary.snapshot).await {
            tracing::warn!(snapshot = %temporary.snapshot, %fault, "a temporary snapshot stays until the next sweep");
        }
        made
    }

    /// The volume of this name, on whichever host.
    async fn existing(&self, name: &NameHash) -> Result<Option<Placed>, Fault> {
        let doubted = self.doubted(name);
        let mut found = None;
        for (host, answer) in self.hosts.find(name).await {
            match answer {
                Ok(Some(info)) => found = found.or(Some(Placed { host, info })),
                Ok(None) => {}
                Err(fault) if doubted.as_ref() == Some(&host) => {
                    return Err(Fault::unavailable(format!(
                        "an earlier try may have made the volume on host {host}, which cannot be asked now; \
                         ask again when it is back: {fault}"
                    )));
                }
                Err(fault) => tracing::warn!(%host, %fault, "cannot ask for a volume by name"),
            }
        }
        match found.as_ref().and_then(|found| found.info.moved.as_ref()) {
            Some(departure) => Err(Fault::unavailable(format!(
                "the volume has moved to {}, whose host cannot be asked now; ask again when it is back",
                departure.to
            ))),
            None => Ok(found),
        }
    }

    fn doubted(&self, name: &NameHash) -> Option<HostName> {
        lock(&self.doubts).get(name).cloned()
    }

    fn settled(&self, name: &NameHash) {
        lock(&self.doubts).remove(name);
    }

    fn doubt(&self, name: &NameHash, host: HostName) {
        let mut doubts = lock(&self.doubts);
        let spare = doubts.keys().next().filter(|_| doubts.len() >= DOUBTS_LIMIT).cloned();
        if let Some(spare) = spare {
            doubts.remove(&spare);
        }
        doubts.insert(name.clone(), host);
    }

    async fn source(&self, order: &VolumeOrder) -> Result<Option<SourceFacts>, Fault> {
        let (id, facts) = match &order.source {
            None => return Ok(None),
            Some(Source::Snapshot(id)) => {
                let member = self.snapshots.member(id).await?;
                let facts = member.map(|member| (member.capacity, member.filesystem));
                (id.to_string(), facts.map(|facts| (id.volume.pool.clone(), facts)))
            }
            Some(Source::Volume(id)) => {
                let volume = self.hosts.volume(id).await?.map(|placed| placed.info.record);
                let facts = volume.map(|record| (record.id.pool, (record.capacity, record.filesystem)));
                (id.to_string(), facts)
            }
        };
        match facts {
            Some((pool, (capacity, filesystem))) => Ok(Some(SourceFacts { pool, capacity, filesystem })),
            None => Err(Fault::not_found(format!(
                "the source {id} does not exist; it may have been deleted meanwhile, choose another one"
            ))),
        }
    }

    /// Removes a volume; one that does not exist is fine.
    pub async fn delete(&self, id: &VolumeId) -> Result<(), Fault> {
        self.hosts.delete(id).await?;
        point("controller.delete.deleted");
        Ok(())
    }

    /// One volume; NOT_FOUND when it does not exist.
    pub async fn get(&self, id: &VolumeId) -> Result<Placed, Fault> {
        let found = self.hosts.volume(id).await?;
        found.ok_or_else(|| Fault::not_found(format!("volume {id} does not exist on any host")))
    }

    /// A page of the volumes of all hosts that are wanted, sorted by id. A host that is silent makes it UNAVAILABLE: a
    /// list with holes would look like deleted volumes.
    pub async fn page(
        &self,
        request: &PageRequest,
        is_wanted: impl Fn(&VolumeInfo) -> bool,
    ) -> Result<Page<Placed>, Fault> {
        let roll = self.hosts.everybody()?;
        let source = |host: &HostName| {
            let source = VolumesOf { hosts: Arc::clone(&self.hosts), host: host.clone() };
            Arc::new(source) as Arc<dyn HostList<Placed>>
        };
        let sources = roll.hosts.iter().map(source).collect();
        let page = page(sources, request, |placed: &Placed| is_wanted(&placed.info)).await?;
        if self.hosts.everybody()?.generation != roll.generation {
            return Err(Fault::unavailable("the set of hosts changed while all were asked; ask again"));
        }
        self.hosts.check_complete().await?;
        Ok(page)
    }

    /// Makes a volume as large as asked for; one that is large enough stays as it is.
    pub async fn expand(&self, id: &VolumeId, size: SizeRange) -> Result<Placed, Fault> {
        let volume = self.get(id).await?;
        let now = volume.info.record.capacity;
        let wanted = size.choose(now, now)?;
        if wanted == now { Ok(volume) } else { self.hosts.expand(id, wanted).await }
    }

    /// Free space for volumes. Hosts that are silent have none, unless one was asked for by name: then it is
    /// UNAVAILABLE.
    pub async fn capacity(&self, query: &CapacityQuery) -> Result<Capacity, Fault> {
        let mut pools: Vec<PoolInfo> = Vec::new();
        for facts in self.hosts.survey().await {
            let asked_by_name = query.place == Place::On(facts.host.clone());
            if query.place != Place::Anywhere && !asked_by_name {
                continue;
            }
            match facts.pools {
                Ok(found) => pools.extend(found),
                Err(fault) if asked_by_name => return Err(fault),
                Err(_) => {}
            }
        }
        pools.retain(|pool| placement::serves(pool, query.backend));
        let free = || pools.iter().map(|pool| pool.available.0);
        Ok(Capacity {
            available: Bytes(free().fold(0, u64::saturating_add)),
            largest: Bytes(free().max().unwrap_or(0)),
        })
    }
}

/// The volumes of one host.
struct VolumesOf {
    hosts: Arc<dyn Hosts>,
    host: HostName,
}

#[async_trait]
impl HostList<Placed> for VolumesOf {
    fn host(&self) -> &HostName {
        &self.host
    }

    async fn piece(&self, slice: &Slice<VolumeId>) -> Result<Piece<Placed>, Fault> {
        let Piece { entries, more } = self.hosts.volumes(&self.host, slice).await?;
        let placed = entries.into_iter().map(|info| Placed { host: self.host.clone(), info });
        Ok(Piece { entries: placed.collect(), more })
    }
}

/// After these nobody knows whether the volume was made.
fn leaves_doubt(code: Code) -> bool {
    match code {
        Code::Unavailable | Code::Deadline | Code::Internal | Code::Aborted => true,
        Code::Invalid
        | Code::NotFound
        | Code::AlreadyExists
        | Code::Exhausted
        | Code::OutOfRange
        | Code::Precondition
        | Code::Denied
        | Code::Unimplemented => false,
    }
}

/// INTERNAL would tell the orchestrator that nothing was made and nothing needs to be asked again.
fn not_final(fault: Fault) -> Fault {
    if fault.code == Code::Internal { Fault::unavailable(fault.message) } else { fault }
}

fn lock(doubts: &Mutex<HashMap<NameHash, HostName>>) -> MutexGuard<'_, HashMap<NameHash, HostName>> {
    // Each change is one insert or remove, so a panic elsewhere leaves the table usable.
    doubts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
