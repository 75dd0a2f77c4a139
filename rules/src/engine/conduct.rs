//! One run: the machine's orders become calls of the ports, their answers become events.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::api::Take;
use crate::failure::{Failure, FailureKind};
use crate::machine::{Event, Machine, Order, Phase};
use crate::plan::PlannedStep;
use crate::ports::{OpenCut, Ownership};
use crate::redact::Redactor;
use crate::run::Run;

use super::attempt::{Clock, Hands};
use super::budget::{Budget, Late, allowance};
use super::pods::Pods;
use super::sessions::Taken;
use super::stop::Stop;
use super::{Limits, Ports, RunRequest};

/// So long it is tried to write down where a run stands, even when its time is used up.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) struct Conductor {
    pub(super) ports: Ports,
    pub(super) limits: Limits,
    pub(super) run: Run,
    pub(super) stop: Stop,
    pub(super) budget: Budget,
    progress: Option<mpsc::Sender<String>>,
    pub(super) clock: Clock,
    pub(super) redactor: Redactor,
    pub(super) machine: Machine,
    pub(super) request: Option<RunRequest>,
    pub(super) cut: Option<Box<dyn OpenCut>>,
    pub(super) sessions: Vec<Taken>,
}

/// A run that is over: ended, or with a machine that waits to collect what is owed.
pub(super) struct Over {
    pub(super) run: Run,
    pub(super) machine: Machine,
    pub(super) redactor: Redactor,
}

impl Conductor {
    pub(super) fn new(
        ports: Ports,
        limits: Limits,
        run: Run,
        stop: Stop,
        budget: Budget,
        progress: Option<mpsc::Sender<String>>,
    ) -> Self {
        Self {
            ports,
            limits,
            run,
            stop,
            budget,
            progress,
            clock: Clock::start(),
            redactor: Redactor::default(),
            machine: Machine::new(),
            request: None,
            cut: None,
            sessions: Vec::new(),
        }
    }

    /// From the start until it is over.
    pub(super) async fn conduct(mut self, request: RunRequest) -> Over {
        let patterns = request.rule.as_ref().map(|rule| rule.spec.redact.clone()).unwrap_or_default();
        self.redactor = Redactor::new(&patterns);
        self.run.rehearsal = request.rehearsal;
        self.request = Some(request);
        self.feed(Event::Start).await;
        self.over()
    }

    /// What a dead process left.
    pub(super) async fn settle(mut self, machine: Machine, orders: Vec<Order>) -> Over {
        self.machine = machine;
        self.note_state();
        if let Some(event) = self.carry_out(orders).await {
            self.feed(event).await;
        }
        self.over()
    }

    /// Tries again what is owed.
    pub(super) async fn collect(mut self, machine: Machine, redactor: Redactor) -> Over {
        (self.machine, self.redactor) = (machine, redactor);
        self.feed(Event::Collect).await;
        self.over()
    }

    fn over(self) -> Over {
        Over { run: self.run, machine: self.machine, redactor: self.redactor }
    }

