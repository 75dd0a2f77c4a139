//! Why a cut is kept or deleted, as it stands in a table.

use std::fmt;
use std::time::Duration;

use crate::schedule::Span;

/// The periods of a calendar that a policy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From full hour to full hour.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday (ISO 8601).
    Week,
    /// A month of the calendar.
    Month,
    /// A year of the calendar.
    Year,
}

impl Period {
    /// From short to long.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The field of a policy.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// What becomes of a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Kept, for at least one reason.
    Keep(Vec<KeepReason>),
    /// Deleted.
    Delete(DeleteReason),
}

/// Why a cut is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepReason {
    /// The policy says nothing.
    NoPolicy,
    /// The policy counts nothing, and it is young enough.
    NoCount,
    /// Somebody asked to keep it.
    Pinned,
    /// It lies in the future: a clock was wrong, then or now.
    Ahead,
    /// It is the newest good one, and nothing else keeps it.
    LastGood,
    /// One of the newest good ones.
    Last {
        /// From 1, the newest.
        rank: u32,
        /// So many are kept.
        of: u32,
    },
    /// The newest good one of its hour, day, …
    Newest {
        /// Of what.
        period: Period,
        /// From 1, the newest period.
        rank: u32,
        /// So many are kept.
        of: u32,
    },
    /// One of the newest failed ones.
    Failed {
        /// From 1, the newest.
        rank: u32,
        /// So many are kept.
        of: u32,
    },
}

/// Why a cut is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// Older than `maxAge`.
    TooOld {
        /// Its age.
        age: Duration,
        /// The longest.
        limit: Duration,
    },
    /// Good, but no count has a place for it.
    NoPlace,
    /// Failed, and there are enough newer failed ones.
    FailedBefore {
        /// So many are kept.
        of: u32,
    },
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str("the policy is empty"),
            Self::NoCount => f.write_str("nothing limits the number"),
            Self::Pinned => f.write_str("pinned"),
            Self::Ahead => f.write_str("dated in the future, by a clock that was wrong"),
            Self::LastGood => f.write_str("the last good one"),
            Self::Last { rank, of } => write!(f, "last {rank} of {of}"),
            Self::Newest { period, rank, of } => write!(f, "{} {rank} of {of}", period.word()),
            Self::Failed { rank, of } => write!(f, "failed {rank} of {of}"),
        }
    }
}

impl fmt::Display for DeleteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld { age, limit } => {
                write!(f, "{} old, more than {}", Span::new(*age), Span::new(*limit))
            }
            Self::NoPlace => f.write_str("no count has a place for it"),
            Self::FailedBefore { of } => write!(f, "failed, and {of} newer failed ones are kept"),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(reasons) => {
                let words: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                write!(f, "keep: {}", words.join(", "))
            }
            Self::Delete(reason) => write!(f, "delete: {reason}"),
        }
    }
}
