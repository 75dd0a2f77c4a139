mod decisions;
mod forms;

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str) -> Schedule {
    parse(&format!("name: s\n{text}")).unwrap()
}

/// The due instants after `from`, as they are in UTC.
fn dues(text: &str, from: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text);
    let next = |due: &Timestamp| schedule.next_due(*due);
    std::iter::successors(next(&at(from)), next).take(count).map(|due| due.to_string()).collect()
}

#[test]
fn due_instants_follow_the_calendar() {
    let table: &[(&str, &str, &[&str])] = &[
        ("every: 15m", "2026-01-01T00:07:00Z", &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]),
        ("every: 1m", "2026-01-01T00:07:59.5Z", &["2026-01-01T00:08:00Z"]),
        ("every: 7h", "1969-12-31T23:00:00Z", &["1970-01-01T00:00:00Z", "1970-01-01T07:00:00Z"]),
        ("daily: {at: '02:30'}", "2026-02-28T02:30:00Z", &["2026-03-01T02:30:00Z"]),
        ("daily: {at: '02:30'}", "2028-02-28T02:30:00Z", &["2028-02-29T02:30:00Z"]),
        ("daily: {at: '00:00'}", "2026-12-31T23:59:59.999Z", &["2027-01-01T00:00:00Z"]),
        (
            "weekly: {day: sunday, at: '02:30'}",
            "2026-11-20T12:00:00Z",
            &["2026-11-22T02:30:00Z", "2026-11-29T02:30:00Z"],
        ),
        (
            "monthly: {day: 31, at: '02:30'}",
            "2026-01-31T02:29:00Z",
            &["2026-01-31T02:30:00Z", "2026-02-28T02:30:00Z", "2026-03-31T02:30:00Z", "2026-04-30T02:30:00Z"],
        ),
        (
            "monthly: {day: 30, at: '02:30'}",
            "2028-02-01T00:00:00Z",
            &["2028-02-29T02:30:00Z", "2028-03-30T02:30:00Z"],
        ),
        ("monthly: {day: 29, at: '02:30'}", "2100-02-01T00:00:00Z", &["2100-02-28T02:30:00Z"]),
        ("cron: '30 2 * * *'", "2026-12-31T02:30:00Z", &["2027-01-01T02:30:00Z"]),
        ("cron: '0 0 L * *'", "2026-02-01T00:00:00Z", &["2026-02-28T00:00:00Z"]),
        ("cron: '0 12 29 2 *'", "2026-01-01T00:00:00Z", &["2028-02-29T12:00:00Z", "2032-02-29T12:00:00Z"]),
    ];
    for (text, from, expected) in table {
        assert_eq!(dues(text, from, expected.len()), *expected, "{text} after {from}");
    }
}

#[test]
fn a_time_in_the_spring_gap_is_due_when_the_clock_has_changed() {
    for kind in ["daily: {at: '02:30'}", "cron: '30 2 * * *'"] {
        let berlin = dues(&format!("{kind}\ntimeZone: Europe/Berlin"), "2026-03-28T00:00:00Z", 3);
        let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(berlin, expected, "{kind}");
        let new_york = dues(&format!("{kind}\ntimeZone: America/New_York"), "2026-03-07T00:00:00Z", 3);
        let expected = ["2026-03-07T07:30:00Z", "2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"];
        assert_eq!(new_york, expected, "{kind}");
        let tokyo = dues(&format!("{kind}\ntimeZone: Asia/Tokyo"), "2026-03-28T18:00:00Z", 2);
        assert_eq!(tokyo, ["2026-03-29T17:30:00Z", "2026-03-30T17:30:00Z"], "{kind}");
    }
}

