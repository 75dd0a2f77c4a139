//! Sessions: taken together, proven together, let go together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::api::{OnFailure, OnLost};
use crate::failure::{Failure, FailureKind};
use crate::machine::{Event, StepFailure};
use crate::plan::render::command_line;
use crate::plan::{Action, PlannedHold, Target};
use crate::ports::{ExecError, Mark, Session, SessionRequest};
use crate::run::{Attempt, AttemptFault};

use super::attempt::{Clock, Fault, Hands, micros};
use super::conduct::Conductor;
use super::pods::{not_begun, summary};

/// What it means that a session did not hold to its end.
const VOID: &str = "the cut is void";

/// A session that holds.
pub(super) struct Taken {
    trace: Trace,
    session: Box<dyn Session>,
}

/// What its record needs.
struct Trace {
    step: usize,
    attempt: Attempt,
    since: Instant,
}

impl Conductor {
    /// Takes the `wanted` sessions of all steps at the same time; so many of a step begin at once as its pods are worked with in
    /// parallel.
    pub(super) async fn hold(&mut self, wanted: impl Fn(usize, &PlannedHold) -> bool) -> Event {
        let mut opening = JoinSet::new();
        for (index, step) in self.steps().into_iter().enumerate() {
            let Some(hold) = step.hold.as_ref().filter(|hold| wanted(index, hold)) else { continue };
            let turns = Arc::new(Semaphore::new(self.parallel(index)));
            for target in step.doing(Action::Hold) {
                let (hands, turns) = (self.hands(), Arc::clone(&turns));
                let (hold, target, name) = (hold.clone(), target.clone(), step.name.clone());
                let mark = Mark::of(&self.run.id, &name, &target.at);
                opening.spawn(async move {
                    let _turn = turns.acquire().await;
                    let mut trace = Trace::start(index, &name, &target, &hold.argv, hands.clock);
                    let taken = take(&hands, &hold, &target, mark).await;
                    trace.attempt.held_after_us = taken.is_ok().then(|| micros(trace.since.elapsed()));
                    (trace, taken)
                });
            }
        }
        let cancel = self.stop.clone().wait();
        tokio::pin!(cancel);
        let mut failures = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                why = &mut cancel => return Event::Cancelled(why),
                next = opening.join_next() => next,
            };
            match next {
                None => break,
                Some(Ok((trace, Ok(session)))) => self.sessions.push(Taken { trace, session }),
                Some(Ok((trace, Err(fault)))) => failures.push(self.not_taken(trace, fault)),
                Some(Err(error)) => failures.push(task_ended(&error)),
            }
        }
        self.run.session_skew_us = self.session_skew();
        self.say(format!("{} sessions hold", self.sessions.len()));
        Event::Held(failures)
    }

    /// Between the first and the last that said that it holds.
    fn session_skew(&self) -> Option<u64> {
        let ready = |taken: &Taken| {
            let after = taken.trace.attempt.held_after_us.unwrap_or(0);
            taken.trace.attempt.started_at.as_microsecond().saturating_add_unsigned(after)
        };
        let all: Vec<i64> = self.sessions.iter().map(ready).collect();
        let (first, last) = (all.iter().min()?, all.iter().max()?);
        Some(last.abs_diff(*first))
    }

    /// Asks every session at the same time whether it held all along.
    pub(super) async fn check(&mut self) -> Event {
        let mut asking = JoinSet::new();
        for mut taken in std::mem::take(&mut self.sessions) {
            let hold = self.hold_of(&taken);
            let (bound, budget) = (self.bound(hold.as_ref()), self.budget.clone());
            asking.spawn(async move {
                let probe = hold.as_ref().and_then(|hold| hold.probe.as_ref());
                let answer = budget.within(bound, taken.session.prove(probe)).await;
                (taken, flat(answer, "it did not answer in time"))
            });
        }
        let mut failures = Vec::new();
        while let Some(ended) = asking.join_next().await {
            match ended {
                Ok((taken, Ok(()))) => self.sessions.push(taken),
                Ok((Taken { trace, session }, Err(mut fault))) => {
                    drop(session);
                    fault.why = format!("it could not prove that it held during the cut: {}", fault.why);
                    failures.push(self.lost(trace, fault));
                }
                Err(error) => failures.push(task_ended(&error)),
            }
        }
        Event::Checked(failures)
    }

    /// Lets every session go at the same time. One of a failed run gets no last lines: they are for a cut that
    /// exists.
    pub(super) async fn release(&mut self) -> Event {
        let proven = self.run.failures.is_empty();
        let mut ending = JoinSet::new();
        for taken in std::mem::take(&mut self.sessions) {
            let hold = self.hold_of(&taken);
            let (bound, budget) = (self.bound(hold.as_ref()), self.budget.clone());
            let redactor = self.redactor.clone();
            ending.spawn(async move {
                let finish = hold.filter(|_| proven).map(|hold| hold.finish).unwrap_or_default();
                let Taken { mut trace, session } = taken;
                let ended = budget.within(bound, session.release(&finish)).await;
                trace.attempt.duration_us = micros(trace.since.elapsed());
                match flat(ended, "it did not end in time") {
                    Ok(outcome) => {
                        trace.attempt.exit_code = Some(outcome.exit_code);
                        trace.attempt.output = redactor.clean(&outcome.output);
                        trace.attempt.omitted_bytes = outcome.omitted_bytes;
                        if outcome.exit_code != 0 {
                            let why = format!("exit code {}", outcome.exit_code);
                            trace.failed(Fault::new(AttemptFault::Answer, why));
                        }
                    }
                    Err(fault) => {
                        trace.attempt.output = redactor.clean(&fault.output);
                        trace.failed(Fault::new(fault.kind, redactor.clean(&fault.why)));
                    }
                }
                trace.attempt
            });
        }
        let mut failures = Vec::new();
        while let Some(ended) = ending.join_next().await {
            match ended {
                Ok(attempt) => {
                    let failed = summary(&attempt.step, Action::Hold, &[&attempt], VOID);
                    failures.extend(failed.map(|why| Failure { kind: FailureKind::Release, ..why }));
                    self.run.attempts.push(attempt);
                }
                Err(error) => failures.push(task_ended(&error).why),
            }
        }
        Event::Released(failures)
    }

    fn not_taken(&mut self, trace: Trace, fault: Fault) -> StepFailure {
        let meaning = self.step(trace.step).map(|step| step.on_failure).unwrap_or_default();
        StepFailure { why: self.session_failed(trace, fault, not_begun(meaning)), meaning }
    }

    fn lost(&mut self, trace: Trace, fault: Fault) -> StepFailure {
        let hold = self.step(trace.step).and_then(|step| step.hold);
        let meaning = match hold.map(|hold| hold.on_lost).unwrap_or_default() {
            OnLost::Abort => OnFailure::Abort,
            OnLost::Degrade => OnFailure::Degrade,
        };
        let consequence = match meaning {
            OnFailure::Abort => VOID,
            OnFailure::Degrade | OnFailure::Ignore => "the cut counts at a lower level",
        };
        let why = self.session_failed(trace, fault, consequence);
        StepFailure { why: Failure { kind: FailureKind::Lost, ..why }, meaning }
    }

    fn session_failed(&mut self, mut trace: Trace, fault: Fault, consequence: &str) -> Failure {
        trace.attempt.output = self.redactor.clean(&fault.output);
        trace.failed(Fault::new(fault.kind, self.redactor.clean(&fault.why)));
        let Trace { mut attempt, since, .. } = trace;
        attempt.duration_us = micros(since.elapsed());
        let why = summary(&attempt.step, Action::Hold, &[&attempt], consequence);
        self.run.attempts.push(attempt);
        why.unwrap_or_else(|| super::conduct::bug("a session failed without a reason"))
    }

    fn hold_of(&self, taken: &Taken) -> Option<PlannedHold> {
        self.step(taken.trace.step).and_then(|step| step.hold)
    }

    fn bound(&self, hold: Option<&PlannedHold>) -> Duration {
        hold.map_or(Duration::ZERO, PlannedHold::limit) + self.limits.command_grace
    }
}

