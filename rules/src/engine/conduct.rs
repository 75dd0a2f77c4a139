//! One run: the machine's orders become calls of the ports, their answers become events.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::machine::{Event, Machine, Order, Outline, StepOutline};
use crate::plan::{Action, Plan, PlannedCommand, PlannedStep, Target};
use crate::ports::{CutReport, CutRequest, OpenCut, SealRequest, StorageLevel};
use crate::run::{Attempt, CutOutcome, Debt, DebtState, Level, Run};

use super::pods::{Clock, Job, Others, Pods, summary};
use super::sessions::Taken;
use super::stop::Stop;
use super::{Limits, Ports, RunRequest, make_plan};

pub(super) struct Conductor {
    pub(super) ports: Ports,
    pub(super) limits: Limits,
    pub(super) run: Run,
    pub(super) stop: Stop,
    progress: Option<mpsc::Sender<String>>,
    pub(super) clock: Clock,
    machine: Machine,
    request: Option<RunRequest>,
    cut: Option<Box<dyn OpenCut>>,
    pub(super) sessions: Vec<Taken>,
}

impl Conductor {
    pub(super) fn new(
        ports: Ports,
        limits: Limits,
        run: Run,
        stop: Stop,
        progress: Option<mpsc::Sender<String>>,
    ) -> Self {
        Self {
            ports,
            limits,
            run,
            stop,
            progress,
            clock: Clock::start(),
            machine: Machine::new(),
            request: None,
            cut: None,
            sessions: Vec::new(),
        }
    }

    /// From the start to the end.
    pub(super) async fn conduct(mut self, request: RunRequest) -> Run {
        self.request = Some(request);
        self.feed(Event::Start).await;
        self.run
    }

    /// What a dead process left.
    pub(super) async fn settle(mut self, machine: Machine, orders: Vec<Order>) -> Run {
        self.machine = machine;
        self.note_state();
        if let Some(event) = self.carry_out(orders).await {
            self.feed(event).await;
        }
        self.run
    }

