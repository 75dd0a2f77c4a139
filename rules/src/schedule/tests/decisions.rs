use super::*;

fn facts(since: &str, handled: Option<&str>, now: &str) -> Facts {
    Facts {
        since: at(since),
        handled: handled.map(at),
        activity: Activity::Active,
        watched_from: at(since),
        way: Way::Free,
        now: at(now),
    }
}

fn wait(until: &str, why: WaitReason) -> Decision {
    Decision::Wait { until: Some(at(until)), why }
}

fn start(due: &str, late_s: u64) -> Decision {
    Decision::Start { due: at(due), late: Duration::from_secs(late_s) }
}

fn skip(through: &str, missed: u32, why: SkipReason) -> Decision {
    Decision::Skip { through: at(through), missed, why }
}

#[test]
fn a_run_starts_when_it_is_due_and_once() {
    let hourly = schedule("every: 1h");
    let since = "2026-01-01T10:20:00Z";
    let table = [
        (None, "2026-01-01T10:30:00Z", wait("2026-01-01T11:00:00Z", WaitReason::NotDue)),
        (None, "2026-01-01T11:00:00Z", start("2026-01-01T11:00:00Z", 0)),
        (None, "2026-01-01T11:00:07Z", start("2026-01-01T11:00:00Z", 7)),
        (
            Some("2026-01-01T11:00:00Z"),
            "2026-01-01T11:00:07Z",
            wait("2026-01-01T12:00:00Z", WaitReason::NotDue),
        ),
        (Some("2026-01-01T11:00:00Z"), "2026-01-01T12:00:00Z", start("2026-01-01T12:00:00Z", 0)),
    ];
    for (handled, now, expected) in table {
        assert_eq!(decide(&hourly, &facts(since, handled, now)), expected, "{handled:?} at {now}");
    }
}

#[test]
fn after_downtime_only_the_last_missed_run_starts_and_only_within_its_window() {
    let daily = schedule("daily: {at: '02:30'}\ncatchUp: 6h");
    let ask = |handled, now| {
        let known = facts("2026-01-01T00:00:00Z", Some(handled), now);
        decide(&daily, &Facts { watched_from: at(now), ..known })
    };
    // First what is not made up for is recorded, then the last one starts.
    let first = ask("2026-01-01T02:30:00Z", "2026-01-05T08:30:00Z");
    assert_eq!(first, skip("2026-01-04T02:30:00Z", 3, SkipReason::Down));
    assert_eq!(ask("2026-01-04T02:30:00Z", "2026-01-05T08:30:00Z"), start("2026-01-05T02:30:00Z", 6 * 3_600));
    let late = ask("2026-01-04T02:30:00Z", "2026-01-05T08:30:01Z");
    assert_eq!(late, skip("2026-01-05T02:30:00Z", 1, SkipReason::Down));
    // The skip recorded, the schedule goes on.
    let after = ask("2026-01-05T02:30:00Z", "2026-01-05T08:30:01Z");
    assert_eq!(after, wait("2026-01-06T02:30:00Z", WaitReason::NotDue));
}

#[test]
fn a_skip_says_why() {
    let hourly = schedule("every: 1h\ncatchUp: 10m");
    let known = Facts {
        watched_from: at("2026-01-01T09:30:00Z"),
        ..facts("2026-01-01T00:00:00Z", Some("2026-01-01T09:00:00Z"), "2026-01-01T10:10:01Z")
    };
    let ask = |facts: Facts| decide(&hourly, &facts);
    let due = "2026-01-01T10:00:00Z";
    for (way, why) in [
        (Way::Running, SkipReason::StillRunning),
        (Way::NoSlot, SkipReason::NoSlot),
        (Way::Free, SkipReason::Late),
        (Way::Full, SkipReason::Full),
    ] {
        assert_eq!(ask(Facts { way, ..known }), skip(due, 1, why));
    }
    assert_eq!(ask(Facts { watched_from: known.now, ..known }), skip(due, 1, SkipReason::Down));
    let suspended = Facts { activity: Activity::Suspended, watched_from: known.now, ..known };
    assert_eq!(ask(suspended), skip(due, 1, SkipReason::Suspended));
    let words: std::collections::BTreeSet<_> = SkipReason::ALL.into_iter().map(SkipReason::word).collect();
    assert_eq!(words.len(), SkipReason::ALL.len());
}

