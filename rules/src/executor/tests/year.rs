//! A year in several zones, with both changes of the clock, in the time that it takes to count.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::*;
use crate::schedule::Zone;

/// Runs a job from the first of January 2026 UTC for `days` days, every run taking a minute, with a restart of an hour
/// on every tenth day; the due instants that were started.
fn starts(job: &Job, days: i64) -> Vec<Timestamp> {
    let begin = at("2026-01-01T00:00:00Z");
    let end = Timestamp::from_second(begin.as_second() + days * 86_400).unwrap();
    let (mut book, mut now, mut watched_from) = (Book::new(&job.schedule, begin), begin, begin);
    let mut started = Vec::new();
    let mut restart = Timestamp::from_second(begin.as_second() + 10 * 86_400 + 7 * 3_600).unwrap();
    while now < end {
        let facts = Facts { now, watched_from, live: None, slots: 1 };
        match next(job, &book, &facts) {
            Next::Wait { until, .. } => now = until.unwrap(),
            Next::Save(saved, deed) => {
                book = *saved;
                if let Deed::Take(run) = deed {
                    started.push(run.due.unwrap());
                    now = Timestamp::from_second(now.as_second() + 60).unwrap();
                    book = book.ended(&run.cut, Outcome::Made(found(&run.cut, now, Verdict::Good)), now);
                    for cut in deletable(job, &book, now) {
                        book = book.forget(&cut.name);
                    }
                }
            }
            Next::Do(deed) => panic!("{deed:?} in a world where nothing goes wrong"),
        }
        if now >= restart {
            // Down for an hour, seven hours into the day of UTC: no run of the tables below is due then.
            now = now.max(Timestamp::from_second(restart.as_second() + 3_600).unwrap());
            watched_from = now;
            restart = Timestamp::from_second(restart.as_second() + 10 * 86_400).unwrap();
        }
    }
    let lost = book.history.iter().filter(|entry| matches!(entry.event, Event::Failed { .. })).count();
    assert_eq!(lost, 0);
    started
}

#[test]
fn a_daily_run_comes_once_on_each_day_of_the_year_in_every_zone() {
    for zone in
        ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Tokyo"]
    {
        for clock in ["02:30", "01:30", "00:00"] {
            let job = job(&format!(
                "daily: {{at: '{clock}'}}\ntimeZone: {zone}\ncatchUp: 3h\nretention: {{daily: 7}}"
            ));
            let rules = Zone::named(zone).unwrap();
            let mut per_day: BTreeMap<Date, u32> = BTreeMap::new();
            for due in starts(&job, 365) {
                *per_day.entry(due.to_zoned(rules.rules().clone()).date()).or_default() += 1;
            }
            assert!(per_day.values().all(|count| *count == 1), "{zone} {clock}: {per_day:?}");
            // The first and the last day of UTC belong to two local days.
            assert!((364..=366).contains(&per_day.len()), "{zone} {clock}: {}", per_day.len());
            let days: Vec<&Date> = per_day.keys().collect();
            assert!(days.windows(2).all(|pair| pair[0].tomorrow().unwrap() == *pair[1]), "{zone} {clock}");
        }
    }
}

#[test]
fn an_interval_goes_on_through_both_changes_of_the_clock() {
    let job =
        job("every: 2h\ntimeZone: Europe/Berlin\ncatchUp: 3h\nretention: {last: 3, hourly: 24, weekly: 4}");
    let started = starts(&job, 365);
    assert_eq!(started.len(), 365 * 12 - 1, "the last one is due when the year is over");
    assert!(started.windows(2).all(|pair| pair[1].as_second() - pair[0].as_second() == 7_200));
}

#[test]
fn weekly_and_monthly_runs_come_as_often_as_the_calendar_says() {
    for zone in ["Europe/Berlin", "America/New_York", "Pacific/Auckland"] {
        let keep = "retention: {last: 2, monthly: 12}";
        let weekly =
            job(&format!("weekly: {{day: sunday, at: '02:30'}}\ntimeZone: {zone}\ncatchUp: 2h\n{keep}"));
        assert_eq!(starts(&weekly, 364).len(), 52, "{zone}");
        let monthly =
            job(&format!("monthly: {{day: 31, at: '02:30'}}\ntimeZone: {zone}\ncatchUp: 2h\n{keep}"));
        let rules = Zone::named(zone).unwrap();
        let dates: Vec<Date> =
            starts(&monthly, 365).iter().map(|due| due.to_zoned(rules.rules().clone()).date()).collect();
        assert!((12..=13).contains(&dates.len()), "{zone}: {dates:?}");
        assert!(dates.iter().all(|date| date.day() == date.days_in_month()), "{zone}: {dates:?}");
    }
}