#[test]
fn a_time_that_comes_twice_in_autumn_is_due_once() {
    for kind in ["daily: {at: '02:30'}", "cron: '30 2 * * *'"] {
        let berlin = dues(&format!("{kind}\ntimeZone: Europe/Berlin"), "2026-10-24T12:00:00Z", 2);
        assert_eq!(berlin, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"], "{kind}");
    }
    for kind in ["daily: {at: '01:30'}", "cron: '30 1 * * *'"] {
        let new_york = dues(&format!("{kind}\ntimeZone: America/New_York"), "2026-10-31T12:00:00Z", 2);
        assert_eq!(new_york, ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"], "{kind}");
    }
}

#[test]
fn cron_steps_go_on_in_real_time_through_both_changes() {
    let spring = dues("cron: '*/30 * * * *'\ntimeZone: Europe/Berlin", "2026-03-29T00:15:00Z", 3);
    assert_eq!(spring, ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
    let autumn = dues("cron: '*/30 * * * *'\ntimeZone: Europe/Berlin", "2026-10-25T00:15:00Z", 4);
    let expected =
        ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"];
    assert_eq!(autumn, expected);
}

#[test]
fn a_day_that_a_zone_left_out_costs_no_run() {
    // Samoa went from 29 to 31 December 2011.
    let apia = dues("daily: {at: '12:00'}\ntimeZone: Pacific/Apia", "2011-12-29T12:00:00Z", 3);
    assert_eq!(apia, ["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]);
    // Midnight of the day that is missing is midnight of the next one.
    for kind in ["daily: {at: '00:00'}", "cron: '0 0 * * *'"] {
        let apia = dues(&format!("{kind}\ntimeZone: Pacific/Apia"), "2011-12-29T09:00:00Z", 3);
        assert_eq!(apia, ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"], "{kind}");
    }
}

#[test]
fn the_jitter_is_the_same_everywhere_and_differs_between_schedules() {
    let named = |name: &str| parse(&format!("name: {name}\nevery: 15m\njitter: 15m\n")).unwrap();
    let due = at("2026-01-01T00:15:00Z");
    // Fixed for ever: another process, or another version, must come to the same instant.
    assert_eq!(named("shop-db").start_of(due).to_string(), JITTERED);
    assert_eq!(named("shop-db").start_of(due), named("shop-db").start_of(due));
    let starts: std::collections::BTreeSet<_> =
        (0..100).map(|n| named(&format!("s{n}")).start_of(due)).collect();
    assert!(starts.len() > 95, "{} starts of 100 schedules", starts.len());
    assert_eq!(schedule("every: 15m").start_of(due), due);
}

#[test]
fn a_jitter_longer_than_the_gap_to_the_next_run_is_cut_to_it() {
    let often = schedule("cron: '*/5 * * * *'\njitter: 1h");
    let mut due = at("2026-01-01T00:00:00Z");
    for _ in 0..200 {
        let next = often.next_due(due).unwrap();
        assert!(often.start_of(due) < next, "{due}");
        due = next;
    }
}

const JITTERED: &str = "2026-01-01T00:15:16.119Z";

fn schedules() -> impl Strategy<Value = Schedule> {
    let when = prop_oneof![
        (1_u32..50_000).prop_map(|minutes| format!("every: {}m", minutes.min(43_200))),
        (0..24, 0..60).prop_map(|(h, m)| format!("daily: {{at: '{h:02}:{m:02}'}}")),
        (0..7_usize, 0..4, 0..60).prop_map(|(day, h, m)| {
            format!("weekly: {{day: {}, at: '{h:02}:{m:02}'}}", calendar::WEEKDAYS[day].0)
        }),
        (1..32, 0..24, 0..60).prop_map(|(day, h, m)| format!("monthly: {{day: {day}, at: '{h:02}:{m:02}'}}")),
        (0..60, 0..4).prop_map(|(m, h)| format!("cron: '{m} {h} * * *'")),
        (1..60).prop_map(|step| format!("cron: '*/{step} * * * *'")),
        (0..30, 30..60, 1..5).prop_map(|(a, b, step)| format!("cron: '{a},{b} */{step} * * *'")),
        (0..60, 0..3, 3..6).prop_map(|(m, a, b)| format!("cron: '{m} {a}-{b} * * 0,6'")),
        (0..60, 1..29, 1..13).prop_map(|(m, day, month)| format!("cron: '{m} */5 {day} {month} *'")),
    ];
    let zone = prop_oneof![
        Just("Europe/Berlin"),
        Just("America/New_York"),
        Just("Asia/Kolkata"),
        Just("Australia/Lord_Howe"),
        Just("Pacific/Apia"),
    ];
    (when, zone, 1..61).prop_map(|(when, zone, jitter)| {
        parse(&format!("name: p\n{when}\ntimeZone: {zone}\njitter: {jitter}s\n")).unwrap()
    })
}

proptest! {
    #[test]
    fn next_and_last_agree_and_leave_nothing_out(
        schedule in schedules(),
        second in 1_300_000_000_i64..1_900_000_000,
        part in 0_i32..1_000_000_000,
    ) {
        let t = Timestamp::new(second, part).unwrap();
        let next = schedule.next_due(t).unwrap();
        let last = schedule.last_due(t).unwrap();
        prop_assert!(next > t && last <= t, "{last} {t} {next}");
        prop_assert_eq!(schedule.next_due(last), Some(next), "something is between {} and {}", last, next);
        prop_assert_eq!(schedule.last_due(next), Some(next));
        let just_before = next.checked_sub(Duration::from_nanos(1)).unwrap();
        prop_assert_eq!(schedule.last_due(just_before), Some(last));
        prop_assert_eq!(schedule.next_due(just_before), Some(next));

        let start = schedule.start_of(last);
        prop_assert!(start >= last && start < next, "{last} {start} {next}");
        prop_assert!(between(last, start) < Duration::from_secs(61));
    }

    #[test]
    fn stepping_from_one_due_instant_to_the_next_meets_every_wall_clock(
        schedule in schedules(),
        second in 1_300_000_000_i64..1_900_000_000,
    ) {
        let mut t = Timestamp::new(second, 0).unwrap();
        for _ in 0..40 {
            let next = schedule.next_due(t).unwrap();
            prop_assert!(next > t);
            // From anywhere in between the same instant comes next.
            let middle = later(t, between(t, next) / 2);
            prop_assert_eq!(schedule.next_due(middle), Some(next));
            t = next;
        }
    }
}
