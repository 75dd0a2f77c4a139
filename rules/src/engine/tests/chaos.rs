//! Random rules in a world where everything may fail, hang or be cut off at any call, and where the process may die at
//! any write of its journal and start again. Whatever happens: what was owed is paid, nothing is sealed that did not
//! hold, nothing is left holding. A seed replays: it is in the message of what fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::api::{OnFailure, OnLost, Probe, SecretRef};
use crate::ports::*;
use crate::run::Run;

use super::*;

const SEEDS: u64 = 1_000;
const HOSTS: usize = 3;

/// Numbers that only depend on the seed (xorshift).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What has happened to one pod under one step.
#[derive(Debug, Default, Clone)]
struct Done {
    begun: bool,
    undone: usize,
    /// Undone, but whoever asked was not told.
    in_doubt: usize,
}

struct State {
    dice: Dice,
    /// Nothing fails any more.
    calm: bool,
    dead: bool,
    died_once: bool,
    /// A write failed, so the next process may know less than happened.
    forgot: bool,
    writes_left: u64,
    done: BTreeMap<(String, String), Done>,
    gone: Vec<String>,
    holding: usize,
    lost_a_hold: bool,
    sealed_in_spite: bool,
    cut: bool,
    sealed: bool,
    cut_while_holding_too_few: bool,
    wanted_sessions: usize,
    stored: BTreeMap<String, Run>,
    running: usize,
    most: usize,
}

/// What is broken on purpose, to see that the checks can fail.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    Nothing,
    /// Sessions say that they held when they did not.
    Proofs,
    /// The journal drops debts.
    Journal,
}

struct World {
    broken: Broken,
    pods: Vec<Pod>,
    state: Mutex<State>,
}

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Luck {
    Good,
    Fails,
    NotStarted,
    /// It happens, but the answer is lost.
    LostAfter,
    LostBefore,
    Hangs,
    PodGone,
}

