//! The same databases from their snapshots, in another namespace, while the originals run.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_tests::cluster::Kubectl;
use stillpoint_tests::cluster::launch::run;
use stillpoint_tests::cluster::workspace::Workspace;
use stillpoint_tests::harness::{Step, binaries};
use stillpoint_tests::workloads::cassandra::cql::{Client, Consistency};
use stillpoint_tests::workloads::{cassandra, postgres};

use super::shop::{ALONE, Addresses, IN_GROUP, Shop, example, logged, ring, server};
use crate::cluster;

/// Gossip takes a moment until every node has told its own address to the others.
const FORGET_LIMIT: Duration = Duration::from_mins(1);

const RESTORED: &str = "shop-restored";

/// What was acknowledged early enough to be in the cuts.
pub struct Proof {
    /// Rows of each writer of the ring.
    pub rows: Vec<i64>,
    /// Transactions of the server in the group.
    pub in_group: Vec<u64>,
    /// Transactions of the server that was cut alone.
    pub alone: Vec<u64>,
}

/// Restores everything and looks whether it is all there.
pub async fn prove(shop: &Shop<'_>, required: &Proof) -> Result<()> {
    let space = Workspace::new(&cluster(), RESTORED)?;
    let contents = Contents::new(&shop.space.kubectl)?;
    let step = Step::begin("the ring and two servers again, from the snapshots, in another namespace");
    restore(&space)?;
    space.apply(&example("restore-cassandra.yaml")?)?;
    space.apply(&example("cassandra.yaml")?)?;
    // The third server was never cut.
    space.apply(&example("postgresql.yaml")?.replace("replicas: 3", "replicas: 2"))?;
    let addresses = ring(&space)?;
    step.done();

    let step = Step::begin(
        "every row that was acknowledged before the flush is in the ring, read with consistency ALL",
    );
    let checked = ring_is_whole(&addresses, &required.rows).await.map_err(|error| logged(error, &space))?;
    step.done_with(&format!("{} required, {} there", checked.required, checked.present));
    apart(&shop.ring, &addresses).await?;
    for (number, required) in [(IN_GROUP, &required.in_group), (ALONE, &required.alone)] {
        prove_server(&space, number, required).await?;
    }

    space.leave()?;
    drop(contents);
    Ok(())
}

/// What names snapshots of the original in the other namespace. It belongs to no namespace, so it is deleted by itself.
struct Contents<'a>(&'a Kubectl);

impl<'a> Contents<'a> {
    /// None yet.
    fn new(kubectl: &'a Kubectl) -> Result<Self> {
        Self(kubectl).delete()?;
        Ok(Self(kubectl))
    }

    fn delete(&self) -> Result<()> {
        let of = format!("restored-into={RESTORED}");
        self.0.run(&["delete", "volumesnapshotcontents", "--timeout=60s", "-l", &of])?;
        Ok(())
    }
}

impl Drop for Contents<'_> {
    fn drop(&mut self) {
        // What is left is named by the end of the test.
        drop(self.delete());
    }
}

async fn ring_is_whole(ring: &Addresses, rows: &[i64]) -> Result<cassandra::Checked> {
    forget_others(ring).await?;
    cassandra::wait_until_whole(ring, || Ok(())).await?;
    cassandra::check(ring, rows).await
}

/// By the script that people are given.
fn restore(space: &Workspace) -> Result<()> {
    let kubectl = space.kubectl.command();
    let words: Vec<_> = std::iter::once(kubectl.get_program()).chain(kubectl.get_args()).collect();
    let words = words.join(std::ffi::OsStr::new(" "));
    let script = binaries::source_directory().join("../deploy/examples/databases/restore.sh");
    let told = run(Command::new("sh").arg(script).args(["shop", RESTORED]).env("KUBECTL", words))?;
    let claims = told.lines().filter(|line| line.contains(" -> ")).count();
    ensure!(claims == 5, "five claims, not {claims}:\n{told}");
    Ok(())
}

/// A restored node remembers addresses of the original ring and would give them to its clients.
async fn forget_others(ring: &Addresses) -> Result<()> {
    let own = hosts(ring);
    let end = Instant::now() + FORGET_LIMIT;
    for node in ring {
        loop {
            let mut client = Client::connect(*node).await?;
            let known = peers(&mut client).await?;
            for stranger in known.difference(&own) {
                println!("  {node} remembers {stranger}");
                for table in ["peers", "peers_v2"] {
                    let delete = format!("DELETE FROM system.{table} WHERE peer = '{stranger}'");
                    client.query(&delete, Consistency::One).await?;
                }
            }
            if peers(&mut client).await?.len() == ring.len() - 1 {
                break;
            }
            ensure!(Instant::now() < end, "{node} knows {known:?}, which is not its ring");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

/// Each of two rings knows itself and nobody else.
async fn apart(one: &Addresses, other: &Addresses) -> Result<()> {
    for ring in [one, other] {
        for node in ring {
            let known = peers(&mut Client::connect(*node).await?).await?;
            let strangers: Vec<_> = known.difference(&hosts(ring)).copied().collect();
            ensure!(strangers.is_empty(), "{node} knows {strangers:?}, which are not of its ring");
        }
    }
    Ok(())
}

async fn peers(client: &mut Client) -> Result<BTreeSet<IpAddr>> {
    let rows = client.query("SELECT peer FROM system.peers_v2", Consistency::One).await?;
    rows.iter().map(|row| row.address(0).context("a peer without address")).collect()
}

fn hosts(ring: &Addresses) -> BTreeSet<IpAddr> {
    ring.iter().map(SocketAddr::ip).collect()
}

/// Nothing lost, nothing half, and every tuple in its indexes.
async fn prove_server(space: &Workspace, number: usize, required: &[u64]) -> Result<()> {
    let step = Step::begin(format!("PostgreSQL {number}: recovery, transactions, indexes"));
    let pod = format!("postgresql-{number}");
    let client = postgres::connect(&server(space, number)?).await?;
    let checked = postgres::check_rows(&client, required)
        .await
        .map_err(|error| error.context(space.log(&format!("pod/{pod}"))))?;
    space.shell(&pod, "timeout 120 pg_amcheck -U postgres --install-missing --heapallindexed -d postgres")?;
    step.done_with(&format!("{} required, {} there", checked.required, checked.present));
    Ok(())
}
