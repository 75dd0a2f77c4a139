//! The time of one run. Every wait of the engine takes its time from here, so nothing is waited for without an end.
//!
//! A run has two purses, one after the other. Going in, it may prepare and cut until its budget is used up; then, or
//! whenever something fails, it lets go, and has as long for that as its sessions, the seal and all its `after`s with
//! all their tries may take ([`allowance`]). When the process ends, what is left is what is left of its grace: whatever
//! is not undone by then is on record, and the next process goes on.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::api::defaults;
use crate::plan::PlannedCommand;
use crate::run::{Run, TimeBudget};

use super::Limits;
use super::conduct::parallel_of;

/// When the process ends, whoever still works; nothing while it goes on.
pub(super) type Closing = watch::Receiver<Option<Instant>>;

/// What is left of a run's time. Clones count the same time.
#[derive(Clone)]
pub(super) struct Budget {
    stage: Stage,
    /// How long it could go in.
    whole: Duration,
    closing: Option<Closing>,
    /// The last of the process's time is shared among so many.
    sharers: u32,
}

#[derive(Clone, Copy)]
enum Stage {
    /// Preparing and cutting.
    GoingIn { by: Instant },
    /// Releasing, sealing, undoing.
    LettingGo { by: Instant },
}

/// Something did not end in the time that it had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Late(pub(super) Duration);

impl Budget {
    /// Of a run that begins.
    pub(super) fn of_run(whole: Duration, closing: Option<Closing>) -> Self {
        Self { stage: Stage::GoingIn { by: Instant::now() + whole }, whole, closing, sharers: 1 }
    }

    /// Of a run that only lets go, as those that a dead process has left.
    pub(super) fn of_undoing(allowed: Duration, closing: Option<Closing>) -> Self {
        let by = Instant::now() + allowed;
        Self { stage: Stage::LettingGo { by }, whole: Duration::ZERO, closing, sharers: 1 }
    }

    /// From now on it lets go, for so long. Only the first time counts.
    pub(super) fn let_go(&mut self, allowed: impl FnOnce() -> Duration) {
        if matches!(self.stage, Stage::GoingIn { .. }) {
            self.stage = Stage::LettingGo { by: Instant::now() + allowed() };
        }
    }

    /// For one of so many who share the last of the process's time.
    pub(super) fn shared_among(&self, sharers: usize) -> Self {
        Self { sharers: u32::try_from(sharers.max(1)).unwrap_or(u32::MAX), ..self.clone() }
    }

    /// Until when it may go in, and how long that was.
    pub(super) fn going_in(&self) -> Option<(Instant, Duration)> {
        match self.stage {
            Stage::GoingIn { by } => Some((by, self.whole)),
            Stage::LettingGo { .. } => None,
        }
    }

    /// What is left now.
    pub(super) fn left(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Whether the process is about to end.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.borrow().is_some())
    }

    /// How long a command may take that asks for `timeout`. While letting go, enough is kept back to end it.
    pub(super) fn for_command(&self, timeout: Duration, grace: Duration) -> Duration {
        let left = self.left();
        match self.stage {
            Stage::GoingIn { .. } => timeout.min(left),
            Stage::LettingGo { .. } => timeout.min(left.saturating_sub(grace.min(left / 4))),
        }
    }

    /// Waits for `work`, at most `limit` and never longer than what is left. Nothing is begun when nothing is left.
    pub(super) async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T, Late> {
        #[cfg(test)]
        if super::hooks::is(super::hooks::Broken::WaitsForEver) {
            return Ok(work.await);
        }
        let began = Instant::now();
        let mut closing = self.closing.clone();
        tokio::pin!(work);
        loop {
            let deadline = self.deadline().min(began + limit);
            if deadline <= Instant::now() {
                return Err(Late(began.elapsed()));
            }
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(deadline) => return Err(Late(began.elapsed())),
                () = changed(&mut closing) => {}
            }
        }
    }

    /// As [`Budget::within`] for what must be tried even when nothing is left, as writing that down.
    pub(super) async fn within_at_least<T>(
        &self,
        least: Duration,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let began = Instant::now();
        let allowed = limit.min(self.left().max(least));
        tokio::time::timeout(allowed, work).await.map_err(|_| Late(began.elapsed()))
    }

    /// For the record.
    pub(super) fn as_recorded(&self) -> TimeBudget {
        TimeBudget {
            until_cut_ms: whole_ms(self.whole),
            letting_go: matches!(self.stage, Stage::LettingGo { .. }),
            left_ms: whole_ms(self.left()),
        }
    }

    fn deadline(&self) -> Instant {
        let (Stage::GoingIn { by } | Stage::LettingGo { by }) = self.stage;
        let Some(end) = self.closing.as_ref().and_then(|closing| *closing.borrow()) else { return by };
        let now = Instant::now();
        by.min(now + end.saturating_duration_since(now) / self.sharers)
    }
}

/// How long letting go may take: sessions asked and released, the seal, and each `after` that is owed with all its
/// tries, in as many turns as its pods need.
pub(super) fn allowance(run: &Run, limits: &Limits) -> Duration {
    let steps = run.plan.iter().flat_map(|plan| &plan.steps);
    let longest_session = steps.filter_map(|step| Some(step.hold.as_ref()?.limit())).max();
    let sessions = longest_session.map_or(Duration::ZERO, |limit| (limit + limits.command_grace) * 2);
    let writes = u32::try_from(run.debts.len() + 2).unwrap_or(u32::MAX);
    let fixed = sessions.saturating_add(limits.seal).saturating_add(limits.journal.saturating_mul(writes));
    let owed = run.owed().map(|debt| debt.step).collect::<std::collections::BTreeSet<_>>();
    owed.into_iter().fold(fixed, |sum, step| sum.saturating_add(of_step(run, step, limits)))
}

fn of_step(run: &Run, step: usize, limits: &Limits) -> Duration {
    let debts = || run.owed().filter(|debt| debt.step == step);
    let turns = debts().count().div_ceil(parallel_of(run, step, limits));
    let longest = debts().map(|debt| of_command(&debt.command, limits)).max().unwrap_or_default();
    // And the proof that what it undoes has ended.
    let longest = longest.saturating_add(defaults::END_TIMEOUT);
    longest.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
}

fn of_command(command: &PlannedCommand, limits: &Limits) -> Duration {
    let times = command.retry.times;
    let pauses = defaults::RETRY_PAUSE_MAX.saturating_mul(times);
    command.timeout().saturating_add(limits.command_grace).saturating_mul(times + 1).saturating_add(pauses)
}

/// A sender that is gone can no longer end anything.
async fn changed(closing: &mut Option<Closing>) {
    let told = match closing {
        Some(closing) => closing.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending::<()>().await;
    }
}

fn whole_ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
