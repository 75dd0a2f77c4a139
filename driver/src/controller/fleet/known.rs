//! Pools that are remembered: a pool that was seen once and that no node announces is missing, not gone.
//!
//! # Guarantees
//! A pool is written down before anything is made in it or concluded from it ([`KnownPools::note`] is part of every
//! survey). So a controller that starts knows which pools to miss. A pool is forgotten only when somebody dismisses it;
//! that is remembered too, because what other pools hold of its group snapshots is removed only for a pool that is known
//! to be lost, never for one that was merely not seen yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::domain::{Fault, HostName, PoolId};

/// What is remembered of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// The node that announced it last.
    On(HostName),
    /// Somebody said that it will not come back.
    Dismissed,
}

/// What is remembered of each pool.
pub type PoolLines = BTreeMap<PoolId, Remembered>;

impl fmt::Display for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On(node) => write!(f, "node={node}"),
            Self::Dismissed => f.write_str("dismissed"),
        }
    }
}

impl FromStr for Remembered {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("node=") {
            Some(node) => node.parse().map(Self::On).map_err(|error| format!("{error}")),
            None if text == "dismissed" => Ok(Self::Dismissed),
            None => Err(format!("{text:?} is neither node=<name> nor dismissed")),
        }
    }
}

/// Where pools are written down.
#[async_trait]
pub trait PoolStore: fmt::Debug + Send + Sync {
    /// Adds or replaces these lines and leaves all others alone. Durable when it returns.
    async fn write(&self, lines: &PoolLines) -> Result<(), Fault>;
}

/// Nothing outlives the process: for tests and simulations.
#[derive(Debug)]
struct InMemory;

#[async_trait]
impl PoolStore for InMemory {
    async fn write(&self, _: &PoolLines) -> Result<(), Fault> {
        Ok(())
    }
}

/// Pools that are remembered. Cheap to clone, clones share one set.
#[derive(Debug, Clone)]
pub struct KnownPools {
    lines: Arc<Mutex<PoolLines>>,
    store: Arc<dyn PoolStore>,
}

impl Default for KnownPools {
    fn default() -> Self {
        Self::stored(PoolLines::new(), Arc::new(InMemory))
    }
}

impl KnownPools {
    /// These pools, and from here on what is written to this store.
    pub fn stored(lines: PoolLines, store: Arc<dyn PoolStore>) -> Self {
        Self { lines: Arc::new(Mutex::new(lines)), store }
    }

    fn lines(&self) -> MutexGuard<'_, PoolLines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of this pool.
    pub fn get(&self, pool: &PoolId) -> Option<Remembered> {
        self.lines().get(pool).cloned()
    }

    /// All of them.
    pub fn all(&self) -> PoolLines {
        self.lines().clone()
    }

    /// Pools that were last seen on this node.
    pub fn on(&self, node: &HostName) -> Vec<PoolId> {
        let is_there = |remembered: &Remembered| matches!(remembered, Remembered::On(last) if last == node);
        self.lines().iter().filter(|(_, line)| is_there(line)).map(|(pool, _)| pool.clone()).collect()
    }

    /// A node announces these pools. What is new is durable when this returns; an error says that nobody may rely on them.
    pub async fn note(&self, node: &HostName, pools: impl Iterator<Item = &PoolId>) -> Result<(), Fault> {
        let here = Remembered::On(node.clone());
        let changed: PoolLines = {
            let lines = self.lines();
            let is_new = |pool: &&PoolId| lines.get(*pool) != Some(&here);
            pools.filter(is_new).map(|pool| (pool.clone(), here.clone())).collect()
        };
        if changed.is_empty() {
            return Ok(());
        }
        self.store.write(&changed).await?;
        for pool in changed.keys() {
            if self.get(pool) == Some(Remembered::Dismissed) {
                tracing::warn!(%pool, %node, "a pool that was dismissed is back");
            }
        }
        self.lines().extend(changed);
        Ok(())
    }

