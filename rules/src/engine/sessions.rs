//! Sessions: taken together, proven together, let go together.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use crate::api::OnFailure;
use crate::machine::{Event, StepFailure};
use crate::plan::render::command_line;
use crate::plan::{Action, PlannedHold, Target};
use crate::ports::{Session, SessionRequest};
use crate::run::Attempt;

use super::conduct::Conductor;
use super::pods::{Clock, micros, summary};

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
    /// Takes the sessions of all steps at the same time.
    pub(super) async fn hold(&mut self) -> Event {
        let mut opening = JoinSet::new();
        for (index, step) in self.steps().into_iter().enumerate() {
            let Some(hold) = &step.hold else { continue };
            for target in step.doing(Action::Hold) {
                let exec = Arc::clone(&self.ports.exec);
                let request = request(hold, target);
                let bound = hold.limit() + self.limits.command_grace;
                let trace = Trace::start(index, &step.name, target, &hold.argv, self.clock);
                opening.spawn(async move {
                    let opened = timeout(bound, exec.session(request)).await;
                    (trace, flat(opened, "it did not say that it holds in time"))
                });
            }
        }
        let cancel = self.stop.clone().wait();
        tokio::pin!(cancel);
        let mut failures = Vec::new();
        loop {
            let next = tokio::select! {
                next = opening.join_next() => next,
                why = &mut cancel => return Event::Cancelled(why),
            };
            match next {
                None => break,
                Some(Ok((trace, Ok(session)))) => self.sessions.push(Taken { trace, session }),
                Some(Ok((trace, Err(why)))) => failures.push(self.session_failed(trace, why)),
                Some(Err(error)) => failures.push(task_ended(&error)),
            }
        }
        self.say(format!("{} sessions hold", self.sessions.len()));
        Event::Held(failures)
    }

    /// Asks every session at the same time whether it held all along.
    pub(super) async fn check(&mut self) -> Event {
        let mut asking = JoinSet::new();
        for mut taken in std::mem::take(&mut self.sessions) {
            let hold = self.hold_of(&taken);
            let bound = self.bound(hold.as_ref());
            asking.spawn(async move {
                let probe = hold.as_ref().and_then(|hold| hold.probe.as_ref());
                let answer = timeout(bound, taken.session.prove(probe)).await;
                (taken, flat(answer, "it did not answer in time"))
            });
        }
        let mut failures = Vec::new();
        while let Some(ended) = asking.join_next().await {
            match ended {
                Ok((taken, Ok(()))) => self.sessions.push(taken),
                Ok((Taken { trace, session }, Err(why))) => {
                    drop(session);
                    let why = format!("it could not prove that it held during the cut: {why}");
                    failures.push(self.session_failed(trace, why));
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
            let bound = self.bound(hold.as_ref());
            ending.spawn(async move {
                let finish = hold.filter(|_| proven).map(|hold| hold.finish).unwrap_or_default();
                let Taken { mut trace, session } = taken;
                let ended = timeout(bound, session.release(&finish)).await;
                trace.attempt.duration_us = micros(trace.since.elapsed());
                match flat(ended, "it did not end in time") {
                    Ok(outcome) => trace.attempt.outcome(outcome),
                    Err(why) => trace.attempt.error = Some(why),
                }
                trace.attempt
            });
        }
        let mut failures = Vec::new();
        while let Some(ended) = ending.join_next().await {
            match ended {
                Ok(attempt) => {
                    failures.extend(summary(&attempt.step, Action::Hold, &[&attempt]));
                    self.run.attempts.push(attempt);
                }
                Err(error) => failures.push(task_ended(&error).why),
            }
        }
        Event::Released(failures)
    }

    fn session_failed(&mut self, trace: Trace, why: String) -> StepFailure {
        let Trace { step, mut attempt, since } = trace;
        attempt.duration_us = micros(since.elapsed());
        attempt.error = Some(why);
        let meaning = self.step(step).map(|step| step.on_failure).unwrap_or_default();
        let why = summary(&attempt.step, Action::Hold, &[&attempt]).unwrap_or_default();
        self.run.attempts.push(attempt);
        StepFailure { why, meaning }
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
            command: command_line(argv),
            started_at: clock.at(since),
            duration_us: 0,
            exit_code: None,
            output: String::new(),
            omitted_bytes: 0,
            error: None,
        };
        Self { step, attempt, since }
    }
}

fn request(hold: &PlannedHold, target: &Target) -> SessionRequest {
    SessionRequest {
        target: target.at.clone(),
        argv: hold.argv.clone(),
        send: hold.send.clone(),
        ready: hold.ready.clone(),
        limit: hold.limit(),
        output_limit: crate::api::defaults::OUTPUT_BYTES as usize,
    }
}

/// In time and well, or why not.
fn flat<T, E: std::fmt::Display, L>(ended: Result<Result<T, E>, L>, late: &str) -> Result<T, String> {
    match ended {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(late.to_owned()),
    }
}

fn task_ended(error: &JoinError) -> StepFailure {
    StepFailure {
        why: format!("a session's task ended: {error}; nothing is known of it; report this"),
        meaning: OnFailure::Abort,
    }
}
