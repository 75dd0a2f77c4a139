//! Deletes what the retention says, and finds out about cuts of which it is not known whether they exist. One task per
//! schedule at a time; what fails is tried again later, and stops nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stillpoint_rules::executor::{Book, Job, MadeCut, deletable};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::domain::{Code, CutId, Fault};
use crate::observe::metrics;
use crate::standalone::operator::Operator;

use super::desk::Report;
use super::work::found_cut;

/// Between two looks at what has become too old.
const EVERY: Duration = Duration::from_mins(10);
/// After a failure, doubled with each further one.
const RETRY: Duration = Duration::from_secs(5);
/// Longest pause between two tries.
const RETRY_LIMIT: Duration = Duration::from_mins(10);

/// When the retention of a schedule is looked at.
#[derive(Debug)]
pub(super) struct Cleaning {
    /// Not before.
    next: Instant,
    busy: bool,
    failures: u32,
    /// Why the last try did not do everything.
    pub(super) fault: Option<String>,
}

impl Cleaning {
    pub(super) fn new() -> Self {
        Self { next: Instant::now(), busy: false, failures: 0, fault: None }
    }

    /// There may be something to do.
    pub(super) fn soon(&mut self) {
        if self.failures == 0 {
            self.next = Instant::now();
        }
    }

    /// Whether it is time; it is busy from here on until [`Cleaning::ended`].
    pub(super) fn begin(&mut self) -> bool {
        let begins = !self.busy && self.next <= Instant::now();
        self.busy |= begins;
        begins
    }

    /// How long until it is time; nothing while it is busy.
    pub(super) fn wait(&self) -> Option<Duration> {
        (!self.busy).then(|| self.next.saturating_duration_since(Instant::now()))
    }

    pub(super) fn ended(&mut self, fault: Option<Fault>) {
        self.busy = false;
        self.failures = if fault.is_some() { self.failures.saturating_add(1) } else { 0 };
        let pause = RETRY.saturating_mul(1 << self.failures.saturating_sub(1).min(10)).min(RETRY_LIMIT);
        self.next = Instant::now() + if fault.is_some() { pause } else { EVERY };
        self.fault = fault.map(|fault| fault.message);
    }
}

/// What is to be done.
pub(super) struct Chores {
    pub(super) operator: Arc<Operator>,
    pub(super) schedule: String,
    with_rule: bool,
    unknown: Vec<MadeCut>,
    deletable: Vec<MadeCut>,
}

impl Chores {
    /// By the book. `alive` are runs that may still make the cut of their name; `by_age` whether the clock is believed.
    pub(super) fn of(
        operator: Arc<Operator>,
        job: &Job,
        book: &Book,
        alive: &BTreeSet<String>,
        now: Option<Timestamp>,
    ) -> Self {
        Self {
            operator,
            schedule: job.name().to_owned(),
            with_rule: job.cut.rule.is_some(),
            unknown: book.unknown().filter(|cut| !alive.contains(&cut.name)).cloned().collect(),
            deletable: now.map(|now| deletable(job, book, now)).unwrap_or_default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.deletable.is_empty()
    }

    /// Does all of it that can be done; one that cannot be deleted does not keep the others.
    pub(super) async fn done(self, reports: mpsc::Sender<Report>) {
        let mut failed = None;
        for cut in &self.unknown {
            let report = match self.operator.find(&cut.name).await {
                Ok(found) => {
                    // An older one of the name is somebody else's.
                    let ours = found.filter(|found| found.record.cut_at >= cut.at);
                    let found = ours.map(|found| found_cut(&found, self.with_rule));
                    Report::Resolved { schedule: self.schedule.clone(), cut: cut.name.clone(), found }
                }
                Err(fault) => {
                    failed.get_or_insert(fault);
                    continue;
                }
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        for cut in &self.deletable {
            match self.delete(cut).await {
                Ok(()) => {
                    metrics::schedules::deleted(&self.schedule);
                    tracing::info!(
                        schedule = self.schedule,
                        cut = cut.name,
                        "deleted a cut by its schedule's retention"
                    );
                    let report = Report::Deleted { schedule: self.schedule.clone(), cut: cut.name.clone() };
                    if reports.send(report).await.is_err() {
                        return;
                    }
                }
                Err(fault) => {
                    tracing::warn!(schedule = self.schedule, cut = cut.name, %fault, "a cut cannot be deleted yet");
                    metrics::schedules::not_deleted(&self.schedule);
                    failed.get_or_insert(fault.context(format_args!("cannot delete {}", cut.name)));
                }
            }
        }
        let _ = reports.send(Report::Cleaned { schedule: self.schedule, fault: failed }).await;
    }

    /// By its id, never by its name: the cut that the schedule made, and no other. One that is gone is fine.
    async fn delete(&self, cut: &MadeCut) -> Result<(), Fault> {
        let id = cut.id.as_deref().unwrap_or_default();
        let id: CutId = id.parse().map_err(|error| Fault::internal(format!("{error}; this is a bug")))?;
        match self.operator.delete(&id.to_string()).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.code == Code::NotFound => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}
