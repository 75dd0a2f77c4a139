//! Carries out a run: feeds what happened to the [`Machine`] and does what it orders, over the [`crate::ports`].
//!
//! The shell has no policy. It bounds every wait (`budget`), keeps the [`Run`] record, and makes sure that a run which was
//! begun comes to its end even when the one who asked for it goes away: each run is a task of its own.

mod attempt;
mod budget;
mod conduct;
#[cfg(test)]
mod hooks;
mod overdue;
mod pods;
mod rehearsal;
mod sessions;
mod steps;
mod stop;
mod storage;
mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::api::{Rule, params};
use crate::failure::{Failure, FailureKind};
use crate::machine::{Machine, Outline, Phase, StepOutline};
use crate::plan::{CutVolume, Plan, PlanError, plan};
use crate::ports::{Cutter, Inventory, InventoryError, Journal, JournalError, PodExec, Secrets};
use crate::run::{DebtState, Run};

use budget::{Budget, Closing, allowance};
use conduct::{Conductor, Over};
use overdue::OverdueRuns;
pub use rehearsal::NothingCut;
use stop::Stop;

/// What the engine works with.
#[derive(Clone)]
pub struct Ports {
    /// Lists pods.
    pub inventory: Arc<dyn Inventory>,
    /// Runs commands in them.
    pub exec: Arc<dyn PodExec>,
    /// Reads the secrets that rules name.
    pub secrets: Arc<dyn Secrets>,
    /// Takes cuts.
    pub cutter: Arc<dyn Cutter>,
    /// Remembers runs.
    pub journal: Arc<dyn Journal>,
}

/// How long the engine waits for a port that should have answered by itself before that.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Listing pods.
    pub plan: Duration,
    /// Waiting for runs that use the same pods or volumes.
    pub turn: Duration,
    /// Hosts preparing a cut: flushing a lot of dirty data takes its time.
    pub open: Duration,
    /// Hold, cut and release: the hosts' own deadlines are far below.
    pub cut: Duration,
    /// Sealing on all hosts.
    pub seal: Duration,
    /// Writing the journal.
    pub journal: Duration,
    /// How much longer than its timeout a command may take to be ended.
    pub command_grace: Duration,
    /// Pods of one step that are worked with at the same time.
    pub parallel_pods: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            plan: Duration::from_secs(30),
            turn: Duration::from_mins(10),
            open: Duration::from_mins(5),
            cut: Duration::from_mins(1),
            seal: Duration::from_mins(1),
            journal: Duration::from_secs(20),
            command_grace: Duration::from_secs(10),
            parallel_pods: crate::api::defaults::PARALLEL_PODS,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// Name of the cut.
    pub name: String,
    /// What is done to the application; nothing when absent.
    pub rule: Option<Rule>,
    /// What is cut.
    pub volumes: Vec<CutVolume>,
    /// Where pods are looked for; everywhere when empty.
    pub namespaces: Vec<String>,
    /// The run is stopped and undone when it has not cut by then. Undoing has a time of its own: what its `after`s may take.
    pub budget: Duration,
    /// Values of the rule's parameters.
    pub params: BTreeMap<String, String>,
    /// Since when it has waited for its turn in earlier attempts; its place in the order is kept.
    pub waiting_since: Option<jiff::Timestamp>,
    /// The steps are only tried: the cutter is one that cuts nothing.
    pub rehearsal: bool,
}

/// How the one who asks follows and stops a run. Both are optional.
#[derive(Debug, Default)]
pub struct Control {
    /// Receives a line whenever something has happened; a slow reader misses lines.
    pub progress: Option<mpsc::Sender<String>>,
    /// The run stops and is undone when this becomes a reason.
    pub stop: Option<watch::Receiver<Option<String>>>,
}

/// Why no plan can be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanningError {
    /// The pods are not known.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// They were not listed in time.
    #[error("pods were not listed within {0:?}; check what lists them")]
    TooSlow(Duration),
    /// The rule does not fit them.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// How long after its grace a run may still write down where it stands.
const CLOSING_WRITES: Duration = Duration::from_secs(4);

/// The rules engine.
pub struct Engine {
    ports: Ports,
    limits: Limits,
    shutdown: watch::Sender<Option<String>>,
    closing: watch::Sender<Option<Instant>>,
    active: watch::Sender<usize>,
    overdue: OverdueRuns,
}