    /// The pool will not come back: its volumes and snapshots count as lost from here on. FAILED_PRECONDITION for a pool
    /// that was never seen. Idempotent.
    pub async fn dismiss(&self, pool: &PoolId) -> Result<(), Fault> {
        let lines = match self.get(pool) {
            Some(Remembered::Dismissed) => return Ok(()),
            Some(Remembered::On(_)) => PoolLines::from([(pool.clone(), Remembered::Dismissed)]),
            None => {
                let known = self.lines().keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(Fault::precondition(format!(
                    "pool {pool} was never seen; the pools that are remembered are {}",
                    if known.is_empty() { "none" } else { &known }
                )));
            }
        };
        self.store.write(&lines).await?;
        self.lines().extend(lines);
        Ok(())
    }

    /// What the store says by now: people and other controllers write there too. A pool that it does not name stays as it
    /// was, so that a store that was lost or emptied by mistake makes nothing forgotten.
    pub fn follow(&self, lines: PoolLines) {
        self.lines().extend(lines);
    }

    /// Pools that are remembered, not dismissed, and not among those that are announced; with their last node.
    pub fn missing(&self, announced: &BTreeSet<&PoolId>) -> Vec<(PoolId, HostName)> {
        let lines = self.lines();
        let missing = lines.iter().filter_map(|(pool, remembered)| match remembered {
            Remembered::On(node) if !announced.contains(pool) => Some((pool.clone(), node.clone())),
            Remembered::On(_) | Remembered::Dismissed => None,
        });
        missing.collect()
    }
}

/// Why nothing can be said of what is in this pool, and what to do.
pub fn missing(pool: &PoolId, node: &HostName) -> Fault {
    Fault::unavailable(format!(
        "pool {pool}, last seen on node {node}, is open on no node now; where its disk is attached, the agent's log says why \
         it cannot be opened, else attach it to a node and add it to that agent's pools, or, if it is lost for good, run `stillpoint pool dismiss {pool}` (in Kubernetes: write `dismissed` into its line of \
         ConfigMap stillpoint-pools)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(number: u8) -> PoolId {
        PoolId::from_random([number; 6])
    }

    fn node(name: &str) -> HostName {
        name.parse().unwrap()
    }

    #[derive(Debug, Default)]
    struct Broken;

    #[async_trait]
    impl PoolStore for Broken {
        async fn write(&self, _: &PoolLines) -> Result<(), Fault> {
            Err(Fault::unavailable("the disk is full"))
        }
    }

    #[test]
    fn lines_are_read_as_they_were_written_and_others_are_refused() {
        for line in [Remembered::On(node("node-1")), Remembered::On(node("dismissed")), Remembered::Dismissed]
        {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        for text in ["", "node=", "node-1", "Dismissed"] {
            assert!(text.parse::<Remembered>().is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_pool_is_missing_from_when_it_is_not_announced_until_it_is_dismissed() {
        let known = KnownPools::default();
        known.note(&node("a"), [pool(1), pool(2)].iter()).await.unwrap();
        assert_eq!(known.missing(&BTreeSet::from([&pool(2)])), [(pool(1), node("a"))]);
        assert_eq!(known.missing(&BTreeSet::from([&pool(1), &pool(2)])), []);
        known.dismiss(&pool(1)).await.unwrap();
        assert_eq!(known.missing(&BTreeSet::new()), [(pool(2), node("a"))]);
        assert_eq!(known.on(&node("a")), [pool(2)]);
        let fault = known.dismiss(&pool(9)).await.unwrap_err();
        assert!(fault.message.contains(pool(2).as_str()), "{fault}");
        known.note(&node("b"), [pool(1)].iter()).await.unwrap();
        assert_eq!(known.get(&pool(1)), Some(Remembered::On(node("b"))), "it came back, on another node");
    }

    #[tokio::test]
    async fn a_pool_that_cannot_be_written_down_is_not_remembered_and_is_told() {
        let known = KnownPools::stored(PoolLines::new(), Arc::new(Broken));
        assert!(known.note(&node("a"), [pool(1)].iter()).await.is_err());
        assert_eq!(known.get(&pool(1)), None);
    }

    #[test]
    fn an_emptied_store_makes_nothing_forgotten() {
        let lines = PoolLines::from([(pool(1), Remembered::On(node("a")))]);
        let known = KnownPools::stored(lines, Arc::new(InMemory));
        known.follow(PoolLines::new());
        assert_eq!(known.missing(&BTreeSet::new()).len(), 1);
    }
}
