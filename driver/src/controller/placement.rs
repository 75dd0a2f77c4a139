//! Where a new volume goes. Pure: facts about hosts and a wish go in, pools in order of preference or a refusal
//! come out.
//!
//! * A copy goes to its source's pool, where it takes no time, unless the request prefers another host; then to other
//!   pools, where all data is copied: when the request allows only other hosts, asks for another backend, or the source's
//!   pool refuses for want of room. A request may ask for its source's pool to come first ([`Copies`]).
//! * Which hosts a request allows and prefers is decided before, from who waits for the volume
//!   ([`super::consumers`]).
//! * Preferred hosts come first in their order, then the other allowed ones by free space; within a host the
//!   pool with most free space.
//! * A request that says nothing about places (orchestrators without topology, csi-sanity) goes where the
//!   configuration says ([`Policy`]), else to the pool with most free space.
//! * Memory pools lose everything with their process: only for requests that name that backend.

use super::orders::{Copies, Places};
use crate::backend::BackendKind;
use crate::domain::{Bytes, Code, Fault, HostName, PoolId, PoolInfo};

/// `placement:` in the controller's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The host for volumes whose request names no place. An orchestrator that neither sends topology nor
    /// schedules by it would otherwise find volumes on hosts where it does not run its workloads.
    pub without_topology: Option<HostName>,
}

/// What is known about a host now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name.
    pub host: HostName,
    /// Its pools, or why it does not answer.
    pub pools: Result<Vec<PoolInfo>, Fault>,
}

/// What is wished for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Size of the volume.
    pub size: Bytes,
    /// Backend that was asked for.
    pub backend: Option<BackendKind>,
    /// Where it may and should be.
    pub places: &'a Places,
    /// Pool of what it is copied from.
    pub source: Option<&'a PoolId>,
    /// Where a copy goes first.
    pub copies: Copies,
}

/// A pool on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The host.
    pub host: HostName,
    /// The pool.
    pub pool: PoolId,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// None of the requisite places is a host of ours.
    #[error(
        "none of the places that the request allows is a host of this driver ({known}); check that an agent runs there"
    )]
    NoSuchPlace {
        /// Our hosts.
        known: String,
    },
    /// The configured default host does not exist.
    #[error(
        "the request names no place and the configured placement.withoutTopology {host:?} is not a host of this driver ({known}); correct the configuration"
    )]
    NoSuchDefault {
        /// As configured.
        host: String,
        /// Our hosts.
        known: String,
    },
    /// Nobody who answers has the source's pool.
    #[error("pool {pool} of the source is on no host that answers{silent}; ask again when its host is back")]
    SourceAway {
        /// The pool.
        pool: PoolId,
        /// Hosts that do not answer.
        silent: String,
    },
    /// No host that is allowed answers.
    #[error("no allowed host answers{silent}; ask again when one is back")]
    AllSilent {
        /// Hosts that do not answer.
        silent: String,
    },
    /// No pool of the kind.
    #[error(
        "no allowed host has a {asked} pool{silent}; make one with `stillpoint pool create`, or change stillpoint.dev/backend"
    )]
    NoPool {
        /// What was looked for.
        asked: String,
        /// Hosts that do not answer.
        silent: String,
    },
    /// All are too full.
    #[error(
        "no pool on an allowed host has {needed} free, the most is {most}{silent}; delete volumes or snapshots, or add a pool"
    )]
    Full {
        /// Asked for.
        needed: Bytes,
        /// Largest free space.
        most: Bytes,
        /// Hosts that do not answer.
        silent: String,
    },
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NoSuchPlace { .. } | Refusal::NoPool { .. } | Refusal::Full { .. } => Code::Exhausted,
            Refusal::NoSuchDefault { .. } => Code::Precondition,
            Refusal::SourceAway { .. } | Refusal::AllSilent { .. } => Code::Unavailable,
        };
        Self::new(code, refusal.to_string())
    }
}

/// The pools that fit, best first; never empty.
pub fn rank(wish: Wish<'_>, hosts: &[HostFacts], policy: &Policy) -> Result<Vec<Spot>, Refusal> {
    match wish.source {
        None => anywhere(wish, hosts, policy),
        Some(pool) => for_a_copy(wish, pool, hosts, policy),
    }
}

/// The source's pool where it is allowed, and all others that have room for a copy of everything.
fn for_a_copy(
    wish: Wish<'_>,
    pool: &PoolId,
    hosts: &[HostFacts],
    policy: &Policy,
) -> Result<Vec<Spot>, Refusal> {
    let beside = beside_source(wish, pool, hosts)?;
    let elsewhere = anywhere(wish, hosts, policy);
    let Some(beside) = beside else { return elsewhere };
    let mut spots = vec![beside];
    spots.extend(elsewhere.unwrap_or_default().into_iter().filter(|spot| spot.pool != *pool));
    match wish.copies {
        Copies::BesideSource => {}
        // Stable: within a host the source's pool stays first.
        Copies::Auto | Copies::WherePreferred => {
            spots.sort_by_key(|spot| preference(wish.places, &spot.host));
        }
    }
    Ok(spots)
}

