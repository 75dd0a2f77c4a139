//! A whole Stillpoint on one machine: hosts with a pool, a guard and an agent each, and a standalone
//! controller, all on the loopback and in one directory.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;
use stillpoint::domain::Bytes;

use super::binaries::{binary, require_tools};
use super::csi::{self, Controller, Node, Volume};
use super::leftovers::Leftovers;
use super::operator::{Operator, Restored};
use super::{Process, RunDir, Spec, net, process};

const TOOLS: &[(&str, &str)] = &[
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("losetup", "mount"),
];
const COMMAND_LIMIT: Duration = Duration::from_mins(1);
const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A service of the inventory, in the words of the standalone configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Host it runs on.
    pub host: String,
    /// Containers.
    pub containers: Vec<String>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// What a command in it begins with.
    pub exec: Vec<String>,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Names of the hosts.
    pub hosts: Vec<String>,
    /// Size of each host's pool (a sparse file).
    pub pool_size: Bytes,
    /// The inventory.
    pub pods: Vec<Pod>,
    /// Whether agents may hurry the kernel's grace periods.
    pub rcu: Rcu,
}

/// Whether agents may set `/sys/kernel/rcu_expedited` during a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rcu {
    /// As the product decides.
    Auto,
    /// Never.
    Never,
}

/// What is not as usual. Everything is as usual by default.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Fields added to the controller's configuration.
    pub controller: serde_json::Map<String, serde_json::Value>,
    /// Fields added to every agent's configuration.
    pub agents: serde_json::Map<String, serde_json::Value>,
    /// Hosts whose pool is on XFS instead of btrfs.
    pub xfs: Vec<String>,
    /// A directory: each process finds its armed fault points in `<directory>/<name of the process>`.
    pub fault_points: Option<PathBuf>,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its pool's directory.
    pub pool: PathBuf,
    /// Its agent.
    pub agent: Process,
    /// Its guard.
    pub guard: Process,
    /// How its agent was started.
    agent_spec: Spec,
    /// How its guard was started.
    guard_spec: Spec,
    csi_socket: PathBuf,
    metrics: SocketAddr,
    node: Node,
}

impl Host {
    /// What its agent's metrics say.
    pub async fn metrics(&self) -> Result<String> {
        net::metrics(self.metrics).await
    }

    /// Its CSI side.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Socket of its CSI side.
    pub fn csi_socket(&self) -> &Path {
        &self.csi_socket
    }
}

/// The running system. Dropping it ends everything and gives everything back.
#[derive(Debug)]
pub struct Stack {
    // Dropped in this order: agents first, so that guards let go of what they hold, the directory last.
    hosts: Vec<Host>,
    controller: Process,
    controller_spec: Spec,
    csi_socket: PathBuf,
    csi: Controller,
    operator: Operator,
    run: RunDir,
}

impl Stack {
    /// Makes the directory of a run; separate, so that workloads can put their files into it before the start.
    pub fn directory(label: &str) -> Result<RunDir> {
        require_tools(TOOLS)?;
        RunDir::new(label)
    }

    /// Starts everything in `run`.
    pub async fn start(run: RunDir, blueprint: &Blueprint) -> Result<Self> {
        Self::start_with(run, blueprint, serde_json::Map::new()).await
    }

