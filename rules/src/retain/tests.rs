use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cut(id: &str, instant: &str, verdict: Verdict) -> Cut {
    Cut { id: id.to_owned(), at: at(instant), verdict, pin: Pin::Free }
}

fn good(id: &str, instant: &str) -> Cut {
    cut(id, instant, Verdict::Good)
}

/// `id: fate` lines, newest first.
fn table(policy: &str, cuts: &[Cut], zone: &str, now: &str) -> Vec<String> {
    let rulings = parse(policy).unwrap().apply(cuts, &Zone::named(zone).unwrap(), at(now));
    rulings.into_iter().map(|ruling| format!("{}: {}", ruling.cut.id, ruling.fate)).collect()
}

#[test]
fn each_count_keeps_the_newest_of_its_period_and_says_so() {
    let cuts = [
        good("a", "2026-01-10T10:50:00Z"),
        good("b", "2026-01-10T10:20:00Z"),
        good("c", "2026-01-10T09:20:00Z"),
        good("d", "2026-01-09T22:00:00Z"),
        good("e", "2026-01-09T21:00:00Z"),
        good("f", "2025-12-31T12:00:00Z"),
        good("g", "2025-12-30T12:00:00Z"),
    ];
    assert_eq!(
        table("{last: 2, hourly: 2, daily: 2, monthly: 2, yearly: 1}", &cuts, "UTC", "2026-01-10T11:00:00Z"),
        [
            "a: keep: last 1 of 2, hourly 1 of 2, daily 1 of 2, monthly 1 of 2, yearly 1 of 1",
            "b: keep: last 2 of 2",
            "c: keep: hourly 2 of 2",
            "d: keep: daily 2 of 2",
            "e: delete: no count has a place for it",
            "f: keep: monthly 2 of 2",
            "g: delete: no count has a place for it",
        ]
    );
}

#[test]
fn days_begin_at_midnight_of_the_zone() {
    let cuts = [good("late", "2026-07-01T22:30:00Z"), good("early", "2026-07-01T21:30:00Z")];
    let kept = |zone| table("daily: 5", &cuts, zone, "2026-07-02T00:00:00Z");
    assert_eq!(kept("UTC"), ["late: keep: daily 1 of 5", "early: delete: no count has a place for it"]);
    assert_eq!(kept("Europe/Berlin"), ["late: keep: daily 1 of 5", "early: keep: daily 2 of 5"]);
}

#[test]
fn the_hour_that_comes_twice_in_autumn_counts_as_two() {
    let cuts = [good("second", "2026-10-25T01:30:00Z"), good("first", "2026-10-25T00:30:00Z")];
    assert_eq!(
        table("hourly: 5", &cuts, "Europe/Berlin", "2026-10-25T02:00:00Z"),
        ["second: keep: hourly 1 of 5", "first: keep: hourly 2 of 5"]
    );
}

#[test]
fn a_week_over_new_year_is_one_week() {
    let cuts = [good("friday", "2027-01-01T12:00:00Z"), good("thursday", "2026-12-31T12:00:00Z")];
    assert_eq!(
        table("weekly: 5", &cuts, "UTC", "2027-01-02T00:00:00Z"),
        ["friday: keep: weekly 1 of 5", "thursday: delete: no count has a place for it"]
    );
}

#[test]
fn failed_cuts_are_bounded_and_take_no_place_of_a_good_one() {
    let failed = |id: &str, instant: &str| cut(id, instant, Verdict::Failed);
    let cuts = [
        failed("f1", "2026-01-05T12:00:00Z"),
        failed("f2", "2026-01-05T11:00:00Z"),
        failed("f3", "2026-01-05T10:00:00Z"),
        failed("f4", "2026-01-05T09:00:00Z"),
        good("g1", "2026-01-05T08:00:00Z"),
        good("g2", "2026-01-04T08:00:00Z"),
    ];
    let expected = [
        "f1: keep: failed 1 of 3",
        "f2: keep: failed 2 of 3",
        "f3: keep: failed 3 of 3",
        "f4: delete: failed, and 3 newer failed ones are kept",
        "g1: keep: last 1 of 1",
        "g2: delete: no count has a place for it",
    ];
    assert_eq!(table("last: 1", &cuts, "UTC", "2026-01-05T13:00:00Z"), expected);
    assert!(table("failed: 0", &cuts, "UTC", "2026-01-05T13:00:00Z")[0].starts_with("f1: delete: failed"));
}