impl World {
    fn new(seed: u64, broken: Broken) -> Arc<Self> {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..8 {
            dice.roll(2);
        }
        let count = 1 + dice.roll(4);
        let pods =
            (0..count).map(|n| pod(&format!("p-{n}"), &format!("host-{}", n as usize % HOSTS))).collect();
        let writes_left = if dice.one_in(2) { dice.roll(14) } else { u64::MAX };
        let state = State {
            dice,
            calm: false,
            dead: false,
            died_once: false,
            forgot: false,
            writes_left,
            done: BTreeMap::new(),
            gone: Vec::new(),
            holding: 0,
            lost_a_hold: false,
            sealed_in_spite: false,
            cut: false,
            sealed: false,
            cut_while_holding_too_few: false,
            wanted_sessions: 0,
            stored: BTreeMap::new(),
            running: 0,
            most: 0,
        };
        Arc::new(Self { broken, pods, state: Mutex::new(state) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn engine(self: &Arc<Self>) -> Engine {
        let ports = Ports {
            inventory: self.clone(),
            exec: Arc::new(Exec(self.clone())),
            secrets: self.clone(),
            cutter: Arc::new(Hosts(self.clone())),
            journal: self.clone(),
        };
        Engine::new(ports, Limits { parallel_pods: 3, ..Limits::default() })
    }

    async fn alive(&self) {
        if self.state().dead {
            std::future::pending::<()>().await;
        }
    }

    async fn death(&self) {
        while !self.state().dead {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn luck(&self, pod: &str) -> Luck {
        let mut state = self.state();
        if state.gone.iter().any(|gone| gone == pod) {
            return Luck::PodGone;
        }
        if state.calm {
            return Luck::Good;
        }
        match state.dice.roll(40) {
            0 => Luck::Fails,
            1 => Luck::NotStarted,
            2 => Luck::LostAfter,
            3 => Luck::LostBefore,
            4 => Luck::Hangs,
            5 => {
                state.gone.push(pod.to_owned());
                Luck::PodGone
            }
            _ => Luck::Good,
        }
    }
}

fn pod(name: &str, host: &str) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        labels: BTreeMap::from([("app".into(), "db".into())]),
        host: host.into(),
        containers: vec!["main".into()],
        volumes: vec![],
        state: PodState::Ready,
    }
}

fn lost(pod: &str) -> ExecError {
    ExecError::Lost { pod: pod.into(), why: "the line was cut".into() }
}

fn changed(pod: &str) -> ExecError {
    ExecError::PodChanged { pod: pod.into(), why: "replaced".into() }
}

#[async_trait]
impl Inventory for World {
    async fn pods(&self, _: &[String]) -> Result<Vec<Pod>, InventoryError> {
        self.alive().await;
        Ok(self.pods.clone())
    }
}

#[async_trait]
impl Secrets for World {
    async fn read(&self, namespace: &str, secret: &SecretRef) -> Result<String, SecretError> {
        Err(SecretError::of(namespace, secret, "there are none here"))
    }
}

struct Exec(Arc<World>);

impl Exec {
    fn deed(&self, pod: &str, argv: &[String]) {
        let [verb, step] = argv else { panic!("{argv:?}") };
        let mut state = self.0.state();
        let done = state.done.entry((step.clone(), pod.to_owned())).or_default();
        match verb.as_str() {
            "do" => done.begun = true,
            "undo" => done.undone += 1,
            other => panic!("{other}"),
        }
    }
}

#[async_trait]
impl PodExec for Exec {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        let (world, pod) = (&self.0, request.target.pod.clone());
        world.alive().await;
        {
            let mut state = world.state();
            state.running += 1;
            state.most = state.most.max(state.running);
        }
        let luck = world.luck(&pod);
        let takes = 1 + world.state().dice.roll(30);
        tokio::time::sleep(Duration::from_millis(takes)).await;
        world.state().running -= 1;
        world.alive().await;
        match luck {
            Luck::Good => self.deed(&pod, &request.argv),
            Luck::Fails => {
                // A `before` that failed may have had its effect.
                if request.argv[0] == "do" {
                    self.deed(&pod, &request.argv);
                }
                return Ok(ExecOutcome { exit_code: 1, output: String::new(), omitted_bytes: 0 });
            }
            Luck::NotStarted => return Err(ExecError::NotStarted { pod, why: "not now".into() }),
            Luck::LostAfter => {
                self.deed(&pod, &request.argv);
                let key = (request.argv[1].clone(), pod.clone());
                world.state().done.entry(key).or_default().in_doubt += 1;
                return Err(lost(&pod));
            }
            Luck::LostBefore => return Err(lost(&pod)),
            Luck::Hangs => std::future::pending().await,
            Luck::PodGone => return Err(changed(&pod)),
        }
        Ok(ExecOutcome { exit_code: 0, output: String::new(), omitted_bytes: 0 })
    }

    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        let (world, pod) = (&self.0, request.target.pod.clone());
        world.alive().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        match world.luck(&pod) {
            Luck::Good => {}
            Luck::Hangs => std::future::pending().await,
            Luck::PodGone => return Err(changed(&pod)),
            Luck::Fails | Luck::NotStarted | Luck::LostAfter | Luck::LostBefore => return Err(lost(&pod)),
        }
        world.state().holding += 1;
        let degrade = request.argv[0] == "degrade";
        Ok(Box::new(Held { world: world.clone(), pod, degrade }))
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError> {
        Err(lost(&request.target.pod))
    }
}

/// Holds as long as it lives.
struct Held {
    world: Arc<World>,
    pod: String,
    degrade: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.world.state().holding -= 1;
    }
}

#[async_trait]
impl Session for Held {
    async fn prove(&mut self, _: Option<&Probe>) -> Result<(), ExecError> {
        self.world.alive().await;
        match self.world.luck(&self.pod) {
            Luck::Good => Ok(()),
            _ => {
                self.world.state().lost_a_hold |= !self.degrade;
                if self.world.broken == Broken::Proofs { Ok(()) } else { Err(lost(&self.pod)) }
            }
        }
    }

