//! Cuts: taken, found, listed, deleted.
//!
//! # A cut exists if and only if its record is sealed on its home pool
//! (the member pool with the lowest id). [`OpenCut::seal`] seals there first; that is the only commit point.
//! What a died controller left is decided by asking the home pool: sealed there means that the other hosts are sealed
//! too (rolled forward), anything else means that it is removed everywhere (void). Deleting removes the home pool's
//! record first, so that a deletion that is interrupted can only be finished, never half undone.
//!
//! # Errors
//! A failed attempt is voided on all hosts before the error is given back. Where a host could not be asked to, the
//! code is UNAVAILABLE, never a final one, because something may be left behind; a retry under the same name cleans up.

mod earlier;
mod list;
mod open;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use stillpoint_guard::fault::point;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fleet::{Agent, Fleet};
use super::round::{Part, Round};
use crate::domain::record::{CutMember, CutRecord, CutState};
use crate::domain::round::Limits;
use crate::domain::{
    Code, CutHandle, CutId, CutKind, Fault, HostName, Incarnation, Level, NameHash, PoolId, SnapshotId,
    VolumeId,
};
use crate::observe::request::carried;

use earlier::Named;
pub use open::{OpenCut, Taken};
pub use sweep::Swept;

/// Members of one cut.
pub const MEMBERS_MAX: usize = 1024;

/// How long an attempt that is being given up is waited for: its hosts let go within their deadlines.
const GIVING_UP_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether that has happened.
const GIVING_UP_POLL: Duration = Duration::from_millis(20);

/// What shall be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutOrder {
    /// One snapshot or a group.
    pub kind: CutKind,
    /// Its name; the same name is the same cut.
    pub name: String,
    /// Its members, in any order.
    pub volumes: Vec<VolumeId>,
    /// Whether members are held together.
    pub barrier: Barrier,
}

/// Whether all members are held before the first is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    /// All members at one instant: what Stillpoint is for.
    Up,
    /// Host after host, each by itself, as tools without a barrier do. Recorded as level crash. For showing that a
    /// consistency check can fail.
    Down,
}

/// What an order for a cut leads to.
pub enum Opened {
    /// It exists already.
    Exists(Box<CutRecord>),
    /// All hosts are prepared.
    Ready(Box<OpenCut>),
}

/// Takes and finds cuts over a fleet. Cheap to clone.
#[derive(Clone)]
pub struct Cuts {
    fleet: Fleet,
    limits: Limits,
    /// `Barrier::Down` counts for every cut, whatever is ordered.
    barrier: Barrier,
    busy: Busy,
    wall_clock: fn() -> Timestamp,
}

/// Names of cuts that this process is working on.
type Busy = Arc<Mutex<BTreeSet<(CutKind, NameHash)>>>;

/// Keeps a name busy while it lives.
struct BusyName {
    busy: Busy,
    name: (CutKind, NameHash),
}

impl Drop for BusyName {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Cuts {
    /// Cuts over this fleet, held no longer than these limits.
    pub fn new(fleet: Fleet, limits: Limits) -> Self {
        Self { fleet, limits, barrier: Barrier::Up, busy: Busy::default(), wall_clock: Timestamp::now }
    }

    /// With this barrier for all cuts: [`Barrier::Down`] is a test switch of the whole process.
    #[must_use]
    pub fn with_barrier(self, barrier: Barrier) -> Self {
        Self { barrier, ..self }
    }

    /// The same with another wall clock, by which cuts are dated and judged as old: the seam for simulated time.
    #[must_use]
    pub fn dated_by(self, wall_clock: fn() -> Timestamp) -> Self {
        Self { wall_clock, ..self }
    }

    /// Takes a cut, or gives the one of this name if it has the same members (as a set).
    pub async fn take(&self, order: CutOrder) -> Result<CutRecord, Fault> {
        match self.open(order).await? {
            Opened::Exists(record) => Ok(*record),
            Opened::Ready(mut open) => {
                let taken = open.cut().await?;
                open.seal(taken.level, taken.reasons).await
            }
        }
    }