#[test]
fn age_deletes_what_counts_would_keep_but_never_the_last_good_one() {
    let cuts = [good("new", "2026-01-05T00:00:00Z"), good("old", "2026-01-01T00:00:00Z")];
    let kept = |now| table("{daily: 5, maxAge: 2d}", &cuts, "UTC", now);
    assert_eq!(
        kept("2026-01-05T00:00:00Z"),
        ["new: keep: daily 1 of 5", "old: delete: 4d old, more than 2d"]
    );
    assert_eq!(
        kept("2026-03-01T00:00:00Z"),
        ["new: keep: the last good one", "old: delete: 59d old, more than 2d"]
    );
    let only_age = table("maxAge: 2d", &cuts, "UTC", "2026-01-05T00:00:00Z");
    assert_eq!(only_age[0], "new: keep: nothing limits the number");
}

#[test]
fn a_pinned_cut_is_kept_and_takes_no_place() {
    let pinned = Cut { pin: Pin::Pinned, ..good("pinned", "2026-01-05T00:00:00Z") };
    let cuts = [pinned, good("b", "2026-01-04T00:00:00Z"), good("c", "2026-01-03T00:00:00Z")];
    assert_eq!(
        table("last: 1", &cuts, "UTC", "2026-01-06T00:00:00Z"),
        ["pinned: keep: pinned", "b: keep: last 1 of 1", "c: delete: no count has a place for it"]
    );
}

#[test]
fn cuts_of_a_clock_that_was_ahead_push_out_nothing() {
    let cuts = [
        good("ahead", "2027-01-04T00:00:00Z"),
        cut("ahead-failed", "2027-01-03T00:00:00Z", Verdict::Failed),
        good("new", "2026-01-02T00:30:00Z"),
        good("old", "2026-01-01T00:00:00Z"),
    ];
    // Half an hour is within what clocks of good machines differ by while they are set right.
    assert_eq!(
        table("{last: 1, failed: 0}", &cuts, "UTC", "2026-01-02T00:00:00Z"),
        [
            "ahead: keep: dated in the future, by a clock that was wrong",
            "ahead-failed: keep: dated in the future, by a clock that was wrong",
            "new: keep: last 1 of 1",
            "old: delete: no count has a place for it",
        ]
    );
}

#[test]
fn a_pinned_cut_of_a_clock_that_was_ahead_does_not_stand_for_the_last_good_one() {
    let pinned = Cut { pin: Pin::Pinned, ..good("pinned", "2036-01-01T00:00:00Z") };
    let cuts = [pinned, good("b", "2026-01-01T00:00:00Z"), good("c", "2025-12-01T00:00:00Z")];
    assert_eq!(
        table("maxAge: 2d", &cuts, "UTC", "2026-03-01T00:00:00Z"),
        ["pinned: keep: pinned", "b: keep: the last good one", "c: delete: 90d old, more than 2d"]
    );
}

#[test]
fn a_leap_day_has_a_place_in_its_day_month_and_year() {
    let cuts = [
        good("march", "2028-03-01T12:00:00Z"),
        good("leap-late", "2028-02-29T23:00:00Z"),
        good("leap-early", "2028-02-29T01:00:00Z"),
        good("28th", "2028-02-28T12:00:00Z"),
    ];
    assert_eq!(
        table("{daily: 3, monthly: 2}", &cuts, "UTC", "2028-03-01T13:00:00Z"),
        [
            "march: keep: daily 1 of 3, monthly 1 of 2",
            "leap-late: keep: daily 2 of 3, monthly 2 of 2",
            "leap-early: delete: no count has a place for it",
            "28th: keep: daily 3 of 3",
        ]
    );
}

#[test]
fn an_empty_policy_keeps_failed_ones_as_well() {
    let cuts: Vec<Cut> =
        (1..9).map(|n| cut(&format!("f{n}"), &format!("2020-01-0{n}T00:00:00Z"), Verdict::Failed)).collect();
    let lines = table("{}", &cuts, "UTC", "2026-01-01T00:00:00Z");
    assert_eq!(lines.len(), 8);
    assert!(lines.iter().all(|line| line.ends_with("keep: the policy is empty")), "{lines:?}");
}