/// Pools for a volume that shares nothing.
fn anywhere(wish: Wish<'_>, hosts: &[HostFacts], policy: &Policy) -> Result<Vec<Spot>, Refusal> {
    let allowed = allowed(wish.places, hosts, policy)?;
    let silent = silent(&allowed);
    if allowed.iter().all(|facts| facts.pools.is_err()) {
        return Err(Refusal::AllSilent { silent });
    }
    let mut pools: Vec<(usize, &HostName, &PoolInfo)> = allowed
        .iter()
        .flat_map(|facts| facts.pools.iter().flatten().map(|pool| (&facts.host, pool)))
        .filter(|(_, pool)| serves(pool, wish.backend))
        .map(|(host, pool)| (preference(wish.places, host), host, pool))
        .collect();
    let Some(most) = pools.iter().map(|(_, _, pool)| pool.available).max() else {
        let asked = wish.backend.map_or("durable (btrfs or xfs)", BackendKind::as_str).to_owned();
        return Err(Refusal::NoPool { asked, silent });
    };
    pools.retain(|(_, _, pool)| pool.available >= wish.size);
    if pools.is_empty() {
        return Err(Refusal::Full { needed: wish.size, most, silent });
    }
    pools.sort_by(|(rank_a, _, a), (rank_b, _, b)| {
        rank_a.cmp(rank_b).then(b.available.cmp(&a.available)).then(a.id.cmp(&b.id))
    });
    Ok(pools.into_iter().map(|(_, host, pool)| spot(host, pool)).collect())
}

/// The source's pool, if a copy may be there. How much room it needs there is the agent's to say: it shares what it
/// does not change.
fn beside_source(wish: Wish<'_>, pool: &PoolId, hosts: &[HostFacts]) -> Result<Option<Spot>, Refusal> {
    let found = hosts.iter().find_map(|facts| {
        let info = facts.pools.iter().flatten().find(|info| info.id == *pool)?;
        Some((&facts.host, info))
    });
    let Some((host, info)) = found else {
        let all: Vec<&HostFacts> = hosts.iter().collect();
        return Err(Refusal::SourceAway { pool: pool.clone(), silent: silent(&all) });
    };
    let is_of_kind = wish.backend.is_none_or(|asked| asked.as_str() == info.backend);
    Ok((wish.places.allow(host) && is_of_kind).then(|| spot(host, info)))
}

/// The hosts that a volume from nothing may go to; never empty.
fn allowed<'a>(
    places: &Places,
    hosts: &'a [HostFacts],
    policy: &Policy,
) -> Result<Vec<&'a HostFacts>, Refusal> {
    let default = policy.without_topology.as_ref().filter(|_| places.is_silent());
    let allowed: Vec<&HostFacts> = hosts
        .iter()
        .filter(|facts| places.allow(&facts.host) && default.is_none_or(|host| *host == facts.host))
        .collect();
    if !allowed.is_empty() {
        return Ok(allowed);
    }
    let known = names(hosts.iter().map(|facts| &facts.host));
    Err(match default {
        Some(host) => Refusal::NoSuchDefault { host: host.to_string(), known },
        None => Refusal::NoSuchPlace { known },
    })
}

pub(super) fn serves(pool: &PoolInfo, asked: Option<BackendKind>) -> bool {
    match asked {
        Some(asked) => pool.backend == asked.as_str(),
        None => pool.backend != BackendKind::Memory.as_str(),
    }
}

/// Index among the preferred hosts; all others come after them.
fn preference(places: &Places, host: &HostName) -> usize {
    places.preferred.iter().position(|preferred| preferred == host).unwrap_or(places.preferred.len())
}

fn spot(host: &HostName, pool: &PoolInfo) -> Spot {
    Spot { host: host.clone(), pool: pool.id.clone() }
}

fn names<'a>(hosts: impl Iterator<Item = &'a HostName>) -> String {
    let names: Vec<&str> = hosts.map(HostName::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// ` (no answer from a, b)`, or nothing.
fn silent(hosts: &[&HostFacts]) -> String {
    let mut silent = hosts.iter().filter(|facts| facts.pools.is_err()).map(|facts| &facts.host).peekable();
    if silent.peek().is_none() {
        return String::new();
    }
    format!(" (no answer from {})", names(silent))
}

#[cfg(test)]
mod tests;
