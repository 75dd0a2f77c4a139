//! From what is known to what people see.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use stillpoint_rules::executor::{KeptCut, kept, protection};
use stillpoint_rules::retain::{Fate, Verdict};
use stillpoint_rules::schedule::{Activity, Schedule, Span, When};

use super::desk::Seen;
use super::report::{DueReport, FateReport, Overview, PlanReport, ScheduleReport, Suspension, VolumeReport};
use crate::domain::{Fault, VolumeId};
use crate::standalone::operator::Operator;
use crate::standalone::selection::Wanted;
use crate::standalone::storage::PlacedVolume;

/// Everything about all schedules, with the volumes that they cut as of now.
pub(super) async fn overview(operator: &Operator, seen: &[Seen], now: Timestamp) -> Result<Overview, Fault> {
    let (cuts, mut silent) = match operator.cuts().await {
        Ok(cuts) => (cuts, Vec::new()),
        Err(fault) => (Vec::new(), vec![fault.message]),
    };
    let members: BTreeMap<String, BTreeSet<VolumeId>> = cuts
        .into_iter()
        .map(|cut| {
            (cut.record.id.to_string(), cut.record.members.into_iter().map(|member| member.volume).collect())
        })
        .collect();
    let mut schedules = Vec::new();
    let mut scheduled = BTreeSet::new();
    for one in seen {
        let wanted =
            Wanted { selectors: one.job.cut.selectors.clone(), volumes: one.job.cut.volumes.clone() };
        let chosen = operator.choose(&wanted, &one.job.cut.namespaces).await;
        if let Ok(volumes) = &chosen {
            scheduled.extend(volumes.iter().map(|volume| volume.id().clone()));
        }
        schedules.push(report(one, chosen, &members, now));
    }
    let volumes = operator.volumes().await;
    silent.extend(volumes.silent.into_iter().map(|fault| fault.message));
    silent.dedup();
    let unscheduled = volumes.all.iter().filter(|volume| !scheduled.contains(volume.id()));
    let unscheduled = unscheduled.map(|volume| volume.name().to_owned()).collect();
    Ok(Overview { now, schedules, unscheduled, silent })
}

fn report(
    seen: &Seen,
    chosen: Result<Vec<PlacedVolume>, Fault>,
    members: &BTreeMap<String, BTreeSet<VolumeId>>,
    now: Timestamp,
) -> ScheduleReport {
    let Seen { job, book, .. } = seen;
    let last_good = book.last_good().cloned();
    let of_volume = |volume: PlacedVolume| {
        let good = book.made.iter().filter(|made| made.verdict == Verdict::Good);
        let has = good.filter(|made| {
            let members = made.id.as_ref().and_then(|id| members.get(id));
            members.is_some_and(|members| members.contains(volume.id()))
        });
        VolumeReport {
            name: volume.name().to_owned(),
            host: volume.host.to_string(),
            protection: protection(job, book, has.map(|made| made.at).max(), now),
        }
    };
    let (volumes, volumes_fault) = match chosen {
        // A list of cuts that is not known would make every volume look unprotected.
        Ok(_) if members.is_empty() && last_good.is_some() => {
            (Vec::new(), Some("the cuts are not known while not every host answers".to_owned()))
        }
        Ok(volumes) => (volumes.into_iter().map(of_volume).collect(), None),
        Err(fault) => (Vec::new(), Some(fault.message)),
    };
    ScheduleReport {
        name: job.name().to_owned(),
        when: in_words(&job.schedule),
        time_zone: job.schedule.time_zone().name().to_owned(),
        suspended: match (job.schedule.activity(), book.suspended) {
            (Activity::Suspended, _) => Some(Suspension::Configuration),
            (Activity::Active, Some(since)) => Some(Suspension::ByHand(since)),
            (Activity::Active, None) => None,
        },
        next: next_start(seen, now),
        running: book.open.clone().filter(|_| seen.running),
        protection: protection(job, book, last_good.as_ref().map(|cut| cut.at), now),
        last_good,
        last_run: book.last_run().cloned(),
        kept: book.made.len(),
        volumes,
        volumes_fault,
        retention_fault: seen.retention_fault.clone(),
        history: book.history.iter().rev().cloned().collect(),
        configuration: serde_json::to_value(job).unwrap_or_default(),
    }
}

/// What will be due, and what the retention would do now.
pub(super) fn plan(seen: &Seen, now: Timestamp, count: usize) -> PlanReport {
    let Seen { job, book, .. } = seen;
    let schedule = &job.schedule;
    let due = std::iter::successors(first_due(seen, now), |due| schedule.next_due(*due)).take(count);
    let due = due.map(|due| DueReport {
        due,
        start: schedule.start_of(due),
        local: schedule.time_zone().wall_clock(due),
    });
    let fate = |KeptCut { cut, fate }: KeptCut| FateReport {
        cut,
        deleted: matches!(fate, Fate::Delete(_)),
        why: fate.to_string(),
    };
    PlanReport {
        name: job.name().to_owned(),
        suspended: book.activity(job) == Activity::Suspended,
        due: due.collect(),
        cuts: kept(job, book, now).into_iter().map(fate).collect(),
        unknown: book.unknown().map(|cut| cut.name.clone()).collect(),
    }
}

fn next_start(seen: &Seen, now: Timestamp) -> Option<Timestamp> {
    match seen.book.activity(&seen.job) {
        Activity::Suspended => None,
        Activity::Active => Some(seen.job.schedule.start_of(first_due(seen, now)?)),
    }
}

/// The first due instant whose run has not started; one whose time has come already waits for the run before.
fn first_due(seen: &Seen, now: Timestamp) -> Option<Timestamp> {
    let schedule = &seen.job.schedule;
    let handled = seen.book.handled.unwrap_or(seen.book.created);
    let next = schedule.next_due(handled)?;
    if next >= now || schedule.start_of(next) >= now { Some(next) } else { schedule.next_due(now) }
}

fn in_words(schedule: &Schedule) -> String {
    match schedule.when() {
        When::Every(every) => format!("every {}", Span::new(every.get())),
        When::Daily(at) => format!("daily {at}"),
        When::Weekly(day, at) => format!("{day} {at}"),
        When::Monthly(day, at) => format!("day {} of the month, {at}", day.get()),
        When::Cron(cron) => format!("cron {}", cron.text()),
    }
}
