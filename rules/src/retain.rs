//! Which cuts are kept. Pure: it says what is to be deleted and why, and deletes nothing.
//!
//! A good cut is kept when at least one count of the policy has a place for it and it is not older than `maxAge`.
//! Counts of a period (`hourly` … `yearly`) keep the newest good cut in each of the newest so many periods that have
//! one, in the schedule's time zone. Failed cuts have a count of their own and take no place of a good one. Pinned
//! cuts are kept and take no place either. Cuts that lie in the future were dated by a clock that was wrong: they are
//! kept and take no place until their time has come, so that they never push out those that are dated right.
//!
//! Guarantees: the newest good cut is never deleted; an empty policy keeps everything; applied again to what it kept,
//! a policy keeps all of it; a newer cut never brings back one that was to be deleted.

mod form;
mod places;
mod reason;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::schedule::{self, Zone, between, later};
use crate::text::{self, TextError};

pub use form::RetentionForm;
pub(crate) use form::read;
pub use reason::{DeleteReason, Fate, KeepReason, Period};

/// Bounds on what a policy may ask for, each with its reason.
pub mod limits {
    use std::time::Duration;

    /// Each count: more cuts of one volume than this make every write slow and no list readable.
    pub const COUNT: u32 = 1_000;
    /// Failed cuts hold space and serve only to find out why.
    pub const FAILED: u32 = 100;
    /// Shortest age: below it a policy would delete faster than schedules cut.
    pub const SHORTEST_AGE: Duration = Duration::from_hours(1);
    /// Longest age: a hundred years, for lengths that laws ask for.
    pub const LONGEST_AGE: Duration = Duration::from_hours(36_525 * 24);
}

/// Failed cuts kept where a policy says nothing about them.
pub const FAILED_KEPT: u32 = 3;

/// What is kept. All absent: everything. Made by [`parse`] or deserialized through the same reader.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(into = "RetentionForm")]
pub struct Retention {
    last: Option<u32>,
    periods: [Option<u32>; Period::ALL.len()],
    max_age: Option<Duration>,
    failed: Option<u32>,
}

/// What is known about a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Its name or id; among cuts of the same instant it decides the order.
    pub id: String,
    /// When it was taken.
    pub at: Timestamp,
    /// Whether it can be restored.
    pub verdict: Verdict,
    /// Whether somebody asked to keep it.
    pub pin: Pin,
}

/// Whether a cut can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It reached what was asked for.
    Good,
    /// It did not.
    Failed,
}

/// Whether somebody asked to keep a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// Nobody did.
    Free,
    /// Kept until it is unpinned.
    Pinned,
}

/// A cut and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling<'a> {
    /// The cut.
    pub cut: &'a Cut,
    /// Kept or deleted, and why.
    pub fate: Fate,
}

impl Retention {
    /// Whether it keeps everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What becomes of each cut, newest first.
    pub fn apply<'a>(&self, cuts: &'a [Cut], zone: &Zone, now: Timestamp) -> Vec<Ruling<'a>> {
        let mut newest_first: Vec<&Cut> = cuts.iter().collect();
        newest_first.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
        let mut good = places::Good::new(self, zone);
        let mut failed = 0;
        let mut last_good = None;
        let believable = later(now, schedule::limits::CLOCK_STEP);
        let rule = |cut: &'a Cut| {
            // A pinned one does not stand for the last good one either: when it was taken is not known.
            if cut.at > believable {
                let why = if cut.pin == Pin::Pinned { KeepReason::Pinned } else { KeepReason::Ahead };
                return Ruling { cut, fate: Fate::Keep(vec![why]) };
            }
            let newest_good = cut.verdict == Verdict::Good && last_good.is_none();
            if newest_good {
                last_good = Some(cut);
            }
            let fate = self.fate(cut, now, &mut good, &mut failed);
            let fate = match fate {
                Fate::Delete(_) if newest_good => Fate::Keep(vec![KeepReason::LastGood]),
                Fate::Delete(_) | Fate::Keep(_) => fate,
            };
            Ruling { cut, fate }
        };
        newest_first.into_iter().map(rule).collect()
    }

    fn fate(&self, cut: &Cut, now: Timestamp, good: &mut places::Good<'_>, failed: &mut u32) -> Fate {
        if cut.pin == Pin::Pinned {
            return Fate::Keep(vec![KeepReason::Pinned]);
        }
        if self.is_empty() {
            return Fate::Keep(vec![KeepReason::NoPolicy]);
        }
        let age = between(cut.at, now);
        if let Some(limit) = self.max_age.filter(|limit| age > *limit) {
            return Fate::Delete(DeleteReason::TooOld { age, limit });
        }
        match cut.verdict {
            Verdict::Good => good.place(cut.at),
            Verdict::Failed => {
                let of = self.failed.unwrap_or(FAILED_KEPT);
                *failed += 1;
                if *failed <= of {
                    Fate::Keep(vec![KeepReason::Failed { rank: *failed, of }])
                } else {
                    Fate::Delete(DeleteReason::FailedBefore { of })
                }
            }
        }
    }

    /// Whether any count limits the good ones.
    fn counts(&self) -> bool {
        self.last.is_some() || self.periods.iter().any(Option::is_some)
    }
}

/// Reads one policy.
pub fn parse(text: &str) -> Result<Retention, TextError> {
    text::decode(text, schedule::limits::TEXT_BYTES, read)
}

/// Writes what [`parse`] reads.
pub fn to_yaml(policy: &Retention) -> Result<String, TextError> {
    text::write_yaml(policy)
}

impl<'de> serde::Deserialize<'de> for Retention {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        text::decode_value(&value, read).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
