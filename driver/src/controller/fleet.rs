//! The agents that a controller works with, and which of them has which pool.
//!
//! Guarantees: a [`Fault`] from here names the host; NOT_FOUND means that every host was asked and none has it,
//! while a host that is silent, or a [remembered pool](known) that is on no host, makes it UNAVAILABLE, so that nobody
//! concludes from silence that something does not exist. Every call ends: connecting, asking and waiting for the answer
//! have limits.
//!
//! Records name pools, never hosts: a host is looked up from its pool at the moment of use ([`Fleet::agent_of_pool`]), so
//! that a pool may be attached to another host, and a host may be renamed.
//!
//! The set of agents is given once ([`Fleet::new`]), or grows while agents enrol ([`Fleet::discovered`]). For the second
//! the guarantee needs more: a fleet that knows no agent yet says UNAVAILABLE, a fleet that changed while all were asked
//! says UNAVAILABLE, and an agent stays a member, however silent, until somebody [dismisses](Fleet::dismiss) it. An
//! [`Agent`] that was taken from the fleet keeps its connection when the fleet changes, so rounds go on.

pub mod agent;
mod dial;
pub mod known;
mod locate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

use super::transfers::Transfers;
use crate::domain::{Code, Fault, HostInfo, HostName, PoolId};
use crate::identity::tls::Credentials;
use crate::observe::request::carried;

pub use agent::Agent;
pub use dial::{AgentAddress, Dial, FleetError, with_limits};
use known::{KnownPools, Remembered};

/// Which host has which pool, as far as it is known. Shared with the agents, so that one that does not answer
/// is asked about its pools again.
#[derive(Debug, Clone, Default)]
struct Homes(Arc<Mutex<BTreeMap<PoolId, HostName>>>);

impl Homes {
    fn of(&self, pool: &PoolId) -> Option<HostName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pool).cloned()
    }

    fn learn(&self, host: &HostInfo) {
        let mut homes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        homes.retain(|_, home| *home != host.host);
        homes.extend(host.pools.iter().map(|pool| (pool.id.clone(), host.host.clone())));
    }

    fn forget(&self, host: &HostName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, home| home != host);
    }
}

/// All agents at one moment.
#[derive(Debug, Clone)]
pub struct Everybody {
    /// Sorted by host.
    pub agents: Vec<Agent>,
    /// Another one when the agents have changed.
    pub generation: u64,
}

/// How the set of agents came to be: what the fleet may conclude from it, and what people should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Listed,
    Discovered,
}

#[derive(Debug)]
struct Member {
    address: AgentAddress,
    agent: Agent,
}

#[derive(Debug)]
struct Members {
    by_host: BTreeMap<HostName, Member>,
    dial: Arc<dyn Dial>,
    /// Counts changes, so that who asked all hosts knows whether they were all.
    generation: u64,
}

/// The agents. Cheap to clone, clones share one set; connections are made at first use and made again after a loss.
#[derive(Debug, Clone)]
pub struct Fleet {
    members: Arc<Mutex<Members>>,
    homes: Homes,
    known: KnownPools,
    origin: Origin,
    transfers: Arc<Transfers>,
}

impl Fleet {
    /// The fleet of these agents. Connects to nobody yet.
    pub fn new(
        agents: impl IntoIterator<Item = AgentAddress>,
        credentials: &Credentials,
    ) -> Result<Self, FleetError> {
        Self::reached_by(agents, Arc::new(credentials.clone()))
    }

    /// The fleet of these agents over another network.
    pub fn reached_by(
        agents: impl IntoIterator<Item = AgentAddress>,
        dial: Arc<dyn Dial>,
    ) -> Result<Self, FleetError> {
        let fleet = Self::of(Origin::Listed, dial);
        for agent in agents {
            if fleet.members().by_host.contains_key(&agent.host) {
                return Err(FleetError::Twice(agent.host));
            }
            fleet.admit(agent)?;
        }
        if fleet.members().by_host.is_empty() {
            return Err(FleetError::Empty);
        }
        Ok(fleet)
    }

    /// A fleet without agents, to be [admitted](Self::admit) as they are found.
    pub fn discovered(credentials: Credentials) -> Self {
        Self::of(Origin::Discovered, Arc::new(credentials))
    }

    fn of(origin: Origin, dial: Arc<dyn Dial>) -> Self {
        let members = Members { by_host: BTreeMap::new(), dial, generation: 0 };
        Self {
            members: Arc::new(Mutex::new(members)),
            homes: Homes::default(),
            known: KnownPools::default(),
            origin,
            transfers: Arc::default(),
        }
    }

