//! A run's turn: it waits for runs that use what it uses ([`crate::turns`]), at most [`super::Limits::turn`].

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::failure::{Failure, FailureKind};
use crate::machine::Event;
use crate::turns::{Decision, OpenRun, Turn, decide};

use super::conduct::{Conductor, bug, too_slow};
use super::make_plan;
use super::steps::{outline, planning_failure};

/// Between two looks, when nothing is told meanwhile; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What a run waits for is written down at most so often while it changes.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// How waiting ended without a turn.
enum NoTurn {
    Stopped(Failure),
    Failed(Failure),
}

/// What a waiting run remembers.
struct Waiting {
    deadline: Instant,
    pause: Duration,
    /// When what it waits for was last written down.
    noted: Option<Instant>,
    /// It has waited, so its plan may be of yesterday.
    is_stale: bool,
}

impl Conductor {
    pub(super) async fn take_turn(&mut self) -> Event {
        #[cfg(test)]
        if super::hooks::is(super::hooks::Broken::TakesNoTurn) {
            return self.turn_begun();
        }
        match self.wait_for_turn().await {
            Ok(()) => self.turn_begun(),
            Err(NoTurn::Stopped(why)) => Event::Cancelled(why),
            Err(NoTurn::Failed(why)) => Event::Turn(Err(why)),
        }
    }

    fn turn_begun(&self) -> Event {
        let Some(plan) = &self.run.plan else { return Event::Turn(Err(bug("there is no plan"))) };
        Event::Turn(Ok(outline(plan)))
    }

    async fn wait_for_turn(&mut self) -> Result<(), NoTurn> {
        let asked = self.request.as_ref().and_then(|request| request.waiting_since);
        self.run.turn = Some(Turn::waiting(asked.unwrap_or_else(Timestamp::now)));
        let mut waiting = Waiting {
            deadline: Instant::now() + self.limits.turn,
            pause: FIRST_PAUSE,
            noted: None,
            is_stale: false,
        };
        loop {
            match self.decision().await? {
                Decision::Go if std::mem::take(&mut waiting.is_stale) => {
                    self.plan_again().await?;
                    if self.has_claimed() {
                        self.claim(true).await?;
                    }
                }
                Decision::Go if self.has_claimed() => return Ok(()),
                Decision::Go => {
                    self.claim(true).await?;
                    waiting.pause = FIRST_PAUSE;
                }
                Decision::Look(other) => self.wait_for(other, &mut waiting).await?,
                Decision::Wait(other) => {
                    if self.has_claimed() {
                        self.claim(false).await?;
                    }
                    self.wait_for(other, &mut waiting).await?;
                }
            }
        }
    }

    fn has_claimed(&self) -> bool {
        self.run.turn.as_ref().is_some_and(|turn| turn.claimed)
    }

    /// Writes a claim down, or that it is taken back.
    async fn claim(&mut self, claimed: bool) -> Result<(), NoTurn> {
        if let Some(turn) = &mut self.run.turn {
            turn.claimed = claimed;
            turn.waits_for = turn.waits_for.take().filter(|_| !claimed);
        }
        self.persist().await.map_err(NoTurn::Failed)
    }

    async fn decision(&mut self) -> Result<Decision, NoTurn> {
        let asking = self.budget.within(self.limits.plan, self.ports.journal.open_runs(&self.run));
        let failed = |why: String| NoTurn::Failed(Failure::new(FailureKind::Journal, why).passing(true));
        let others = asking.await.map_err(|late| failed(too_slow("open runs were not listed", late)))?;
        let others = others.map_err(|error| failed(error.to_string()))?;
        Ok(decide(&OpenRun::of(&self.run, String::new(), true), &others))
    }

    /// Pods may have come and gone while it waited.
    async fn plan_again(&mut self) -> Result<(), NoTurn> {
        let Some(request) = &self.request else { return Err(NoTurn::Failed(bug("nothing was asked for"))) };
        let made = tokio::select! {
            biased;
            why = self.stop.clone().wait() => return Err(NoTurn::Stopped(why)),
            made = make_plan(&self.ports, &self.limits, request) => made,
        };
        self.run.plan = Some(made.map_err(|error| NoTurn::Failed(planning_failure(&error)))?);
        Ok(())
    }

    /// Until something may have changed.
    async fn wait_for(&mut self, other: String, waiting: &mut Waiting) -> Result<(), NoTurn> {
        let known = self.run.turn.as_ref().and_then(|turn| turn.waits_for.as_ref());
        if known != Some(&other) && waiting.noted.is_none_or(|at| at.elapsed() >= NOTE_EVERY) {
            self.say(format!("waiting for {other}"));
            if let Some(turn) = &mut self.run.turn {
                turn.waits_for = Some(other.clone());
            }
            self.persist().await.map_err(NoTurn::Failed)?;
            waiting.noted = Some(Instant::now());
        }
        waiting.is_stale = true;
        let left = waiting.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoTurn::Failed(self.waited_too_long(&other)));
        }
        let journal = std::sync::Arc::clone(&self.ports.journal);
        let pause = waiting.pause.min(left);
        waiting.pause = (waiting.pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            biased;
            why = self.stop.clone().wait() => Err(NoTurn::Stopped(why)),
            () = journal.run_ended() => Ok(()),
            () = sleep(pause) => Ok(()),
        }
    }

    fn waited_too_long(&self, other: &str) -> Failure {
        let why = format!(
            "no snapshot was taken: waited {:?} for {other}; an application is worked with by one run at a time; ask again \
             when that run has ended (one whose pending cleanup cannot be done must be given up, see docs/rules.md)",
            self.limits.turn
        );
        Failure::new(FailureKind::Waiting, why).passing(true)
    }
}
