//! Pools that the controller of a cluster remembers: ConfigMap `stillpoint-pools`, one line `<pool>: node=<name>` per pool
//! that an agent has ever announced. Why is in [`crate::controller::fleet::known`].
//!
//! A pool that will not come back is dismissed by its line: `kubectl -n stillpoint-system patch configmap stillpoint-pools
//! --type merge -p '{"data":{"<pool>":"dismissed"}}'`. A line that is removed is written again: only a decision in words
//! counts, so that a ConfigMap that was lost or restored from elsewhere makes nothing forgotten.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::hosts::{LineBook, Lines};
use crate::controller::fleet::known::{KnownPools, PoolLines, PoolStore, Remembered};
use crate::domain::Fault;

/// Name of the ConfigMap.
pub const POOLS: &str = "stillpoint-pools";
/// How often lines that people or other controllers have changed are looked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(30);

/// The ConfigMap as a store of pools.
#[derive(Clone)]
pub struct PoolBook(Arc<dyn LineBook>);

impl std::fmt::Debug for PoolBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PoolBook")
    }
}

impl PoolBook {
    /// Over this book.
    pub fn new(book: Arc<dyn LineBook>) -> Self {
        Self(book)
    }

    /// What is written down. Lines that nobody can read are told and left out.
    pub async fn read(&self) -> Result<PoolLines, Fault> {
        let lines = self.0.read().await?.unwrap_or_default();
        let parsed = |(pool, line): (String, String)| match (pool.parse(), line.parse()) {
            (Ok(pool), Ok(line)) => Some((pool, line)),
            (Err(_), _) | (_, Err(_)) => {
                tracing::warn!(%pool, %line, "a line of ConfigMap {POOLS} is not <pool>: node=<name> or dismissed; correct it");
                None
            }
        };
        Ok(lines.into_iter().filter_map(parsed).collect())
    }

    /// Takes up what people have dismissed, and writes again what is missing there.
    pub async fn follow(&self, known: &KnownPools) -> Result<(), Fault> {
        let written = self.read().await?;
        for (pool, line) in &written {
            if *line == Remembered::Dismissed && known.get(pool) != Some(Remembered::Dismissed) {
                tracing::warn!(%pool, "it was dismissed in ConfigMap {POOLS}: what only it had is lost");
            }
        }
        let missing: PoolLines =
            known.all().into_iter().filter(|(pool, _)| !written.contains_key(pool)).collect();
        known.follow(written);
        if missing.is_empty() { Ok(()) } else { self.write(&missing).await }
    }

    /// Follows for ever.
    pub async fn keep_following(&self, known: &KnownPools) {
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            if let Err(fault) = self.follow(known).await {
                tracing::warn!(%fault, "the pools that are remembered stay as they were");
            }
        }
    }
}

#[async_trait]
impl PoolStore for PoolBook {
    async fn write(&self, lines: &PoolLines) -> Result<(), Fault> {
        let lines: Lines = lines.iter().map(|(pool, line)| (pool.to_string(), line.to_string())).collect();
        self.0.write(&lines).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::PoolId;
    use crate::kube::hosts::tests::Notebook;

    #[tokio::test]
    async fn pools_are_remembered_until_their_line_says_dismissed() {
        let notebook = Arc::new(Notebook::default());
        let book = PoolBook::new(Arc::clone(&notebook) as _);
        let known = KnownPools::stored(book.read().await.unwrap(), Arc::new(book.clone()));
        let (node, pool) = ("node-1".parse().unwrap(), PoolId::from_random([1; 6]));
        known.note(&node, std::iter::once(&pool)).await.unwrap();
        let line = |text: &str| Some(Lines::from([(pool.to_string(), text.to_owned())]));
        assert_eq!(*notebook.0.lock().unwrap(), line("node=node-1"));
        *notebook.0.lock().unwrap() = Some(Lines::from([("nonsense".into(), "node=a".into())]));
        book.follow(&known).await.unwrap();
        assert_eq!(
            known.missing(&BTreeSet::new()),
            [(pool.clone(), node)],
            "a lost line makes nothing forgotten"
        );
        assert_eq!(notebook.0.lock().unwrap().as_ref().unwrap()[pool.as_str()], "node=node-1");
        *notebook.0.lock().unwrap() = line("dismissed");
        book.follow(&known).await.unwrap();
        assert_eq!(known.missing(&BTreeSet::new()), []);
        let again = KnownPools::stored(book.read().await.unwrap(), Arc::new(book));
        assert_eq!(again.get(&pool), Some(Remembered::Dismissed));
    }
}