    async fn feed(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            let orders = match self.machine.step(event) {
                Ok(orders) => orders,
                Err(illegal) => {
                    tracing::error!(run = self.run.id, %illegal, "the run cannot go on");
                    self.run.failures.push(illegal.to_string());
                    return;
                }
            };
            self.note_state();
            next = self.carry_out(orders).await;
        }
    }

    fn note_state(&mut self) {
        self.run.phase = self.machine.phase();
        self.run.failures = self.machine.failures().to_vec();
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
        match order {
            Order::Plan => Some(self.plan().await),
            Order::Choose => Some(self.choose().await),
            Order::Owe(steps) => self.owe(steps).await,
            Order::Note => {
                if let Err(why) = self.persist().await {
                    tracing::error!(run = self.run.id, why, "the run goes on without its journal");
                }
                None
            }
            Order::Prepare(step) => Some(self.prepare(step).await),
            Order::Open => Some(self.open().await),
            Order::Hold => Some(self.hold().await),
            Order::Cut => Some(self.cut().await),
            Order::Check => Some(self.check().await),
            Order::Release => Some(self.release().await),
            Order::Seal => Some(self.seal().await),
            Order::Abandon => {
                self.cut = None;
                self.say("the cut is given up".to_owned());
                None
            }
            Order::Undo(step) => Some(self.undo(step).await),
            Order::Finish => {
                self.finish().await;
                None
            }
        }
    }

    async fn plan(&mut self) -> Event {
        let Some(request) = &self.request else {
            return Event::Planned(Err("nothing was asked for; report this".to_owned()));
        };
        let made = tokio::select! {
            biased;
            why = self.stop.clone().wait() => return Event::Cancelled(why),
            made = make_plan(&self.ports, &self.limits, request) => made,
        };
        match made {
            Ok(plan) => {
                let outline = outline(&plan);
                self.say(planned_line(&plan));
                self.run.plan = Some(plan);
                Event::Planned(Ok(outline))
            }
            Err(error) => Event::Planned(Err(error.to_string())),
        }
    }

    async fn choose(&mut self) -> Event {
        let Some(plan) = self.run.plan.clone() else {
            return Event::Chosen(Err("there is no plan; report this".to_owned()));
        };
        let mut jobs = Vec::new();
        let mut places = Vec::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let Some(question) = &step.question else { continue };
            for target in step.doing(Action::Where) {
                jobs.push(job(places.len(), &step.name, Action::Where, target, question));
                places.push((index, target.clone()));
            }
        }
        let mut yes = Vec::new();
        let from = self.run.attempts.len();
        let attempts = &mut self.run.attempts;
        let cancel = self.stop.clone().wait();
        let ended = pods(&self.ports, &self.limits, self.clock)
            .run(jobs, Others::Spared, cancel, |done| {
                if done.attempt.exit_code == Some(0) {
                    yes.push(places[done.tag].clone());
                }
                attempts.push(done.attempt);
            })
            .await;
        if let Err(why) = ended {
            return Event::Cancelled(why);
        }
        for step in &plan.steps {
            let asked: Vec<&Attempt> =
                self.run.attempts[from..].iter().filter(|attempt| attempt.step == step.name).collect();
            if let Some(why) = summary(&step.name, Action::Where, &asked) {
                return Event::Chosen(Err(why));
            }
        }
        match plan.answered(|step, target| yes.iter().any(|(at, who)| *at == step && who == target)) {
            Ok(plan) => {
                self.run.plan = Some(plan);
                Event::Chosen(Ok(()))
            }
            Err(error) => Event::Chosen(Err(error.to_string())),
        }
    }

    /// Writes down what the first `steps` steps will owe.
    async fn owe(&mut self, steps: usize) -> Option<Event> {
        let known = self.run.debts.len();
        let first = self.run.debts.iter().map(|debt| debt.step + 1).max().unwrap_or(0);
        let new: Vec<Debt> = self.run.plan.iter().flat_map(|plan| debts(plan, first, steps)).collect();
        self.run.debts.extend(new);
        match self.persist().await {
            Ok(()) => None,
            Err(why) => {
                self.run.debts.truncate(known);
                Some(Event::JournalFailed(why))
            }
        }
    }

    async fn prepare(&mut self, index: usize) -> Event {
        let Some(step) = self.step(index) else {
            return Event::Prepared(index, Ok(()));
        };
        let jobs = match &step.before {
            Some(command) => step
                .doing(Action::Before)
                .map(|target| job(0, &step.name, Action::Before, target, command))
                .collect(),
            None => Vec::new(),
        };
        let cancel = self.stop.clone().wait();
        match self.in_pods(&step.name, Action::Before, jobs, Others::Spared, cancel).await {
            Ok(result) => Event::Prepared(index, result),
            Err(why) => Event::Cancelled(why),
        }
    }

    /// Runs jobs of one step; the outer error is the reason to stop, the inner one what failed.
    async fn in_pods(
        &mut self,
        step: &str,
        action: Action,
        jobs: Vec<Job>,
        others: Others,
        cancel: impl Future<Output = String>,
    ) -> Result<Result<(), String>, String> {
        let from = self.run.attempts.len();
        let debts = &mut self.run.debts;
        let attempts = &mut self.run.attempts;
        let ended = pods(&self.ports, &self.limits, self.clock)
            .run(jobs, others, cancel, |done| {
                if action == Action::After
                    && let Some(debt) = debts.get_mut(done.tag)
                {
                    let paid = done.attempt.error.is_none();
                    debt.state = if paid { DebtState::Paid } else { DebtState::Unpaid };
                }
                attempts.push(done.attempt);
            })
            .await;
        let tried: Vec<&Attempt> = self.run.attempts[from..].iter().collect();
        let failed = summary(step, action, &tried);
        let word = if failed.is_some() { "failed" } else { "done" };
        let line = format!("step {step}: {action:?} {word} in {} pods", tried.len());
        self.say(line);
        ended.map(|()| failed.map_or(Ok(()), Err))
    }

    async fn open(&mut self) -> Event {
        let Some(request) = &self.request else {
            return Event::Opened(Err("nothing was asked for; report this".to_owned()));
        };
        let volumes = request.volumes.iter().map(|volume| volume.id.clone()).collect();
        let asked = CutRequest { name: request.name.clone(), volumes };
        let cutter = std::sync::Arc::clone(&self.ports.cutter);
        let opened = tokio::select! {
            biased;
            why = self.stop.clone().wait() => return Event::Cancelled(why),
            opened = timeout(self.limits.open, cutter.open(asked)) => opened,
        };
        match opened {
            Ok(Ok(cut)) => {
                self.cut = Some(cut);
                self.say("hosts are prepared".to_owned());
                Event::Opened(Ok(()))
            }
            Ok(Err(error)) => {
                self.run.retry |= error.retry;
                Event::Opened(Err(format!("hosts could not be prepared: {error}")))
            }
            Err(_) => Event::Opened(Err(too_slow("hosts were not prepared", self.limits.open))),
        }
    }

    async fn cut(&mut self) -> Event {
        let Some(cut) = &mut self.cut else {
            return Event::Cut(Err("no cut was prepared; report this".to_owned()));
        };
        let ended = tokio::select! {
            biased;
            why = self.stop.clone().wait() => return Event::Cancelled(why),
            ended = timeout(self.limits.cut, cut.cut()) => ended,
        };
        match ended {
            Ok(Ok(report)) => {
                self.say(format!("cut: window {} µs, skew {} µs", report.window_us, report.skew_us));
                self.record_cut(report);
                Event::Cut(Ok(()))
            }
            Ok(Err(error)) => {
                self.run.retry |= error.retry;
                Event::Cut(Err(format!("the cut failed and nothing is held: {error}")))
            }
            Err(_) => Event::Cut(Err(too_slow("the cut did not end", self.limits.cut))),
        }
    }

    fn record_cut(&mut self, report: CutReport) {
        self.run.reasons.extend(report.reasons);
        self.run.cut = Some(CutOutcome {
            id: report.cut_id,
            sealed: false,
            level: report.level,
            hold_requested_at: report.hold_requested_at,
            window_us: report.window_us,
            skew_us: report.skew_us,
        });
    }

    async fn seal(&mut self) -> Event {
        let Some(cut) = self.cut.take() else {
            return Event::Sealed(Err("there is no cut to seal; report this".to_owned()));
        };
        let at_one_instant = self.run.cut.as_ref().is_some_and(|cut| cut.level != StorageLevel::Crash);
        let application = self.machine.application() && at_one_instant;
        let reasons = self.machine.degraded().to_vec();
        let sealed =
            timeout(self.limits.seal, cut.seal(SealRequest { application, reasons: reasons.clone() })).await;
        match sealed {
            Ok(Ok(())) => {
                self.run.reasons.extend(reasons);
                self.record_seal(application);
                Event::Sealed(Ok(()))
            }
            Ok(Err(error)) => {
                self.run.retry |= error.retry;
                Event::Sealed(Err(format!("the cut could not be made real: {error}")))
            }
            Err(_) => {
                self.run.retry = true;
                Event::Sealed(Err(too_slow("the cut was not made real", self.limits.seal)))
            }
        }
    }

    fn record_seal(&mut self, application: bool) {
        if let Some(cut) = &mut self.run.cut {
            cut.sealed = true;
            self.run.level = Some(match (application, cut.level) {
                (true, _) => Level::Application,
                (false, StorageLevel::Crash) => Level::Crash,
                (false, StorageLevel::Group) => Level::Group,
                (false, StorageLevel::Filesystem) => Level::Filesystem,
            });
        }
        self.say("the cut is sealed".to_owned());
    }

    /// Pays the debts of one step. Nothing stops this.
    async fn undo(&mut self, index: usize) -> Event {
        let owed = self.run.debts.iter().enumerate();
        let jobs: Vec<Job> = owed
            .filter(|(_, debt)| debt.step == index && debt.state == DebtState::Owed)
            .map(|(tag, debt)| Job {
                tag,
                step: debt.step_name.clone(),
                action: Action::After,
                target: debt.target.clone(),
                host: debt.host.clone(),
                command: debt.command.clone(),
            })
            .collect();
        let Some(name) = jobs.first().map(|job| job.step.clone()) else {
            return Event::Undone(index, Ok(()));
        };
        let never = std::future::pending();
        let result = self.in_pods(&name, Action::After, jobs, Others::Done, never).await;
        Event::Undone(index, result.unwrap_or_else(Err))
    }

    async fn finish(&mut self) {
        self.run.ended_at = Some(self.clock.at(tokio::time::Instant::now()));
        self.say(self.run.verdict().to_owned());
        if let Err(why) = self.persist().await {
            tracing::error!(run = self.run.id, why, "the end of a run was not written down");
            self.run.failures.push(why);
        }
    }

    async fn persist(&mut self) -> Result<(), String> {
        match timeout(self.limits.journal, self.ports.journal.persist(&self.run)).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(_) => Err(too_slow("the journal was not written", self.limits.journal)),
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

fn pods<'a>(ports: &'a Ports, limits: &Limits, clock: Clock) -> Pods<'a> {
    Pods { exec: &ports.exec, clock, parallel: limits.parallel_pods, grace: limits.command_grace }
}