#[test]
fn a_wrong_policy_is_refused_with_place_reason_and_fix() {
    let table = [
        ("last: 5\ndayly: 7\n", "line 2, column 1: dayly: unknown field `dayly`", "did you mean `daily`?"),
        ("last: 0\n", "line 1, column 7: last: 0 is out of bounds", "from 1 to 1000"),
        ("last: -1\n", "last: -1 is out of bounds", "choose one in between"),
        ("last: \"5\"\n", "this is text", "a whole number is expected"),
        ("hourly: 100000\n", "100000 is out of bounds", "from 1 to 1000"),
        ("maxAge: 30\n", "a number without a unit", "`30d`"),
        ("maxAge: 5m\n", "`5m` is out of bounds", "at least 1h"),
        ("maxAge: 99999999999999999999d\n", "is not a length of time", "`30d`"),
        ("failed:\n", "`failed` is empty", "give it a value or remove it"),
        ("- last\n", "this is a list", "a retention policy"),
        ("", "the text is empty", "right file"),
    ];
    for (text, what, fix) in table {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(fix), "{text:?}: {error}");
    }
}

#[test]
fn a_policy_is_written_as_it_is_read() {
    for text in ["{}\n", "last: 3\ndaily: 7\nmaxAge: 90d\nfailed: 0\n", "hourly: 24\nweekly: 4\nyearly: 2\n"]
    {
        let policy = parse(text).unwrap();
        assert_eq!(to_yaml(&policy).unwrap(), text);
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Retention>(&json).unwrap(), policy);
    }
    assert!(serde_json::from_str::<Retention>(r#"{"last": 0}"#).unwrap_err().to_string().contains("bounds"));
}

fn policies() -> impl Strategy<Value = Retention> {
    let count = || proptest::option::of(1_u32..6);
    let age = proptest::option::of((1_u64..2_000).prop_map(|hours| Duration::from_secs(hours * 3_600)));
    (count(), proptest::array::uniform5(count()), age, proptest::option::of(0_u32..4))
        .prop_map(|(last, periods, max_age, failed)| Retention { last, periods, max_age, failed })
}

const EPOCH: i64 = 1_774_000_000;
const SPAN: i64 = 200 * 86_400;

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let one = (0..SPAN / 600, 0..5_u8, 0..8_u8);
    proptest::collection::vec(one, 0..60).prop_map(|list| {
        let cut = |(index, (slot, failed, pinned)): (usize, (i64, u8, u8))| Cut {
            id: format!("c{index}"),
            at: Timestamp::from_second(EPOCH + slot * 600).unwrap(),
            verdict: if failed == 0 { Verdict::Failed } else { Verdict::Good },
            pin: if pinned == 0 { Pin::Pinned } else { Pin::Free },
        };
        list.into_iter().enumerate().map(cut).collect()
    })
}

fn split(policy: &Retention, cuts: &[Cut], zone: &Zone, now: Timestamp) -> (Vec<Cut>, Vec<Cut>) {
    let (kept, deleted): (Vec<_>, Vec<_>) =
        policy.apply(cuts, zone, now).into_iter().partition(|ruling| matches!(ruling.fate, Fate::Keep(_)));
    let owned = |rulings: Vec<Ruling<'_>>| rulings.into_iter().map(|ruling| ruling.cut.clone()).collect();
    (owned(kept), owned(deleted))
}

/// Cuts at the ends of time, at the same instant, and after now.
fn odd_cuts() -> impl Strategy<Value = Vec<Cut>> {
    let instant = prop_oneof![
        Just(Timestamp::MIN),
        Just(Timestamp::MAX),
        Just(Timestamp::UNIX_EPOCH),
        (0..4_i64).prop_map(|n| Timestamp::from_second(EPOCH + n).unwrap()),
        any::<i32>().prop_map(|n| Timestamp::from_second(i64::from(n)).unwrap()),
    ];
    let one = (instant, any::<bool>(), 0..4_u8);
    proptest::collection::vec(one, 0..20).prop_map(|list| {
        let cut = |(index, (at, failed, pinned)): (usize, (Timestamp, bool, u8))| Cut {
            id: format!("c{index}"),
            at,
            verdict: if failed { Verdict::Failed } else { Verdict::Good },
            pin: if pinned == 0 { Pin::Pinned } else { Pin::Free },
        };
        list.into_iter().enumerate().map(cut).collect()
    })
}

