//! Three hosts, volumes on them, and real load on the volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use stillpoint::domain::Bytes;
use stillpoint_tests::harness::csi::Volume;
use stillpoint_tests::harness::leftovers::Leftovers;
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Blueprint, Pod, RunDir, Stack, Step, binaries};
use stillpoint_tests::workloads::cassandra::{self, Jars, Layout, Ring};
use stillpoint_tests::workloads::ledger::Ledger;
use stillpoint_tests::workloads::load;
use stillpoint_tests::workloads::postgres::{self, Installation, Postgres, Volumes};

use super::Size;

/// The hosts.
pub const HOSTS: [&str; 3] = ["a", "b", "c"];
/// Filesystem of all volumes.
pub const FILESYSTEM: &str = "xfs";
/// Names of the ledger's volumes, in the order in which it writes.
pub const LEDGER: [&str; 3] = ["ledger-a", "ledger-b", "ledger-c"];
/// PostgreSQL's data, on the first host.
pub const PG_DATA: &str = "postgres-data";
/// PostgreSQL's WAL, on the second host.
pub const PG_WAL: &str = "postgres-wal";
/// Names of the ring's volumes.
pub const RING: [&str; 3] = ["cassandra-a", "cassandra-b", "cassandra-c"];
/// Selects every pod of the demo.
pub const SELECTOR: &str = "demo=shop";

const POOL: Bytes = Bytes::gib(24);
const LEDGER_SIZE: Bytes = Bytes::mib(512);
const PG_SIZE: Bytes = Bytes::gib(1);
const RING_SIZE: Bytes = Bytes::gib(2);
const PG_CONNECTIONS: u32 = 4;

/// Everything that runs. Fields are dropped in this order: load, databases, then the hosts below them.
pub struct Scene {
    /// Load on the ring.
    pub ring_load: Option<cassandra::Load>,
    /// The ring; taken when it has to make room for the restored one.
    pub ring: Option<Ring>,
    /// Load on PostgreSQL.
    pub postgres_load: load::Load,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The ledger.
    pub ledger: Ledger,
    /// The hosts.
    pub stack: Stack,
    /// The rule around every cut.
    pub rule: String,
    /// Where the rule is from, for people.
    pub rule_name: String,
    volumes: Vec<Volume>,
}

impl Scene {
    /// Builds it all up.
    pub async fn build(run: RunDir, size: Size) -> Result<Self> {
        let installation = Installation::find()?;
        let layout = match size {
            Size::Small => None,
            Size::Full => Some(Layout::new(run.directory("cassandra")?, Jars::fetch("cassandra").await?)?),
        };
        let (rule, rule_name) = rule(size)?;
        let tools = postgres_tools(&run, &installation)?;
        let stack = start_stack(run, &tools, layout.as_ref()).await?;
        let volumes = provision(&stack, size).await?;
        let mounted = |name: &str| path_of(&volumes, name);

        let step = Step::begin("PostgreSQL: data on host a, WAL on host b");
        let pair = Volumes { data: mounted(PG_DATA)?, wal: mounted(PG_WAL)? };
        Postgres::initialise(&installation, &pair).await?;
        let postgres = Postgres::start(&installation, "postgres", pair, stack.path()).await?;
        write_psql(&tools, &postgres)?;
        step.done();

        let ring = match layout {
            None => None,
            Some(layout) => {
                let paths = RING.iter().map(|name| mounted(name)).collect::<Result<Vec<_>>>()?;
                Some(Ring::start(layout, &paths, "cassandra", stack.path()).await?)
            }
        };

        let step = Step::begin("write load on all of them");
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let paths = [mounted(LEDGER[0])?, mounted(LEDGER[1])?, mounted(LEDGER[2])?];
        let ledger = Ledger::start(&program, &paths, stack.path())?;
        let postgres_load = postgres::start_load(&postgres.config(), PG_CONNECTIONS).await?;
        let ring_load = match &ring {
            None => None,
            Some(ring) => Some(cassandra::Load::start(&ring.addresses()).await?),
        };
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        step.done();
        Ok(Self { ring_load, ring, postgres_load, postgres, ledger, stack, rule, rule_name, volumes })
    }

    /// An error when anything has stopped by itself: what does not run proves nothing.
    pub fn check_alive(&mut self) -> Result<()> {
        self.stack.check_alive()?;
        self.postgres_load.check_alive()?;
        self.postgres.process().check_alive()?;
        self.ledger.process().check_alive()?;
        self.ring_load.as_mut().map_or(Ok(()), cassandra::Load::check_alive)?;
        for node in self.ring.iter_mut().flat_map(Ring::nodes) {
            node.check_alive()?;
        }
        Ok(())
    }

    /// Names of all volumes.
    pub fn volumes(&self) -> usize {
        self.volumes.len()
    }

