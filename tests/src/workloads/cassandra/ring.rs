//! Starting and stopping the three nodes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;

use super::cql::{Client, Consistency};
use super::{Layout, NODES};
use crate::harness::bench::command;
use crate::harness::{Process, Step};

const NODE_LIMIT: Duration = Duration::from_mins(3);
const RING_LIMIT: Duration = Duration::from_mins(3);
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// A running ring. Dropping it kills its nodes.
#[derive(Debug)]
pub struct Ring {
    layout: Layout,
    nodes: Vec<Process>,
}

impl Ring {
    /// Starts one node after the other on these volumes and waits until all see all. A volume is bound to the node's
    /// [seat](Layout::seat) while the ring runs.
    pub async fn start(layout: Layout, volumes: &[PathBuf], label: &str, run: &Path) -> Result<Self> {
        ensure!(volumes.len() == NODES, "a ring needs {NODES} volumes, not {}", volumes.len());
        let mut ring = Self { layout, nodes: Vec::new() };
        let step = Step::begin(format!("opening the Cassandra ring ({label})"));
        for (node, volume) in volumes.iter().enumerate() {
            step.detail(&format!("node {} of {NODES}", node + 1));
            let seat = ring.layout.seat(node)?;
            command("mount", &["--bind".as_ref(), volume.as_os_str(), seat.as_os_str()])?;
            let process = ring.layout.spec(node, &seat, label)?.start(run)?;
            ring.nodes.push(process);
            ring.wait_for_node(node).await?;
        }
        step.detail("waiting until every node sees the others");
        ring.wait_for_ring().await?;
        step.done();
        Ok(ring)
    }

    /// Where clients are served.
    pub fn addresses(&self) -> [SocketAddr; NODES] {
        std::array::from_fn(|node| (self.layout.addresses[node], self.layout.cql_port).into())
    }

    /// Where it is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The nodes' processes.
    pub fn nodes(&mut self) -> &mut [Process] {
        &mut self.nodes
    }

    async fn wait_for_node(&mut self, node: usize) -> Result<()> {
        let end = Instant::now() + NODE_LIMIT;
        while Client::connect(self.addresses()[node]).await.is_err() {
            self.nodes[node].check_alive()?;
            if Instant::now() > end {
                bail!("Cassandra node {node} does not open; its log ends with:\n{}", self.nodes[node].tail());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn wait_for_ring(&mut self) -> Result<()> {
        let addresses = self.addresses();
        wait_until_whole(&addresses, || self.nodes.iter_mut().try_for_each(Process::check_alive)).await
    }

    /// Ends all nodes, as a power failure would: what counts is on the volumes.
    pub fn stop(mut self) -> Result<()> {
        let stopped: Vec<Result<()>> =
            self.nodes.iter_mut().map(|node| node.stop(Signal::SIGKILL, STOP_LIMIT)).collect();
        stopped.into_iter().collect::<Result<()>>()?;
        for node in 0..NODES {
            command("umount", &[self.layout.seat(node)?.as_os_str()])?;
        }
        Ok(())
    }
}

/// Waits until every node answers a question that needs all three; `check_alive` says when that is in vain. Makes the
/// keyspace of the load.
pub async fn wait_until_whole(
    addresses: &[SocketAddr; NODES],
    mut check_alive: impl FnMut() -> Result<()>,
) -> Result<()> {
    let end = Instant::now() + RING_LIMIT;
    // A table that is made before all agree about those that are there takes long to become known everywhere.
    for need in [Need::OneSchema, Need::EveryCopy] {
        for (node, address) in addresses.iter().enumerate() {
            while let Err(error) = need.is_met(*address).await {
                check_alive()?;
                if Instant::now() > end {
                    return Err(error.context(format!("Cassandra node {node} does not see the whole ring")));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    Ok(())
}

/// What a node of a whole ring has.
#[derive(Debug, Clone, Copy)]
enum Need {
    /// It knows all the others, and they have the schema that it has.
    OneSchema,
    /// It can ask all of them.
    EveryCopy,
}

impl Need {
    async fn is_met(self, address: SocketAddr) -> Result<()> {
        match self {
            Self::OneSchema => agrees(address).await,
            Self::EveryCopy => sees_all(address).await,
        }
    }
}

async fn agrees(address: SocketAddr) -> Result<()> {
    let mut client = Client::connect(address).await?;
    let own = client.query("SELECT schema_version FROM system.local", Consistency::One).await?;
    let others = client.query("SELECT schema_version FROM system.peers_v2", Consistency::One).await?;
    ensure!(others.len() == NODES - 1, "it knows {} peers", others.len());
    ensure!(own.first().is_some_and(|own| others.iter().all(|other| other == own)), "schemas differ");
    Ok(())
}

async fn sees_all(address: SocketAddr) -> Result<()> {
    let mut client = Client::connect(address).await?;
    // Raises no error before gossip says that everybody is up.
    let schema = "CREATE KEYSPACE IF NOT EXISTS demo WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}";
    client.query(schema, Consistency::One).await?;
    let table = "CREATE TABLE IF NOT EXISTS demo.everybody (id bigint PRIMARY KEY)";
    client.query(table, Consistency::One).await?;
    client.query("SELECT id FROM demo.everybody WHERE id = 0", Consistency::All).await?;
    Ok(())
}