impl Trace {
    fn start(step: usize, name: &str, target: &Target, argv: &[String], clock: Clock) -> Self {
        let since = Instant::now();
        let attempt = Attempt {
            step: name.to_owned(),
            action: Action::Hold,
            target: target.at.clone(),
            host: target.host.clone(),
            number: 1,
            command: command_line(argv),
            started_at: clock.at(since),
            duration_us: 0,
            exit_code: None,
            http_status: None,
            held_after_us: None,
            output: String::new(),
            omitted_bytes: 0,
            error: None,
            fault: None,
        };
        Self { step, attempt, since }
    }

    fn failed(&mut self, fault: Fault) {
        self.attempt.error = Some(fault.why);
        self.attempt.fault = Some(fault.kind);
    }
}

async fn take(
    hands: &Hands,
    hold: &PlannedHold,
    target: &Target,
    mark: Mark,
) -> Result<Box<dyn Session>, Fault> {
    let request = SessionRequest {
        target: target.at.clone(),
        argv: hold.argv.clone(),
        env: hands.values(&target.at.namespace, &hold.env).await?,
        mark,
        send: hold.send.clone(),
        ready: hold.ready.clone(),
        limit: hold.limit(),
        heartbeat: hold.heartbeat_ms.map(Duration::from_millis),
        output_limit: crate::api::defaults::OUTPUT_BYTES as usize,
    };
    let bound = hold.limit() + hands.grace;
    let taking = hands.budget.within(bound, hands.ports.exec.session(request));
    flat(taking.await, "it did not say that it holds in time")
}

/// In time and well, or why not.
fn flat<T, L>(ended: Result<Result<T, ExecError>, L>, late: &str) -> Result<T, Fault> {
    match ended {
        Ok(result) => result.map_err(Fault::from),
        Err(_) => Err(Fault::new(AttemptFault::MayRun, late)),
    }
}

fn task_ended(error: &JoinError) -> StepFailure {
    StepFailure {
        why: super::conduct::bug(&format!("a session's task ended: {error}; nothing is known of it")),
        meaning: OnFailure::Abort,
    }
}
