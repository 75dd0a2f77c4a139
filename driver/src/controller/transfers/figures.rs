//! Figures of copies between hosts, for metrics.

use crate::domain::Code;

/// Why a copy did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A host did not answer, or not in time.
    Unavailable,
    /// The target is too full.
    NoSpace,
    /// Something else is under way, or the target has as many as it takes at once.
    Busy,
    /// Somebody cancelled it.
    Cancelled,
    /// Nobody waited for it any more.
    Dropped,
    /// Everything else.
    Other,
}

impl Failure {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Unavailable, Self::NoSpace, Self::Busy, Self::Cancelled, Self::Dropped, Self::Other];

    /// As metrics call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::NoSpace => "no_space",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Dropped => "dropped",
            Self::Other => "other",
        }
    }

    pub(super) fn of(code: Code) -> Self {
        match code {
            Code::Unavailable | Code::Deadline => Self::Unavailable,
            Code::Exhausted => Self::NoSpace,
            Code::Aborted => Self::Busy,
            Code::Invalid
            | Code::NotFound
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Precondition
            | Code::Denied
            | Code::Unimplemented
            | Code::Internal => Self::Other,
        }
    }
}

/// Figures now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferFigures {
    /// Copies that are under way.
    pub running: usize,
    /// Data that arrived, of copies under way too.
    pub copied_bytes: u64,
    /// Volumes that arrived whole.
    pub arrived: u64,
    /// Attempts that did not come to their end, by [`Failure::ALL`].
    pub failed: [u64; Failure::ALL.len()],
}

impl TransferFigures {
    /// Attempts that did not come to their end.
    pub fn failures(&self) -> u64 {
        self.failed.iter().sum()
    }
}