#[test]
fn counting_missed_runs_has_an_end() {
    let minutely = schedule("cron: '* * * * *'");
    let decision = decide(&minutely, &facts("2000-01-01T00:00:00Z", None, "2026-01-01T00:00:30Z"));
    assert_eq!(decision, skip("2025-12-31T23:59:00Z", limits::MISSED, SkipReason::Late));
}

#[test]
fn what_is_due_while_it_is_suspended_is_skipped_as_it_passes() {
    let hourly = schedule("every: 1h");
    let ask = |handled, now| {
        let known = facts("2026-01-01T00:00:00Z", Some(handled), now);
        decide(&hourly, &Facts { activity: Activity::Suspended, ..known })
    };
    let waiting = ask("2026-01-01T09:00:00Z", "2026-01-01T09:10:00Z");
    assert_eq!(waiting, wait("2026-01-01T10:00:00Z", WaitReason::NotDue));
    let passed = ask("2026-01-01T09:00:00Z", "2026-01-01T12:10:00Z");
    assert_eq!(passed, skip("2026-01-01T12:00:00Z", 3, SkipReason::Suspended));
}

#[test]
fn a_run_waits_for_the_one_before_until_the_next_takes_its_place() {
    let hourly = schedule("every: 1h\ncatchUp: 90m");
    let ask = |now: &str, way| {
        let known = facts("2026-01-01T00:00:00Z", Some("2026-01-01T10:00:00Z"), now);
        decide(&hourly, &Facts { way, ..known })
    };
    let running = |now| ask(now, Way::Running);
    assert_eq!(running("2026-01-01T10:30:00Z"), wait("2026-01-01T11:00:00Z", WaitReason::NotDue));
    assert_eq!(running("2026-01-01T11:00:00Z"), wait("2026-01-01T12:00:00Z", WaitReason::StillRunning));
    assert_eq!(ask("2026-01-01T11:59:00Z", Way::Free), start("2026-01-01T11:00:00Z", 59 * 60));
    let replaced = running("2026-01-01T12:00:00Z");
    assert_eq!(replaced, skip("2026-01-01T11:00:00Z", 1, SkipReason::StillRunning));
    let no_slot = ask("2026-01-01T11:00:00Z", Way::NoSlot);
    assert_eq!(no_slot, wait("2026-01-01T12:00:00Z", WaitReason::NoSlot));
}

#[test]
fn a_clock_that_was_wrong_does_not_stop_a_schedule() {
    let hourly = schedule("every: 1h");
    let ahead = facts("2026-01-01T00:00:00Z", Some("2099-01-01T00:00:00Z"), "2026-01-01T11:20:00Z");
    assert_eq!(decide(&hourly, &ahead), Decision::Rewind { to: ahead.now });
    let recorded = Facts { handled: Some(ahead.now), ..ahead };
    assert_eq!(decide(&hourly, &recorded), wait("2026-01-01T12:00:00Z", WaitReason::NotDue));
    // A small step back repeats nothing.
    let back = facts("2026-01-01T00:00:00Z", Some("2026-01-01T11:00:00Z"), "2026-01-01T10:59:00Z");
    assert_eq!(decide(&hourly, &back), wait("2026-01-01T12:00:00Z", WaitReason::NotDue));
}

proptest! {
    /// An executor that does what it is told, asked at any instants, starts every due run in order when nothing is late.
    #[test]
    fn an_obedient_executor_misses_and_repeats_nothing(
        schedule in schedules(),
        second in 1_300_000_000_i64..1_900_000_000,
    ) {
        let since = Timestamp::from_second(second).unwrap();
        let mut known = Facts {
            since, handled: None, activity: Activity::Active, watched_from: since, way: Way::Free, now: since,
        };
        let mut expected = schedule.next_due(since).unwrap();
        let mut starts = 0;
        for _ in 0..200 {
            match decide(&schedule, &known) {
                Decision::Wait { until, why } => {
                    prop_assert_eq!(why, WaitReason::NotDue);
                    prop_assert!(until.unwrap() > known.now, "a wait that ends at once would spin");
                    known.now = until.unwrap();
                }
                Decision::Start { due, late } => {
                    prop_assert_eq!((due, late), (expected, Duration::ZERO));
                    known.handled = Some(due);
                    expected = schedule.next_due(due).unwrap();
                    starts += 1;
                }
                Decision::Skip { .. } | Decision::Rewind { .. } => prop_assert!(false, "nothing was late"),
            }
        }
        prop_assert!(starts >= 99, "{starts}");
    }
}
