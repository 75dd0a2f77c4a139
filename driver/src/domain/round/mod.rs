//! The round: one attempt at a cut on all hosts.
//!
//! ```text
//! controller                      each agent
//!  Open{members, limits} ──────►  locks, headroom, record; flush while writers go on
//!                           ◄──── Prepared
//!  Hold ───────────────────────►  arm the guard, freeze all members
//!                           ◄──── Held
//!  all Held?  Cut ─────────────►  snapshot all members
//!                           ◄──── Cut
//!  all Cut?   Release ─────────►  thaw all, disarm the guard, make the snapshots durable
//!                           ◄──── Released{clean or lapsed}
//!  all clean? Seal (unary, home pool first), otherwise Void
//! ```
//!
//! # Guarantees
//! * No cut before every hold, no release before every cut ([`coordinator`]).
//! * A hold lives as long as its stream and never past its limit ([`participant`]).
//! * The first failure of any host gives up the whole round on all hosts.
//!
//! Both machines are one function each, `step(state, event) -> (state, orders)`: no clock (a limit that passed is
//! an event), no input or output. The shells are `controller::coordinator` and `agent::round`.

pub mod coordinator;
pub mod participant;

use std::time::Duration;

/// How long a round may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The controller gives up and each agent thaws after this.
    pub soft: Duration,
    /// Each guard thaws after this, whatever became of controller and agent.
    pub hard: Duration,
    /// Locks, checks and flushing on a host end within this.
    pub prepare: Duration,
}

/// No hold is longer than this, whatever is configured.
pub const LONGEST_HOLD: Duration = Duration::from_secs(30);
/// Least, default and most of the soft limit, in milliseconds: the controller gives a round up.
pub const SOFT_MS: (u64, u64, u64) = (50, 2_000, 29_000);
/// Least, default and most of the hard limit, in milliseconds: the watchdog resumes by itself.
pub const HARD_MS: (u64, u64, u64) = (100, 10_000, 30_000);
/// Agents of one controller: a round has a stream to each.
pub const AGENTS_MAX: usize = 256;

impl Default for Limits {
    fn default() -> Self {
        Self { soft: Duration::from_secs(2), hard: Duration::from_secs(10), prepare: Duration::from_mins(1) }
    }
}

/// Limits that contradict each other or the upper bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "limits soft {soft:?} and hard {hard:?} are refused: they must satisfy 0 < soft ≤ hard ≤ {LONGEST_HOLD:?}"
)]
pub struct BadLimits {
    soft: Duration,
    hard: Duration,
}

impl Limits {
    /// Checked limits.
    pub fn new(soft: Duration, hard: Duration) -> Result<Self, BadLimits> {
        if Duration::ZERO < soft && soft <= hard && hard <= LONGEST_HOLD {
            Ok(Self { soft, hard, ..Self::default() })
        } else {
            Err(BadLimits { soft, hard })
        }
    }
}
