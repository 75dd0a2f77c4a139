//! Write load whose acknowledgements are remembered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config};

use super::server::connect;
use crate::workloads::stall::longest_gap;

/// Each connection has this many accounts of its own, so that connections never wait for each other.
const ACCOUNTS: i64 = 50;
/// What every account begins with.
pub const OPENING: i64 = 1000;
/// Rest between transactions: load enough to have writes in flight at any instant, not a benchmark.
const REST: Duration = Duration::from_millis(2);

/// The worker is in the upper bits of a transaction's id.
const WORKER_SHIFT: u32 = 40;

const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE debits (id bigint PRIMARY KEY, account bigint NOT NULL, amount bigint NOT NULL);
    CREATE TABLE credits (id bigint PRIMARY KEY, account bigint NOT NULL, amount bigint NOT NULL);
    CREATE INDEX debits_by_account ON debits (account);
    CREATE INDEX credits_by_account ON credits (account);";

type Acknowledged = Arc<Mutex<Vec<(Instant, i64)>>>;

/// Connections that move money until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
    workers: JoinSet<Result<()>>,
}

impl Load {
    /// Makes the schema in an empty database and starts this many connections.
    pub async fn start(server: &Config, connections: u32) -> Result<Self> {
        let client = connect(server).await?;
        client.batch_execute(SCHEMA).await.context("cannot make the schema")?;
        let open = format!(
            "INSERT INTO accounts SELECT id, {OPENING} FROM generate_series(0, {} - 1) AS id",
            i64::from(connections) * ACCOUNTS
        );
        client.batch_execute(&open).await.context("cannot open the accounts")?;
        let mut load = Self { stop: Arc::default(), acknowledged: Arc::default(), workers: JoinSet::new() };
        for worker in 0..connections {
            let client = connect(server).await?;
            load.workers.spawn(work(client, worker, load.stop.clone(), load.acknowledged.clone()));
        }
        Ok(load)
    }

    /// Ids of the transactions that were acknowledged before this instant.
    pub fn acknowledged_before(&self, instant: Instant) -> Vec<i64> {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(when, _)| *when < instant).map(|(_, id)| *id).collect()
    }

    /// The longest that any connection waited for one transaction between these instants.
    pub fn longest_stall(&self, from: Instant, to: Instant) -> Duration {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workers: BTreeMap<i64, Vec<Instant>> = BTreeMap::new();
        for (when, id) in all.iter() {
            workers.entry(id >> WORKER_SHIFT).or_default().push(*when);
        }
        workers.into_values().map(|when| longest_gap(when, from, to)).max().unwrap_or_default()
    }

    /// An error when a connection has failed: a load that has silently stopped proves nothing.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.workers.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error.context("PostgreSQL's write load failed")),
            Some(Ok(Ok(()))) => bail!("PostgreSQL's write load ended by itself"),
            Some(Err(error)) => Err(anyhow!(error).context("PostgreSQL's write load died")),
        }
    }

    /// Stops; how many transactions were acknowledged.
    pub async fn stop(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.workers.join_next().await {
            ended.context("PostgreSQL's write load died")?.context("PostgreSQL's write load failed")?;
        }
        Ok(self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len())
    }
}

async fn work(client: Client, worker: u32, stop: Arc<AtomicBool>, acknowledged: Acknowledged) -> Result<()> {
    let base = i64::from(worker) * ACCOUNTS;
    let mut serial = 0_i64;
    while !stop.load(Ordering::SeqCst) {
        serial += 1;
        let id = i64::from(worker) << WORKER_SHIFT | serial;
        let from = base + serial % ACCOUNTS;
        let to = base + (serial * 7 + 3) % ACCOUNTS;
        let amount = serial % 13 + 1;
        let transfer = format!(
            "BEGIN;
             INSERT INTO debits VALUES ({id}, {from}, {amount});
             UPDATE accounts SET balance = balance - {amount} WHERE id = {from};
             INSERT INTO credits VALUES ({id}, {to}, {amount});
             UPDATE accounts SET balance = balance + {amount} WHERE id = {to};
             COMMIT;"
        );
        client.batch_execute(&transfer).await.context("a transfer failed")?;
        acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), id));
        tokio::time::sleep(REST).await;
    }
    Ok(())
}