    async fn release(self: Box<Self>, _: &[String]) -> Result<ExecOutcome, ExecError> {
        self.world.alive().await;
        match self.world.luck(&self.pod) {
            Luck::Good => Ok(ExecOutcome { exit_code: 0, output: String::new(), omitted_bytes: 0 }),
            Luck::Hangs => std::future::pending().await,
            _ => Err(lost(&self.pod)),
        }
    }
}

struct Hosts(Arc<World>);

struct Round(Arc<World>);

impl World {
    /// One answer of each host.
    async fn hosts(&self, what: &str) -> Result<(), CutError> {
        self.alive().await;
        tokio::time::sleep(Duration::from_millis(3)).await;
        for host in 0..HOSTS {
            let (fails, hangs) = {
                let mut state = self.state();
                let calm = state.calm;
                (!calm && state.dice.one_in(40), !calm && state.dice.one_in(80))
            };
            if hangs {
                std::future::pending::<()>().await;
            }
            if fails {
                return Err(CutError { retry: true, message: format!("host-{host} failed to {what}") });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Cutter for Hosts {
    async fn open(&self, _: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        self.0.hosts("open").await?;
        Ok(Box::new(Round(self.0.clone())))
    }
}

#[async_trait]
impl OpenCut for Round {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        self.0.hosts("cut").await?;
        let mut state = self.0.state();
        state.cut = true;
        state.cut_while_holding_too_few |= state.holding < state.wanted_sessions;
        Ok(CutReport {
            cut_id: "id".into(),
            level: StorageLevel::Filesystem,
            reasons: vec![],
            hold_requested_at: Timestamp::now(),
            window_us: 900,
            skew_us: 10,
        })
    }

    async fn seal(self: Box<Self>, _: SealRequest) -> Result<(), CutError> {
        self.0.hosts("seal").await?;
        let mut state = self.0.state();
        state.sealed = true;
        state.sealed_in_spite |= state.lost_a_hold || state.holding > 0;
        Ok(())
    }
}

#[async_trait]
impl Journal for World {
    async fn persist(&self, run: &Run) -> Result<(), JournalError> {
        self.alive().await;
        let dies = {
            let mut state = self.state();
            let calm = state.calm;
            if !calm && state.dice.one_in(40) {
                state.forgot = true;
                return Err(JournalError("no space left".into()));
            }
            let mut stored = run.clone();
            if self.broken == Broken::Journal {
                stored.debts.clear();
            }
            state.stored.insert(run.id.clone(), stored);
            state.dead |= state.writes_left == 0;
            state.died_once |= state.dead;
            state.writes_left = state.writes_left.saturating_sub(u64::from(state.writes_left != u64::MAX));
            state.dead
        };
        if dies {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn unfinished(&self) -> Result<Vec<Run>, JournalError> {
        Ok(self.state().stored.values().filter(|run| !run.phase.is_final()).cloned().collect())
    }
}

/// A rule of one to three steps; `do` and `undo` name their step.
fn rule(dice: &mut Dice) -> crate::api::Rule {
    let mut text =
        "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {name: r}\nspec:\n  steps:\n".to_owned();
    for index in 0..=dice.roll(3) {
        let on_failure = ["abort", "degrade", "ignore"][dice.roll(3) as usize];
        let retry = if dice.one_in(3) { ", retry: {times: 2}, idempotent: true" } else { "" };
        text.push_str(&format!(
            "  - name: s{index}\n    onFailure: {on_failure}\n    pods: {{selector: {{matchLabels: {{app: db}}}}}}\n    before: {{command: [do, s{index}], timeout: 5s{retry}}}\n"
        ));
        if !dice.one_in(4) {
            text.push_str(&format!("    after: {{command: [undo, s{index}], timeout: 5s}}\n"));
        }
        if dice.one_in(3) {
            let on_lost = ["abort", "degrade"][dice.roll(2) as usize];
            text.push_str(&format!(
                "    hold: {{command: [{on_lost}], ready: held, limit: 5s, onLost: {on_lost}, probe: {{send: a, expect: b}}}}\n"
            ));
        }
    }
    parse(&text).unwrap()
}

/// Sessions that must hold for a cut: those whose absence stops the run.
fn needed_sessions(rule: &crate::api::Rule, pods: usize) -> usize {
    let needed = |step: &&crate::api::Step| step.hold.is_some() && step.on_failure == OnFailure::Abort;
    // Two steps that hold by the same command hold once.
    let mut ways: Vec<OnLost> =
        rule.spec.steps.iter().filter(needed).filter_map(|step| Some(step.hold.as_ref()?.on_lost)).collect();
    ways.sort_by_key(|way| *way as u8);
    ways.dedup();
    ways.len() * pods
}

fn life() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// How one world ended.
struct Outcome {
    died: bool,
    sealed: bool,
    violations: Vec<String>,
}

fn live(seed: u64, broken: Broken) -> Outcome {
    let world = World::new(seed, broken);
    let rule = rule(&mut world.state().dice.clone());
    // Steps that hold twice in the same way are done once, in the earlier step, whatever that tolerates.
    let strict = rule.spec.steps.iter().all(|step| step.on_failure == OnFailure::Abort);
    world.state().wanted_sessions = if strict { needed_sessions(&rule, world.pods.len()) } else { 0 };
    let request = RunRequest { rule: Some(rule.clone()), ..super::request(TWO_STEPS) };
    life().block_on(async {
        let engine = world.engine();
        tokio::select! {
            _ = engine.run(request, Control::default()) => {}
            () = world.death() => {}
        }
    });
    let died = world.state().dead;
    {
        let mut state = world.state();
        (state.dead, state.calm, state.writes_left, state.running) = (false, true, u64::MAX, 0);
    }
    let overdue = life().block_on(async {
        let engine = world.engine();
        engine.recover().await.unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_mins(11)).await;
            engine.collect().await;
        }
        engine.overdue().len()
    });
    let mut violations = violations(&world, &rule);
    if overdue > 0 {
        violations.push("something is owed for ever".to_owned());
    }
    let sealed = world.state().sealed;
    Outcome { died, sealed, violations }
}

fn violations(world: &World, rule: &crate::api::Rule) -> Vec<String> {
    let state = world.state();
    let mut found = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    must(state.holding == 0, "a session outlives its run".to_owned());
    must(!state.sealed_in_spite, "sealed although a hold was lost, or while one was still there".to_owned());
    must(!state.cut_while_holding_too_few, "cut before all sessions held".to_owned());
    must(state.most <= 3, format!("{} at once", state.most));
    for run in state.stored.values() {
        must(run.phase.is_final(), format!("a run stays {:?}", run.phase));
        must(run.owed().count() == 0, "a run ended with debts".to_owned());
        must(!run.succeeded() || state.sealed, "success without a cut".to_owned());
    }
    for ((step, pod), done) in &state.done {
        let has_after = rule.spec.steps.iter().any(|s| s.name == *step && s.after.is_some());
        if has_after && !state.gone.contains(pod) {
            must(!done.begun || done.undone >= 1, format!("{step} in {pod} was begun and never undone"));
            // A repetition has a reason: an answer that was lost, or something that was not written down.
            let reasons = 1 + done.in_doubt + usize::from(state.died_once) + usize::from(state.forgot);
            must(done.undone <= reasons, format!("{step} in {pod} was undone {} times", done.undone));
        }
    }
    found
}

#[test]
fn in_a_thousand_worlds_where_anything_fails_and_the_process_dies_debts_are_paid_and_nothing_lost_is_sealed()
{
    let (mut deaths, mut seals) = (0, 0);
    for seed in 1..=SEEDS {
        let outcome = live(seed, Broken::Nothing);
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}", outcome.violations);
        deaths += u64::from(outcome.died);
        seals += u64::from(outcome.sealed);
    }
    // A world in which nothing works, or in which nothing fails, would prove nothing.
    assert!(deaths > SEEDS / 10 && seals > SEEDS / 20, "{deaths} deaths, {seals} sealed");
    eprintln!("{SEEDS} seeds: {deaths} processes died, {seals} cuts were sealed");
}

#[test]
fn these_checks_find_sessions_that_lie_and_a_journal_that_forgets() {
    for (broken, words) in [(Broken::Proofs, "although a hold was lost"), (Broken::Journal, "never undone")] {
        let found = (1..=SEEDS).any(|seed| live(seed, broken).violations.iter().any(|v| v.contains(words)));
        assert!(found, "{broken:?} was not found");
    }
}
