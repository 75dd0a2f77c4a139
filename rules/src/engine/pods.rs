//! One action in many pods at once.

use std::collections::BTreeMap;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::api::OnFailure;
use crate::failure::{Failure, FailureKind};
use crate::plan::Action;
use crate::run::{Attempt, AttemptFault};

use super::attempt::{Hands, Job, is_yes};

/// What happens to pods whose turn has not come when another one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They are not begun.
    Spared,
    /// They are done all the same.
    Done,
}

/// A job that has ended, with all its tries; the last one counts.
pub(super) struct Done {
    pub(super) tag: usize,
    pub(super) yes: bool,
    pub(super) attempts: Vec<Attempt>,
}

pub(super) struct Pods {
    pub(super) hands: Hands,
    pub(super) parallel: usize,
}

impl Pods {
    /// Runs all jobs, `parallel` at a time. When `stop` ends first, what runs is given up and recorded as such,
    /// and the reason is returned.
    pub(super) async fn run<Why>(
        &self,
        jobs: Vec<Job>,
        others: Others,
        stop: impl Future<Output = Why>,
        mut ended: impl FnMut(Done),
    ) -> Result<(), Why>
    where
        Why: std::fmt::Display,
    {
        let mut waiting = jobs.into_iter();
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<Id, (Job, Instant)> = BTreeMap::new();
        let mut failed = false;
        tokio::pin!(stop);
        loop {
            while tasks.len() < self.parallel.max(1) && !(failed && others == Others::Spared) {
                let Some(job) = waiting.next() else { break };
                let started = Instant::now();
                let (hands, work) = (self.hands.clone(), job.clone());
                let handle = tasks.spawn(async move { hands.work(&work).await });
                running.insert(handle.id(), (job, started));
            }
            let next = tokio::select! {
                biased;
                next = tasks.join_next_with_id() => next,
                why = &mut stop => {
                    tasks.shutdown().await;
                    for (job, started) in running.into_values() {
                        let attempts = vec![self.hands.given_up(&job, started, &why.to_string())];
                        ended(Done { tag: job.tag, yes: false, attempts });
                    }
                    return Err(why);
                }
            };
            let (id, result) = match next {
                None => return Ok(()),
                Some(Ok((id, attempts))) => (id, Ok(attempts)),
                Some(Err(error)) => (error.id(), Err(format!("its task ended: {error}"))),
            };
            let Some((job, started)) = running.remove(&id) else { continue };
            let attempts = result.unwrap_or_else(|why| vec![self.hands.given_up(&job, started, &why)]);
            let yes = attempts.last().is_some_and(|last| is_yes(&job, last));
            failed |= attempts.last().is_none_or(|last| last.error.is_some());
            ended(Done { tag: job.tag, yes, attempts });
        }
    }
}

/// `2 of 3 pods failed: a/b: exit code 1: what it printed; …`, from the last try in each pod.
/// `consequence` says what that means for the run.
pub(super) fn summary(step: &str, action: Action, last: &[&Attempt], consequence: &str) -> Option<Failure> {
    const SHOWN: usize = 3;
    let failed: Vec<&&Attempt> = last.iter().filter(|attempt| attempt.error.is_some()).collect();
    let first = failed.first()?;
    let more = failed.len().checked_sub(SHOWN + 1).map_or(String::new(), |n| format!(", and {} more", n + 1));
    let shown = || failed.iter().take(SHOWN);
    let alike = failed.len() > 1 && failed.iter().all(|attempt| reason(attempt) == reason(first));
    let why = if alike {
        // One reason for all is said once.
        let names: Vec<String> = shown().map(|attempt| name(attempt)).collect();
        format!("{}{more}: {}", names.join(", "), reason(first))
    } else {
        let each: Vec<String> =
            shown().map(|attempt| format!("{}: {}", name(attempt), said(attempt))).collect();
        each.join(", ") + &more
    };
    let gone = failed.iter().all(|attempt| attempt.fault == Some(AttemptFault::PodChanged));
    let consequence = if gone && action == Action::After { GONE } else { consequence };
    let message = format!(
        "step `{step}`: `{}` failed in {} of {} pods: {why}; {consequence}; try `{}` in {}/{} by hand",
        action.word(),
        failed.len(),
        last.len(),
        first.command,
        first.target.namespace,
        first.target.pod,
    );
    let kind = match action {
        Action::Where => FailureKind::Where,
        Action::Before => FailureKind::Before,
        Action::Hold => FailureKind::Hold,
        Action::After if gone => FailureKind::Gone,
        Action::After => FailureKind::After,
    };
    Some(Failure::of_step(kind, step, message))
}

/// What it means that a step could not be begun.
pub(super) const fn not_begun(meaning: OnFailure) -> &'static str {
    match meaning {
        OnFailure::Abort => "nothing is cut on that ground",
        OnFailure::Degrade => "the cut is taken without it, at a lower level",
        OnFailure::Ignore => "the rule allows that and the run goes on",
    }
}

/// What it means that the pod of an `after` is gone.
const GONE: &str = "what it would undo is gone with the pod, unless it was done to something that stays";
/// What it means that an `after` failed.
pub(super) const STILL_OWED: &str = "the application is still owed this";

fn name(attempt: &Attempt) -> String {
    format!("{}/{}", attempt.target.namespace, attempt.target.pod)
}

/// Why it failed, in words that are the same for pods that failed alike.
fn reason(attempt: &Attempt) -> String {
    said(attempt).replace(&name(attempt), "it")
}

/// Why it failed and what it printed last.
fn said(attempt: &Attempt) -> String {
    const TAIL: usize = 200;
    let why = attempt.error.as_deref().unwrap_or_default();
    let said = attempt.output.trim();
    let skipped = said.chars().count().saturating_sub(TAIL);
    let tail: String = said.chars().skip(skipped).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let said = if tail.is_empty() { String::new() } else { format!(": {tail}") };
    let tries = if attempt.number > 1 { format!(" (try {})", attempt.number) } else { String::new() };
    format!("{why}{said}{tries}")
}