impl Engine {
    /// An engine over these ports.
    pub fn new(ports: Ports, limits: Limits) -> Self {
        Self {
            ports,
            limits,
            shutdown: watch::Sender::new(None),
            closing: watch::Sender::new(None),
            active: watch::Sender::new(0),
            overdue: OverdueRuns::default(),
        }
    }

    /// What a run would do. Lists pods and executes nothing.
    pub async fn plan(&self, request: &RunRequest) -> Result<Plan, PlanningError> {
        make_plan(&self.ports, &self.limits, request).await
    }

    /// Runs a rule around a cut. The run goes on when the returned future is dropped; [`Control::stop`] and
    /// [`Engine::shutdown`] stop it. The outcome is in the record, also when nothing could be done.
    pub async fn run(&self, request: RunRequest, control: Control) -> Run {
        let rule = request.rule.as_ref().map(|rule| rule.metadata.name.clone());
        let run = Run::new(&request.name, rule.as_deref(), jiff::Timestamp::now());
        let budget = Budget::of_run(request.budget, Some(self.closing()));
        let stop = Stop::new(self.shutdown.subscribe(), control.stop, &budget);
        let (ports, limits) = (self.ports.clone(), self.limits.clone());
        let conductor = Conductor::new(ports, limits, run.clone(), stop, budget, control.progress);
        let busy = Busy::new(self.active.clone());
        let overdue = self.overdue.clone();
        let task = tokio::spawn(async move {
            let _busy = busy;
            overdue.keep(conductor.conduct(request).await, None)
        });
        task.await.unwrap_or_else(|error| died(run, &error.to_string()))
    }

    /// Tries again what runs of this process still owe, where its time has come. Gives the runs that ended now. To
    /// be called every few seconds.
    pub async fn collect(&self) -> Vec<Run> {
        let mut tasks = JoinSet::new();
        for (over, pause) in self.overdue.due() {
            let Over { run, machine, redactor } = over;
            let conductor = self.undoing(run);
            let (busy, overdue) = (Busy::new(self.active.clone()), self.overdue.clone());
            tasks.spawn(async move {
                let _busy = busy;
                overdue.keep(conductor.collect(machine, redactor).await, Some(pause))
            });
        }
        let mut ended = Vec::new();
        while let Some(run) = tasks.join_next().await {
            match run {
                Ok(run) if run.phase.is_final() => ended.push(run),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "an overdue run was lost; the next start tries again"),
            }
        }
        ended
    }

    /// Runs of this process that are over but still owe something.
    pub fn overdue(&self) -> Vec<Run> {
        self.overdue.all()
    }

    /// People have given up what the run of this cut still has to do: [`Engine::collect`] ends it.
    pub fn give_up(&self, cut: &str) {
        self.overdue.give_up(cut);
    }

    /// Somebody waits for the end of the run of this cut: it is tried again within this time, again and again.
    pub fn hasten(&self, cut: &str, within: Duration) {
        self.overdue.hasten(cut, within);
    }

    /// Forgets an overdue run of this cut: its record was removed by force.
    pub fn forget(&self, cut: &str) {
        self.overdue.forget(cut);
    }

    /// Pays what runs of a dead process owe, all at the same time, and ends them. Their cuts are not continued.
    /// To be called once, before the first run.
    pub async fn recover(&self) -> Result<Vec<Run>, JournalError> {
        let reading = timeout(self.limits.plan, self.ports.journal.unfinished()).await;
        let late = |_| JournalError(format!("it was not read within {:?}", self.limits.plan));
        let runs = reading.map_err(late)??;
        let mut tasks = JoinSet::new();
        for mut run in runs {
            doubt(&mut run);
            let (machine, orders) = orphaned(&run);
            let conductor = self.undoing(run);
            let (busy, overdue) = (Busy::new(self.active.clone()), self.overdue.clone());
            tasks.spawn(async move {
                let _busy = busy;
                overdue.keep(conductor.settle(machine, orders).await, None)
            });
        }
        let mut settled = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(run) => settled.push(run),
                Err(error) => {
                    tracing::error!(%error, "a run could not be settled; the next start tries again");
                }
            }
        }
        Ok(settled)
    }

    /// Stops every run and waits until each is undone, at most about `grace`. What could not be undone by then is on
    /// record, and the next process goes on with it. No run begins afterwards. Gives how many runs have not ended.
    pub async fn shutdown(&self, why: &str, grace: Duration) -> usize {
        self.closing.send_replace(Some(Instant::now() + grace));
        self.shutdown.send_replace(Some(why.to_owned()));
        let mut active = self.active.subscribe();
        // Late, or the sender is gone and with it every run: the count tells.
        let _ = timeout(grace + CLOSING_WRITES, active.wait_for(|count| *count == 0)).await;
        *self.active.borrow()
    }

    fn closing(&self) -> Closing {
        self.closing.subscribe()
    }

    /// A conductor that only undoes.
    fn undoing(&self, run: Run) -> Conductor {
        let budget = Budget::of_undoing(allowance(&run, &self.limits), Some(self.closing()));
        Conductor::new(self.ports.clone(), self.limits.clone(), run, Stop::never(), budget, None)
    }
}

