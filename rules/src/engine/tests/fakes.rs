//! A world of pods, hosts and a journal that does what a test says and remembers what was done.

#![allow(clippy::format_collect, reason = "short texts")]
#![allow(clippy::wildcard_enum_match_arm, reason = "each fault matters in one place and nowhere else")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::api::{Probe, SecretRef};
use crate::ports::*;
use crate::run::Run;
use crate::turns::OpenRun;

use super::super::{Engine, Limits, Ports};

/// The one thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    None,
    Exit(&'static str, i32),
    /// In every pod.
    ExitAll(&'static str, i32),
    /// So many times, then it succeeds.
    ExitTimes(&'static str, i32, usize),
    StatusTimes(u16, usize),
    /// Whether it was done is not known, so many times.
    Uncertain(&'static str, usize),
    /// It goes on after its timeout, and so often its end cannot be proven.
    RunsOn(&'static str, usize),
    /// No request is answered.
    NoAnswer,
    /// The pod was replaced.
    Replaced(&'static str),
    /// It prints its environment.
    Env(&'static str),
    Hang(&'static str),
    Open,
    Cut,
    Seal,
    HangOpen,
    HangCut,
    HangSeal,
    NoBarrier,
    /// The n-th write of the journal fails.
    Persist(usize),
    /// The process dies after the n-th write.
    CrashAfterPersist(usize),
    LostSession(&'static str),
    NoSession(&'static str),
}

#[derive(Default)]
struct State {
    deeds: Vec<String>,
    stored: BTreeMap<String, Run>,
    writes: usize,
    endings: usize,
    dead: bool,
    running: usize,
    most: usize,
}

pub(super) struct World {
    fault: Fault,
    pods: Vec<Pod>,
    state: Mutex<State>,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        Self::with(Fault::None)
    }

    pub(super) fn with(fault: Fault) -> Arc<Self> {
        let pods = vec![pod("db-1", "db"), pod("db-2", "db"), pod("web-1", "web")];
        Arc::new(Self { fault, pods, state: Mutex::default() })
    }

    pub(super) fn crowd(count: usize) -> Arc<Self> {
        let pods = (0..count).map(|n| pod(&format!("db-{n}"), "db")).collect();
        Arc::new(Self { fault: Fault::None, pods, state: Mutex::default() })
    }

    pub(super) fn ports(self: &Arc<Self>) -> Ports {
        Ports {
            inventory: self.clone(),
            exec: Arc::new(FakeExec(self.clone())),
            secrets: self.clone(),
            cutter: Arc::new(FakeCutter(self.clone())),
            journal: self.clone(),
        }
    }

    pub(super) fn engine(self: &Arc<Self>) -> Engine {
        Engine::new(self.ports(), Limits::default())
    }

    pub(super) fn deeds(&self) -> Vec<String> {
        self.state.lock().unwrap().deeds.clone()
    }

    /// Deeds with those of one action sorted by pod: sessions are taken at the same time.
    pub(super) fn sorted_deeds(&self) -> Vec<String> {
        let mut deeds = self.deeds();
        let action = |deed: &str| deed.split(' ').nth(1).map(str::to_owned);
        deeds.chunk_by_mut(|a, b| action(a) == action(b)).for_each(<[String]>::sort);
        deeds
    }

    pub(super) fn stored(&self) -> Vec<Run> {
        self.state.lock().unwrap().stored.values().cloned().collect()
    }

    pub(super) fn writes(&self) -> usize {
        self.state.lock().unwrap().writes
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.state.lock().unwrap().most
    }

    /// A new process starts; returns how many deeds the old one has done.
    pub(super) fn revive(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.dead = false;
        // The old process is gone for good: only the next one writes now, and never dies.
        state.writes = 1000;
        state.deeds.len()
    }

    pub(super) async fn until(&self, deed: &str) {
        while !self.deeds().iter().any(|done| done == deed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns when the process has died.
    pub(super) async fn death(&self) {
        while !self.state.lock().unwrap().dead {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn did(&self, deed: String) {
        self.state.lock().unwrap().deeds.push(deed);
    }

    /// What a dead process does: nothing, ever.
    async fn alive(&self) {
        if self.state.lock().unwrap().dead {
            std::future::pending::<()>().await;
        }
    }
}

fn pod(name: &str, app: &str) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        labels: BTreeMap::from([("app".into(), app.into())]),
        host: "a".into(),
        containers: vec!["main".into()].into(),
        volumes: vec!["v1".into()],
        state: PodState::Ready,
    }
}

#[async_trait]
impl Secrets for World {
    async fn read(&self, namespace: &str, secret: &SecretRef) -> Result<String, SecretError> {
        match secret.key.as_str() {
            "missing" => Err(SecretError::of(namespace, secret, "there is no such key")),
            key => Ok(format!("value-of-{key}")),
        }
    }
}

#[async_trait]
impl Inventory for World {
    async fn pods(&self, _: &[String]) -> Result<Vec<Pod>, InventoryError> {
        Ok(self.pods.clone())
    }
}

struct FakeExec(Arc<World>);

#[async_trait]
impl PodExec for FakeExec {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        let world = &self.0;
        world.alive().await;
        let deed = format!("{} {}", request.target.pod, request.argv.join(" "));
        world.did(deed.clone());
        {
            let mut state = world.state.lock().unwrap();
            state.running += 1;
            state.most = state.most.max(state.running);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.state.lock().unwrap().running -= 1;
        let times = world.deeds().iter().filter(|done| **done == deed).count();
        match world.fault {
            Fault::ExitTimes(who, exit_code, count) if deed == who && times <= count => {
                return Ok(ExecOutcome { exit_code, output: "it said no\n".into(), omitted_bytes: 0 });
            }
            Fault::Uncertain(who, count) if deed == who && times <= count => {
                return Err(ExecError::Lost { pod: request.target.pod, why: "the line was cut".into() });
            }
            Fault::RunsOn(who, _) if deed == who => {
                let (pod, limit, output) = (request.target.pod, request.timeout, String::new());
                return Err(ExecError::TimedOut { pod, limit, still_running: true, output });
            }
            Fault::Replaced(who) if deed == who => {
                return Err(ExecError::PodChanged { pod: request.target.pod, why: "it was replaced".into() });
            }
            Fault::Env(who) if deed == who => {
                let env: String =
                    request.env.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
                return Ok(ExecOutcome { exit_code: 0, output: env, omitted_bytes: 0 });
            }
            _ => {}
        }
        match world.fault {
            Fault::Hang(who) if deed == who => std::future::pending().await,
            Fault::ExitAll(what, exit_code) if request.argv == [what] => {
                Ok(ExecOutcome { exit_code, output: "it said no\n".into(), omitted_bytes: 0 })
            }
            Fault::Exit(who, exit_code) if deed == who => {
                Ok(ExecOutcome { exit_code, output: "it said no\n".into(), omitted_bytes: 0 })
            }
            _ => Ok(ExecOutcome { exit_code: 0, output: String::new(), omitted_bytes: 0 }),
        }
    }

    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        let world = &self.0;
        let pod = request.target.pod;
        if matches!(world.fault, Fault::NoSession(who) if who == pod) {
            return Err(ExecError::Lost { pod, why: "it ended before it said `held`".into() });
        }
        world.did(format!("{pod} hold"));
        let lost = matches!(world.fault, Fault::LostSession(who) if who == pod);
        Ok(Box::new(FakeSession { world: world.clone(), pod, lost }))
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError> {
        let world = &self.0;
        world.alive().await;
        let deed = format!("{} {} {}", request.target.pod, request.method.word(), request.path);
        let times = world.deeds().iter().filter(|done| **done == deed).count();
        world.did(deed);
        if world.fault == Fault::NoAnswer {
            return Err(ExecError::Lost { pod: request.target.pod, why: "it hung up".into() });
        }
        let headers = request.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let status = match world.fault {
            Fault::StatusTimes(status, count) if times < count => status,
            _ => 200,
        };
        Ok(HttpOutcome { status, output: headers.collect(), omitted_bytes: 0 })
    }

    async fn end(&self, target: &PodTarget, _: Mark) -> Result<(), ExecError> {
        let world = &self.0;
        world.alive().await;
        let mut state = world.state.lock().unwrap();
        state.endings += 1;
        match world.fault {
            Fault::RunsOn(_, times) if state.endings <= times => {
                Err(ExecError::Lost { pod: target.pod.clone(), why: "processes are left".into() })
            }
            _ => Ok(()),
        }
    }
}

struct FakeSession {
    world: Arc<World>,
    pod: String,
    lost: bool,
}

#[async_trait]
impl Session for FakeSession {
    async fn prove(&mut self, probe: Option<&Probe>) -> Result<(), ExecError> {
        self.world.did(format!("{} prove {}", self.pod, probe.map_or("", |probe| &probe.send)));
        if self.lost {
            return Err(ExecError::Lost { pod: self.pod.clone(), why: "it ended".into() });
        }
        Ok(())
    }

    async fn release(self: Box<Self>, finish: &[String]) -> Result<ExecOutcome, ExecError> {
        self.world.did(format!("{} release {}", self.pod, finish.join(" ")).trim_end().to_owned());
        Ok(ExecOutcome { exit_code: 0, output: String::new(), omitted_bytes: 0 })
    }
}

struct FakeCutter(Arc<World>);

struct FakeCut {
    world: Arc<World>,
    sealed: bool,
}

fn refused(retry: bool, message: &str) -> CutError {
    CutError { retry, message: message.into() }
}

#[async_trait]
impl Cutter for FakeCutter {
    async fn open(&self, request: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        self.0.alive().await;
        self.0.did(format!("open {}", request.volumes.join(",")));
        match self.0.fault {
            Fault::Open => Err(refused(false, "no headroom")),
            Fault::HangOpen => std::future::pending().await,
            _ => Ok(Box::new(FakeCut { world: self.0.clone(), sealed: false })),
        }
    }
}

#[async_trait]
impl OpenCut for FakeCut {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        self.world.did("cut".into());
        match self.world.fault {
            Fault::Cut => return Err(refused(true, "a host was late")),
            Fault::HangCut => std::future::pending().await,
            _ => {}
        }
        let level = match self.world.fault {
            Fault::NoBarrier => StorageLevel::Crash,
            _ => StorageLevel::Filesystem,
        };
        Ok(CutReport {
            cut_id: "id".into(),
            level,
            reasons: vec![],
            hold_requested_at: Timestamp::now(),
            window_us: 900,
            skew_us: 10,
        })
    }

    async fn seal(mut self: Box<Self>, request: SealRequest) -> Result<(), CutError> {
        self.sealed = true;
        self.world.did(if request.application { "seal application" } else { "seal" }.into());
        match self.world.fault {
            Fault::Seal => Err(refused(true, "the home pool is away")),
            Fault::HangSeal => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

impl Drop for FakeCut {
    fn drop(&mut self) {
        if !self.sealed {
            self.world.did("given up".into());
        }
    }
}

#[async_trait]
impl Journal for World {
    async fn persist(&self, run: &Run) -> Result<(), JournalError> {
        self.alive().await;
        let write = {
            let mut state = self.state.lock().unwrap();
            let write = state.writes;
            state.writes += 1;
            if self.fault == Fault::Persist(write) {
                return Err(JournalError("no space left".into()));
            }
            state.stored.insert(run.id.clone(), run.clone());
            state.dead |= self.fault == Fault::CrashAfterPersist(write);
            write
        };
        if self.fault == Fault::CrashAfterPersist(write) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn unfinished(&self) -> Result<Vec<Run>, JournalError> {
        Ok(self.stored().into_iter().filter(|run| !run.phase.is_final()).collect())
    }

    async fn open_runs(&self, _: &Run) -> Result<Vec<OpenRun>, JournalError> {
        let open = self.stored().into_iter().filter(|run| !run.phase.is_final());
        Ok(open.map(|run| OpenRun::of(&run, run.id.clone(), true)).collect())
    }

    async fn run_ended(&self) {
        std::future::pending::<()>().await;
    }
}
