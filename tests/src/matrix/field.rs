//! Where the blows fall: three hosts (the last with an XFS pool), a volume on each, and the causal ledger over them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use stillpoint::domain::Bytes;

use super::calls::{Call, Caller, SIZE};
use super::case::{Blow, Case, Party};
use super::traces::{Traces, Trash};
use crate::harness::csi::Volume;
use crate::harness::leftovers::{self, Leftovers};
use crate::harness::stack::{Options, Rcu};
use crate::harness::{Blueprint, Process, Stack, binaries, net};
use crate::workloads::ledger::{Ledger, Mark};

/// The controller gives a round up.
const SOFT_LIMIT_MS: u64 = 1500;
const HARD_LIMIT_MS: u64 = 3000;
/// The guards let go.
pub const HARD_LIMIT: Duration = Duration::from_millis(HARD_LIMIT_MS);
/// How long a process stands still.
pub const PAUSE: Duration = Duration::from_secs(5);
/// A point is reached, a killed process is gone, a writer writes: within this, or something is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const HOSTS: [&str; 3] = ["a", "b", "c"];
const POOL: Bytes = Bytes::gib(12);

/// The running stack, its load and what was there before the first case.
pub struct Field {
    // Dropped in this order: the load first.
    ledger: Ledger,
    stack: Stack,
    caller: Caller,
    volumes: Vec<Volume>,
    extra: Vec<Volume>,
    points: PathBuf,
    before: Traces,
    metrics: SocketAddr,
    serial: u32,
}

impl Field {
    /// Builds it.
    pub async fn build(label: &str) -> Result<Self> {
        Self::build_with(label, 0).await
    }

    /// Builds it with so many more volumes on each host.
    pub async fn build_with(label: &str, extra_per_host: usize) -> Result<Self> {
        let run = Stack::directory(label)?;
        let points = run.directory("points")?;
        let blueprint = Blueprint {
            hosts: HOSTS.map(String::from).to_vec(),
            pool_size: POOL,
            pods: vec![],
            rcu: Rcu::Auto,
        };
        let metrics = net::free_address()?;
        let limits = json!({"softMs": SOFT_LIMIT_MS, "hardMs": HARD_LIMIT_MS});
        let options = Options {
            controller: [("limits".to_owned(), limits), ("metricsListen".to_owned(), json!(metrics))]
                .into_iter()
                .collect(),
            xfs: vec![HOSTS[2].to_owned()],
            fault_points: Some(points.clone()),
            ..Options::default()
        };
        let stack = Stack::start_as(run, &blueprint, &options).await?;
        let mut volumes = Vec::new();
        for host in HOSTS {
            volumes.push(stack.provision(&format!("ledger-{host}"), host, SIZE, "xfs").await?);
        }
        let mut extra = Vec::new();
        for index in 0..extra_per_host {
            for host in HOSTS {
                extra.push(stack.provision(&format!("extra-{index}-{host}"), host, SIZE, "xfs").await?);
            }
        }
        let paths = [0, 1, 2].map(|index: usize| volumes[index].path.clone());
        let ledger = Ledger::start(&binaries::binary("stillpoint-demo")?, &paths, stack.path())?;
        let nodes = stack.hosts().iter().map(|host| host.csi_socket().to_owned());
        let caller = Caller::connect(stack.csi_socket(), stack.operator().socket(), nodes).await?;
        let before = traces(&stack, Trash::Waits)?;
        Ok(Self { ledger, stack, caller, volumes, extra, points, before, metrics, serial: 0 })
    }

    /// What the controller's metrics say.
    pub async fn metrics(&self) -> Result<String> {
        net::metrics(self.metrics).await
    }

    /// Makes the controller log more, and waits until it does.
    pub async fn make_controller_talk(&mut self) -> Result<()> {
        self.stack.controller_mut().send(Signal::SIGUSR1)?;
        self.talks("controller").await
    }

    /// Makes the agents log more, and waits until they do.
    pub async fn make_agents_talk(&mut self) -> Result<()> {
        for (host, name) in HOSTS.iter().enumerate() {
            self.stack.hosts()[host].agent.send(Signal::SIGUSR1)?;
            self.talks(&format!("agent-{name}")).await?;
        }
        Ok(())
    }

