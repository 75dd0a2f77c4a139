//! Write load on any server: connections that write one thing after another, and what was acknowledged when.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::task::JoinSet;

use super::stall::longest_gap;

/// Rest between writes: load enough to have writes in flight at any instant, not a benchmark.
const REST: Duration = Duration::from_millis(2);
/// The worker is in the upper bits of an id.
const WORKER_SHIFT: u32 = 40;

/// A connection that writes one thing at a time.
pub trait Writer: Send + 'static {
    /// Writes the thing of this id; returns when the server has acknowledged it.
    fn write(&mut self, id: u64) -> impl Future<Output = Result<()>> + Send;
}

type Acknowledged = Arc<Mutex<Vec<(Instant, u64)>>>;

/// Connections that write until they are stopped.
#[derive(Debug)]
pub struct Load {
    server: &'static str,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
    workers: JoinSet<Result<()>>,
}

impl Load {
    /// Lets them begin. `server` is its name in errors.
    pub fn start<W: Writer>(server: &'static str, writers: Vec<W>) -> Self {
        let mut load =
            Self { server, stop: Arc::default(), acknowledged: Arc::default(), workers: JoinSet::new() };
        for (number, writer) in (0_u64..).zip(writers) {
            load.workers.spawn(work(writer, number, load.stop.clone(), load.acknowledged.clone()));
        }
        load
    }

    /// Ids of what was acknowledged before this instant.
    pub fn acknowledged_before(&self, instant: Instant) -> Vec<u64> {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(when, _)| *when < instant).map(|(_, id)| *id).collect()
    }

    /// The longest that any connection waited for one write between these instants.
    pub fn longest_stall(&self, from: Instant, to: Instant) -> Duration {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workers: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
        for (when, id) in all.iter() {
            workers.entry(id >> WORKER_SHIFT).or_default().push(*when);
        }
        workers.into_values().map(|when| longest_gap(when, from, to)).max().unwrap_or_default()
    }

    /// An error when a connection has failed: a load that has silently stopped proves nothing.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.workers.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error.context(format!("the write load of {} failed", self.server))),
            Some(Ok(Ok(()))) => bail!("the write load of {} ended by itself", self.server),
            Some(Err(error)) => {
                Err(anyhow!(error).context(format!("the write load of {} died", self.server)))
            }
        }
    }

    /// Stops; everything that was acknowledged.
    pub async fn stop(mut self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.workers.join_next().await {
            ended
                .context("a worker died")
                .flatten()
                .with_context(|| format!("the write load of {}", self.server))?;
        }
        Ok(self.acknowledged_before(Instant::now()))
    }
}

async fn work(
    mut writer: impl Writer,
    number: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
) -> Result<()> {
    for serial in 1.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let id = number << WORKER_SHIFT | serial;
        writer.write(id).await.with_context(|| format!("write {id}"))?;
        acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), id));
        tokio::time::sleep(REST).await;
    }
    Ok(())
}

/// What was found to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Acknowledged writes that had to be there, and are.
    pub required: usize,
    /// Writes that are there: more than required, as some were acknowledged later, before the cut.
    pub present: usize,
}

/// Everything that is required is there; an error says how much is not.
pub fn nothing_lost<S: BuildHasher>(required: &[u64], present: &HashSet<u64, S>) -> Result<Checked> {
    ensure!(!required.is_empty(), "nothing was acknowledged before the cut, so nothing can be proven");
    let lost: Vec<u64> = required.iter().copied().filter(|id| !present.contains(id)).collect();
    if let Some(first) = lost.first() {
        bail!("{} of {} acknowledged writes are lost, {first} is one", lost.len(), required.len());
    }
    Ok(Checked { required: required.len(), present: present.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_is_missing_is_named() {
        let present = HashSet::from([1, 2, 3]);
        assert_eq!(nothing_lost(&[1, 3], &present).unwrap(), Checked { required: 2, present: 3 });
        let error = nothing_lost(&[1, 7], &present).unwrap_err().to_string();
        assert!(error.contains("1 of 2") && error.contains('7'), "{error}");
        assert!(nothing_lost(&[], &present).is_err(), "nothing proves nothing");
    }
}
