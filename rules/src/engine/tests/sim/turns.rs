//! Several controllers and several runs over the same pods. A pod has one lock, as a file would be: the `before` of every
//! rule makes it and every `after` removes it, whoever made it. So a run that overlaps another one loses its lock.
//!
//! Controllers stop for a while (as a machine does that is out of memory) and die; others take over what they have left.
//! A controller that was taken for dead goes on where it stood, after commands that it had begun have ended: they end
//! within the time of a lease. What it notices itself is that it could not renew for so long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::super::hooks::{Breaking, Broken};
use super::fate::Dice;
use super::life;
use crate::engine::{Control, Engine, Limits, Ports, RunRequest};
use crate::plan::CutVolume;
use crate::ports::*;
use crate::run::Run;
use crate::text::parse;
use crate::turns::OpenRun;

const PODS: u64 = 4;
/// A controller that was silent for so long is taken for dead.
const LEASE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    dice: Option<Dice>,
    stored: BTreeMap<String, Stored>,
    locked: BTreeSet<String>,
    /// What no snapshot may be.
    wrong: Vec<String>,
    /// Names of snapshots, by the instant.
    taken: Vec<String>,
}

/// A run as the API server has it.
struct Stored {
    run: Run,
    holder: usize,
    /// The first holder has tried to write it since.
    is_known: bool,
}

type Shared = Arc<Mutex<State>>;

/// One controller: what it does waits while it is stopped.
#[derive(Clone)]
struct Controller {
    number: usize,
    shared: Shared,
    goes_on: watch::Receiver<bool>,
}

impl Controller {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap()
    }

    fn roll(&self, sides: u64) -> u64 {
        self.state().dice.as_mut().unwrap().roll(sides)
    }

    /// On the way to somebody else and back; a controller that is stopped goes nowhere.
    async fn way(&self) {
        let takes = self.roll(20);
        sleep(Duration::from_millis(takes)).await;
        let mut goes_on = self.goes_on.clone();
        // The world has ended where nobody stops or starts it any more.
        let _ = goes_on.wait_for(|goes_on| *goes_on).await;
    }
}

#[async_trait]
impl Inventory for Controller {
    async fn pods(&self, _: &[String]) -> Result<Vec<Pod>, InventoryError> {
        self.way().await;
        Ok((0..PODS).map(|n| super::pod(&format!("p{n}"), &format!("p{n}"), "a")).collect())
    }
}

#[async_trait]
impl PodExec for Controller {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        let takes = self.roll(200);
        sleep(Duration::from_millis(takes)).await;
        let pod = request.target.pod;
        match request.argv[0].as_str() {
            "lock" => drop(self.state().locked.insert(pod)),
            _ => drop(self.state().locked.remove(&pod)),
        }
        self.way().await;
        Ok(ExecOutcome { exit_code: 0, output: String::new(), omitted_bytes: 0 })
    }

    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        Err(ExecError::NotStarted { pod: request.target.pod, why: "there are none here".into() })
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError> {
        Err(ExecError::NotStarted { pod: request.target.pod, why: "there is none here".into() })
    }
}

/// A snapshot of the pods that its rule locks: their numbers are its name.
struct Snapshot {
    controller: Controller,
    name: String,
    unlocked: Vec<String>,
}

/// `3-p0-p2`: the third snapshot, of pods 0 and 2.
fn pods_of(name: &str) -> Vec<String> {
    name.split('-').skip(1).map(str::to_owned).collect()
}

#[async_trait]
impl Cutter for Controller {
    async fn open(&self, request: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        self.way().await;
        Ok(Box::new(Snapshot { controller: self.clone(), name: request.name, unlocked: vec![] }))
    }
}

