//! When runs are due. Pure: the instant is always given, nothing here looks at a clock or starts anything.
//!
//! 1. [`parse`] reads YAML into a [`Schedule`], or says where and why not; [`to_yaml`] writes it back.
//! 2. [`Schedule::next_due`] and [`Schedule::last_due`] are the calendar: wall clock in the schedule's zone → instants.
//! 3. [`Schedule::start_of`] adds the jitter, the same in every process.
//! 4. [`decide`] takes what is known ([`Facts`]) and says what to do ([`Decision`]).
//!
//! Guarantees: `next_due` is strictly later than what it is given; stepping with it leaves out no due instant; the
//! start of a run is never later than the next due instant; at most one run of a schedule is to be alive at a time.
//!
//! [`crate::executor`] asks this for every schedule and keeps the records; what is kept afterwards is decided by
//! [`crate::retain`].

mod calendar;
mod decide;
mod form;
mod span;
mod zone;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::text::{self, TextError};

pub use calendar::{Clock, Cron, DayOfMonth, Every, Weekday, When};
pub use decide::{Decision, Facts, SkipReason, WaitReason, Way, decide};
pub use form::ScheduleForm;
pub(crate) use form::{read, read_from};
pub use span::Span;
pub(crate) use span::read as read_span;
pub use zone::Zone;

/// Bounds on what a schedule may ask for, each with its reason.
pub mod limits {
    use std::time::Duration;

    /// Text of one schedule or policy: a few lines.
    pub const TEXT_BYTES: usize = 16 * 1024;
    /// Shortest interval: a cut takes about that long, with everything before and after the hold.
    pub const SHORTEST_EVERY: Duration = Duration::from_secs(1);
    /// Longest interval: beyond it a monthly schedule is meant.
    pub const LONGEST_EVERY: Duration = Duration::from_hours(30 * 24);
    /// Longest jitter. It is bounded by the interval as well.
    pub const JITTER: Duration = Duration::from_hours(24);
    /// Shortest window for late starts: a busy executor is always some seconds late.
    pub const SHORTEST_CATCH_UP: Duration = Duration::from_mins(1);
    /// Longest window for late starts: a run that is a month late is the next one.
    pub const CATCH_UP: Duration = Duration::from_hours(30 * 24);
    /// Text of a cron pattern: five fields.
    pub const CRON_BYTES: usize = 128;
    /// Missed runs are counted up to here: the number serves people, and counting costs time.
    pub const MISSED: u32 = 1_000;
    /// What was recorded as done and lies further in the future than this was recorded by a clock that was wrong.
    pub const CLOCK_STEP: Duration = Duration::from_hours(1);
}

/// What applies where a schedule says nothing.
pub mod defaults {
    use std::time::Duration;

    /// How late a missed run may still start.
    pub const CATCH_UP: Duration = Duration::from_hours(1);
}

/// When runs start. Checked: made by [`parse`] or deserialized through the same reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "ScheduleForm")]
pub struct Schedule {
    /// Unique among schedules; a DNS label. The jitter follows from it.
    name: String,
    /// The calendar.
    when: When,
    /// In which wall clocks are read.
    time_zone: Zone,
    /// Longest delay of a start; none when zero.
    jitter: Duration,
    /// How late a run may start.
    catch_up: Duration,
    /// Whether it stands still.
    activity: Activity,
}

/// Whether a schedule starts runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// It does.
    #[default]
    Active,
    /// It does not until somebody changes it.
    Suspended,
}

impl Schedule {
    /// Unique among schedules; a DNS label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The calendar.
    pub fn when(&self) -> &When {
        &self.when
    }

    /// In which wall clocks are read.
    pub fn time_zone(&self) -> &Zone {
        &self.time_zone
    }

    /// How late a run may start.
    pub fn catch_up(&self) -> Duration {
        self.catch_up
    }

    /// Whether it starts runs.
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// The first due instant strictly after `t`; `None` only at the end of the calendar.
    pub fn next_due(&self, t: Timestamp) -> Option<Timestamp> {
        self.when.next(&self.time_zone, t)
    }

    /// The last due instant at or before `t`.
    pub fn last_due(&self, t: Timestamp) -> Option<Timestamp> {
        self.when.last(&self.time_zone, t)
    }

    /// When the run that is due at `due` starts: later by a part of the jitter that follows from the schedule's name
    /// and `due`, and always before the next due instant, so that starts come in the order of their due instants.
    pub fn start_of(&self, due: Timestamp) -> Timestamp {
        let gap = self.next_due(due).map_or(Duration::ZERO, |next| between(due, next));
        let bound = u64::try_from(self.jitter.min(gap).as_millis()).unwrap_or(0);
        if bound == 0 {
            return due;
        }
        let mut hash = blake3::Hasher::new();
        hash.update(b"stillpoint schedule jitter 1\0");
        hash.update(self.name.as_bytes());
        hash.update(b"\0");
        hash.update(&due.as_millisecond().to_le_bytes());
        let mut bytes = [0; 8];
        hash.finalize_xof().fill(&mut bytes);
        later(due, Duration::from_millis(u64::from_le_bytes(bytes) % bound))
    }
}

/// From `a` to `b`; zero when `b` is not later.
pub(crate) fn between(a: Timestamp, b: Timestamp) -> Duration {
    Duration::try_from(b.duration_since(a)).unwrap_or(Duration::ZERO)
}

/// `t` and so much more; at the end of the calendar `t` itself.
pub(crate) fn later(t: Timestamp, by: Duration) -> Timestamp {
    t.checked_add(by).unwrap_or(t)
}

/// Reads one schedule.
pub fn parse(text: &str) -> Result<Schedule, TextError> {
    text::decode(text, limits::TEXT_BYTES, read)
}

/// Writes what [`parse`] reads.
pub fn to_yaml(schedule: &Schedule) -> Result<String, TextError> {
    text::write_yaml(schedule)
}

impl<'de> serde::Deserialize<'de> for Schedule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        text::decode_value(&value, read).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