    /// As [`Self::start`], with these fields added to the controller's configuration.
    pub async fn start_with(
        run: RunDir,
        blueprint: &Blueprint,
        more: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self> {
        Self::start_as(run, blueprint, &Options { controller: more, ..Options::default() }).await
    }

    /// As [`Self::start`], with what is not as usual.
    pub async fn start_as(run: RunDir, blueprint: &Blueprint, options: &Options) -> Result<Self> {
        let pki = run.path().join("pki");
        let stillpoint = binary("stillpoint")?;
        let mut args = vec!["pki".into(), "init".into(), pki.clone().into_os_string()];
        args.extend(blueprint.hosts.iter().flat_map(|host| ["--agent".into(), host.into()]));
        process::succeed(None, &stillpoint, args, COMMAND_LIMIT).await?;
        let mut hosts = Vec::new();
        let mut agents = Vec::new();
        for name in &blueprint.hosts {
            let (host, address) = start_host(&run, name, blueprint, options).await?;
            agents.push(json!({"host": name, "address": address}));
            hosts.push(host);
        }
        let csi_socket = run.path().join("csi.sock");
        let operator_socket = run.path().join("op.sock");
        let mut config = json!({
            "csiSocket": csi_socket,
            "operatorSocket": operator_socket,
            "stateDir": run.directory("controller")?,
            "tls": tls(&pki, &pki.join("controller")),
            "agents": agents,
            "pods": blueprint.pods,
        });
        config.as_object_mut().context("the configuration is a map")?.extend(options.controller.clone());
        let config = write_config(&run, "controller.yaml", &config)?;
        let spec = Spec::new("controller", stillpoint).args(["standalone", "--config"]).arg(config);
        let controller_spec = with_fault_points(spec, "controller", options)?;
        let mut controller = controller_spec.clone().start(run.path())?;
        csi::wait_ready(&csi_socket, &mut controller, START_LIMIT).await?;
        let csi = Controller::connect(&csi_socket).await?;
        let operator = Operator::connect(&operator_socket).await?;
        Ok(Self { hosts, controller, controller_spec, csi_socket, csi, operator, run })
    }

    /// The run's directory.
    pub fn path(&self) -> &Path {
        self.run.path()
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The hosts, to end their processes.
    pub fn hosts_mut(&mut self) -> &mut [Host] {
        &mut self.hosts
    }

    /// The controller's process, to end it.
    pub fn controller_mut(&mut self) -> &mut Process {
        &mut self.controller
    }

    /// Socket of the controller's CSI side.
    pub fn csi_socket(&self) -> &Path {
        &self.csi_socket
    }

    /// Starts what has ended again, as a supervisor would, and waits until it serves; what was started.
    pub async fn revive(&mut self) -> Result<Vec<String>> {
        let mut revived = Vec::new();
        let mut agents = Vec::new();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            if host.guard.has_ended()? {
                host.guard = host.guard_spec.clone().start(self.run.path())?;
                revived.push(format!("guard-{}", host.name));
            }
            if host.agent.has_ended()? {
                host.agent = host.agent_spec.clone().start(self.run.path())?;
                revived.push(format!("agent-{}", host.name));
                agents.push(index);
            }
        }
        let controller_is_new = self.controller.has_ended()?;
        if controller_is_new {
            self.controller = self.controller_spec.clone().start(self.run.path())?;
            revived.push("controller".into());
        }
        for index in agents {
            let host = &mut self.hosts[index];
            csi::wait_ready(&host.csi_socket, &mut host.agent, START_LIMIT).await?;
        }
        if controller_is_new {
            csi::wait_ready(&self.csi_socket, &mut self.controller, START_LIMIT).await?;
        }
        Ok(revived)
    }

    /// The controller's process.
    pub fn controller(&self) -> &Process {
        &self.controller
    }

    /// The controller's CSI side.
    pub fn csi(&self) -> &Controller {
        &self.csi
    }

    /// The operator's socket.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// An error with the end of its log when one of our processes has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        for host in &mut self.hosts {
            host.agent.check_alive()?;
            host.guard.check_alive()?;
        }
        self.controller.check_alive()
    }

    fn node(&self, host: &str) -> Result<&Node> {
        let found = self.hosts.iter().find(|candidate| candidate.name == host);
        Ok(&found.with_context(|| format!("there is no host {host}"))?.node)
    }

    /// `CreateVolume` → `NodeStageVolume` → `NodePublishVolume`.
    pub async fn provision(&self, name: &str, host: &str, size: Bytes, filesystem: &str) -> Result<Volume> {
        let made = self.csi.create(name, host, size, filesystem, None).await?;
        self.node(host)?.attach(name, host, &made.volume_id, filesystem, made.volume_context).await
    }

    /// Mounts a restored volume.
    pub async fn attach(&self, restored: &Restored, filesystem: &str) -> Result<Volume> {
        let node = self.node(&restored.host)?;
        node.attach(
            &restored.name,
            &restored.host,
            &restored.id,
            filesystem,
            BTreeMap::new().into_iter().collect(),
        )
        .await
    }

    /// `NodeUnpublishVolume` → `NodeUnstageVolume`.
    pub async fn detach(&self, volume: &Volume) -> Result<()> {
        self.node(&volume.host)?.detach(volume).await
    }

    /// As [`Self::detach`], then `DeleteVolume`.
    pub async fn retire(&self, volume: &Volume) -> Result<()> {
        self.detach(volume).await?;
        self.csi.delete(&volume.id).await
    }

    /// Ends everything in order and gives everything back; what needed force. Workloads must have ended.
    pub fn close(mut self) -> Result<Leftovers> {
        let mut ends = vec![self.controller.stop(Signal::SIGTERM, STOP_LIMIT)];
        ends.extend(self.hosts.iter_mut().map(|host| host.agent.stop(Signal::SIGTERM, STOP_LIMIT)));
        ends.extend(self.hosts.iter_mut().map(|host| host.guard.kill()));
        let Self { run, .. } = self;
        let left = run.close();
        ends.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(left)
    }
}