#[async_trait]
impl OpenCut for Snapshot {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        self.controller.way().await;
        {
            let mut state = self.controller.state();
            self.unlocked =
                pods_of(&self.name).into_iter().filter(|pod| !state.locked.contains(pod)).collect();
            state.taken.push(self.name.clone());
        }
        self.controller.way().await;
        Ok(CutReport {
            cut_id: self.name.clone(),
            level: StorageLevel::Filesystem,
            reasons: vec![],
            hold_requested_at: Timestamp::now(),
            window_us: 1,
            skew_us: 0,
        })
    }

    async fn seal(self: Box<Self>, request: SealRequest) -> Result<(), CutError> {
        self.controller.way().await;
        if request.application && !self.unlocked.is_empty() {
            let wrong = format!("{} claims application, and {:?} had no lock", self.name, self.unlocked);
            self.controller.state().wrong.push(wrong);
        }
        Ok(())
    }
}

#[async_trait]
impl Journal for Controller {
    /// Only the controller that has a run writes it.
    async fn persist(&self, run: &Run) -> Result<(), JournalError> {
        self.way().await;
        {
            let mut state = self.state();
            let new = Stored { run: run.clone(), holder: self.number, is_known: false };
            let stored = state.stored.entry(run.id.clone()).or_insert(new);
            if stored.holder != self.number {
                stored.is_known = true;
                return Err(JournalError("another controller has taken it over".into()));
            }
            stored.run = run.clone();
        }
        self.way().await;
        Ok(())
    }

    /// Takes over what others have left: whoever asks has found that they are dead.
    async fn unfinished(&self) -> Result<Vec<Run>, JournalError> {
        self.way().await;
        let mut state = self.state();
        let left = state
            .stored
            .values_mut()
            .filter(|stored| !stored.run.phase.is_final() && stored.holder != self.number);
        Ok(left
            .map(|stored| {
                stored.holder = self.number;
                stored.run.clone()
            })
            .collect())
    }

    fn ownership(&self, name: &str) -> Ownership {
        match self.state().stored.values().find(|stored| stored.run.name == name) {
            Some(stored) if stored.holder == self.number => Ownership::Ours,
            Some(stored) if stored.is_known => Ownership::Lost,
            Some(_) => Ownership::Unsure,
            None => Ownership::Ours,
        }
    }

    async fn open_runs(&self, _: &Run) -> Result<Vec<OpenRun>, JournalError> {
        self.way().await;
        let open: Vec<OpenRun> = {
            let state = self.state();
            let open = state.stored.values().filter(|stored| !stored.run.phase.is_final());
            open.map(|stored| OpenRun::of(&stored.run, stored.run.name.clone(), true)).collect()
        };
        self.way().await;
        Ok(open)
    }

    async fn run_ended(&self) {
        std::future::pending::<()>().await;
    }
}

impl Controller {
    fn engine(&self) -> Engine {
        let own = Arc::new(self.clone());
        let ports = Ports {
            inventory: own.clone(),
            exec: own.clone(),
            secrets: Arc::new(NoSecrets),
            cutter: own.clone(),
            journal: own,
        };
        Engine::new(ports, Limits { turn: Duration::from_hours(1), ..Limits::default() })
    }
}

fn request(name: &str) -> RunRequest {
    let steps: Vec<String> = pods_of(name)
        .iter()
        .map(|pod| {
            format!(
                "  - name: {pod}\n    pods: {{selector: {{matchLabels: {{app: {pod}}}}}}}\n    \
                 before: {{command: [lock]}}\n    after: {{command: [unlock]}}\n"
            )
        })
        .collect();
    let text = format!(
        "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {{name: r}}\nspec:\n  steps:\n{}",
        steps.concat()
    );
    RunRequest {
        name: name.to_owned(),
        rule: Some(parse(&text).unwrap()),
        volumes: vec![CutVolume { id: format!("volume of {name}"), name: "v".into(), host: "a".into() }],
        namespaces: vec![],
        budget: Duration::from_hours(2),
        params: BTreeMap::new(),
        waiting_since: None,
        rehearsal: false,
    }
}

/// What happens to controllers meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// The first one stops, is taken for dead, and goes on.
    Stops,
    /// The first one dies.
    Dies,
}

/// How a world ended.
struct Ended {
    wrong: Vec<String>,
    /// Names of snapshots.
    taken: Vec<String>,
    runs: Vec<Run>,
}