fn outline(plan: &Plan) -> Outline {
    let step = |step: &PlannedStep| StepOutline {
        before: step.before.is_some(),
        hold: step.hold.is_some(),
        after: step.after.is_some(),
        on_failure: step.on_failure,
    };
    Outline { steps: plan.steps.iter().map(step).collect(), questions: plan.has_questions() }
}

fn debts(plan: &Plan, from: usize, to: usize) -> Vec<Debt> {
    let mut debts = Vec::new();
    for (index, step) in plan.steps.iter().enumerate().take(to).skip(from) {
        let Some(command) = &step.after else { continue };
        debts.extend(step.doing(Action::After).map(|target| Debt {
            step: index,
            step_name: step.name.clone(),
            target: target.at.clone(),
            host: target.host.clone(),
            command: command.clone(),
            state: DebtState::Owed,
        }));
    }
    debts
}

fn job(tag: usize, step: &str, action: Action, target: &Target, command: &PlannedCommand) -> Job {
    Job {
        tag,
        step: step.to_owned(),
        action,
        target: target.at.clone(),
        host: target.host.clone(),
        command: command.clone(),
    }
}

fn planned_line(plan: &Plan) -> String {
    let pods: usize = plan.steps.iter().map(|step| step.targets.len()).sum();
    let volumes: usize = plan.hosts.iter().map(|host| host.volumes.len()).sum();
    format!(
        "planned: {} steps in {pods} pods, {volumes} volumes on {} hosts",
        plan.steps.len(),
        plan.hosts.len()
    )
}

fn too_slow(what: &str, limit: Duration) -> String {
    format!("{what} within {limit:?}; it was given up; see the logs of the hosts")
}