/// Counts a run for as long as it lives.
struct Busy(watch::Sender<usize>);

impl Busy {
    fn new(active: watch::Sender<usize>) -> Self {
        active.send_modify(|count| *count += 1);
        Self(active)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

async fn make_plan(ports: &Ports, limits: &Limits, request: &RunRequest) -> Result<Plan, PlanningError> {
    let rule = request.rule.as_ref();
    let namespaces = match rule.and_then(|rule| rule.metadata.namespace.clone()) {
        Some(namespace) => vec![namespace],
        None => request.namespaces.clone(),
    };
    let pods = match rule {
        Some(_) => timeout(limits.plan, ports.inventory.pods(&namespaces))
            .await
            .map_err(|_| PlanningError::TooSlow(limits.plan))??,
        None => Vec::new(),
    };
    let rule = rule.map(|rule| params::resolve(rule.clone(), &request.params)).transpose();
    let rule = rule.map_err(PlanError::from)?;
    Ok(plan(rule.as_ref(), &pods, &request.volumes)?)
}

/// An `after` that may have been under way and may not be repeated is not repeated.
fn doubt(run: &mut Run) {
    #[cfg(test)]
    if hooks::is(hooks::Broken::NeverDoubts) {
        return;
    }
    let Phase::Undoing(step) = run.phase else { return };
    for debt in run.debts.iter_mut().filter(|debt| debt.step == step && debt.state.is_collectable()) {
        if !debt.command.retry.idempotent {
            debt.state = DebtState::Unknown;
        }
    }
}

/// The machine of a run that a dead process left: it only undoes.
fn orphaned(run: &Run) -> (Machine, Vec<crate::machine::Order>) {
    let owing = |k: usize| run.owed().any(|debt| debt.step == k);
    let count = run.debts.iter().map(|debt| debt.step + 1).max().unwrap_or(0);
    let steps = (0..count).map(|k| StepOutline { after: owing(k), ..StepOutline::default() }).collect();
    let sealed = run.cut.as_ref().is_some_and(|cut| cut.sealed);
    let mut failures = run.failures.clone();
    // What an overdue run still has to do, any process can do: nothing was lost.
    if run.phase != Phase::Overdue {
        failures.push(death(run, sealed));
    }
    Machine::orphaned(Outline { steps, questions: false }, count, sealed, failures)
}

fn death(run: &Run, sealed: bool) -> Failure {
    let fate = match (sealed, run.phase) {
        (true, _) => "the cut was real by then",
        (false, Phase::Opening | Phase::Holding | Phase::Cutting | Phase::Checking | Phase::Sealing) => {
            "whether its cut became real is told by the list of cuts"
        }
        (false, _) => "nothing was cut",
    };
    let why =
        format!("the process that conducted this run died while {:?}; {fate}; ask for a new cut", run.phase);
    Failure::new(FailureKind::Orphaned, why).passing(true)
}

fn died(mut run: Run, why: &str) -> Run {
    tracing::error!(run = run.id, why, "a run's task ended before the run");
    let why = format!("the run's task ended: {why}; what it owes is paid at the next start; report this");
    run.failures.push(Failure::new(FailureKind::Bug, why));
    run.phase = Phase::Failed;
    run
}

#[cfg(test)]
mod tests;
