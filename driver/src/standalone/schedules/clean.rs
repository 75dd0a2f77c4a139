//! Deletes what the retention says, and finds out about cuts of which it is not known whether they exist. One task per
//! schedule at a time; what fails is tried again later, and stops nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stillpoint_rules::executor::{Book, Job, MadeCut, anchor, deletable};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::domain::{Code, CutHandle, Fault};
use crate::observe::metrics;
use crate::standalone::operator::Operator;

use super::executor::Report;
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
    /// Something has happened since it began.
    again: bool,
    failures: u32,
    /// Why the last try did not do everything.
    pub(super) fault: Option<String>,
}

impl Cleaning {
    pub(super) fn new() -> Self {
        Self { next: Instant::now(), busy: false, again: false, failures: 0, fault: None }
    }

    /// There may be something to do.
    pub(super) fn soon(&mut self) {
        self.again = true;
        if !self.busy && self.failures == 0 {
            self.next = Instant::now();
        }
    }

    /// Whether it is time; it is busy from here on until [`Cleaning::ended`].
    pub(super) fn begin(&mut self) -> bool {
        let begins = !self.busy && self.next <= Instant::now();
        if begins {
            (self.busy, self.again) = (true, false);
        }
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
        self.next = Instant::now()
            + match (&fault, self.again) {
                (Some(_), _) => pause,
                (None, true) => Duration::ZERO,
                (None, false) => EVERY,
            };
        self.fault = fault.map(|fault| fault.message);
    }
}

/// What is to be done.
pub(super) struct Chores {
    pub(super) operator: Arc<Operator>,
    pub(super) schedule: String,
    with_rule: bool,
    unknown: Vec<MadeCut>,
    anchor: Option<MadeCut>,
    deletable: Vec<MadeCut>,
    /// Becomes true when the process ends.
    ending: watch::Receiver<bool>,
}

impl Chores {
    /// By the book. `alive` are runs that may still make the cut of their name; without `now` the clock is not believed,
    /// and nothing is deleted.
    pub(super) fn of(
        operator: Arc<Operator>,
        job: &Job,
        book: &Book,
        alive: &BTreeSet<String>,
        now: Option<Timestamp>,
        ending: watch::Receiver<bool>,
    ) -> Self {
        Self {
            operator,
            schedule: job.name().to_owned(),
            with_rule: job.cut.rule.is_some(),
            unknown: book.unknown().filter(|cut| !alive.contains(&cut.name)).cloned().collect(),
            anchor: now.and_then(|now| anchor(job, book, now)),
            deletable: now.map(|now| deletable(job, book, now)).unwrap_or_default(),
            ending,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.deletable.is_empty()
    }

    /// Does all of it that can be done; one that cannot be deleted does not keep the others.
    pub(super) async fn done(self, reports: mpsc::Sender<Report>) {
        let mut failed = self.look_up(&reports).await.err();
        match self.anchor_exists().await {
            Ok(true) => failed = self.delete_all(&reports).await.err().or(failed),
            Ok(false) => {
                // Whatever else is to be deleted is judged anew without it.
                if let Some(gone) = &self.anchor {
                    tracing::warn!(
                        schedule = self.schedule,
                        cut = gone.name,
                        "a cut of a schedule was deleted by hand"
                    );
                    self.tell(&reports, |schedule| Report::Deleted { schedule, cut: gone.name.clone() })
                        .await;
                }
            }
            Err(fault) => failed = Some(fault),
        }
        self.tell(&reports, |schedule| Report::Cleaned { schedule, fault: failed }).await;
    }

    /// Finds out whether cuts exist of which that is not known.
    async fn look_up(&self, reports: &mpsc::Sender<Report>) -> Result<(), Fault> {
        let mut failed = Ok(());
        for cut in &self.unknown {
            match self.operator.find(&cut.name).await {
                Ok(found) => {
                    // An older one of the name is somebody else's.
                    let ours = found.filter(|found| found.record.cut_at >= cut.at);
                    let found = ours.map(|found| found_cut(&found, self.with_rule));
                    let name = cut.name.clone();
                    self.tell(reports, |schedule| Report::Resolved { schedule, cut: name, found }).await;
                }
                Err(fault) => failed = Err(fault),
            }
        }
        failed
    }

    async fn anchor_exists(&self) -> Result<bool, Fault> {
        match self.anchor.as_ref().filter(|_| !self.deletable.is_empty()) {
            None => Ok(true),
            Some(anchor) => Ok(self.operator.by_id(&id_of(anchor)?).await?.is_some()),
        }
    }

    async fn delete_all(&self, reports: &mpsc::Sender<Report>) -> Result<(), Fault> {
        let mut failed = Ok(());
        for cut in &self.deletable {
            if *self.ending.borrow() {
                return failed;
            }
            match self.delete(cut).await {
                Ok(()) => {
                    metrics::schedules::deleted(&self.schedule);
                    tracing::info!(
                        schedule = self.schedule,
                        cut = cut.name,
                        "deleted a cut by its schedule's retention"
                    );
                    let name = cut.name.clone();
                    self.tell(reports, |schedule| Report::Deleted { schedule, cut: name }).await;
                }
                Err(fault) => {
                    tracing::warn!(schedule = self.schedule, cut = cut.name, %fault, "a cut cannot be deleted yet");
                    metrics::schedules::not_deleted(&self.schedule);
                    failed = Err(fault.context(format_args!("cannot delete {}", cut.name)));
                }
            }
        }
        failed
    }

    /// Nobody listens only where the process ends.
    async fn tell(&self, reports: &mpsc::Sender<Report>, report: impl FnOnce(String) -> Report) {
        let _ = reports.send(report(self.schedule.clone())).await;
    }

    /// By its id, never by its name: the cut that the schedule made, and no other. One that is gone is fine.
    async fn delete(&self, cut: &MadeCut) -> Result<(), Fault> {
        match self.operator.delete(&id_of(cut)?.to_string()).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.code == Code::NotFound => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

fn id_of(cut: &MadeCut) -> Result<CutHandle, Fault> {
    let id = cut.id.as_deref().unwrap_or_default();
    id.parse().map_err(|error| Fault::internal(format!("{error}; this is a bug")))
}
