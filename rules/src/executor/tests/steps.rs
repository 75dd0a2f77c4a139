//! The table: what is done next, for each situation that a job can be in.

use super::*;

const START: &str = "2026-01-01T00:10:00Z";

fn facts(now: &str) -> Facts {
    Facts { now: at(now), watched_from: at(START), live: None, slots: limits::AT_ONCE }
}

fn live(for_s: u64, stopping_s: Option<u64>) -> Live {
    Live { for_time: Duration::from_secs(for_s), stopping_for: stopping_s.map(Duration::from_secs) }
}

fn hourly() -> (Job, Book) {
    let job = job("every: 1h\ncatchUp: 30m\nlimits: {run: 10m}");
    let book = Book::new(&job.schedule, at(START));
    (job, book)
}

fn deed(next: Next) -> Deed {
    match next {
        Next::Save(_, deed) | Next::Do(deed) => deed,
        Next::Wait { until, within } => panic!("it waits until {until:?}, within {within:?}"),
    }
}

#[test]
fn a_due_run_is_saved_before_it_starts() {
    let (job, book) = hourly();
    assert_eq!(
        next(&job, &book, &facts("2026-01-01T00:59:59Z")),
        Next::Wait { until: Some(at("2026-01-01T01:00:00Z")), within: None }
    );
    let Next::Save(saved, Deed::Take(run)) = next(&job, &book, &facts("2026-01-01T01:00:00Z")) else {
        panic!("it must be saved and then taken")
    };
    assert_eq!(saved.open.as_ref(), Some(&run));
    assert_eq!((run.tries, run.due), (1, Some(at("2026-01-01T01:00:00Z"))));
}

#[test]
fn a_run_beyond_its_limit_is_stopped_then_let_go_of_and_the_next_one_starts() {
    let (job, book) = hourly();
    let book = book.claim(at("2026-01-01T01:00:00Z"), at("2026-01-01T01:00:00Z"));
    let under_way = |live| Facts { live: Some(live), ..facts("2026-01-01T01:10:00Z") };
    let waits = |live| match next(&job, &book, &under_way(live)) {
        Next::Wait { within, .. } => within.unwrap(),
        Next::Save(_, deed) | Next::Do(deed) => panic!("{deed:?}"),
    };
    assert_eq!(waits(live(599, None)), Duration::from_secs(1));
    let Deed::Stop { why } = deed(next(&job, &book, &under_way(live(600, None)))) else { panic!("no stop") };
    assert!(why.contains("10m") && why.contains("limits.run"), "{why}");
    let let_go = limits::LET_GO_AFTER.as_secs();
    assert_eq!(waits(live(700, Some(let_go - 1))), Duration::from_secs(1));
    let Next::Save(saved, Deed::LetGo) = next(&job, &book, &under_way(live(900, Some(let_go)))) else {
        panic!("it is not let go of")
    };
    assert_eq!((saved.open.clone(), saved.unknown().count()), (None, 1));
    let later = facts("2026-01-01T02:00:00Z");
    assert!(matches!(deed(next(&job, &saved, &later)), Deed::Take(_)));
}

#[test]
fn what_a_dead_process_had_started_is_started_again_under_its_name_or_looked_for() {
    let (job, book) = hourly();
    let open = book.claim(at("2026-01-01T01:00:00Z"), at("2026-01-01T01:00:00Z"));
    let ask = |book: &Book, now: &str| deed(next(&job, book, &facts(now)));
    let Deed::TakeAgain(run) = ask(&open, "2026-01-01T01:05:00Z") else { panic!("not again") };
    assert_eq!((run.tries, run.cut.as_str()), (2, "s-20260101T010000Z"));
    assert!(matches!(ask(&open, "2026-01-01T01:31:00Z"), Deed::LookFor(_)), "later than catchUp");
    let often = open.retry().retry();
    assert!(matches!(ask(&often, "2026-01-01T01:05:00Z"), Deed::LookFor(_)), "it has been tried often");
    let suspended = open.suspend(at("2026-01-01T01:01:00Z"));
    assert!(matches!(ask(&suspended, "2026-01-01T01:05:00Z"), Deed::LookFor(_)), "it is suspended");
    let by_hand = book.claim_by_hand(at("2026-01-01T00:30:00Z"));
    assert!(matches!(ask(&by_hand, "2026-01-01T00:31:00Z"), Deed::LookFor(_)), "who asked is gone");
    let full = Facts { slots: 0, ..facts("2026-01-01T01:05:00Z") };
    assert!(matches!(next(&job, &open, &full), Next::Wait { .. }));
}

#[test]
fn a_schedule_that_keeps_too_much_starts_nothing_and_says_so() {
    let (job, mut book) = hourly();
    let made = MadeCut {
        name: "x".into(),
        id: Some("x".into()),
        at: at(START),
        verdict: Verdict::Good,
        level: String::new(),
    };
    book.made = vec![made; limits::CUTS];
    let Next::Save(saved, Deed::Nothing) = next(&job, &book, &facts("2026-01-01T01:00:00Z")) else {
        panic!("it must be skipped")
    };
    assert!(matches!(&saved.history[0].event, Event::Skipped { why: SkipReason::Full, .. }));
}

#[test]
fn resuming_skips_what_was_due_meanwhile_and_fires_nothing() {
    let (job, book) = hourly();
    let now = at("2026-01-01T05:10:00Z");
    let suspended = book.suspend(at("2026-01-01T00:30:00Z"));
    let resumed = suspended.skip_suspended(&job, now).resume(now);
    assert!(
        resumed
            .history
            .iter()
            .any(|entry| matches!(entry.event, Event::Skipped { missed: 5, why: SkipReason::Suspended, .. })),
        "{:?}",
        resumed.history
    );
    let waits = Next::Wait { until: Some(at("2026-01-01T06:00:00Z")), within: None };
    assert_eq!(next(&job, &resumed, &facts("2026-01-01T05:10:00Z")), waits);
}
