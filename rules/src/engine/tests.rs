//! Whole conversations over fake ports.

mod actions;
mod closing;
mod ended;
mod fakes;
mod refused;
mod sim;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::machine::Phase;
use crate::plan::Action;
use crate::run::{DebtState, Level, Run};
use crate::text::parse;

use super::*;
use fakes::{Fault, World};

const TWO_STEPS: &str = "
apiVersion: stillpoint.dev/v1alpha1
kind: Rule
metadata: {name: two}
spec:
  steps:
  - name: flush
    pods: {selector: {matchLabels: {app: db}}}
    before: {command: [flush], timeout: 5s}
    after: {command: [unflush], timeout: 5s}
  - name: lock
    pods: {selector: {matchLabels: {app: web}}}
    before: {command: [lock], timeout: 5s}
    after: {command: [unlock], timeout: 5s}
";

const HELD: &str = "
apiVersion: stillpoint.dev/v1alpha1
kind: Rule
metadata: {name: held}
spec:
  steps:
  - name: lock
    pods: {selector: {matchLabels: {app: db}}}
    hold: {command: [session], ready: held, probe: {send: still, expect: held}, finish: [bye], limit: 5s}
    after: {command: [unlock], timeout: 5s}
";

fn request(rule: &str) -> RunRequest {
    RunRequest {
        name: "cut-1".into(),
        rule: Some(parse(rule).unwrap()),
        volumes: vec![CutVolume { id: "v1".into(), name: "data".into(), host: "a".into() }],
        namespaces: vec![],
        budget: Duration::from_mins(1),
        params: BTreeMap::new(),
        waiting_since: None,
        rehearsal: false,
    }
}

async fn run(world: &Arc<World>, rule: &str) -> Run {
    world.engine().run(request(rule), Control::default()).await
}

fn unpaid(run: &Run) -> usize {
    run.debts.iter().filter(|debt| debt.state != DebtState::Paid).count()
}