    /// Directory of the run.
    pub fn path(&self) -> &Path {
        self.stack.path()
    }

    /// Ends everything; what needed force.
    pub fn close(self) -> Result<Leftovers> {
        let Self { ring_load, ring, postgres_load, postgres, ledger, stack, .. } = self;
        drop((ring_load, postgres_load));
        ledger.stop()?;
        ring.map_or(Ok(()), Ring::stop)?;
        postgres.stop()?;
        stack.close()
    }
}

/// Mount point of a volume.
fn path_of(volumes: &[Volume], name: &str) -> Result<PathBuf> {
    let volume = volumes.iter().find(|volume| volume.name == name);
    Ok(volume.with_context(|| format!("there is no volume {name}"))?.path.clone())
}

async fn start_stack(run: RunDir, tools: &Path, layout: Option<&Layout>) -> Result<Stack> {
    let step = Step::begin("three hosts: a pool, a guard and an agent each; one controller");
    let blueprint = Blueprint {
        hosts: HOSTS.map(String::from).to_vec(),
        pool_size: POOL,
        pods: pods(tools, layout),
        rcu: Rcu::Auto,
    };
    let stack = Stack::start(run, &blueprint).await?;
    step.done();
    Ok(stack)
}

async fn provision(stack: &Stack, size: Size) -> Result<Vec<Volume>> {
    let mut wanted: Vec<(&str, &str, Bytes)> =
        LEDGER.iter().zip(HOSTS).map(|(name, host)| (*name, host, LEDGER_SIZE)).collect();
    wanted.extend([(PG_DATA, HOSTS[0], PG_SIZE), (PG_WAL, HOSTS[1], PG_SIZE)]);
    if size == Size::Full {
        wanted.extend(RING.iter().zip(HOSTS).map(|(name, host)| (*name, host, RING_SIZE)));
    }
    let step = Step::begin(format!("{} volumes through CSI: create, stage, publish", wanted.len()));
    let mut volumes = Vec::new();
    for (name, host, bytes) in wanted {
        volumes.push(stack.provision(name, host, bytes, FILESYSTEM).await?);
    }
    step.done();
    Ok(volumes)
}

/// The services as pods: what the standalone controller has instead of Kubernetes.
fn pods(tools: &Path, layout: Option<&Layout>) -> Vec<Pod> {
    let mut pods: Vec<Pod> =
        LEDGER.iter().zip(HOSTS).map(|(volume, host)| pod(volume, "ledger", host, &[volume], &[])).collect();
    let path = |tools: &Path| format!("PATH={}:/usr/local/bin:/usr/bin:/bin", tools.display());
    let exec = ["env", &path(tools)].map(String::from);
    pods.push(pod("postgres-0", "postgresql", HOSTS[0], &[PG_DATA, PG_WAL], &exec));
    for (node, (volume, host)) in RING.iter().zip(HOSTS).enumerate() {
        let Some(layout) = layout else { break };
        let exec = ["env", &path(&layout.tools(node))].map(String::from);
        pods.push(pod(volume, "cassandra", host, &[volume], &exec));
    }
    pods
}

fn pod(name: &str, app: &str, host: &str, volumes: &[&str], exec: &[String]) -> Pod {
    let labels = [("app", app), ("demo", "shop")].map(|(key, value)| (key.into(), value.into()));
    Pod {
        name: name.into(),
        labels: BTreeMap::from(labels),
        host: host.into(),
        containers: vec![app.into()],
        volumes: volumes.iter().map(|volume| (*volume).into()).collect(),
        exec: if exec.is_empty() { vec!["env".into()] } else { exec.to_vec() },
    }
}

/// The article's own rule for the ring; a checkpoint where there is no ring.
fn rule(size: Size) -> Result<(String, String)> {
    let path = match size {
        Size::Small => "rules-library/postgresql-checkpoint.yaml",
        Size::Full => "examples/article-rule.yaml",
    };
    let path = binaries::source_directory().join("../deploy").join(path);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok((text, name.unwrap_or_default()))
}

/// Directory of the programs in PostgreSQL's pod.
fn postgres_tools(run: &RunDir, installation: &Installation) -> Result<PathBuf> {
    let tools = run.directory("pods/postgres-0/bin")?;
    anyhow::ensure!(installation.tool("psql").is_file(), "PostgreSQL's psql is missing");
    Ok(tools)
}

/// `psql` that talks to this server.
fn write_psql(tools: &Path, postgres: &Postgres) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let psql = tools.join("psql");
    let program = postgres.installation().tool("psql");
    let arguments = postgres.client_arguments().join(" ");
    std::fs::write(&psql, format!("#!/bin/sh\nexec {} {arguments} \"$@\"\n", program.display()))?;
    std::fs::set_permissions(&psql, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