    /// Prepares a cut on all hosts; nothing is held yet.
    pub async fn open(&self, order: CutOrder) -> Result<Opened, Fault> {
        let busy = self.make_busy(order.kind, &order.name)?;
        check_volumes(&order)?;
        // Before the members are looked at: a cut that exists outlives its volumes.
        if let Some(record) = self.settle_earlier(&order).await? {
            return Ok(Opened::Exists(Box::new(record)));
        }
        let attempt = super::incarnation()?;
        let (members, agents) = self.members(&order, attempt).await?;
        let volumes = members.iter().map(|member| &member.volume);
        let id = CutId::new(order.kind, &order.name, volumes)
            .ok_or_else(|| Fault::invalid("a cut needs at least one volume"))?;
        let record = CutRecord {
            id,
            name: order.name,
            state: CutState::Round,
            attempt,
            members,
            cut_at: (self.wall_clock)(),
            level: Level::Crash,
            reasons: vec![],
            timeline: None,
        };
        point("controller.cut.looked-up");
        let base = Instant::now();
        let agents: Vec<Agent> = agents.into_values().collect();
        let mut open = OpenCut::new(record, agents.clone(), (base, self.wall_clock), busy);
        let parts = agents.into_iter().map(|agent| part(agent, open.record()));
        let rounds: Vec<Vec<Part>> = match (self.barrier, order.barrier) {
            (Barrier::Up, Barrier::Up) => vec![parts.collect()],
            (Barrier::Down, _) | (_, Barrier::Down) => parts.map(|part| vec![part]).collect(),
        };
        for parts in rounds {
            match Round::open(parts, open.record(), self.limits, base).await {
                Ok(round) => open.add(round),
                Err(fault) => return Err(open.give_up(fault).await),
            }
        }
        point("controller.cut.prepared");
        Ok(Opened::Ready(Box::new(open)))
    }

    /// Ends whatever an earlier attempt under this name has left, waiting for one that is just being given up. Gives
    /// the cut where it turns out to be sealed, with every host told so; `None`: nothing of it is left on any host of
    /// these volumes. An error says that this is not known.
    pub async fn settle(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
    ) -> Result<Option<CutRecord>, Fault> {
        let order = CutOrder { kind, name: name.to_owned(), volumes: volumes.to_vec(), barrier: Barrier::Up };
        let _busy = self.wait_until_free(kind, name).await?;
        self.ask_pools_of(kind, name, volumes).await?;
        self.settle_earlier(&order).await
    }

    async fn wait_until_free(&self, kind: CutKind, name: &str) -> Result<BusyName, Fault> {
        let deadline = Instant::now() + GIVING_UP_LIMIT;
        loop {
            match self.make_busy(kind, name) {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(GIVING_UP_POLL).await,
                outcome => return outcome,
            }
        }
    }

    /// The sealed cut of this name. `None` only when every remembered pool was searched, UNAVAILABLE otherwise.
    pub async fn find(&self, kind: CutKind, name: &str) -> Result<Option<CutRecord>, Fault> {
        let Named { records, silent } = self.records_of(kind, &NameHash::of(name)).await;
        for record in records {
            if let Some(sealed) = self.sealed(&record.id).await? {
                return Ok(Some(sealed));
            }
        }
        let complete = match silent {
            Some(fault) => Err(fault),
            None => self.fleet.check_complete().await,
        };
        match complete {
            Ok(()) => Ok(None),
            Err(fault) => Err(Fault::unavailable(format!(
                "cannot tell whether there is a cut {name:?} while not every pool can be searched: {fault}"
            ))),
        }
    }

    /// The sealed cut with this handle. One that was taken later under its name is another one.
    pub async fn get(&self, handle: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        Ok(self.sealed(&handle.cut).await?.filter(|sealed| sealed.attempt == handle.attempt))
    }

    /// The sealed cut with this id, whichever attempt took it.
    async fn sealed(&self, id: &CutId) -> Result<Option<CutRecord>, Fault> {
        let agent = match self.fleet.agent_of_pool(&id.home).await {
            Ok(agent) => agent,
            Err(fault) if fault.code == Code::NotFound => return Ok(None),
            Err(fault) => return Err(fault),
        };
        Ok(agent.cut(id).await?.filter(is_sealed))
    }

