//! Schedules: what was due, what became of it, what is kept.

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use stillpoint_rules::executor::{Book, Event, Job};
use stillpoint_rules::schedule::{Activity, SkipReason};

use super::Shared;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    schedule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Skipped {
    schedule: String,
    reason: &'static str,
}

struct Schedules {
    due: Family<Of, Counter>,
    started: Family<Of, Counter>,
    succeeded: Family<Of, Counter>,
    failed: Family<Of, Counter>,
    skipped: Family<Skipped, Counter>,
    last_success: Family<Of, Gauge>,
    kept: Family<Of, Gauge>,
    suspended: Family<Of, Gauge>,
    deleted: Family<Of, Counter>,
    not_deleted: Family<Of, Counter>,
    not_saved: Family<Of, Counter>,
    lateness: Histogram,
    running: Gauge,
}

static SCHEDULES: Shared<Schedules> = Shared::new(|| Schedules {
    due: Family::default(),
    started: Family::default(),
    succeeded: Family::default(),
    failed: Family::default(),
    skipped: Family::default(),
    last_success: Family::default(),
    kept: Family::default(),
    suspended: Family::default(),
    deleted: Family::default(),
    not_deleted: Family::default(),
    not_saved: Family::default(),
    lateness: Histogram::new([0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0]),
    running: Gauge::default(),
});

pub(super) fn register(registry: &mut Registry) {
    let all = &*SCHEDULES;
    let mut counters =
        |name, help, family: &Family<Of, Counter>| registry.register(name, help, family.clone());
    counters("schedule_due", "Due instants of a schedule that were started or skipped", &all.due);
    counters(
        "schedule_started",
        "Runs that a schedule has started, also by hand and again after a restart",
        &all.started,
    );
    counters("schedule_succeeded", "Runs of a schedule that made a good cut", &all.succeeded);
    counters("schedule_failed", "Runs of a schedule that did not", &all.failed);
    counters("schedule_cuts_deleted", "Cuts that the retention of a schedule has deleted", &all.deleted);
    counters(
        "schedule_delete_failures",
        "Cuts that the retention of a schedule could not delete, each try",
        &all.not_deleted,
    );
    counters(
        "schedule_record_failures",
        "Records of a schedule that could not be written: nothing is started meanwhile",
        &all.not_saved,
    );
    registry.register(
        "schedule_skipped",
        "Due instants of a schedule that were not made up for, by reason",
        all.skipped.clone(),
    );
    registry.register(
        "schedule_last_success_timestamp_seconds",
        "When the newest good cut of a schedule was taken, Unix time; 0: never",
        all.last_success.clone(),
    );
    registry.register("schedule_cuts", "Cuts that a schedule has made and that are kept", all.kept.clone());
    registry.register("schedule_suspended", "Whether a schedule is suspended", all.suspended.clone());
    registry.register(
        "schedule_lateness_seconds",
        "How much later than planned runs of schedules start",
        all.lateness.clone(),
    );
    registry.register("schedule_runs_running", "Runs of schedules that are under way", all.running.clone());
}

fn of(schedule: &str) -> Of {
    Of { schedule: schedule.to_owned() }
}

/// A schedule, so that its counters are there from the start.
pub fn known(job: &Job, book: &Book) {
    let (all, schedule) = (&*SCHEDULES, job.name());
    for family in
        [&all.due, &all.started, &all.succeeded, &all.failed, &all.deleted, &all.not_deleted, &all.not_saved]
    {
        drop(family.get_or_create(&of(schedule)));
    }
    for why in SkipReason::ALL {
        drop(all.skipped.get_or_create(&Skipped { schedule: schedule.to_owned(), reason: why.word() }));
    }
    figures(job, book);
}

fn figures(job: &Job, book: &Book) {
    let (all, schedule) = (&*SCHEDULES, job.name());
    let seconds = book.last_good().map_or(0, |cut| cut.at.as_second());
    all.last_success.get_or_create(&of(schedule)).set(seconds);
    all.kept.get_or_create(&of(schedule)).set(i64::try_from(book.made.len()).unwrap_or(i64::MAX));
    all.suspended.get_or_create(&of(schedule)).set(i64::from(book.activity(job) == Activity::Suspended));
}

/// What is on record of a schedule has changed.
pub fn changed(job: &Job, old: &Book, new: &Book) {
    let (all, name) = (&*SCHEDULES, job.name());
    figures(job, new);
    if let Some(run) = new.open.as_ref().filter(|run| Some(*run) != old.open.as_ref()) {
        all.started.get_or_create(&of(name)).inc();
        if let (Some(due), 1) = (run.due, run.tries) {
            all.due.get_or_create(&of(name)).inc();
            all.lateness.observe(seconds_between(job.schedule.start_of(due), run.started));
        }
    }
    let Some(entry) = new.history.last().filter(|entry| Some(*entry) != old.history.last()) else { return };
    match &entry.event {
        Event::Succeeded { .. } => drop(all.succeeded.get_or_create(&of(name)).inc()),
        Event::Failed { .. } => drop(all.failed.get_or_create(&of(name)).inc()),
        Event::Skipped { missed, why, after, .. } => {
            let count = u64::from(missed.saturating_sub(counted(old, *why, *after)));
            all.due.get_or_create(&of(name)).inc_by(count);
            all.skipped
                .get_or_create(&Skipped { schedule: name.to_owned(), reason: why.word() })
                .inc_by(count);
        }
        Event::Suspended | Event::Resumed | Event::ClockSetBack { .. } => {}
    }
}

/// What an entry that has only grown counted before.
fn counted(old: &Book, reason: SkipReason, begin: Timestamp) -> u32 {
    match old.history.last().map(|entry| &entry.event) {
        Some(Event::Skipped { missed, why, after, .. }) if *why == reason && *after == begin => *missed,
        Some(_) | None => 0,
    }
}

fn seconds_between(a: Timestamp, b: Timestamp) -> f64 {
    b.duration_since(a).as_secs_f64().max(0.0)
}

/// A cut is gone by a retention.
pub fn deleted(schedule: &str) {
    SCHEDULES.deleted.get_or_create(&of(schedule)).inc();
}

/// A cut could not be deleted.
pub fn not_deleted(schedule: &str) {
    SCHEDULES.not_deleted.get_or_create(&of(schedule)).inc();
}

/// A record could not be written.
pub fn not_saved(schedule: &str) {
    SCHEDULES.not_saved.get_or_create(&of(schedule)).inc();
}

/// Runs under way.
pub fn running(runs: usize) {
    SCHEDULES.running.set(i64::try_from(runs).unwrap_or(i64::MAX));
}
