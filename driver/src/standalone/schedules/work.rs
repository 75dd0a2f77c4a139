//! One run of a schedule: takes the cut, or finds it, and says what became of it. No policy but how often to try.

use std::sync::Arc;
use std::time::Duration;

use stillpoint_guard::fault::point;
use stillpoint_rules::executor::{FoundCut, OpenRun, Outcome, What};
use stillpoint_rules::failure::{self, FailureKind};
use stillpoint_rules::retain::Verdict;
use stillpoint_rules::run::Run;
use tokio::sync::{mpsc, watch};

use crate::domain::{Code, Fault, Level};
use crate::standalone::operator::{CutAndRun, Operator, Origin, SnapshotOrder};
use crate::standalone::selection::Wanted;
use crate::text_file;

/// Attempts of one run: a volume that is busy with another cut is free again soon.
pub(super) const ATTEMPTS: u32 = 3;
/// Before the next attempt, times the attempts so far.
const PAUSE: Duration = Duration::from_secs(3);
/// Between two looks for a cut of which a silent host keeps it from being known whether it exists.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two times that a run is told to stop: it may not have begun the first time.
const STOP_EVERY: Duration = Duration::from_secs(1);
/// A rule that is larger than this is not one; the rules engine has its own, smaller limit.
const RULE_LIMIT: u64 = 1 << 20;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Takes the cut. What has its name already is somebody else's.
    Take,
    /// Looks for the cut of an earlier process, and takes it if it is not there.
    TakeAgain,
    /// Looks for the cut of an earlier process.
    LookFor,
}

/// A run.
pub(super) struct Work {
    pub(super) operator: Arc<Operator>,
    pub(super) what: What,
    pub(super) run: OpenRun,
    pub(super) mode: Mode,
    /// The longest that it may take; the executor stops it before.
    pub(super) budget: Duration,
    /// Becomes the reason when the run shall stop.
    pub(super) stop: watch::Receiver<Option<String>>,
    /// Who follows it.
    pub(super) progress: Option<mpsc::Sender<String>>,
}

/// A failure and whether it may have left a cut.
struct Failed {
    fault: Fault,
    passing: bool,
}

impl Work {
    /// To the end, which comes soon after it was told to stop.
    pub(super) async fn done(mut self) -> Outcome {
        let outcome = match self.mode {
            Mode::Take => self.attempts().await,
            Mode::TakeAgain => match self.look().await {
                Ok(Some(found)) => Outcome::Made(found),
                Ok(None) => self.attempts().await,
                Err(why) => Outcome::Unknown(why),
            },
            Mode::LookFor => match self.look().await {
                Ok(Some(found)) => Outcome::Made(found),
                Ok(None) => Outcome::Failed(
                    "the controller ended in the middle of the run, before its cut was made; what it had done to \
                     applications is undone"
                        .to_owned(),
                ),
                Err(why) => Outcome::Unknown(why),
            },
        };
        point("controller.schedule.cut");
        outcome
    }

    async fn attempts(&mut self) -> Outcome {
        let mut attempt = 1;
        let failed = loop {
            let failed = match self.attempt(attempt).await {
                Ok(found) => return Outcome::Made(found),
                Err(failed) => failed,
            };
            if !failed.passing || attempt == ATTEMPTS || self.was_stopped().await {
                break failed;
            }
            tracing::info!(cut = self.run.cut, fault = %failed.fault, attempt, "a scheduled run is tried again");
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        };
        let Failed { fault, passing } = failed;
        if !passing {
            return Outcome::Failed(fault.message);
        }
        // What was not confirmed may have become real.
        match self.found().await {
            Ok(Some(found)) => Outcome::Made(found),
            Ok(None) => Outcome::Failed(fault.message),
            Err(_) => Outcome::Unknown(fault.message),
        }
    }

    async fn attempt(&mut self, number: u32) -> Result<FoundCut, Failed> {
        if let Some(why) = self.stop.borrow().clone() {
            // An attempt before this one may have left something.
            let passing = number > 1;
            return Err(Failed { fault: Fault::precondition(format!("no cut was made: {why}")), passing });
        }
        let final_fault = |fault| Failed { fault, passing: false };
        let order = self.order().await.map_err(final_fault)?;
        let (lines, mut told) = mpsc::channel::<String>(64);
        let progress = self.progress.clone();
        let forward = async move {
            while let Some(line) = told.recv().await {
                let _ = progress.as_ref().map(|progress| progress.try_send(line));
            }
        };
        let stopping =
            stop_again_and_again(Arc::clone(&self.operator), self.run.cut.clone(), self.stop.clone());
        let taking = async { tokio::join!(self.operator.take(order, lines), forward).0 };
        let taken = tokio::select! {
            taken = taking => taken,
            never = stopping => match never {},
        };
        match taken {
            Ok((cut, Origin::Made)) => Ok(self.as_found(&cut)),
            Ok((cut, Origin::Found)) if self.is_ours(&cut, number) => Ok(self.as_found(&cut)),
            Ok((cut, Origin::Found)) => Err(final_fault(Fault::already_exists(format!(
                "a cut called {} exists that this schedule did not make (taken {}); delete or keep it, the schedule \
                 leaves it alone",
                self.run.cut, cut.record.cut_at
            )))),
            Err(fault) => Err(Failed { passing: is_passing(&fault), fault }),
        }
    }