async fn start_host(
    run: &RunDir,
    name: &str,
    blueprint: &Blueprint,
    options: &Options,
) -> Result<(Host, SocketAddr)> {
    let home = run.directory(&format!("host-{name}"))?;
    let pool = home.join("pool");
    let stillpoint = binary("stillpoint")?;
    let size = blueprint.pool_size.0.to_string();
    let backing = home.join("pool.img");
    let args = ["pool", "create", "--dir"].map(std::ffi::OsString::from).into_iter().chain([
        pool.clone().into_os_string(),
        "--file".into(),
        backing.into_os_string(),
        "--size".into(),
        size.into(),
        "--backend".into(),
        if options.xfs.iter().any(|host| host == name) { "xfs" } else { "btrfs" }.into(),
    ]);
    process::succeed(None, &stillpoint, args, COMMAND_LIMIT).await?;
    let guard_socket = home.join("guard.sock");
    let guard = format!("guard-{name}");
    let spec =
        Spec::new(&guard, binary("stillpoint-guard")?).arg("--socket").arg(&guard_socket).outliving_us();
    let guard_spec = with_fault_points(spec, &guard, options)?;
    let guard = guard_spec.clone().start(run.path())?;
    let address = net::free_address()?;
    let pki = run.path().join("pki");
    let csi_socket = home.join("csi.sock");
    let metrics = net::free_address()?;
    let mut config = json!({
        "host": name,
        "listen": address,
        "tls": tls(&pki, &pki.join("agents").join(name)),
        "pools": [pool],
        // Pools are small sparse files, and most volumes in them are hardly written.
        "overcommit": {pool.display().to_string(): 20},
        "stateDir": run.directory(&format!("host-{name}/state"))?,
        "csiSocket": csi_socket,
        "guardSocket": guard_socket,
        "expedite": blueprint.rcu,
        "metricsListen": metrics,
    });
    config.as_object_mut().context("the configuration is a map")?.extend(options.agents.clone());
    let config = write_config(run, &format!("agent-{name}.yaml"), &config)?;
    let agent = format!("agent-{name}");
    let spec = Spec::new(&agent, stillpoint).args(["agent", "--config"]).arg(config);
    let agent_spec = with_fault_points(spec, &agent, options)?;
    let mut agent = agent_spec.clone().start(run.path())?;
    csi::wait_ready(&csi_socket, &mut agent, START_LIMIT).await?;
    let node = Node::connect(&csi_socket, home).await?;
    let name = name.into();
    Ok((Host { name, pool, agent, guard, agent_spec, guard_spec, csi_socket, metrics, node }, address))
}

fn with_fault_points(spec: Spec, process: &str, options: &Options) -> Result<Spec> {
    let Some(directory) = &options.fault_points else { return Ok(spec) };
    let own = directory.join(process);
    fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    Ok(spec.env(stillpoint_guard::fault::SWITCH, own))
}

fn tls(pki: &Path, own: &Path) -> serde_json::Value {
    json!({
        "ca": pki.join("ca.crt"),
        "cert": own.with_extension("crt"),
        "key": own.with_extension("key"),
    })
}

fn write_config(run: &RunDir, name: &str, config: &serde_json::Value) -> Result<PathBuf> {
    let path = run.path().join(name);
    let text = serde_yaml::to_string(config).context("cannot write YAML")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