    async fn feed(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            let orders = match self.machine.step(event) {
                Ok(orders) => orders,
                Err(illegal) => {
                    tracing::error!(run = self.run.id, %illegal, "the run cannot go on");
                    self.run.failures.push(Failure::new(FailureKind::Bug, illegal.to_string()));
                    return;
                }
            };
            self.note_state();
            next = self.carry_out(orders).await;
        }
    }

    fn note_state(&mut self) {
        self.run.phase = self.machine.phase();
        #[cfg(test)]
        super::hooks::entered(self.run.phase);
        self.run.failures = self.machine.failures().to_vec();
        self.run.ignored = self.machine.ignored().to_vec();
    }

    async fn carry_out(&mut self, orders: Vec<Order>) -> Option<Event> {
        for order in orders {
            let event = self.carry_out_one(order).await;
            if event.is_some() {
                return event;
            }
        }
        None
    }

    async fn carry_out_one(&mut self, order: Order) -> Option<Event> {
        #[cfg(test)]
        if let Some(event) = self.break_order(&order).await {
            return event;
        }
        if order.lets_go() {
            let Self { budget, run, limits, .. } = self;
            budget.let_go(|| allowance(run, limits));
        }
        match order {
            Order::Plan => Some(self.plan().await),
            Order::TakeTurn => Some(self.take_turn().await),
            Order::Choose => Some(self.choose().await),
            Order::Owe(steps) => self.owe(steps).await,
            Order::Note => {
                self.note().await;
                None
            }
            Order::Prepare(step) => Some(self.prepare(step).await),
            Order::Open => Some(self.open().await),
            Order::Take(step) => Some(self.hold(|index, _| index == step).await),
            Order::Hold => Some(self.hold(|_, hold| hold.take == Take::Last).await),
            Order::Cut => Some(self.take_cut().await),
            Order::Check => Some(self.check().await),
            Order::Release => Some(self.release().await),
            Order::Confirm => self.confirm().await,
            Order::Seal => Some(self.seal().await),
            Order::Abandon => {
                self.cut = None;
                self.say("the cut is given up".to_owned());
                None
            }
            Order::Undo(step) => Some(self.undo(step).await),
            Order::Wait => {
                let owed: Vec<String> = self.run.owed().map(crate::run::Debt::in_words).collect();
                self.say(format!("OVERDUE, still owed to the application: {}", owed.join(", ")));
                self.note().await;
                None
            }
            Order::Finish => {
                self.finish().await;
                None
            }
        }
    }

    /// A run that another process has taken over can no longer be written: what it did may be undone by now.
    async fn confirm(&mut self) -> Option<Event> {
        self.persist().await.err().map(Event::JournalFailed)
    }

    async fn note(&mut self) {
        if let Err(why) = self.persist().await {
            tracing::error!(run = self.run.id, %why, "the run goes on without its journal");
        }
    }

    /// Whether another process has the run by now. What is pending of it is that one's.
    pub(super) fn is_lost(&self) -> bool {
        self.ports.journal.ownership(&self.run.name) == Ownership::Lost
    }

    /// Ends here what another process ends, without a word in the record, which is not ours any more.
    fn hand_over(&mut self) {
        let why = "another controller has taken the run over and undoes what was done; ask again when that has ended";
        tracing::warn!(run = self.run.id, why);
        self.run.debts.clear();
        self.run.phase = Phase::Failed;
        if self.run.failures.iter().all(|failure| failure.kind != FailureKind::Journal) {
            self.run.failures.push(Failure::new(FailureKind::Journal, why).passing(true));
        }
    }

    async fn finish(&mut self) {
        if self.is_lost() {
            return self.hand_over();
        }
        self.run.ended_at = Some(self.clock.at(tokio::time::Instant::now()));
        self.say(self.run.verdict().to_owned());
        if let Err(why) = self.persist().await {
            tracing::error!(run = self.run.id, %why, "the end of a run was not written down");
            self.run.failures.push(why);
        }
    }

    pub(super) async fn persist(&mut self) -> Result<(), Failure> {
        let fail = |why: String| Failure::new(FailureKind::Journal, why).passing(true);
        self.run.budget = Some(self.budget.as_recorded());
        let writing = self.ports.journal.persist(&self.run);
        match self.budget.within_at_least(LAST_WORDS, self.limits.journal, writing).await {
            Ok(written) => written.map_err(|error| fail(error.to_string())),
            Err(late) => Err(fail(too_slow("the journal was not written", late))),
        }
    }

    pub(super) fn pods(&self, parallel: usize) -> Pods {
        Pods { hands: self.hands(), parallel }
    }

    /// How many pods of a step are worked with at the same time.
    pub(super) fn parallel(&self, step: usize) -> usize {
        parallel_of(&self.run, step, &self.limits)
    }

    pub(super) fn hands(&self) -> Hands {
        Hands {
            run: self.run.name.clone(),
            ports: self.ports.clone(),
            clock: self.clock,
            budget: self.budget.clone(),
            grace: self.limits.command_grace,
            redactor: self.redactor.clone(),
        }
    }

    pub(super) fn steps(&self) -> Vec<PlannedStep> {
        self.run.plan.as_ref().map(|plan| plan.steps.clone()).unwrap_or_default()
    }

    pub(super) fn step(&self, index: usize) -> Option<PlannedStep> {
        self.run.plan.as_ref().and_then(|plan| plan.steps.get(index).cloned())
    }

    pub(super) fn say(&self, line: String) {
        tracing::info!(run = self.run.id, "{line}");
        if let Some(progress) = &self.progress {
            // A reader that is slow or gone misses lines; the record has everything.
            let _ = progress.try_send(line);
        }
    }
}

/// How many pods of a step are worked with at the same time, by its rule or by default.
pub(super) fn parallel_of(run: &Run, step: usize, limits: &Limits) -> usize {
    let planned = run.plan.as_ref().and_then(|plan| plan.steps.get(step));
    let asked = planned.and_then(|step| usize::try_from(step.parallel?).ok());
    asked.unwrap_or(limits.parallel_pods).max(1)
}

pub(super) fn too_slow(what: &str, Late(waited): Late) -> String {
    let waited = Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
    format!("{what} within {waited:?}; it was given up; see the logs of the hosts")
}

/// A failure that only a defect of this program brings about.
pub(super) fn bug(why: &str) -> Failure {
    Failure::new(FailureKind::Bug, format!("{why}; report this"))
}