    /// A cut that was there already is ours where an attempt of ours came before, and it is younger than the run.
    fn is_ours(&self, cut: &CutAndRun, attempt: u32) -> bool {
        (attempt > 1 || self.mode != Mode::Take) && cut.record.cut_at >= self.run.started
    }

    /// The same as a snapshot by hand asks for. The rule is read anew for every run.
    async fn order(&self) -> Result<SnapshotOrder, Fault> {
        let rule = match self.what.rule.clone() {
            None => String::new(),
            Some(path) => tokio::task::spawn_blocking(move || text_file::read(&path, RULE_LIMIT))
                .await
                .map_err(|error| Fault::internal(format!("reading the rule died: {error}")))?
                .map_err(|error| Fault::invalid(format!("cannot use the rule {error}")))?,
        };
        Ok(SnapshotOrder {
            name: self.run.cut.clone(),
            wanted: Wanted { selectors: self.what.selectors.clone(), volumes: self.what.volumes.clone() },
            rule,
            namespaces: self.what.namespaces.clone(),
            params: self.what.params.clone(),
            budget: Some(self.budget),
            ..SnapshotOrder::default()
        })
    }

    /// Looks for the cut until every host has answered, or the run is told to stop.
    async fn look(&mut self) -> Result<Option<FoundCut>, String> {
        loop {
            let fault = match self.found().await {
                Ok(found) => return Ok(found),
                Err(fault) => fault,
            };
            let stopped = tokio::time::timeout(LOOK_EVERY, self.stop.wait_for(Option::is_some)).await;
            if stopped.is_ok() {
                return Err(format!(
                    "it could not be learned whether the cut {} exists: {fault}",
                    self.run.cut
                ));
            }
        }
    }

    async fn found(&self) -> Result<Option<FoundCut>, Fault> {
        let found = self.operator.find(&self.run.cut).await?;
        Ok(found.filter(|cut| cut.record.cut_at >= self.run.started).map(|cut| self.as_found(&cut)))
    }

    fn as_found(&self, cut: &CutAndRun) -> FoundCut {
        found_cut(cut, self.what.rule.is_some())
    }

    /// Whether somebody wants it to end: the executor, or a person who has cancelled it.
    async fn was_stopped(&self) -> bool {
        let stopped = |run: &Run| run.failures.iter().any(|failure| failure.kind == FailureKind::Stopped);
        let cancelled = match self.operator.last_run(&self.run.cut).await {
            Ok(run) => run.is_some_and(|run| stopped(&run)),
            // What cannot be told is not repeated.
            Err(_) => true,
        };
        cancelled || self.stop.borrow().is_some()
    }
}

/// A cut and whether it is good: it reached what its rule asks for. What failed after the cut (an `after`) is a remark.
pub(super) fn found_cut(cut: &CutAndRun, with_rule: bool) -> FoundCut {
    let record = &cut.record;
    let whole = !with_rule || record.level == Level::Application;
    let (verdict, remark) = match &cut.run {
        None if whole => (Verdict::Good, String::new()),
        None => {
            (Verdict::Failed, format!("its run is not on record, and it is of level {} only", record.level))
        }
        Some(run) if run.succeeded() => (Verdict::Good, String::new()),
        Some(run) => {
            let good = only_afterwards(run) || (whole && only_interrupted(run));
            let verdict = if good { Verdict::Good } else { Verdict::Failed };
            (verdict, format!("its run {}: {}", run.verdict(), failure::in_words(&run.failures)))
        }
    };
    FoundCut {
        id: record.handle().to_string(),
        at: record.cut_at,
        level: record.level.to_string(),
        verdict,
        remark,
    }
}

fn only_afterwards(run: &Run) -> bool {
    run.failures.iter().all(|failure| matches!(failure.kind, FailureKind::After | FailureKind::Gone))
}

/// The process died after the cut was sealed: what had to be done before was done.
fn only_interrupted(run: &Run) -> bool {
    let harmless = [FailureKind::After, FailureKind::Gone, FailureKind::Orphaned, FailureKind::Stopped];
    run.failures.iter().all(|failure| harmless.contains(&failure.kind))
}

/// Whether the same may succeed when it is asked for again soon, and whether something may have been left.
fn is_passing(fault: &Fault) -> bool {
    match fault.code {
        Code::Aborted | Code::Unavailable | Code::Deadline => true,
        Code::Invalid
        | Code::NotFound
        | Code::AlreadyExists
        | Code::Exhausted
        | Code::OutOfRange
        | Code::Precondition
        | Code::Denied
        | Code::Unimplemented
        | Code::Internal => false,
    }
}

/// Never ends.
async fn stop_again_and_again(
    operator: Arc<Operator>,
    cut: String,
    mut stop: watch::Receiver<Option<String>>,
) -> std::convert::Infallible {
    let told = stop.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
    // Without a reason: nobody can tell it any more.
    let Some(why) = told else { return std::future::pending().await };
    loop {
        operator.stop(&cut, &why);
        tokio::time::sleep(STOP_EVERY).await;
    }
}