proptest! {
    #[test]
    fn at_the_ends_of_time_nothing_overflows_and_the_newest_good_one_stays(
        policy in policies(), cuts in odd_cuts(), now in prop_oneof![Just(Timestamp::MIN), Just(Timestamp::MAX), (0..9_i64).prop_map(|n| Timestamp::from_second(EPOCH + n).unwrap())]
    ) {
        for zone in ["UTC", "Pacific/Kiritimati", "America/New_York"] {
            let zone = Zone::named(zone).unwrap();
            let (kept, deleted) = split(&policy, &cuts, &zone, now);
            prop_assert_eq!(kept.len() + deleted.len(), cuts.len());
            let believable = later(now, schedule::limits::CLOCK_STEP);
            let newest = cuts
                .iter()
                .filter(|cut| cut.verdict == Verdict::Good && cut.at <= believable)
                .max_by_key(|cut| (cut.at, &cut.id));
            prop_assert!(newest.is_none_or(|cut| kept.contains(cut)));
            prop_assert!(deleted.iter().all(|cut| cut.pin == Pin::Free && cut.at <= believable));
        }
    }

    #[test]
    fn the_guarantees_hold_for_any_policy(policy in policies(), cuts in cuts(), late in 0_i64..SPAN) {
        let zone = Zone::named("Europe/Berlin").unwrap();
        let now = Timestamp::from_second(EPOCH + SPAN + late).unwrap();
        let (kept, deleted) = split(&policy, &cuts, &zone, now);
        prop_assert_eq!(kept.len() + deleted.len(), cuts.len());
        prop_assert!(deleted.iter().all(|cut| cut.pin == Pin::Free));

        let newest = cuts.iter().filter(|cut| cut.verdict == Verdict::Good).max_by_key(|cut| (cut.at, &cut.id));
        prop_assert!(newest.is_none_or(|cut| kept.contains(cut)), "the last good one was deleted");

        let free = |verdict| kept.iter().filter(|cut| cut.pin == Pin::Free && cut.verdict == verdict).count();
        if policy.counts() {
            let places: u32 = policy.last.into_iter().chain(policy.periods.into_iter().flatten()).sum();
            // The last good one needs no extra place: unless it is too old, each count has one for it.
            prop_assert!(free(Verdict::Good) <= usize::try_from(places).unwrap());
        }
        if !policy.is_empty() {
            prop_assert!(free(Verdict::Failed) <= usize::try_from(policy.failed.unwrap_or(FAILED_KEPT)).unwrap());
        }

        let (_, again) = split(&policy, &kept, &zone, now);
        prop_assert!(again.is_empty(), "applied twice it deletes more: {:?}", again);

        let mut turned = cuts.clone();
        turned.reverse();
        prop_assert_eq!(split(&policy, &turned, &zone, now), (kept, deleted), "the order of the list matters");
    }

    #[test]
    fn a_newer_cut_resurrects_nothing(policy in policies(), cuts in cuts(), gap in 1_i64..90_000, fails in any::<bool>()) {
        let zone = Zone::named("America/New_York").unwrap();
        let now = Timestamp::from_second(EPOCH + SPAN + 100_000).unwrap();
        let (_, deleted) = split(&policy, &cuts, &zone, now);
        let mut more = cuts.clone();
        let newest = cuts.iter().map(|cut| cut.at).max().unwrap_or(now);
        more.push(Cut {
            id: "newer".to_owned(),
            at: Timestamp::from_second(newest.as_second() + gap).unwrap(),
            verdict: if fails { Verdict::Failed } else { Verdict::Good },
            pin: Pin::Free,
        });
        let (kept, _) = split(&policy, &more, &zone, now);
        prop_assert!(deleted.iter().all(|cut| !kept.contains(cut)));
    }
}
