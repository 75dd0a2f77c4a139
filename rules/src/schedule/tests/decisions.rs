use super::*;

fn facts(since: &str, handled: Option<&str>, now: &str) -> Facts {
    Facts { since: at(since), handled: handled.map(at), running: None, now: at(now) }
}

fn wait(until: &str, why: WaitReason) -> Decision {
    Decision::Wait { until: Some(at(until)), why }
}

fn start(due: &str, late_s: u64, missed: u32) -> Decision {
    Decision::Start { due: at(due), late: Duration::from_secs(late_s), missed, prior: Prior::Nothing }
}

#[test]
fn a_run_starts_when_it_is_due_and_once() {
    let hourly = schedule("every: 1h");
    let since = "2026-01-01T10:20:00Z";
    let table = [
        (None, "2026-01-01T10:30:00Z", wait("2026-01-01T11:00:00Z", WaitReason::NotDue)),
        (None, "2026-01-01T11:00:00Z", start("2026-01-01T11:00:00Z", 0, 0)),
        (None, "2026-01-01T11:00:07Z", start("2026-01-01T11:00:00Z", 7, 0)),
        (
            Some("2026-01-01T11:00:00Z"),
            "2026-01-01T11:00:07Z",
            wait("2026-01-01T12:00:00Z", WaitReason::NotDue),
        ),
        (Some("2026-01-01T11:00:00Z"), "2026-01-01T12:00:00Z", start("2026-01-01T12:00:00Z", 0, 0)),
    ];
    for (handled, now, expected) in table {
        assert_eq!(decide(&hourly, &facts(since, handled, now)), expected, "{handled:?} at {now}");
    }
}

#[test]
fn after_downtime_only_the_last_missed_run_starts_and_only_within_its_window() {
    let daily = schedule("daily: {at: '02:30'}\ncatchUp: 6h");
    let ask = |now| decide(&daily, &facts("2026-01-01T00:00:00Z", Some("2026-01-01T02:30:00Z"), now));
    assert_eq!(ask("2026-01-05T08:30:00Z"), start("2026-01-05T02:30:00Z", 6 * 3_600, 3));
    let skip = Decision::Skip { through: at("2026-01-05T02:30:00Z"), missed: 4, why: SkipReason::TooLate };
    assert_eq!(ask("2026-01-05T08:30:01Z"), skip);
    // The skip recorded, the schedule goes on.
    let after = facts("2026-01-01T00:00:00Z", Some("2026-01-05T02:30:00Z"), "2026-01-05T08:30:01Z");
    assert_eq!(decide(&daily, &after), wait("2026-01-06T02:30:00Z", WaitReason::NotDue));
}

#[test]
fn counting_missed_runs_has_an_end() {
    let minutely = schedule("cron: '* * * * *'");
    let decision = decide(&minutely, &facts("2000-01-01T00:00:00Z", None, "2026-01-01T00:00:30Z"));
    assert_eq!(decision, start("2026-01-01T00:00:00Z", 30, limits::MISSED));
}

#[test]
fn what_was_due_before_it_was_resumed_is_not_made_up_for() {
    let hourly = schedule("every: 1h\ncatchUp: 1d");
    let resumed = facts("2026-01-01T20:10:00Z", Some("2026-01-01T09:00:00Z"), "2026-01-01T20:10:00Z");
    assert_eq!(decide(&hourly, &resumed), wait("2026-01-01T21:00:00Z", WaitReason::NotDue));
    let suspended = schedule("every: 1h\nsuspend: true");
    let never = Decision::Wait { until: None, why: WaitReason::Suspended };
    assert_eq!(decide(&suspended, &facts("2020-01-01T00:00:00Z", None, "2026-01-01T00:00:00Z")), never);
}

#[test]
fn no_second_run_starts_while_one_is_within_its_limit_and_a_hung_one_stops_nothing() {
    let hourly = schedule("every: 1h");
    let ask = |now: &str| {
        let running = Running { started: at("2026-01-01T10:00:00Z"), limit: Duration::from_mins(70) };
        let known = facts("2026-01-01T00:00:00Z", Some("2026-01-01T10:00:00Z"), now);
        decide(&hourly, &Facts { running: Some(running), ..known })
    };
    assert_eq!(ask("2026-01-01T10:30:00Z"), wait("2026-01-01T11:00:00Z", WaitReason::NotDue));
    assert_eq!(ask("2026-01-01T11:00:00Z"), wait("2026-01-01T11:10:00Z", WaitReason::StillRunning));
    let over = Decision::Start {
        due: at("2026-01-01T11:00:00Z"),
        late: Duration::from_mins(10),
        missed: 0,
        prior: Prior::GiveUpRunning,
    };
    assert_eq!(ask("2026-01-01T11:10:00Z"), over);
}

#[test]
fn a_clock_that_was_wrong_does_not_stop_a_schedule() {
    let hourly = schedule("every: 1h");
    let ahead = facts("2026-01-01T00:00:00Z", Some("2099-01-01T00:00:00Z"), "2026-01-01T11:00:00Z");
    assert!(
        matches!(decide(&hourly, &ahead), Decision::Start { due, .. } if due == at("2026-01-01T11:00:00Z"))
    );
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
        let mut known = Facts { since, handled: None, running: None, now: since };
        let mut expected = schedule.next_due(since).unwrap();
        let mut starts = 0;
        for _ in 0..200 {
            match decide(&schedule, &known) {
                Decision::Wait { until, why } => {
                    prop_assert_eq!(why, WaitReason::NotDue);
                    prop_assert!(until.unwrap() > known.now, "a wait that ends at once would spin");
                    known.now = until.unwrap();
                }
                Decision::Start { due, late, missed, prior } => {
                    prop_assert_eq!((due, late, missed, prior), (expected, Duration::ZERO, 0, Prior::Nothing));
                    known.handled = Some(due);
                    expected = schedule.next_due(due).unwrap();
                    starts += 1;
                }
                Decision::Skip { .. } => prop_assert!(false, "nothing was late"),
            }
        }
        prop_assert!(starts >= 99, "{starts}");
    }
}