#[tokio::test(start_paused = true)]
async fn a_good_run_happens_in_this_order() {
    let world = World::new();
    let run = run(&world, TWO_STEPS).await;
    assert_eq!(run.failures, []);
    assert_eq!(
        world.deeds(),
        [
            "db-1 flush",
            "db-2 flush",
            "web-1 lock",
            "open v1",
            "cut",
            "seal application",
            "web-1 unlock",
            "db-1 unflush",
            "db-2 unflush"
        ]
    );
    assert_eq!(
        (run.phase, run.level, run.verdict()),
        (Phase::Succeeded, Some(Level::Application), "succeeded")
    );
    assert_eq!(run.debts.len(), 3);
    assert_eq!(unpaid(&run), 0);
    assert!(run.cut.as_ref().unwrap().sealed);
    assert_eq!(run.attempts.len(), 6);
    assert_eq!(world.stored(), vec![run.clone()], "the journal has the end");
    let lanes = run.lanes();
    assert_eq!(lanes.len(), 3);
    assert!(lanes[0].spans[0].end_us <= lanes[0].spans[1].start_us, "{lanes:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_rule_the_cut_is_what_storage_makes_it() {
    let world = World::new();
    let request = RunRequest { rule: None, ..request(TWO_STEPS) };
    let run = world.engine().run(request, Control::default()).await;
    assert_eq!(world.deeds(), ["open v1", "cut", "seal"]);
    assert_eq!((run.phase, run.level), (Phase::Succeeded, Some(Level::Filesystem)));
}

#[tokio::test(start_paused = true)]
async fn a_failing_before_opens_nothing_and_undoes_what_was_started() {
    let world = World::with(Fault::Exit("db-2 flush", 3));
    let run = run(&world, TWO_STEPS).await;
    assert_eq!(world.deeds(), ["db-1 flush", "db-2 flush", "db-1 unflush", "db-2 unflush"]);
    assert_eq!(run.phase, Phase::Failed);
    let why = &run.failures[0].message;
    assert!(
        why.contains("step `flush`: `before` failed in 1 of 2 pods: default/db-2: exit code 3: it said no")
            && why.contains("try `flush` in default/db-2 by hand"),
        "{why}"
    );
    assert!(run.cut.is_none() && run.level.is_none());
    assert_eq!(unpaid(&run), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reason_that_is_the_same_in_all_pods_is_said_once() {
    let world = World::with(Fault::ExitAll("flush", 126));
    let run = run(&world, TWO_STEPS).await;
    let why = &run.failures[0].message;
    assert!(
        why.contains("2 of 2 pods: default/db-1, default/db-2: exit code 126: it said no; nothing is cut"),
        "{why}"
    );
    assert_eq!(why.matches("it said no").count(), 1, "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_never_answers_is_given_up_after_its_timeout() {
    let world = World::with(Fault::Hang("db-1 flush"));
    let run = run(&world, TWO_STEPS).await;
    assert!(run.failures[0].message.contains("did not end within 5s"), "{:?}", run.failures);
    assert!(!world.deeds().contains(&"open v1".to_owned()));
    assert_eq!(unpaid(&run), 0);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_cannot_be_prepared_fail_the_run_and_afters_run() {
    let world = World::with(Fault::Open);
    let run = run(&world, TWO_STEPS).await;
    assert_eq!(world.deeds()[3..], ["open v1", "web-1 unlock", "db-1 unflush", "db-2 unflush"]);
    assert!(run.failures[0].message.contains("hosts could not be prepared: no headroom"));
    assert!(!run.may_be_repeated());
}

#[tokio::test(start_paused = true)]
async fn a_failed_cut_is_given_up_and_afters_run() {
    let world = World::with(Fault::Cut);
    let run = run(&world, TWO_STEPS).await;
    assert_eq!(world.deeds()[4..], ["cut", "given up", "web-1 unlock", "db-1 unflush", "db-2 unflush"]);
    assert!(run.failures[0].message.contains("the cut failed and nothing is held: a host was late"));
    assert!(run.may_be_repeated() && run.level.is_none());
}

#[tokio::test(start_paused = true)]
async fn hosts_that_never_answer_are_given_up() {
    for (fault, words) in [
        (Fault::HangOpen, "hosts were not prepared"),
        (Fault::HangCut, "the cut did not end"),
        (Fault::HangSeal, "not made real"),
    ] {
        let world = World::with(fault);
        let mut request = request(TWO_STEPS);
        request.budget = Duration::from_hours(10);
        let run = world.engine().run(request, Control::default()).await;
        assert!(run.failures[0].message.contains(words), "{:?}", run.failures);
        assert_eq!(unpaid(&run), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_after_that_fails_leaves_the_cut_and_is_still_owed() {
    let world = World::with(Fault::Exit("web-1 unlock", 1));
    let run = run(&world, TWO_STEPS).await;
    assert!(world.deeds().contains(&"db-2 unflush".to_owned()), "the others are undone all the same");
    assert_eq!((run.phase, run.verdict()), (Phase::Overdue, "overdue"));
    assert_eq!(run.level, Some(Level::Application), "the snapshot is good");
    assert!(run.failures[0].message.contains("the application is still owed this"));
    assert_eq!(unpaid(&run), 1);
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_fails_is_no_cut() {
    let world = World::with(Fault::Seal);
    let run = run(&world, TWO_STEPS).await;
    assert!(run.level.is_none() && !run.cut.as_ref().unwrap().sealed);
    assert_eq!(unpaid(&run), 0);
}

#[tokio::test(start_paused = true)]
async fn no_match_fails_before_anything_is_done() {
    let world = World::new();
    let run = run(&world, &TWO_STEPS.replace("app: web", "app: wbe")).await;
    assert!(world.deeds().is_empty());
    assert!(run.failures[0].message.contains("no pod matches app=wbe"), "{:?}", run.failures);
}

#[tokio::test(start_paused = true)]
async fn members_that_are_not_at_one_instant_never_become_application_consistent() {
    let world = World::with(Fault::NoBarrier);
    let run = run(&world, TWO_STEPS).await;
    assert_eq!(run.level, Some(Level::Crash));
    assert!(world.deeds().contains(&"seal".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_fails_stops_the_deed_that_would_follow() {
    for broken in 0..4 {
        let world = World::with(Fault::Persist(broken));
        let run = run(&world, TWO_STEPS).await;
        let (flushed, locked) = match broken {
            0 | 1 => (false, false),
            2 => (true, false),
            _ => (true, true),
        };
        let did = |deed: &str| world.deeds().iter().any(|done| done == deed);
        assert_eq!((did("db-1 flush"), did("web-1 lock"), did("open v1")), (flushed, locked, false));
        assert_eq!((did("db-1 unflush"), did("web-1 unlock")), (flushed, locked));
        assert!(run.failures[0].message.contains("the journal of runs failed"), "{:?}", run.failures);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_given_up_when_it_cannot_be_confirmed_that_the_run_is_still_ours() {
    let world = World::with(Fault::Persist(4));
    let run = run(&world, TWO_STEPS).await;
    assert_eq!(
        world.deeds()[3..],
        ["open v1", "cut", "given up", "web-1 unlock", "db-1 unflush", "db-2 unflush"]
    );
    assert!(run.level.is_none() && run.may_be_repeated(), "{:?}", run.failures);
}

/// The process dies right after each write of the journal in turn; the next one pays what is owed, whatever it was,
/// and never cuts.
#[test]
fn after_a_crash_at_any_write_the_next_start_pays_the_debts_and_never_cuts() {
    let life =
        || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let whole = World::new();
    life().block_on(run(&whole, TWO_STEPS));
    let writes = whole.writes();
    assert!(writes >= 6);
    for crash in 0..writes {
        let world = World::with(Fault::CrashAfterPersist(crash));
        let engine = world.engine();
        // Dropping the runtime drops everything that the process was about to do.
        life().block_on(async {
            tokio::select! {
                _ = engine.run(request(TWO_STEPS), Control::default()) => panic!("a dead process answers nothing"),
                () = world.death() => {}
            }
        });
        let before = world.revive();
        let settled = life().block_on(async { world.engine().recover().await.unwrap() });
        let deeds = world.deeds();
        let later = &deeds[before..];
        assert!(!later.iter().any(|deed| deed == "cut" || deed.starts_with("seal")), "{crash}: {later:?}");
        for (done, undone) in [("db-1 flush", "db-1 unflush"), ("web-1 lock", "web-1 unlock")] {
            let has = |deed: &str| deeds.iter().any(|d| d == deed);
            assert!(!has(done) || has(undone), "{crash}: {deeds:?}");
        }
        let ended = crash + 1 == writes;
        assert_eq!(settled.len(), usize::from(!ended), "{crash}");
        for run in settled {
            assert_eq!(run.phase, Phase::Failed);
            assert!(run.failures[0].message.contains("died while"), "{:?}", run.failures);
            assert_eq!(unpaid(&run), 0);
        }
        let again = life().block_on(async { world.engine().recover().await.unwrap() });
        assert!(again.is_empty(), "a settled run is settled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_waits_for_any_more_still_ends() {
    let world = World::new();
    let engine = world.engine();
    drop(tokio::time::timeout(Duration::ZERO, engine.run(request(TWO_STEPS), Control::default())).await);
    engine.active.subscribe().wait_for(|count| *count == 0).await.unwrap();
    assert_eq!(world.stored()[0].phase, Phase::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_run_can_be_stopped_at_any_command_and_is_undone() {
    for at in ["db-1 flush", "web-1 lock"] {
        let world = World::with(Fault::Hang(at));
        let (stop, stopped) = watch::channel(None);
        let control = Control { stop: Some(stopped), progress: None };
        let engine = world.engine();
        let (run, ()) = tokio::join!(engine.run(request(TWO_STEPS), control), async {
            world.until(at).await;
            stop.send_replace(Some("the request was deleted".to_owned()));
        });
        assert!(
            run.failures.iter().any(|why| why.message == "the request was deleted"),
            "{:?}",
            run.failures
        );
        let given_up = run.attempts.iter().find(|attempt| attempt.error.is_some()).unwrap();
        assert!(given_up.error.as_ref().unwrap().contains("given up"));
        assert_eq!((unpaid(&run), world.deeds().contains(&"open v1".to_owned())), (0, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_stops_the_run() {
    let world = World::with(Fault::Hang("db-1 flush"));
    let asked = RunRequest { budget: Duration::from_secs(2), ..request(TWO_STEPS) };
    let run = world.engine().run(asked, Control::default()).await;
    assert!(run.failures[0].message.contains("budget of 2s"), "{:?}", run.failures);
    assert_eq!(unpaid(&run), 0);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_waits_until_every_run_is_undone() {
    let world = World::with(Fault::Hang("web-1 lock"));
    let engine = Arc::new(world.engine());
    let running = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.run(request(TWO_STEPS), Control::default()).await }
    });
    world.until("web-1 lock").await;
    assert_eq!(engine.shutdown("the controller is stopped", Duration::from_secs(15)).await, 0);
    assert!(world.deeds().contains(&"db-2 unflush".to_owned()));
    assert_eq!(unpaid(&running.await.unwrap()), 0);
    let late = engine.run(request(TWO_STEPS), Control::default()).await;
    assert!(late.failures[0].message.contains("the controller is stopped") && late.attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_taken_after_the_hosts_are_ready_proven_after_the_cut_and_released_before_the_seal() {
    let world = World::new();
    let run = run(&world, HELD).await;
    assert_eq!(
        world.sorted_deeds(),
        [
            "open v1",
            "db-1 hold",
            "db-2 hold",
            "cut",
            "db-1 prove still",
            "db-2 prove still",
            "db-1 release bye",
            "db-2 release bye",
            "seal application",
            "db-1 unlock",
            "db-2 unlock"
        ]
    );
    assert_eq!(run.level, Some(Level::Application));
    let holds = run.attempts.iter().filter(|attempt| attempt.action == Action::Hold);
    assert_eq!(holds.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_voids_the_cut_and_releases_the_others() {
    let world = World::with(Fault::LostSession("db-1"));
    let run = run(&world, HELD).await;
    let deeds = world.deeds();
    assert!(!deeds.iter().any(|deed| deed.starts_with("seal")), "{deeds:?}");
    assert!(
        deeds.contains(&"given up".to_owned()) && deeds.contains(&"db-2 release".to_owned()),
        "{deeds:?}"
    );
    assert!(
        run.failures[0].message.contains("could not prove that it held during the cut"),
        "{:?}",
        run.failures
    );
    assert_eq!(unpaid(&run), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_taken_prevents_the_cut() {
    let world = World::with(Fault::NoSession("db-2"));
    let run = run(&world, HELD).await;
    let deeds = world.deeds();
    assert!(!deeds.contains(&"cut".to_owned()), "{deeds:?}");
    assert!(deeds.contains(&"db-1 release".to_owned()), "{deeds:?}");
    assert_eq!((run.phase, unpaid(&run)), (Phase::Failed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_may_only_lower_the_level() {
    let world = World::with(Fault::LostSession("db-1"));
    let rule = HELD.replace("limit: 5s}", "limit: 5s, onLost: degrade}");
    let run = run(&world, &rule).await;
    assert_eq!((run.phase, run.level), (Phase::Succeeded, Some(Level::Filesystem)));
    assert!(run.reasons[0].contains("could not prove"), "{:?}", run.reasons);
}

#[tokio::test(start_paused = true)]
async fn the_leader_is_asked_for_and_only_it_is_worked_with() {
    let world = World::with(Fault::Exit("db-1 is-leader", 1));
    let rule = TWO_STEPS.replace(
        "{selector: {matchLabels: {app: db}}}",
        "{selector: {matchLabels: {app: db}}, pick: leader, where: {command: [is-leader]}}",
    );
    let run = run(&world, &rule).await;
    assert_eq!(world.deeds()[..3], ["db-1 is-leader", "db-2 is-leader", "db-2 flush"]);
    assert_eq!(run.phase, Phase::Succeeded, "{:?}", run.failures);
    let world = World::new();
    let run = super::tests::run(&world, &rule).await;
    assert!(run.failures[0].message.contains("2 of 2 pods answered yes"), "{:?}", run.failures);
}

#[tokio::test(start_paused = true)]
async fn many_pods_are_worked_with_in_parallel_but_never_more_than_the_bound() {
    let world = World::crowd(500);
    let rule = TWO_STEPS.replace("app: web", "app: db");
    let run = run(&world, &rule).await;
    assert_eq!(run.phase, Phase::Succeeded, "{:?}", run.failures);
    assert_eq!(run.debts.len(), 1000);
    assert_eq!(world.most_at_once(), crate::api::defaults::PARALLEL_PODS);
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_and_a_deaf_listener_does_no_harm() {
    let world = World::new();
    let (progress, mut lines) = tokio::sync::mpsc::channel(1);
    let control = Control { progress: Some(progress), stop: None };
    let run = world.engine().run(request(TWO_STEPS), control).await;
    assert_eq!(run.phase, Phase::Succeeded);
    assert!(lines.recv().await.unwrap().contains("planned: 2 steps in 3 pods"));
}