    /// The same with these pools remembered. Before the first call.
    #[must_use]
    pub fn remembering(self, known: KnownPools) -> Self {
        Self { known, ..self }
    }

    /// Pools that were ever seen.
    pub fn known_pools(&self) -> &KnownPools {
        &self.known
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this agent a member, or moves it to another address. One that is at its address already is left alone.
    pub fn admit(&self, address: AgentAddress) -> Result<(), FleetError> {
        let mut members = self.members();
        if members.by_host.get(&address.host).is_some_and(|member| member.address == address) {
            return Ok(());
        }
        let agent = self.connect(&address, &*members.dial)?;
        members.generation += 1;
        members.by_host.insert(address.host.clone(), Member { address, agent });
        Ok(())
    }

    /// Forgets the agent of a host that will not come back. Its pools stay remembered: their disks may be attached to
    /// another host, and are [dismissed](Fleet::dismiss_pool) by themselves.
    pub fn dismiss(&self, host: &HostName) {
        let mut members = self.members();
        if members.by_host.remove(host).is_some() {
            members.generation += 1;
            self.homes.forget(host);
        }
    }

    /// Talks to all agents with these certificates from here on; what is under way goes on with the old ones.
    pub fn renew(&self, credentials: Credentials) -> Result<(), FleetError> {
        let mut members = self.members();
        let agents: Vec<Agent> = members
            .by_host
            .values()
            .map(|member| self.connect(&member.address, &credentials as &dyn Dial))
            .collect::<Result<_, _>>()?;
        for (member, agent) in members.by_host.values_mut().zip(agents) {
            member.agent = agent;
        }
        members.dial = Arc::new(credentials);
        Ok(())
    }

    fn connect(&self, address: &AgentAddress, dial: &dyn Dial) -> Result<Agent, FleetError> {
        Ok(Agent::new(address.host.clone(), dial.dial(address)?, self.homes.clone()))
    }

    /// Copies between hosts that are under way, and figures of all.
    pub fn transfers(&self) -> &Arc<Transfers> {
        &self.transfers
    }

    /// All hosts, sorted.
    pub fn hosts(&self) -> Vec<HostName> {
        self.members().by_host.keys().cloned().collect()
    }

    /// Where the agents are, sorted by host.
    pub fn addresses(&self) -> Vec<AgentAddress> {
        self.members().by_host.values().map(|member| member.address.clone()).collect()
    }

    /// All agents, sorted by host.
    pub fn agents(&self) -> Vec<Agent> {
        self.members().by_host.values().map(|member| member.agent.clone()).collect()
    }

    /// The agent of this host; NOT_FOUND when the fleet has no such host.
    pub fn agent(&self, host: &HostName) -> Result<Agent, Fault> {
        let members = self.members();
        if let Some(member) = members.by_host.get(host) {
            return Ok(member.agent.clone());
        }
        let known = members.by_host.keys().map(HostName::as_str).collect::<Vec<_>>().join(", ");
        Err(match self.origin {
            Origin::Listed => {
                Fault::not_found(format!("host {host} is not one of {known}; add it to the list of agents"))
            }
            Origin::Discovered => Fault::not_found(format!(
                "host {host} is not one of the hosts whose agent has enrolled ({known}); is the agent's pod on it running?"
            )),
        })
    }

    /// Asks all hosts at once to describe themselves, and remembers their pools. Sorted by host. The answer of a host
    /// whose pools cannot be written down is an error: nothing may be made there.
    pub async fn survey(&self) -> Vec<(HostName, Result<HostInfo, Fault>)> {
        let mut asked = JoinSet::new();
        for agent in self.agents() {
            asked.spawn(carried(async move { (agent.host().clone(), agent.describe().await) }));
        }
        let mut answers: Vec<_> = asked.join_all().await;
        answers.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (host, answer) in &mut answers {
            let Ok(info) = answer else { continue };
            self.homes.learn(info);
            if let Err(fault) = self.known.note(host, info.pools.iter().map(|pool| &pool.id)).await {
                *answer = Err(fault.context(format_args!("the pools of host {host} cannot be written down")));
            }
        }
        answers
    }

    /// The agent that has this pool. Asks all hosts when it is not known. NOT_FOUND: all hosts answer, none has it, and it
    /// was never seen or was dismissed.
    pub async fn agent_of_pool(&self, pool: &PoolId) -> Result<Agent, Fault> {
        if let Some(host) = self.homes.of(pool) {
            return self.agent(&host);
        }
        let before = self.generation()?;
        let home = home_among(pool, &self.survey().await);
        if home.as_ref().is_err_and(|fault| fault.code == Code::NotFound) {
            if self.generation()? != before {
                return Err(Fault::unavailable(format!(
                    "the set of hosts changed while all were asked for pool {pool}; ask again"
                )));
            }
            if let Some(Remembered::On(node)) = self.known.get(pool) {
                return Err(known::missing(pool, &node));
            }
        }
        self.agent(&home?)
    }

    /// The agents of these pools, each once, sorted by host; pools that were dismissed are left out.
    pub async fn agents_of_pools(&self, pools: impl Iterator<Item = &PoolId>) -> Result<Vec<Agent>, Fault> {
        let mut agents = BTreeMap::new();
        for pool in pools.collect::<BTreeSet<_>>() {
            match self.agent_of_pool(pool).await {
                Ok(agent) => drop(agents.insert(agent.host().clone(), agent)),
                Err(_) if self.known.get(pool) == Some(Remembered::Dismissed) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(agents.into_values().collect())
    }

    /// For whoever has asked all agents and found nothing: whether that means that there is nothing. UNAVAILABLE while a
    /// host is silent, a remembered pool is on no host, or no agent is known.
    pub async fn check_complete(&self) -> Result<(), Fault> {
        let before = self.generation()?;
        let answers = self.survey().await;
        if let Some(fault) = answers.iter().find_map(|(_, answer)| answer.as_ref().err()) {
            return Err(Fault::unavailable(format!("not every host answers: {fault}")));
        }
        let pools =
            answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).flat_map(|info| &info.pools);
        let announced = pools.map(|pool| &pool.id).collect();
        if let Some((pool, node)) = self.known.missing(&announced).first() {
            return Err(known::missing(pool, node));
        }
        if self.generation()? == before {
            return Ok(());
        }
        Err(Fault::unavailable("the set of hosts changed while all were asked; ask again"))
    }

    /// The pool will not come back: what only it had is lost from here on, and is searched no more. FAILED_PRECONDITION
    /// while a host announces it, UNAVAILABLE while a host is silent that may have it.
    pub async fn dismiss_pool(&self, pool: &PoolId) -> Result<(), Fault> {
        match home_among(pool, &self.survey().await) {
            Ok(host) => Err(Fault::precondition(format!(
                "pool {pool} is on host {host}; only a pool that is on no host can be dismissed"
            ))),
            Err(fault) if fault.code == Code::NotFound => self.known.dismiss(pool).await,
            Err(fault) => Err(fault),
        }
    }

    /// All agents, for whoever asks each of them and concludes something from all their answers together: afterwards
    /// [`Fleet::is_still`] must hold. UNAVAILABLE while no agent is known.
    pub fn everybody(&self) -> Result<Everybody, Fault> {
        let generation = self.generation()?;
        Ok(Everybody { agents: self.agents(), generation })
    }

    /// UNAVAILABLE when the set of agents has changed since.
    pub fn is_still(&self, everybody: &Everybody) -> Result<(), Fault> {
        if self.generation()? == everybody.generation {
            return Ok(());
        }
        Err(Fault::unavailable("the set of hosts changed while all were asked; ask again"))
    }

    fn generation(&self) -> Result<u64, Fault> {
        let members = self.members();
        if members.by_host.is_empty() {
            return Err(Fault::unavailable(
                "no agent has enrolled yet, so nobody knows what exists; look at the pods of the agents if this lasts",
            ));
        }
        Ok(members.generation)
    }
}

/// Which of these answers has the pool.
fn home_among(pool: &PoolId, answers: &[(HostName, Result<HostInfo, Fault>)]) -> Result<HostName, Fault> {
    let has = |host: &HostInfo| host.pools.iter().any(|other| other.id == *pool);
    let homes: Vec<_> =
        answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(has)).map(|(host, _)| host).collect();
    let silent: Vec<_> = answers.iter().filter_map(|(_, answer)| answer.as_ref().err()).collect();
    match (homes.as_slice(), silent.as_slice()) {
        ([home], _) => Ok((*home).clone()),
        ([one, two, ..], _) => Err(Fault::precondition(format!(
            "hosts {one} and {two} both have pool {pool}; a pool may be attached to one host only, \
             detach it from the other and start its agent again"
        ))),
        ([], []) => Err(Fault::not_found(format!(
            "no host has pool {pool}; if its disk was taken out, attach it to a host and add it to that agent's pools"
        ))),
        ([], [first, ..]) => Err(Fault::unavailable(format!(
            "cannot tell which host has pool {pool} while {} of {} hosts do not answer; first: {first}",
            silent.len(),
            answers.len()
        ))),
    }
}

#[cfg(test)]
mod moved_pools;
#[cfg(test)]
mod tests;
