//! One schedule as the task with the books has it.

use std::collections::BTreeSet;
use std::time::Duration;

use stillpoint_rules::executor::{Book, Event, Job, Live};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::clean::Cleaning;
use super::executor::Report;
use crate::domain::Fault;

/// What is known of a schedule.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) job: Job,
    pub(super) book: Book,
    /// Whether a run is under way.
    pub(super) running: bool,
    /// Why the retention could not do everything.
    pub(super) retention_fault: Option<String>,
}

/// One schedule.
pub(super) struct Desk {
    pub(super) job: Job,
    pub(super) book: Book,
    pub(super) live: Option<LiveRun>,
    /// Runs that the schedule goes on without, and that have not ended.
    pub(super) let_go: BTreeSet<String>,
    /// What could not be saved yet.
    pub(super) unsaved: Vec<Report>,
    pub(super) not_before: Option<Instant>,
    pub(super) cleaning: Cleaning,
}

pub(super) struct LiveRun {
    pub(super) cut: String,
    pub(super) began: Instant,
    pub(super) stopping: Option<Instant>,
    pub(super) stop: watch::Sender<Option<String>>,
    pub(super) waiter: Option<oneshot::Sender<Result<String, Fault>>>,
}

impl Desk {
    pub(super) fn new(job: Job, book: Book) -> Self {
        Self {
            job,
            book,
            live: None,
            let_go: BTreeSet::new(),
            unsaved: Vec::new(),
            not_before: None,
            cleaning: Cleaning::new(),
        }
    }

    /// What is left of the pause after a book could not be saved.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let left = self.not_before?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.not_before = None;
            return None;
        }
        Some(left)
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            job: self.job.clone(),
            book: self.book.clone(),
            running: self.live.is_some(),
            retention_fault: self.cleaning.fault.clone(),
        }
    }

    /// What the new book has more than the old one, for the log.
    pub(super) fn tell(&self, book: &Book) {
        let name = self.job.name();
        let Some(entry) = book.history.last().filter(|entry| Some(*entry) != self.book.history.last()) else {
            return;
        };
        match &entry.event {
            Event::Succeeded { run, level, remark } if remark.is_empty() => {
                tracing::info!(schedule = name, cut = run.cut, level, "a scheduled run has made its cut");
            }
            Event::Succeeded { run, level, remark } => {
                tracing::warn!(
                    schedule = name,
                    cut = run.cut,
                    level,
                    remark,
                    "a scheduled run has made its cut"
                );
            }
            Event::Failed { run, why } => {
                tracing::warn!(schedule = name, cut = run.cut, why, "a scheduled run failed");
            }
            Event::Skipped { through, missed, why, .. } => {
                tracing::warn!(schedule = name, %through, missed, why = why.in_words(), "due runs are skipped");
            }
            Event::Suspended => tracing::info!(schedule = name, "suspended"),
            Event::Resumed => tracing::info!(schedule = name, "resumed"),
            Event::ClockSetBack { from } => {
                tracing::warn!(schedule = name, ?from, "the clock was set back; what is due is counted anew");
            }
        }
    }
}

impl LiveRun {
    pub(super) fn fact(&self) -> Live {
        Live { for_time: self.began.elapsed(), stopping_for: self.stopping.map(|since| since.elapsed()) }
    }
}
