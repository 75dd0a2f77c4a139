//! Carries out a run: feeds what happened to the [`Machine`] and does what it orders, over the [`crate::ports`].
//!
//! The shell has no policy. It bounds every wait, keeps the [`Run`] record, and makes sure that a run which was
//! begun comes to its end even when the one who asked for it goes away: each run is a task of its own.

mod conduct;
mod pods;
mod sessions;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::Rule;
use crate::machine::{Machine, Outline, Phase, StepOutline};
use crate::plan::{CutVolume, Plan, PlanError, plan};
use crate::ports::{Cutter, Inventory, InventoryError, Journal, JournalError, PodExec};
use crate::run::{DebtState, Run};

use conduct::Conductor;
use stop::Stop;

/// What the engine works with.
#[derive(Clone)]
pub struct Ports {
    /// Lists pods.
    pub inventory: Arc<dyn Inventory>,
    /// Runs commands in them.
    pub exec: Arc<dyn PodExec>,
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
    /// The run is stopped and undone when it has not cut by then.
    pub budget: Duration,
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

/// The rules engine.
pub struct Engine {
    ports: Ports,
    limits: Limits,
    shutdown: watch::Sender<Option<String>>,
    active: watch::Sender<usize>,
}

impl Engine {
    /// An engine over these ports.
    pub fn new(ports: Ports, limits: Limits) -> Self {
        Self { ports, limits, shutdown: watch::Sender::new(None), active: watch::Sender::new(0) }
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
        let stop = Stop::new(self.shutdown.subscribe(), control.stop, request.budget);
        let conductor =
            Conductor::new(self.ports.clone(), self.limits.clone(), run.clone(), stop, control.progress);
        let busy = Busy::new(self.active.clone());
        let task = tokio::spawn(async move {
            let _busy = busy;
            conductor.conduct(request).await
        });
        task.await.unwrap_or_else(|error| died(run, &error.to_string()))
    }

    /// Pays what runs of a dead process owe, all at the same time, and ends them. Their cuts are not continued.
    /// To be called once, before the first run.
    pub async fn recover(&self) -> Result<Vec<Run>, JournalError> {
        let runs = self.ports.journal.unfinished().await?;
        let mut tasks = JoinSet::new();
        for run in runs {
            let stop = Stop::never();
            let (machine, orders) = orphaned(&run);
            let conductor = Conductor::new(self.ports.clone(), self.limits.clone(), run, stop, None);
            let busy = Busy::new(self.active.clone());
            tasks.spawn(async move {
                let _busy = busy;
                conductor.settle(machine, orders).await
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

    /// Stops every run and waits until each is undone. No run begins afterwards.
    pub async fn shutdown(&self, why: &str) {
        self.shutdown.send_replace(Some(why.to_owned()));
        let mut active = self.active.subscribe();
        // An error means that the sender is gone, and with it every run.
        let _ = active.wait_for(|count| *count == 0).await;
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
        Some(_) => tokio::time::timeout(limits.plan, ports.inventory.pods(&namespaces))
            .await
            .map_err(|_| PlanningError::TooSlow(limits.plan))??,
        None => Vec::new(),
    };
    Ok(plan(rule, &pods, &request.volumes)?)
}

/// The machine of a run that a dead process left: it only undoes.
fn orphaned(run: &Run) -> (Machine, Vec<crate::machine::Order>) {
    let owing = |k: usize| run.debts.iter().any(|debt| debt.step == k && debt.state == DebtState::Owed);
    let count = run.debts.iter().map(|debt| debt.step + 1).max().unwrap_or(0);
    let steps = (0..count).map(|k| StepOutline { after: owing(k), ..StepOutline::default() }).collect();
    let sealed = run.cut.as_ref().is_some_and(|cut| cut.sealed);
    let fate = match (sealed, run.phase) {
        (true, _) => "the cut was real by then",
        (false, Phase::Opening | Phase::Holding | Phase::Cutting | Phase::Checking | Phase::Sealing) => {
            "whether its cut became real is told by the list of cuts"
        }
        (false, _) => "nothing was cut",
    };
    let why =
        format!("the process that conducted this run died while {:?}; {fate}; ask for a new cut", run.phase);
    Machine::orphaned(Outline { steps, questions: false }, count, sealed, why)
}

fn died(mut run: Run, why: &str) -> Run {
    tracing::error!(run = run.id, why, "a run's task ended before the run");
    run.failures
        .push(format!("the run's task ended: {why}; what it owes is paid at the next start; report this"));
    run.phase = Phase::Failed;
    run
}

#[cfg(test)]
mod tests;
