//! One run: the machine's orders become calls of the ports, their answers become events.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::machine::{Event, Machine, Order, Outline, StepFailure, StepOutline};
use crate::plan::{Action, Plan, PlannedCommand, PlannedStep, Target};
use crate::ports::{CutReport, CutRequest, OpenCut, SealRequest, Session, SessionRequest, StorageLevel};
use crate::run::{Attempt, CutOutcome, Debt, DebtState, Level, Run};

use super::pods::{Clock, Job, Others, Pods, micros, summary};
use super::stop::Stop;
use super::{Limits, Ports, RunRequest, make_plan};

pub(super) struct Conductor {
    ports: Ports,
    limits: Limits,
    run: Run,
    stop: Stop,
    progress: Option<mpsc::Sender<String>>,
    clock: Clock,
    machine: Machine,
    request: Option<RunRequest>,
    cut: Option<Box<dyn OpenCut>>,
    sessions: Vec<Taken>,
}

/// A session that holds.
struct Taken {
    step: usize,
    attempt: Attempt,
    since: tokio::time::Instant,
    session: Box<dyn Session>,
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
            made = make_plan(&self.ports, &self.limits, request) => made,
            why = self.stop.clone().wait() => return Event::Cancelled(why),
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
        let stop = self.stop.clone().wait();
        let ended = pods(&self.ports, &self.limits, self.clock)
            .run(jobs, Others::Spared, stop, |done| {
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
        let stop = self.stop.clone().wait();
        match self.in_pods(&step.name, Action::Before, jobs, Others::Spared, stop).await {
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
        stop: impl Future<Output = String>,
    ) -> Result<Result<(), String>, String> {
        let from = self.run.attempts.len();
        let debts = &mut self.run.debts;
        let attempts = &mut self.run.attempts;
        let ended = pods(&self.ports, &self.limits, self.clock)
            .run(jobs, others, stop, |done| {
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
            opened = timeout(self.limits.open, cutter.open(asked)) => opened,
            why = self.stop.clone().wait() => return Event::Cancelled(why),
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

    /// Takes the sessions of all steps at the same time.
    async fn hold(&mut self) -> Event {
        let mut tasks = tokio::task::JoinSet::new();
        for (index, step) in self.steps().into_iter().enumerate() {
            let Some(hold) = step.hold.clone() else { continue };
            for target in step.doing(Action::Hold).cloned() {
                let exec = std::sync::Arc::clone(&self.ports.exec);
                let (name, clock) = (step.name.clone(), self.clock);
                let request = SessionRequest {
                    target: target.at.clone(),
                    argv: hold.argv.clone(),
                    send: hold.send.clone(),
                    ready: hold.ready.clone(),
                    limit: hold.limit(),
                    output_limit: crate::api::defaults::OUTPUT_BYTES as usize,
                };
                let bound = hold.limit() + self.limits.command_grace;
                tasks.spawn(async move {
                    let since = tokio::time::Instant::now();
                    let attempt = session_attempt(&name, target, &request.argv, clock.at(since));
                    let opened = timeout(bound, exec.session(request)).await;
                    (index, attempt, since, opened)
                });
            }
        }
        let stop = self.stop.clone().wait();
        tokio::pin!(stop);
        let mut failures = Vec::new();
        loop {
            let next = tokio::select! {
                next = tasks.join_next() => next,
                why = &mut stop => return Event::Cancelled(why),
            };
            match next {
                None => break,
                Some(Ok((step, attempt, since, Ok(Ok(session))))) => {
                    self.sessions.push(Taken { step, attempt, since, session });
                }
                Some(Ok((step, attempt, since, Ok(Err(error))))) => {
                    failures.push(self.session_failed(step, attempt, since, error.to_string()));
                }
                Some(Ok((step, attempt, since, Err(_)))) => {
                    failures.push(self.session_failed(
                        step,
                        attempt,
                        since,
                        "it did not say that it holds in time".into(),
                    ));
                }
                Some(Err(error)) => failures.push(StepFailure {
                    why: format!("a session's task ended: {error}; report this"),
                    meaning: crate::api::OnFailure::Abort,
                }),
            }
        }
        self.say(format!("{} sessions hold", self.sessions.len()));
        Event::Held(failures)
    }

    fn session_failed(
        &mut self,
        step: usize,
        mut attempt: Attempt,
        since: tokio::time::Instant,
        why: String,
    ) -> StepFailure {
        attempt.duration_us = micros(since.elapsed());
        attempt.error = Some(why);
        let meaning = self.step(step).map(|step| step.on_failure).unwrap_or_default();
        let words = summary(&attempt.step, Action::Hold, &[&attempt]).unwrap_or_default();
        self.run.attempts.push(attempt);
        StepFailure { why: words, meaning }
    }

    async fn cut(&mut self) -> Event {
        let Some(cut) = &mut self.cut else {
            return Event::Cut(Err("no cut was prepared; report this".to_owned()));
        };
        let ended = tokio::select! {
            biased;
            ended = timeout(self.limits.cut, cut.cut()) => ended,
            why = self.stop.clone().wait() => return Event::Cancelled(why),
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

    /// Asks every session at the same time whether it held all along.
    async fn check(&mut self) -> Event {
        let steps = self.steps();
        let mut tasks = tokio::task::JoinSet::new();
        for mut taken in std::mem::take(&mut self.sessions) {
            let hold = steps.get(taken.step).and_then(|step| step.hold.clone());
            let bound = hold.as_ref().map_or(Duration::ZERO, crate::plan::PlannedHold::limit);
            let grace = self.limits.command_grace;
            tasks.spawn(async move {
                let probe = hold.as_ref().and_then(|hold| hold.probe.as_ref());
                let proof = match timeout(bound + grace, taken.session.prove(probe)).await {
                    Ok(proof) => proof.map_err(|error| error.to_string()),
                    Err(_) => Err("it did not answer in time".to_owned()),
                };
                (taken, proof)
            });
        }
        let mut failures = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok((taken, Ok(()))) => self.sessions.push(taken),
                Ok((taken, Err(why))) => {
                    let Taken { step, attempt, since, session } = taken;
                    drop(session);
                    let why = format!("it could not prove that it held during the cut: {why}");
                    failures.push(self.session_failed(step, attempt, since, why));
                }
                Err(error) => failures.push(StepFailure {
                    why: format!("a session's task ended: {error}; report this"),
                    meaning: crate::api::OnFailure::Abort,
                }),
            }
        }
        Event::Checked(failures)
    }

    async fn release(&mut self) -> Event {
        let steps = self.steps();
        let proven = self.run.failures.is_empty();
        let mut tasks = tokio::task::JoinSet::new();
        for taken in std::mem::take(&mut self.sessions) {
            let hold = steps.get(taken.step).and_then(|step| step.hold.clone());
            let bound = hold.as_ref().map_or(Duration::ZERO, crate::plan::PlannedHold::limit);
            let grace = self.limits.command_grace;
            tasks.spawn(async move {
                let Taken { mut attempt, since, session, .. } = taken;
                // A session of a failed run is only let go: its last lines are for a cut that exists.
                let finish = hold.filter(|_| proven).map(|hold| hold.finish).unwrap_or_default();
                let ended = timeout(bound + grace, session.release(&finish)).await;
                attempt.duration_us = micros(since.elapsed());
                match ended {
                    Ok(Ok(outcome)) => {
                        attempt.exit_code = Some(outcome.exit_code);
                        attempt.output = outcome.output;
                        attempt.omitted_bytes = outcome.omitted_bytes;
                        if outcome.exit_code != 0 {
                            attempt.error = Some(format!("exit code {}", outcome.exit_code));
                        }
                    }
                    Ok(Err(error)) => attempt.error = Some(error.to_string()),
                    Err(_) => attempt.error = Some("it did not end in time".to_owned()),
                }
                attempt
            });
        }
        let mut failures = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(attempt) => {
                    failures.extend(summary(&attempt.step, Action::Hold, &[&attempt]));
                    self.run.attempts.push(attempt);
                }
                Err(error) => failures.push(format!("a session's task ended: {error}; report this")),
            }
        }
        Event::Released(failures)
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

    fn steps(&self) -> Vec<PlannedStep> {
        self.run.plan.as_ref().map(|plan| plan.steps.clone()).unwrap_or_default()
    }

    fn step(&self, index: usize) -> Option<PlannedStep> {
        self.run.plan.as_ref().and_then(|plan| plan.steps.get(index).cloned())
    }

    fn say(&self, line: String) {
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

fn session_attempt(step: &str, target: Target, argv: &[String], started_at: jiff::Timestamp) -> Attempt {
    Attempt {
        step: step.to_owned(),
        action: Action::Hold,
        target: target.at,
        host: target.host,
        command: crate::plan::render::command_line(argv),
        started_at,
        duration_us: 0,
        exit_code: None,
        output: String::new(),
        omitted_bytes: 0,
        error: None,
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
