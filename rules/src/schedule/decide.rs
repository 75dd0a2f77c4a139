//! What to do now.

use std::time::Duration;

use jiff::Timestamp;

use super::{Activity, Schedule, between, later, limits};

/// What is known about a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// When it was created or last resumed, whichever is later. What was due until then is not made up for.
    pub since: Timestamp,
    /// The due instant (not the start) of the last run that was started or skipped.
    pub handled: Option<Timestamp>,
    /// Its run that has not ended.
    pub running: Option<Running>,
    /// The clock.
    pub now: Timestamp,
}

/// A run that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// When it started.
    pub started: Timestamp,
    /// How long it may take.
    pub limit: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing; ask again at `until` (for ever when `None`), and whenever a fact changes.
    Wait {
        /// When something may be due.
        until: Option<Timestamp>,
        /// Why nothing is to be done.
        why: WaitReason,
    },
    /// Start a run. Record `due` as handled before starting it.
    Start {
        /// The instant it was due.
        due: Timestamp,
        /// How much later than planned (due and jitter) it starts.
        late: Duration,
        /// Earlier runs that are not made up for, counted up to [`limits::MISSED`].
        missed: u32,
        /// What comes first.
        prior: Prior,
    },
    /// Record that runs are not made up for: `through` becomes handled. Then ask again.
    Skip {
        /// The last due instant that is skipped.
        through: Timestamp,
        /// How many are skipped, counted up to [`limits::MISSED`].
        missed: u32,
        /// Why.
        why: SkipReason,
    },
}

/// Why nothing is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// Nothing is due.
    NotDue,
    /// It is suspended.
    Suspended,
    /// A run is due, and the one before has not ended and is within its limit.
    StillRunning,
}

/// Why runs are not made up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// They are later than `catchUp` allows.
    TooLate,
}

/// What must happen before a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prior {
    /// Nothing.
    Nothing,
    /// The run before is beyond its limit: give it up, which undoes it. The schedule does not wait for it.
    GiveUpRunning,
}

/// What to do with a schedule, from facts alone.
///
/// After downtime only the last missed run is started, and only within `catchUp`; the others are counted.
pub fn decide(schedule: &Schedule, facts: &Facts) -> Decision {
    if schedule.activity == Activity::Suspended {
        return Decision::Wait { until: None, why: WaitReason::Suspended };
    }
    let from = handled_until(facts);
    let Some(due) = latest_started(schedule, facts.now).filter(|due| *due > from) else {
        let until = schedule.next_due(from).map(|due| schedule.start_of(due));
        return Decision::Wait { until, why: WaitReason::NotDue };
    };
    let missed = missed_before(schedule, from, due);
    let late = between(schedule.start_of(due), facts.now);
    if late > schedule.catch_up {
        let missed = missed.saturating_add(1).min(limits::MISSED);
        return Decision::Skip { through: due, missed, why: SkipReason::TooLate };
    }
    let prior = match facts.running {
        None => Prior::Nothing,
        Some(run) => {
            let end = later(run.started, run.limit);
            if facts.now < end {
                return Decision::Wait { until: Some(end), why: WaitReason::StillRunning };
            }
            Prior::GiveUpRunning
        }
    };
    Decision::Start { due, late, missed, prior }
}

/// Up to where due instants need no attention.
fn handled_until(facts: &Facts) -> Timestamp {
    let believable = later(facts.now, limits::CLOCK_STEP);
    match facts.handled {
        // A clock that was years ahead for a moment must not stop the schedule for years.
        Some(handled) if handled <= believable => handled.max(facts.since.min(believable)),
        Some(_) | None => facts.since.min(believable),
    }
}

/// The last due instant whose start is not in the future. Starts come before the next due instant, so it is the last
/// due one or the one before.
fn latest_started(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let last = schedule.last_due(now)?;
    if schedule.start_of(last) <= now {
        return Some(last);
    }
    let before = last.checked_sub(Duration::from_nanos(1)).ok()?;
    schedule.last_due(before)
}

/// Due instants after `from` and before `due`.
fn missed_before(schedule: &Schedule, from: Timestamp, due: Timestamp) -> u32 {
    let mut count = 0;
    let mut at = from;
    while let Some(next) = schedule.next_due(at).filter(|next| *next < due && count < limits::MISSED) {
        count += 1;
        at = next;
    }
    count
}
