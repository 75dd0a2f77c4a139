//! The databases of the example and the load on them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use stillpoint_tests::cluster::workspace::Workspace;
use stillpoint_tests::harness::{Step, binaries};
use stillpoint_tests::workloads::{cassandra, load, postgres};
use tokio_postgres::Config;

use crate::manifests::READY;

/// The server whose volume is cut with the ring.
pub const IN_GROUP: usize = 0;
/// The server that is cut alone; `snapshot.yaml` names its claim.
pub const ALONE: usize = 1;
/// The server that is never cut.
pub const UNTOUCHED: usize = 2;
/// Servers.
pub const SERVERS: usize = 3;
/// Nodes of the ring, where clients are served.
pub type Addresses = [SocketAddr; cassandra::NODES];

const CQL_PORT: u16 = 9042;
const POSTGRESQL_PORT: u16 = 5432;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Three Java programs start at once, on a machine that may be busy with much else.
const START_LIMIT: Duration = Duration::from_mins(5);
const CONNECTIONS: u32 = 2;

/// A file of `deploy/examples/databases`.
pub fn example(name: &str) -> Result<String> {
    let path = binaries::source_directory().join("../deploy/examples/databases").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The databases in their namespace.
pub struct Shop<'a> {
    /// The namespace.
    pub space: &'a Workspace,
    /// The ring.
    pub ring: Addresses,
    servers: [Config; SERVERS],
}

impl<'a> Shop<'a> {
    /// Starts them and waits until they serve.
    pub async fn open(space: &'a Workspace) -> Result<Self> {
        let step = Step::begin("starting three nodes of Cassandra and three servers of PostgreSQL");
        // As docs/kubernetes.md says: a namespace must allow it.
        let account = "--serviceaccount=stillpoint-system:stillpoint-controller";
        space.run(&["create", "rolebinding", "stillpoint-exec", "--clusterrole=stillpoint-exec", account])?;
        for file in ["cassandra.yaml", "postgresql.yaml", "rule.yaml"] {
            space.apply(&example(file)?)?;
        }
        let claim = format!("pvc/data-postgresql-{IN_GROUP}");
        space.wait(&claim, "create")?;
        space.run(&["label", &claim, "cut=shop"])?;
        let servers = [server(space, 0)?, server(space, 1)?, server(space, 2)?];
        let ring = ring(space)?;
        step.detail("waiting until every node of the ring sees the others");
        cassandra::wait_until_whole(&ring, || Ok(())).await.map_err(|error| logged(error, space))?;
        step.done();
        Ok(Self { space, ring, servers })
    }

    /// Deletes what must go before its namespace: members of a group can only go together.
    pub fn close(self) -> Result<()> {
        let limit = "--timeout=120s";
        self.space.run(&["delete", "volumegroupsnapshots", "--all", limit])?;
        self.space.run(&["delete", "volumesnapshot/orders", limit])?;
        Ok(())
    }
}

/// Waits for a ring; where it serves.
pub fn ring(space: &Workspace) -> Result<Addresses> {
    let mut addresses = [SocketAddr::from(([0, 0, 0, 0], CQL_PORT)); cassandra::NODES];
    for (node, address) in addresses.iter_mut().enumerate() {
        address.set_ip(running(space, &format!("cassandra-{node}"))?);
    }
    Ok(addresses)
}

/// Waits for a server; how it is reached.
pub fn server(space: &Workspace, number: usize) -> Result<Config> {
    let address = running(space, &format!("postgresql-{number}"))?;
    let mut config = Config::new();
    config.hostaddr(address).port(POSTGRESQL_PORT).connect_timeout(CONNECT_LIMIT);
    config.user("postgres").password("example").dbname("postgres");
    Ok(config)
}

fn running(space: &Workspace, pod: &str) -> Result<std::net::IpAddr> {
    let object = format!("pod/{pod}");
    space.wait(&object, "create")?;
    space.wait_within(START_LIMIT, &object, READY)?;
    space.address(pod)
}

/// With what the nodes of a ring have printed last.
pub fn logged(error: anyhow::Error, space: &Workspace) -> anyhow::Error {
    let logs: String =
        (0..cassandra::NODES).map(|node| space.log(&format!("pod/cassandra-{node}"))).collect();
    error.context(logs)
}

/// Write load on all of them.
pub struct Loads {
    /// On the ring.
    pub ring: cassandra::Load,
    /// On each server.
    pub servers: Vec<load::Load>,
}

impl Loads {
    /// Starts writers.
    pub async fn start(shop: &Shop<'_>) -> Result<Self> {
        let mut servers = Vec::new();
        for server in &shop.servers {
            servers.push(postgres::start_load(server, CONNECTIONS).await?);
        }
        Ok(Self { ring: cassandra::Load::start(&shop.ring).await?, servers })
    }

    /// An error when a writer has failed.
    pub fn check_alive(&mut self) -> Result<()> {
        self.ring.check_alive()?;
        self.servers.iter_mut().try_for_each(load::Load::check_alive)
    }

    /// Ends them.
    pub async fn stop(self) -> Result<()> {
        let rows = self.ring.stop().await?;
        let mut transactions = 0;
        for server in self.servers {
            transactions += server.stop().await?.len();
        }
        println!("  acknowledged in all: {rows} rows, {transactions} transactions");
        Ok(())
    }
}