    async fn talks(&self, process: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.log(process)?.contains("the log level was changed") {
            ensure!(Instant::now() < end, "SIGUSR1 changes nothing for {process}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// What a process has logged so far.
    pub fn log(&self, process: &str) -> Result<String> {
        let path = self.stack.path().join(format!("log/{process}.log"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Number of hosts.
    pub const fn hosts() -> usize {
        HOSTS.len()
    }

    /// Name of a host.
    pub fn host(index: usize) -> &'static str {
        HOSTS[index]
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The ledger's volumes, in the order in which it writes.
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// The further volumes.
    pub fn extra(&self) -> &[Volume] {
        &self.extra
    }

    /// A name that no case had before.
    pub(super) fn new_name(&mut self, what: &str) -> String {
        self.serial += 1;
        format!("{what}-{}", self.serial)
    }

    /// Where a volume of this name is staged on a host.
    pub(super) fn staging(&self, host: usize, name: &str) -> Result<PathBuf> {
        let directory = self.stack.path().join(format!("host-{}/staging", HOSTS[host]));
        fs::create_dir_all(&directory)?;
        Ok(directory.join(name))
    }

    /// How far the writer is, and its longest pause since it was last asked.
    pub(super) fn mark(&mut self) -> Result<Mark> {
        self.ledger.mark()
    }

    /// Waits until all three volumes were written since `mark`: two numbers pass over each of them.
    pub(super) async fn all_written_since(&mut self, mark: Mark) -> Result<Mark> {
        let end = Instant::now() + HARD_LIMIT + Duration::from_secs(1);
        let mut longest = Duration::ZERO;
        loop {
            let now = self.ledger.mark()?;
            longest = longest.max(now.longest);
            if now.written >= mark.written + 2 {
                return Ok(Mark { longest, ..now });
            }
            if Instant::now() > end {
                let thawed = leftovers::thaw(self.stack.path());
                bail!("a volume is not writable; frozen and thawed by force: {thawed:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn directory(&self, party: Party) -> PathBuf {
        self.points.join(match party {
            Party::Agent(host) => format!("agent-{}", HOSTS[host]),
            Party::Guard(host) => format!("guard-{}", HOSTS[host]),
            Party::Controller => "controller".to_owned(),
        })
    }

    /// Arms the points of a case; nothing of an earlier one is left armed.
    pub(super) fn arm(&self, case: &Case) -> Result<()> {
        for directory in fs::read_dir(&self.points)? {
            for file in fs::read_dir(directory?.path())? {
                fs::remove_file(file?.path())?;
            }
        }
        if let Some((party, point)) = case.before {
            write(&self.directory(party).join(point), "kill")?;
        }
        let order = match &case.blow {
            Blow::Die => "kill",
            Blow::Kill(_) => "wait",
            Blow::Pause => "stop",
        };
        write(&self.directory(case.at).join(case.point), order)
    }

    /// Whether the point of a case was reached.
    pub(super) fn is_hit(&self, case: &Case) -> bool {
        self.directory(case.at).join(format!("{}.hit", case.point)).exists()
    }

    /// The blow, once the point is reached; the dead are dead when this returns.
    pub(super) async fn strike(&mut self, case: &Case) -> Result<()> {
        let dead = match &case.blow {
            Blow::Die => vec![case.at],
            Blow::Kill(dead) => {
                for party in dead {
                    let process = self.process(*party);
                    // It may have died before, so that the point is reached at all.
                    if !process.has_ended()? {
                        process.send(Signal::SIGKILL)?;
                    }
                }
                dead.clone()
            }
            Blow::Pause => {
                tokio::time::sleep(PAUSE).await;
                self.process(case.at).send(Signal::SIGCONT)?;
                vec![]
            }
        };
        let first = case.before.map(|(party, _)| party);
        for party in dead.into_iter().chain(first) {
            self.process(party).wait_end(PATIENCE)?;
        }
        write(&self.directory(case.at).join(format!("{}.go", case.point)), "")
    }

    fn process(&mut self, party: Party) -> &mut Process {
        match party {
            Party::Agent(host) => &mut self.stack.hosts_mut()[host].agent,
            Party::Guard(host) => &mut self.stack.hosts_mut()[host].guard,
            Party::Controller => self.stack.controller_mut(),
        }
    }

    /// Starts again what died.
    pub(super) async fn revive(&mut self) -> Result<()> {
        self.stack.revive().await.map(drop)
    }

    /// Nothing is there that was not there before the first case; what is being let go may take so long.
    pub async fn check_nothing_left(&self, limit: Duration) -> Result<()> {
        self.wait_for_traces(Trash::Waits, limit).await
    }

    /// All three volumes are written within the hard limit and a second.
    pub async fn check_writable(&mut self) -> Result<()> {
        let mark = self.mark()?;
        self.all_written_since(mark).await.map(drop)
    }

    /// What is there now counts as what was there before: a broken case must not break all that follow.
    pub(super) fn forgive(&mut self) -> Result<()> {
        self.before = traces(&self.stack, Trash::Waits)?;
        Ok(())
    }

    async fn wait_for_traces(&self, trash: Trash, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let differences = self.before.differences(&traces(&self.stack, trash)?);
            if differences.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{}", differences.join("; "));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends everything: also the trash must be empty, and nothing may need force.
    pub async fn close(self) -> Result<Leftovers> {
        self.wait_for_traces(Trash::Counts, PATIENCE).await.context("the trash is not emptied")?;
        self.ledger.stop()?;
        for volume in self.volumes.iter().chain(&self.extra) {
            self.stack.retire(volume).await?;
        }
        self.stack.close()
    }

    /// Waits for the point of a case while `call` is under way; asks again when it ended without reaching it.
    pub(super) async fn until_hit(&self, case: &Case, call: &Call) -> Result<First> {
        let end = Instant::now() + PATIENCE;
        loop {
            let (caller, asked) = (self.caller.clone(), call.clone());
            let under_way = tokio::spawn(async move { caller.once(&asked).await });
            while !self.is_hit(case) && !under_way.is_finished() {
                ensure!(Instant::now() < end, "{} was never reached", case.point);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            if self.is_hit(case) {
                return Ok(under_way);
            }
            let said = under_way.await?;
            ensure!(Instant::now() < end, "{} was never reached; the call said {said:?}", case.point);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// The call that is struck.
pub(super) type First = tokio::task::JoinHandle<Result<super::calls::Answer, tonic::Status>>;

fn traces(stack: &Stack, trash: Trash) -> Result<Traces> {
    Traces::of(stack.path(), stack.hosts().iter().map(|host| host.pool.as_path()), trash)
}

/// Under another name first: a point that is looked for meanwhile is either not armed or fully armed.
fn write(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, path)?;
    Ok(())
}

/// Contexts of volumes that are attached by id alone.
pub(super) fn no_context() -> std::collections::HashMap<String, String> {
    BTreeMap::new().into_iter().collect()
}
