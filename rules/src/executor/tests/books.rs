use super::*;

fn book() -> Book {
    Book::new(&job("every: 1h").schedule, at("2026-01-01T00:10:00Z"))
}

#[test]
fn names_of_cuts_follow_from_schedule_and_due_instant() {
    let claimed = book().claim(at("2026-01-01T01:00:00Z"), at("2026-01-01T01:00:03Z"));
    assert_eq!(claimed.open.as_ref().unwrap().cut, "s-20260101T010000Z");
    assert_eq!(claimed.handled, Some(at("2026-01-01T01:00:00Z")));
    let again = book()
        .rewind(at("2026-01-01T00:30:00Z"))
        .claim(at("2026-01-01T01:00:00Z"), at("2026-01-01T01:00:03Z"));
    assert_eq!(again.open.unwrap().cut, "s-20260101T010000Z-r1");
    let by_hand = book().claim_by_hand(at("2026-01-01T01:02:03.045Z"));
    assert_eq!(by_hand.open.unwrap().cut, "s-now-20260101T010203045Z");
    assert_eq!(by_hand.handled, None, "a run by hand takes no turn");
}

#[test]
fn a_book_comes_through_json_and_another_format_is_seen() {
    let now = at("2026-01-01T01:00:03Z");
    let mut full = book()
        .claim(at("2026-01-01T01:00:00Z"), now)
        .ended("s-20260101T010000Z", Outcome::Made(found("c1", now, Verdict::Good)), now)
        .skip(at("2026-01-01T03:00:00Z"), 2, SkipReason::Down, now)
        .suspend(now)
        .resume(now)
        .rewind(now)
        .claim_by_hand(now);
    full = full.let_go(now);
    let text = serde_json::to_string(&full).unwrap();
    assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), full);
    assert!(text.contains("\"format\":1"));
    assert!(serde_json::from_str::<Book>(&text.replace("\"epoch\"", "\"epok\"")).is_err());
}

#[test]
fn skips_in_a_row_for_one_reason_are_one_entry_and_the_history_is_bounded() {
    let now = at("2026-01-02T00:00:00Z");
    let hour = |n: i64| Timestamp::from_second(at("2026-01-01T00:00:00Z").as_second() + n * 3600).unwrap();
    let mut book = book();
    for n in 1..20 {
        book = book.skip(hour(n), 1, SkipReason::Suspended, now);
    }
    assert_eq!(book.history.len(), 1);
    assert!(
        matches!(&book.history[0].event, Event::Skipped { missed: 19, through, .. } if *through == hour(19))
    );
    for n in 20..200 {
        let why = if n % 2 == 0 { SkipReason::Down } else { SkipReason::Late };
        book = book.skip(hour(n), 1, why, now);
    }
    assert_eq!(book.history.len(), limits::HISTORY);
}

#[test]
fn a_run_that_ends_after_it_was_let_go_of_leaves_no_cut_without_an_owner() {
    let now = at("2026-01-01T01:00:03Z");
    let claimed = book().claim(at("2026-01-01T01:00:00Z"), now);
    let cut = claimed.open.clone().unwrap().cut;
    let gone = claimed.let_go(now);
    assert_eq!((gone.open.clone(), gone.unknown().count()), (None, 1));
    let late = gone.ended(&cut, Outcome::Made(found("c1", now, Verdict::Good)), now);
    assert_eq!(late.made.len(), 1);
    assert_eq!(late.made[0].id.as_deref(), Some("c1"));
    assert_eq!(gone.ended(&cut, Outcome::Failed("undone".into()), now).made, vec![]);
    assert_eq!(gone.resolve(&cut, None).made, vec![]);
    assert_eq!(gone.resolve(&cut, Some(found("c1", now, Verdict::Failed))).made[0].id.as_deref(), Some("c1"));
}

#[test]
fn a_reason_without_end_is_cut_short() {
    let now = at("2026-01-01T01:00:03Z");
    let claimed = book().claim(at("2026-01-01T01:00:00Z"), now);
    let failed = claimed.ended("s-20260101T010000Z", Outcome::Failed("ä".repeat(100_000)), now);
    assert!(serde_json::to_string(&failed).unwrap().len() < 10_000);
}

#[test]
fn what_is_uncertain_is_neither_kept_in_place_of_a_good_one_nor_deleted() {
    let job = job("every: 1h\nretention: {last: 1, failed: 0}");
    let t = |n: i64| Timestamp::from_second(at("2026-01-01T00:00:00Z").as_second() + n * 3600).unwrap();
    let mut book = Book::new(&job.schedule, t(0));
    for (n, outcome) in [
        (1, Outcome::Made(found("c1", t(1), Verdict::Good))),
        (2, Outcome::Made(found("c2", t(2), Verdict::Good))),
        (3, Outcome::Made(found("c3", t(3), Verdict::Failed))),
        (4, Outcome::Unknown("host b does not answer".into())),
    ] {
        book = book.claim(t(n), t(n));
        let name = book.open.clone().unwrap().cut;
        book = book.ended(&name, outcome, t(n));
    }
    let gone: Vec<_> = deletable(&job, &book, t(5)).into_iter().map(|cut| cut.id.unwrap()).collect();
    assert_eq!(gone, ["c1", "c3"]);
    assert_eq!(book.last_good().unwrap().id.as_deref(), Some("c2"));
    assert!(matches!(&book.last_run().unwrap().event, Event::Failed { .. }));
}

#[test]
fn a_job_is_overdue_when_its_newest_good_cut_is_older_than_the_run_that_must_have_ended() {
    let job = job("every: 1h\nlimits: {run: 10m}");
    let book = Book { created: at("2026-01-01T00:10:00Z"), ..book() };
    let ask = |good: Option<&str>, now: &str| {
        let answer = protection(&job, &book, good.map(at), at(now));
        (answer.expected.map(|due| due.to_string()), answer.overdue)
    };
    assert_eq!(ask(None, "2026-01-01T00:50:00Z"), (None, false), "nothing was due yet");
    assert_eq!(ask(None, "2026-01-01T01:05:00Z"), (None, false), "it may be under way");
    assert_eq!(ask(None, "2026-01-01T01:10:00Z"), (Some("2026-01-01T01:00:00Z".into()), true));
    let good = Some("2026-01-01T01:00:04Z");
    assert!(!ask(good, "2026-01-01T02:09:59Z").1);
    assert!(ask(good, "2026-01-01T02:10:00Z").1);
    let long = super::job("every: 1h\nlimits: {run: 3h}");
    assert!(!protection(&long, &book, good.map(at), at("2026-01-01T02:59:59Z")).overdue);
    assert!(protection(&long, &book, good.map(at), at("2026-01-01T03:00:00Z")).overdue);
}
