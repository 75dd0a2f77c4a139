//! Write load at QUORUM whose acknowledgements are remembered, and the check of a restored ring.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::task::JoinSet;

use super::NODES;
use super::cql::{Client, Consistency};
use crate::workloads::stall::longest_gap;

/// Rows per partition: the check reads partition by partition.
const PARTITION: i64 = 500;
/// Rest between writes of one connection.
const REST: Duration = Duration::from_millis(3);
/// A write that fails (a node that is too slow) is repeated this often before the load gives up.
const TRIES: u32 = 20;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS demo.rows (writer bigint, part bigint, n bigint, sum bigint, \
                     PRIMARY KEY ((writer, part), n))";

/// When row n of a writer was acknowledged: the n-th entry of its list.
type Acknowledged = Arc<Mutex<Vec<Instant>>>;

/// Connections that write rows until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<Acknowledged>,
    workers: JoinSet<Result<()>>,
}

impl Load {
    /// Makes the table and starts one writer per node of a whole ring.
    pub async fn start(ring: &[SocketAddr; NODES]) -> Result<Self> {
        let mut client = Client::connect(ring[0]).await?;
        client.query(TABLE, Consistency::One).await.context("cannot make the table")?;
        let mut load = Self { stop: Arc::default(), writers: Vec::new(), workers: JoinSet::new() };
        for (writer, node) in ring.iter().enumerate() {
            let acknowledged = Acknowledged::default();
            load.writers.push(acknowledged.clone());
            let client = Client::connect(*node).await?;
            load.workers.spawn(work(client, writer as i64, load.stop.clone(), acknowledged));
        }
        Ok(load)
    }

    /// For each writer, how many rows (0, 1, 2, …) were acknowledged before this instant.
    pub fn acknowledged_before(&self, instant: Instant) -> Vec<i64> {
        let count = |writer: &Acknowledged| {
            let when = writer.lock().unwrap_or_else(PoisonError::into_inner);
            when.partition_point(|acknowledged| *acknowledged < instant) as i64
        };
        self.writers.iter().map(count).collect()
    }

    /// The longest that any writer waited for one row between these instants.
    pub fn longest_stall(&self, from: Instant, to: Instant) -> Duration {
        let of = |writer: &Acknowledged| {
            let when = writer.lock().unwrap_or_else(PoisonError::into_inner);
            longest_gap(when.iter().copied(), from, to)
        };
        self.writers.iter().map(of).max().unwrap_or_default()
    }

    /// An error when a writer has failed: a load that has silently stopped proves nothing.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.workers.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error.context("Cassandra's write load failed")),
            Some(Ok(Ok(()))) => bail!("Cassandra's write load ended by itself"),
            Some(Err(error)) => Err(anyhow!(error).context("Cassandra's write load died")),
        }
    }

    /// Stops; how many rows were acknowledged.
    pub async fn stop(mut self) -> Result<i64> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.workers.join_next().await {
            ended.context("Cassandra's write load died")?.context("Cassandra's write load failed")?;
        }
        Ok(self.acknowledged_before(Instant::now()).iter().sum())
    }
}

async fn work(
    mut client: Client,
    writer: i64,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
) -> Result<()> {
    for n in 0_i64.. {
        let insert = format!(
            "INSERT INTO demo.rows (writer, part, n, sum) VALUES ({writer}, {}, {n}, {})",
            n / PARTITION,
            sum(writer, n)
        );
        insist(&mut client, &insert, &stop).await?;
        if stop.load(Ordering::SeqCst) {
            break;
        }
        acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        tokio::time::sleep(REST).await;
    }
    Ok(())
}

/// Writes until it is acknowledged: rows are without gaps then.
async fn insist(client: &mut Client, insert: &str, stop: &AtomicBool) -> Result<()> {
    let mut tries = 0;
    while let Err(error) = client.query(insert, Consistency::Quorum).await {
        tries += 1;
        if tries >= TRIES {
            return Err(error.context(format!("a row was refused {TRIES} times")));
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Any function of both numbers that a wrong row would not have.
fn sum(writer: i64, n: i64) -> i64 {
    (n ^ writer << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)
}

/// What was found to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Rows that had to be there, and are.
    pub required: i64,
    /// Rows in the partitions that were read.
    pub present: i64,
}

/// Reads every row that was acknowledged before the flush from a restored ring, with consistency ALL. That shows that the ring
/// has lost nothing; it does not show that each node has everything by itself, because nodes repair each other while they
/// answer.
pub async fn check(ring: &[SocketAddr; NODES], required: &[i64]) -> Result<Checked> {
    ensure!(required.iter().all(|count| *count > 0), "a writer had no row acknowledged before the flush");
    let mut client = Client::connect(ring[0]).await?;
    let mut checked = Checked { required: required.iter().sum(), present: 0 };
    for (writer, count) in required.iter().enumerate() {
        for part in 0..=(count - 1) / PARTITION {
            checked.present += partition(&mut client, writer as i64, part, *count).await?;
        }
    }
    Ok(checked)
}

async fn partition(client: &mut Client, writer: i64, part: i64, count: i64) -> Result<i64> {
    let select = format!("SELECT n, sum FROM demo.rows WHERE writer = {writer} AND part = {part}");
    let rows = client.query(&select, Consistency::All).await.context("the restored ring does not answer")?;
    let found: HashMap<i64, i64> =
        rows.iter().filter_map(|row| Some((row.bigint(0)?, row.bigint(1)?))).collect();
    let first = part * PARTITION;
    let lost: Vec<i64> = (first..count.min(first + PARTITION)).filter(|n| !found.contains_key(n)).collect();
    if let Some(n) = lost.first() {
        bail!(
            "{} rows of writer {writer} that were acknowledged before the flush are lost, {n} is one",
            lost.len()
        );
    }
    if let Some((n, _)) = found.iter().find(|(n, found)| **found != sum(writer, **n)) {
        bail!("row {n} of writer {writer} is not what was written");
    }
    Ok(found.len() as i64)
}
