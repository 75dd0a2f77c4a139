//! Whether a job does what it is there for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::schedule::{between, later};

use super::{Book, Job};

/// How far a job, or one of its volumes, is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protection {
    /// The last due instant whose run must have ended by now; `None` before there was one.
    pub expected: Option<Timestamp>,
    /// The newest good cut.
    pub newest_good: Option<Timestamp>,
    /// Whether the newest good cut is older than that instant. A suspended schedule becomes overdue as well: nobody is
    /// protected by it.
    pub overdue: bool,
}

/// Whether a job that has this newest good cut is as good as its schedule says. A run has its limit to end, at most
/// until the next one is due.
pub fn protection(job: &Job, book: &Book, newest_good: Option<Timestamp>, now: Timestamp) -> Protection {
    let expected = expected(job, now).filter(|due| *due > book.created);
    let overdue = expected.is_some_and(|due| newest_good.is_none_or(|good| good < due));
    Protection { expected, newest_good, overdue }
}

fn expected(job: &Job, now: Timestamp) -> Option<Timestamp> {
    let schedule = &job.schedule;
    let mut due = schedule.last_due(now)?;
    // The last one may be under way; the one before must have ended.
    for _ in 0..2 {
        let gap = schedule.next_due(due).map_or(job.run_limit, |next| between(due, next));
        if later(schedule.start_of(due), gap.min(job.run_limit)) <= now {
            return Some(due);
        }
        due = schedule.last_due(due.checked_sub(std::time::Duration::from_nanos(1)).ok()?)?;
    }
    Some(due)
}
