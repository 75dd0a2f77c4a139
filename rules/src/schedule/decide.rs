//! What to do now.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Activity, Schedule, between, later, limits};

/// What is known about a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// When it was created. What was due until then is not made up for.
    pub since: Timestamp,
    /// The due instant (not the start) of the last run that was started or skipped.
    pub handled: Option<Timestamp>,
    /// Whether it is suspended, by whomever.
    pub activity: Activity,
    /// When this process began to look. What was due until then was due while nobody looked.
    pub watched_from: Timestamp,
    /// What stands in the way of a start.
    pub way: Way,
    /// The clock.
    pub now: Timestamp,
}

/// What stands in the way of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    Free,
    /// A run of this schedule has not ended.
    Running,
    /// As many runs of all schedules as may are under way.
    NoSlot,
    /// As many cuts as may are kept.
    Full,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing; ask again at `until` (for ever when `None`), and whenever a fact changes.
    Wait {
        /// When something may be due, or to be skipped.
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
    /// The clock was set back: what is recorded as handled lies in the future. Record `to` as handled, and that due
    /// instants from there on are counted anew: some of them may have been handled once already.
    Rewind {
        /// Up to here nothing needs attention.
        to: Timestamp,
    },
}

/// Why nothing is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// Nothing is due.
    NotDue,
    /// A run is due, and the one before has not ended.
    StillRunning,
    /// A run is due, and as many as may are under way.
    NoSlot,
}

/// Why runs are not made up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SkipReason {
    /// The schedule was suspended.
    Suspended,
    /// The run before had not ended.
    StillRunning,
    /// As many runs of all schedules as may were under way.
    NoSlot,
    /// The controller was down.
    Down,
    /// The controller did not look in time: the clock was set, or the machine stood still.
    Late,
    /// As many cuts as may are kept already.
    Full,
}

impl SkipReason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Suspended, Self::StillRunning, Self::NoSlot, Self::Down, Self::Late, Self::Full];

    /// As it is written in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::StillRunning => "still_running",
            Self::NoSlot => "no_slot",
            Self::Down => "down",
            Self::Late => "late",
            Self::Full => "full",
        }
    }

    /// As people read it.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Suspended => "the schedule was suspended",
            Self::StillRunning => "the run before had not ended",
            Self::NoSlot => "too many runs of other schedules were under way",
            Self::Down => "the controller was down",
            Self::Late => "nobody looked in time: the clock was set, or the machine stood still",
            Self::Full => "too many cuts are kept; give the schedule a retention",
        }
    }
}

/// What to do with a schedule, from facts alone.
///
/// Only the last one of several missed runs is started, and only within `catchUp`; the others are skipped first.
pub fn decide(schedule: &Schedule, facts: &Facts) -> Decision {
    let from = facts.handled.map_or(facts.since, |handled| handled.max(facts.since));
    if from > later(facts.now, limits::CLOCK_STEP) {
        return Decision::Rewind { to: facts.now };
    }
    let Some(due) = latest_started(schedule, facts.now).filter(|due| *due > from) else {
        let until = schedule.next_due(from).map(|due| schedule.start_of(due));
        return Decision::Wait { until, why: WaitReason::NotDue };
    };
    if facts.activity == Activity::Suspended {
        let missed = missed_before(schedule, from, due).saturating_add(1).min(limits::MISSED);
        return Decision::Skip { through: due, missed, why: SkipReason::Suspended };
    }
    let skip = |through, missed| Decision::Skip { through, missed, why: why_not_started(facts, through) };
    if let Some(before) = due_before(schedule, due).filter(|before| *before > from) {
        return skip(before, missed_before(schedule, from, due).max(1));
    }
    let start = schedule.start_of(due);
    let late = between(start, facts.now);
    if late > schedule.catch_up {
        return skip(due, 1);
    }
    // It waits until it is too late for it, or the next one takes its place.
    let next = schedule.next_due(due).map(|next| schedule.start_of(next));
    let too_late = later(later(start, schedule.catch_up), Duration::from_millis(1));
    let until = Some(next.map_or(too_late, |next| next.min(too_late)));
    match facts.way {
        Way::Free => Decision::Start { due, late },
        Way::Running => Decision::Wait { until, why: WaitReason::StillRunning },
        Way::NoSlot => Decision::Wait { until, why: WaitReason::NoSlot },
        Way::Full => Decision::Skip { through: due, missed: 1, why: SkipReason::Full },
    }
}

fn why_not_started(facts: &Facts, due: Timestamp) -> SkipReason {
    if due <= facts.watched_from {
        return SkipReason::Down;
    }
    match facts.way {
        Way::Free => SkipReason::Late,
        Way::Running => SkipReason::StillRunning,
        Way::NoSlot => SkipReason::NoSlot,
        Way::Full => SkipReason::Full,
    }
}

/// The last due instant whose start is not in the future. Starts come before the next due instant, so it is the last
/// due one or the one before.
fn latest_started(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let last = schedule.last_due(now)?;
    if schedule.start_of(last) <= now {
        return Some(last);
    }
    due_before(schedule, last)
}

fn due_before(schedule: &Schedule, due: Timestamp) -> Option<Timestamp> {
    schedule.last_due(due.checked_sub(Duration::from_nanos(1)).ok()?)
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
