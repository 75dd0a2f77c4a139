//! Runs schedules. Pure: what is known goes in, what to do next comes out; no clock, no file, no task.
//!
//! A schedule that something is done by is a [`Job`]: when ([`crate::schedule`]), what is cut ([`What`]), what is kept
//! ([`crate::retain`]), how long a run may take. All that is remembered of it is its [`Book`].
//!
//! # Flow
//! 1. [`next`] is asked for every job, whenever something happened and when the time has come that it named.
//! 2. [`Next::Save`]: the new book is made durable **before** the deed that comes with it. A book that cannot be saved
//!    is thrown away, the deed is not done, and the question is asked again later.
//! 3. A run ends: [`Book::ended`], saved. The cut that it made is the job's from then on.
//! 4. [`anchor`] is the cut that must be seen to exist before [`deletable`] says which ones go; what is gone is taken out
//!    by [`Book::forget`], saved.
//!
//! # Guarantees
//! * A due instant is recorded before its run starts, with the name of its cut, which follows from schedule and due
//!   instant. So a process that dies leaves one of: nothing recorded, and the instant is still due; or an open run,
//!   which the next process looks for by name, adopts if its cut is there, and else starts again under that name.
//! * At most one run of a job is under way; at most one cut is made for a due instant.
//! * Each due instant is handled once: started, or part of one recorded skip with its reason.
//! * A run that is over its limit is told to stop, and let go of after [`limits::LET_GO_AFTER`] more.
//! * Only cuts in the book are ever deleted, and never the newest good one.
//!
//! # Assumptions
//! One process at a time has the books. The lengths in [`Facts`] are counted by a clock that is never set.

mod book;
mod endings;
mod form;
mod keep;
mod next;
mod protection;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::retain::Retention;
use crate::schedule::Schedule;

pub use book::{Book, Entry, Event, FORMAT, MadeCut, OpenRun};
pub use endings::{FoundCut, Outcome};
pub use form::in_config;
pub use keep::{KeptCut, anchor, deletable, kept};
pub use next::{Deed, Facts, Live, Next, next};
pub use protection::{Protection, protection};

/// Bounds, each with its reason.
pub mod limits {
    use std::time::Duration;

    /// Schedules of one controller: each is a file, a row and a label of metrics.
    pub const SCHEDULES: usize = 100;
    /// Runs of all schedules at the same time: each stops writers, and reads and writes on all hosts.
    pub const AT_ONCE: usize = 4;
    /// Shortest limit of a run.
    pub const SHORTEST_RUN: Duration = Duration::from_secs(1);
    /// Longest limit of a run: what takes longer has not been thought through.
    pub const LONGEST_RUN: Duration = Duration::from_hours(24);
    /// A run that was told to stop is being undone; after so long the schedule goes on without it.
    pub const LET_GO_AFTER: Duration = Duration::from_mins(5);
    /// Starts of one run: the first, and one after each restart in the middle of it. A run that takes the controller
    /// down with it ends here.
    pub const TRIES: u32 = 3;
    /// Entries of a job's history: what a person reads.
    pub const HISTORY: usize = 50;
    /// Cuts of one job. All counts of a retention together stay below it.
    pub const CUTS: usize = 10_000;
    /// Selectors, and namespaces: written by people.
    pub const SELECTORS: usize = 64;
    /// Volumes by name: as many as a cut may have.
    pub const VOLUMES: usize = 1_024;
    /// Characters of a reason in a history.
    pub const REASON: usize = 2_000;
}

/// What applies where a job says nothing.
pub mod defaults {
    use std::time::Duration;

    /// How long a run may take.
    pub const RUN: Duration = Duration::from_hours(2);
}

/// A schedule and what is done by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// When.
    pub schedule: Schedule,
    /// What is cut.
    pub cut: What,
    /// Which cuts are kept.
    pub retention: Retention,
    /// How long a run may take.
    #[serde(serialize_with = "as_text")]
    pub run_limit: Duration,
}

fn as_text<S: serde::Serializer>(length: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&crate::schedule::Span::new(*length))
}

/// What is cut, and with which rule: the same as a snapshot by hand takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct What {
    /// Pods whose volumes are cut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub selectors: Vec<String>,
    /// Further volumes, by name or id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Where pods are looked for; everywhere when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// File of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<PathBuf>,
    /// Values of the rule's parameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

impl Job {
    /// Its name: the schedule's.
    pub fn name(&self) -> &str {
        self.schedule.name()
    }
}

#[cfg(test)]
mod tests;
