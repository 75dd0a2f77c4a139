//! One action in many pods at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::plan::render::command_line;
use crate::plan::{Action, PlannedCommand};
use crate::ports::{ExecError, ExecOutcome, ExecRequest, PodExec, PodTarget};
use crate::run::Attempt;

/// Wall-clock instants that keep their distances when the wall clock is set: one reading, then monotonic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall: Timestamp,
    mono: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { wall: Timestamp::now(), mono: Instant::now() }
    }

    pub(super) fn at(&self, instant: Instant) -> Timestamp {
        let since =
            SignedDuration::try_from(instant.saturating_duration_since(self.mono)).unwrap_or_default();
        self.wall.saturating_add(since).unwrap_or(self.wall)
    }
}

/// One command to be run in one pod.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Whatever the caller wants to find the job again by.
    pub(super) tag: usize,
    pub(super) step: String,
    pub(super) action: Action,
    pub(super) target: PodTarget,
    pub(super) host: String,
    pub(super) command: PlannedCommand,
}

/// What happens to pods whose turn has not come when another one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They are not begun.
    Spared,
    /// They are done all the same.
    Done,
}

/// A job that has ended: with its record, and whether its command exited with 0.
pub(super) struct Done {
    pub(super) tag: usize,
    pub(super) attempt: Attempt,
}

pub(super) struct Pods<'a> {
    pub(super) exec: &'a Arc<dyn PodExec>,
    pub(super) clock: Clock,
    pub(super) parallel: usize,
    pub(super) grace: Duration,
}

impl Pods<'_> {
    /// Runs all jobs, `parallel` at a time. When `stop` ends first, what runs is given up and recorded as such,
    /// and the reason is returned.
    pub(super) async fn run(
        &self,
        jobs: Vec<Job>,
        others: Others,
        stop: impl Future<Output = String>,
        mut ended: impl FnMut(Done),
    ) -> Result<(), String> {
        let mut waiting = jobs.into_iter();
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<Id, (Job, Instant)> = BTreeMap::new();
        let mut failed = false;
        tokio::pin!(stop);
        loop {
            while tasks.len() < self.parallel.max(1) && !(failed && others == Others::Spared) {
                let Some(job) = waiting.next() else { break };
                let started = Instant::now();
                let handle = tasks.spawn(bounded(Arc::clone(self.exec), job.clone(), self.grace));
                running.insert(handle.id(), (job, started));
            }
            let next = tokio::select! {
                biased;
                next = tasks.join_next_with_id() => next,
                why = &mut stop => {
                    tasks.shutdown().await;
                    for (job, started) in running.into_values() {
                        ended(self.record(job, started, Err(format!("given up: {why}"))));
                    }
                    return Err(why);
                }
            };
            let (id, result) = match next {
                None => return Ok(()),
                Some(Ok((id, result))) => (id, result.map_err(Ended::from)),
                Some(Err(error)) => (error.id(), Err(Ended::from(format!("its task ended: {error}")))),
            };
            let Some((job, started)) = running.remove(&id) else { continue };
            let done = self.finish(job, started, result);
            failed |= done.attempt.error.is_some();
            ended(done);
        }
    }

    fn finish(&self, job: Job, started: Instant, result: Result<ExecOutcome, Ended>) -> Done {
        match result {
            Ok(outcome) => {
                let mut done = self.record(job, started, Ok(()));
                done.attempt.outcome(outcome);
                done
            }
            Err(Ended { why, output }) => {
                let mut done = self.record(job, started, Err(why));
                done.attempt.output = output;
                done
            }
        }
    }

    fn record(&self, job: Job, started: Instant, result: Result<(), String>) -> Done {
        let attempt = Attempt {
            step: job.step,
            action: job.action,
            target: job.target,
            host: job.host,
            command: command_line(&job.command.argv),
            started_at: self.clock.at(started),
            duration_us: micros(started.elapsed()),
            exit_code: None,
            output: String::new(),
            omitted_bytes: 0,
            error: result.err(),
        };
        Done { tag: job.tag, attempt }
    }
}

pub(super) fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

/// Why a command has no outcome.
struct Ended {
    why: String,
    output: String,
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self { why, output: String::new() }
    }
}

impl From<ExecError> for Ended {
    fn from(error: ExecError) -> Self {
        let why = error.to_string();
        match error {
            ExecError::TimedOut { output, .. } => Self { why, output },
            ExecError::PodChanged { .. } | ExecError::NotStarted { .. } | ExecError::Lost { .. } => {
                why.into()
            }
        }
    }
}

/// The adapter ends a command at its timeout; should it not, the engine does not wait for ever.
async fn bounded(exec: Arc<dyn PodExec>, job: Job, grace: Duration) -> Result<ExecOutcome, ExecError> {
    let timeout = job.command.timeout();
    let pod = format!("{}/{}", job.target.namespace, job.target.pod);
    let request = ExecRequest {
        target: job.target,
        argv: job.command.argv,
        timeout,
        output_limit: job.command.output_limit,
    };
    let lost = || ExecError::TimedOut { pod, limit: timeout, still_running: true, output: String::new() };
    tokio::time::timeout(timeout + grace, exec.exec(request)).await.unwrap_or_else(|_| Err(lost()))
}

/// `2 of 3 pods failed: a/b: exit code 1: what it printed; …`
pub(super) fn summary(step: &str, action: Action, attempts: &[&Attempt]) -> Option<String> {
    const SHOWN: usize = 3;
    let failed: Vec<&&Attempt> = attempts.iter().filter(|attempt| attempt.error.is_some()).collect();
    let first = failed.first()?;
    let word = match action {
        Action::Where => "where",
        Action::Before => "before",
        Action::Hold => "hold",
        Action::After => "after",
    };
    let each: Vec<String> = failed.iter().take(SHOWN).map(|attempt| one(attempt)).collect();
    let more = failed.len().checked_sub(SHOWN + 1).map_or(String::new(), |n| format!(", and {} more", n + 1));
    let consequence = match action {
        Action::Where | Action::Before | Action::Hold => "nothing is cut on that ground",
        Action::After => "the application is still owed this",
    };
    Some(format!(
        "step `{step}`: `{word}` failed in {} of {} pods: {}{more}; {consequence}; try `{}` in {}/{} by hand",
        failed.len(),
        attempts.len(),
        each.join(", "),
        first.command,
        first.target.namespace,
        first.target.pod,
    ))
}

fn one(attempt: &Attempt) -> String {
    const TAIL: usize = 200;
    let why = attempt.error.as_deref().unwrap_or_default();
    let said = attempt.output.trim();
    let skipped = said.chars().count().saturating_sub(TAIL);
    let tail: String = said.chars().skip(skipped).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let said = if tail.is_empty() { String::new() } else { format!(": {tail}") };
    format!("{}/{}: {why}{said}", attempt.target.namespace, attempt.target.pod)
}
