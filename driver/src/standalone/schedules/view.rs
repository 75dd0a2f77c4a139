//! From what is known to what people see.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use stillpoint_rules::executor::{KeptCut, MadeCut, Protection, kept, protection};
use stillpoint_rules::retain::{Fate, Verdict};
use stillpoint_rules::schedule::{Activity, Schedule, Span, When};

use super::desk::Seen;
use super::report::{DueReport, FateReport, Overview, PlanReport, ScheduleReport, Suspension, VolumeReport};
use crate::domain::{CutHandle, Fault, VolumeId};
use crate::standalone::operator::Operator;
use crate::standalone::selection::Wanted;
use crate::standalone::storage::PlacedVolume;

/// Good cuts of a schedule that are looked at for its volumes, the newest first: a volume that is in none of them has not
/// been protected for long.
const LOOKED_AT: usize = 8;

/// Everything about all schedules, with the volumes that they cut as of now.
pub(super) async fn overview(operator: &Operator, seen: &[Seen], now: Timestamp) -> Overview {
    let mut schedules = Vec::new();
    let mut scheduled = BTreeSet::new();
    for one in seen {
        let wanted =
            Wanted { selectors: one.job.cut.selectors.clone(), volumes: one.job.cut.volumes.clone() };
        let chosen = operator.choose(&wanted, &one.job.cut.namespaces).await;
        if let Ok(volumes) = &chosen {
            scheduled.extend(volumes.iter().map(|volume| volume.id().clone()));
        }
        let goods = Goods::of(operator, one, chosen.as_deref().unwrap_or_default()).await;
        schedules.push(report(one, chosen, &goods, now));
    }
    let volumes = operator.volumes().await;
    let unscheduled = volumes.all.iter().filter(|volume| !scheduled.contains(volume.id()));
    Overview {
        now,
        schedules,
        unscheduled: unscheduled.map(|volume| volume.name().to_owned()).collect(),
        silent: volumes.silent.into_iter().map(|fault| fault.message).collect(),
    }
}

/// The newest good cuts that were seen to exist.
#[derive(Default)]
struct Goods {
    newest: Option<MadeCut>,
    of_volume: BTreeMap<VolumeId, Timestamp>,
    fault: Option<String>,
}

impl Goods {
    /// Until each of these volumes is found in one.
    async fn of(operator: &Operator, seen: &Seen, volumes: &[PlacedVolume]) -> Self {
        let mut good: Vec<&MadeCut> =
            seen.book.made.iter().filter(|made| made.verdict == Verdict::Good && made.id.is_some()).collect();
        good.sort_by(|a, b| (b.at, &b.name).cmp(&(a.at, &a.name)));
        let mut found = Self::default();
        for made in good.into_iter().take(LOOKED_AT) {
            let Some(id) = made.id.as_ref().and_then(|id| id.parse::<CutHandle>().ok()) else { continue };
            match operator.by_id(&id).await {
                // Somebody has deleted it by hand.
                Ok(None) => continue,
                Ok(Some(record)) => {
                    found.newest.get_or_insert_with(|| made.clone());
                    for member in record.members {
                        found.of_volume.entry(member.volume).or_insert(made.at);
                    }
                }
                Err(fault) => {
                    found.fault = Some(format!("whether {} exists is not known: {fault}", made.name));
                    return found;
                }
            }
            if volumes.iter().all(|volume| found.of_volume.contains_key(volume.id())) {
                break;
            }
        }
        found
    }
}

fn report(
    seen: &Seen,
    chosen: Result<Vec<PlacedVolume>, Fault>,
    goods: &Goods,
    now: Timestamp,
) -> ScheduleReport {
    let Seen { job, book, .. } = seen;
    let last_good = goods.newest.clone();
    let of_volume = |volume: PlacedVolume| VolumeReport {
        name: volume.name().to_owned(),
        host: volume.host.to_string(),
        protection: protection(job, book, goods.of_volume.get(volume.id()).copied(), now),
    };
    let (volumes, volumes_fault) = match (chosen, &goods.fault) {
        (Err(fault), _) => (Vec::new(), Some(fault.message)),
        // What is not known must not look like what is not protected.
        (Ok(_), Some(why)) => (Vec::new(), Some(why.clone())),
        (Ok(volumes), None) => (volumes.into_iter().map(of_volume).collect(), None),
    };
    let protection = match &goods.fault {
        None => protection(job, book, last_good.as_ref().map(|cut| cut.at), now),
        Some(_) => Protection { overdue: false, ..protection(job, book, None, now) },
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
        protection,
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