    /// The sealed cut that this snapshot is a member of.
    pub async fn of_snapshot(&self, snapshot: &SnapshotId) -> Result<Option<CutRecord>, Fault> {
        let agent = match self.fleet.agent_of_pool(&snapshot.volume.pool).await {
            Ok(agent) => agent,
            Err(fault) if fault.code == Code::NotFound => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let found = agent.find_cut(snapshot.kind, &snapshot.hash).await?.filter(is_sealed);
        Ok(found.filter(|record| record.members.iter().any(|member| member.snapshot == *snapshot)))
    }

    /// Tells the hosts that have the pools of these members that their cut is sealed: a controller that died between two
    /// seals has not.
    pub async fn roll_forward(&self, sealed: &CutRecord, members: &[CutMember]) -> Result<(), Fault> {
        for agent in self.fleet.agents_of_pools(pools_of(members)).await? {
            agent.seal(sealed).await?;
        }
        Ok(())
    }

    /// Deletes a cut with all its snapshots. One that does not exist is fine; one that was taken later under its name stays.
    pub async fn delete(&self, handle: &CutHandle) -> Result<(), Fault> {
        let id = &handle.cut;
        let home = match self.fleet.agent_of_pool(&id.home).await {
            Ok(agent) => agent,
            Err(fault) if fault.code == Code::NotFound => return Ok(()),
            Err(fault) => return Err(fault),
        };
        let Some(record) = home.cut(id).await? else { return self.finish_deletion(handle).await };
        if record.attempt != handle.attempt {
            return Ok(());
        }
        // Before anything is removed: a pool that is missing now would keep its members.
        let agents = self.fleet.agents_of_pools(pools_of(&record.members)).await?;
        point("controller.uncut.begun");
        home.delete_cut(id, record.attempt).await?;
        point("controller.uncut.home-gone");
        let mut others = JoinSet::new();
        for agent in agents.into_iter().filter(|agent| agent.host() != home.host()) {
            let (id, attempt) = (id.clone(), record.attempt);
            others.spawn(carried(async move { agent.delete_cut(&id, attempt).await }));
        }
        others.join_all().await.into_iter().collect()
    }

    /// The home pool has no record, so what others have sealed is left of a deletion that was interrupted.
    async fn finish_deletion(&self, handle: &CutHandle) -> Result<(), Fault> {
        for agent in self.fleet.agents() {
            let left = agent.cut(&handle.cut).await?;
            if let Some(left) = left.filter(|left| is_sealed(left) && left.attempt == handle.attempt) {
                self.remove_unsealed(&left).await?;
            }
        }
        Ok(())
    }

    fn make_busy(&self, kind: CutKind, name: &str) -> Result<BusyName, Fault> {
        let key = (kind, NameHash::of(name));
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return Err(Fault::aborted(format!(
                "the cut {name:?} is being worked on; try again when it is done"
            )));
        }
        Ok(BusyName { busy: Arc::clone(&self.busy), name: key })
    }

    /// What the volumes are and who has them.
    async fn members(
        &self,
        order: &CutOrder,
        attempt: Incarnation,
    ) -> Result<(Vec<CutMember>, BTreeMap<HostName, Agent>), Fault> {
        let id = CutId::new(order.kind, &order.name, &order.volumes)
            .ok_or_else(|| Fault::invalid("a cut needs at least one volume"))?;
        let (mut members, mut agents) = (Vec::new(), BTreeMap::new());
        let pools: BTreeSet<&PoolId> = order.volumes.iter().map(|volume| &volume.pool).collect();
        for pool in pools {
            // So that not every volume asks all hosts at once; one that has moved may come from a pool that is gone.
            let _ = self.fleet.agent_of_pool(pool).await;
        }
        let mut asked = JoinSet::new();
        for volume in order.volumes.clone() {
            let fleet = self.fleet.clone();
            asked.spawn(carried(async move { fleet.locate(&volume).await }));
        }
        for found in asked.join_all().await {
            let (agent, info) = found?;
            let record = info.record;
            members.push(CutMember {
                snapshot: SnapshotId::of(&record.id, &id, attempt),
                volume: record.id,
                known_as: record.known_as,
                volume_name: record.name,
                host: agent.host().clone(),
                capacity: record.capacity,
                filesystem: record.filesystem,
            });
            agents.insert(agent.host().clone(), agent);
        }
        members.sort_by(|left, right| left.volume.cmp(&right.volume));
        Ok((members, agents))
    }
}

/// The pools in which these members are.
fn pools_of(members: &[CutMember]) -> impl Iterator<Item = &PoolId> {
    members.iter().map(|member| &member.volume.pool)
}

fn is_sealed(record: &CutRecord) -> bool {
    record.state == CutState::Sealed
}

fn check_volumes(order: &CutOrder) -> Result<(), Fault> {
    let distinct: BTreeSet<&VolumeId> = order.volumes.iter().collect();
    if distinct.len() != order.volumes.len() {
        return Err(Fault::invalid("a volume is named twice; name each member once"));
    }
    if order.volumes.is_empty() || order.volumes.len() > MEMBERS_MAX {
        return Err(Fault::invalid(format!(
            "a cut has 1 to {MEMBERS_MAX} members, not {}",
            order.volumes.len()
        )));
    }
    Ok(())
}

fn part(agent: Agent, record: &CutRecord) -> Part {
    let members = record.members.iter().filter(|member| member.host == *agent.host()).cloned().collect();
    Part { agent, members }
}