/// A world of five runs over two controllers.
fn world(seed: u64, trouble: Trouble) -> Ended {
    let shared: Shared = Arc::default();
    shared.lock().unwrap().dice = Some(Dice::new(seed));
    let (switch, goes_on) = watch::channel(true);
    let always = watch::channel(true).1;
    let first = Controller { number: 1, shared: Arc::clone(&shared), goes_on };
    let second = Controller { number: 2, shared: Arc::clone(&shared), goes_on: always };
    let runs = life().block_on(async {
        let mut own = JoinSet::new();
        let mut others = JoinSet::new();
        for number in 0..5 {
            let wanted = 1 + first.roll((1 << PODS) - 1);
            let name: String = std::iter::once(number.to_string())
                .chain((0..PODS).filter(|n| wanted & (1 << n) != 0).map(|n| format!("p{n}")))
                .collect::<Vec<_>>()
                .join("-");
            let (engine, after) = if first.roll(2) == 0 {
                (first.engine(), first.roll(500))
            } else {
                (second.engine(), first.roll(500))
            };
            let tasks = if after % 2 == 0 { &mut own } else { &mut others };
            tasks.spawn(async move {
                sleep(Duration::from_millis(after)).await;
                engine.run(request(&name), Control::default()).await
            });
        }
        let taken_over = second.engine();
        let pause = first.roll(1500);
        sleep(Duration::from_millis(pause)).await;
        match trouble {
            Trouble::None => {}
            Trouble::Stops => {
                switch.send_replace(false);
                sleep(LEASE).await;
                taken_over.recover().await.unwrap();
                sleep(Duration::from_millis(first.roll(500))).await;
                switch.send_replace(true);
            }
            Trouble::Dies => {
                // Whatever it waits for never comes.
                switch.send_replace(false);
                sleep(LEASE).await;
                taken_over.recover().await.unwrap();
            }
        }
        let everything = async {
            let mut ended = Vec::new();
            while let Some(run) = others.join_next().await {
                ended.push(run.unwrap());
            }
            while let Some(run) = own.join_next().await {
                ended.push(run.unwrap());
            }
            ended
        };
        tokio::time::timeout(Duration::from_hours(10), everything).await.unwrap_or_default()
    });
    let mut state = shared.lock().unwrap();
    let mut wrong = std::mem::take(&mut state.wrong);
    wrong.extend(state.locked.iter().map(|pod| format!("{pod} stays locked")));
    Ended { wrong, taken: std::mem::take(&mut state.taken), runs }
}

#[test]
fn runs_that_use_the_same_pods_never_undo_each_other_and_all_succeed() {
    for seed in 0..300 {
        let ended = world(seed, Trouble::None);
        assert_eq!(ended.wrong, [""; 0], "seed {seed}");
        assert_eq!(ended.taken.len(), 5, "seed {seed}");
        for run in &ended.runs {
            assert!(run.succeeded(), "seed {seed}: {:?}", run.failures);
        }
        assert_eq!(ended.runs.len(), 5, "seed {seed}: every run has ended");
    }
}

#[test]
fn no_snapshot_claims_application_whose_before_another_controller_has_undone() {
    for seed in 0..300 {
        let ended = world(seed, Trouble::Stops);
        assert_eq!(ended.wrong, [""; 0], "seed {seed}");
        assert_eq!(ended.runs.len(), 5, "seed {seed}: every run has ended");
    }
}

#[test]
fn what_a_dead_controller_had_locked_is_undone_before_others_lock_it() {
    for seed in 0..300 {
        assert_eq!(world(seed, Trouble::Dies).wrong, [""; 0], "seed {seed}");
    }
}

#[test]
fn runs_that_take_no_turns_or_confirm_nothing_are_noticed() {
    for broken in Broken::OF_TURNS {
        let _breaking = Breaking::with(broken);
        let noticed = (0..300).any(|seed| {
            [Trouble::None, Trouble::Stops].into_iter().any(|trouble| !world(seed, trouble).wrong.is_empty())
        });
        assert!(noticed, "{broken:?} was not noticed");
    }
}
