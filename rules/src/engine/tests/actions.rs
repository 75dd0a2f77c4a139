//! Actions other than plain commands, trying again, debts, and what is not shown.

use std::time::Duration;

use crate::failure::FailureKind;
use crate::run::AttemptFault;

use super::*;

fn with_before(before: &str) -> String {
    TWO_STEPS.replace("before: {command: [lock], timeout: 5s}", before)
}

fn of<'a>(run: &'a Run, action: Action, pod: &str) -> Vec<&'a crate::run::Attempt> {
    let its = |attempt: &&crate::run::Attempt| attempt.action == action && attempt.target.pod == pod;
    run.attempts.iter().filter(its).collect()
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_with_the_expected_status_or_fails() {
    let rule = with_before("before: {http: {method: POST, port: 80, path: /flush}, timeout: 5s}");
    let world = World::new();
    let run = run(&world, &rule).await;
    assert_eq!(run.phase, Phase::Succeeded, "{:?}", run.failures);
    assert!(world.deeds().contains(&"web-1 POST /flush".to_owned()));
    assert_eq!(of(&run, Action::Before, "web-1")[0].http_status, Some(200));
    let world = World::with(Fault::StatusTimes(503, 9));
    let run = super::run(&world, &rule).await;
    assert!(run.failures[0].message.contains("status 503, expected 200 to 299"), "{:?}", run.failures);
    assert_eq!(run.failures[0].kind, FailureKind::Before);
}

#[tokio::test(start_paused = true)]
async fn waiting_asks_until_it_is_true_and_not_for_ever() {
    let rule = with_before("before: {wait: {http: {port: 80}, every: 1s}, timeout: 5s}");
    let world = World::with(Fault::StatusTimes(503, 3));
    let run = run(&world, &rule).await;
    assert_eq!(run.phase, Phase::Succeeded, "{:?}", run.failures);
    assert_eq!(world.deeds().iter().filter(|deed| *deed == "web-1 GET /").count(), 4);
    let world = World::with(Fault::StatusTimes(503, usize::MAX));
    let run = super::run(&world, &rule).await;
    assert!(run.failures[0].message.contains("not true within 5s; the last answer: status 503"));
    assert_eq!(of(&run, Action::Before, "web-1")[0].fault, Some(AttemptFault::NotTrue));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_again_unless_asked_for_and_every_try_is_in_the_record() {
    let world = World::with(Fault::ExitTimes("web-1 lock", 1, 2));
    let run = run(&world, TWO_STEPS).await;
    assert_eq!((run.phase, of(&run, Action::Before, "web-1").len()), (Phase::Failed, 1));
    let rule = with_before("before: {command: [lock], timeout: 5s, retry: {times: 3, pause: 1s}}");
    let world = World::with(Fault::ExitTimes("web-1 lock", 1, 2));
    let run = super::run(&world, &rule).await;
    let tries = of(&run, Action::Before, "web-1");
    assert_eq!(run.phase, Phase::Succeeded, "{:?}", run.failures);
    assert_eq!(tries.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3]);
    let pause = tries[2].started_at.duration_since(tries[1].started_at);
    assert!(pause.as_secs() >= 2, "the pause grows: {pause:?}");
}

#[tokio::test(start_paused = true)]
async fn what_may_have_happened_is_only_repeated_when_that_does_no_harm() {
    for (idempotent, tries) in [(false, 1), (true, 2)] {
        let rule = with_before(&format!(
            "before: {{command: [lock], timeout: 5s, retry: {{times: 3}}, idempotent: {idempotent}}}"
        ));
        let world = World::with(Fault::Uncertain("web-1 lock", 1));
        let run = run(&world, &rule).await;
        assert_eq!(of(&run, Action::Before, "web-1").len(), tries);
        assert_eq!(run.phase == Phase::Succeeded, idempotent);
    }
}

#[tokio::test(start_paused = true)]
async fn an_after_is_tried_again_at_once_and_then_from_time_to_time_until_it_is_paid() {
    let world = World::with(Fault::ExitTimes("web-1 unlock", 1, 5));
    let engine = world.engine();
    let run = engine.run(request(TWO_STEPS), Control::default()).await;
    assert_eq!((run.phase, of(&run, Action::After, "web-1").len()), (Phase::Overdue, 3));
    assert_eq!(engine.overdue().len(), 1);
    assert!(engine.collect().await.is_empty(), "its time has not come");
    tokio::time::sleep(Duration::from_secs(11)).await;
    let ended = engine.collect().await;
    assert_eq!(ended.len(), 1, "the sixth try pays it");
    assert_eq!((ended[0].phase, ended[0].verdict()), (Phase::Failed, "failed after the cut"));
    assert_eq!((unpaid(&ended[0]), ended[0].failures[0].kind), (0, FailureKind::After));
    assert!(engine.overdue().is_empty());
    assert_eq!(world.stored()[0].phase, Phase::Failed, "and that is written down");
    assert_eq!(
        world.deeds().iter().filter(|deed| *deed == "db-1 unflush").count(),
        1,
        "others are not repeated"
    );
}

#[tokio::test(start_paused = true)]
async fn an_overdue_run_is_taken_over_by_the_next_process() {
    let world = World::with(Fault::ExitTimes("web-1 unlock", 1, 4));
    let run = run(&world, TWO_STEPS).await;
    assert_eq!(run.phase, Phase::Overdue);
    let settled = world.engine().recover().await.unwrap();
    assert_eq!((settled.len(), settled[0].phase, unpaid(&settled[0])), (1, Phase::Failed, 0));
    assert!(settled[0].failures.iter().all(|why| why.kind == FailureKind::After), "nobody died");
}

#[tokio::test(start_paused = true)]
async fn an_after_that_must_not_be_repeated_is_left_to_people_when_its_outcome_is_unknown() {
    let rule = TWO_STEPS.replace("[unlock], timeout: 5s", "[unlock], timeout: 5s, idempotent: false");
    let world = World::with(Fault::Uncertain("web-1 unlock", 1));
    let engine = world.engine();
    let run = engine.run(request(&rule), Control::default()).await;
    let debt = run.debts.iter().find(|debt| debt.step_name == "lock").unwrap();
    assert_eq!((run.phase, debt.state), (Phase::Overdue, DebtState::Unknown));
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert!(engine.collect().await.is_empty());
    assert_eq!(world.deeds().iter().filter(|deed| *deed == "web-1 unlock").count(), 1);
    assert!(engine.overdue()[0].failures[0].message.contains("may not be repeated"));
    engine.forget("cut-1");
    assert!(engine.overdue().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_to_a_pod_that_was_replaced_ends_with_it() {
    let world = World::with(Fault::Replaced("web-1 unlock"));
    let run = run(&world, TWO_STEPS).await;
    let debt = run.debts.iter().find(|debt| debt.step_name == "lock").unwrap();
    assert_eq!((run.phase, debt.state), (Phase::Failed, DebtState::Gone));
    assert_eq!(run.failures[0].kind, FailureKind::Gone);
}

#[tokio::test(start_paused = true)]
async fn secrets_reach_the_command_and_nothing_else() {
    let rule = with_before(
        "before: {command: [lock], timeout: 5s, env: [{name: PW, secret: {name: db, key: password}}, {name: MODE, value: fast}]}",
    );
    let world = World::with(Fault::Env("web-1 lock"));
    let run = run(&world, &rule).await;
    assert_eq!(of(&run, Action::Before, "web-1")[0].output, "PW=[redacted]\nMODE=fast\n");
    let record = serde_json::to_string(&world.stored()).unwrap();
    assert!(!record.contains("value-of-password") && record.contains("\"key\":\"password\""));
    let world = World::new();
    let run = super::run(&world, &rule.replace("key: password", "key: missing")).await;
    assert!(run.failures[0].message.contains("the secret default/db key `missing` cannot be read"));
    assert!(!world.deeds().contains(&"web-1 lock".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_rules_patterns_hide_what_commands_print() {
    let rule = TWO_STEPS.replace("spec:\n", "spec:\n  redact: [\"said \\\\w+\"]\n");
    let world = World::with(Fault::Exit("web-1 lock", 1));
    let run = run(&world, &rule).await;
    assert!(run.failures[0].message.contains("it [redacted]"), "{:?}", run.failures);
    assert!(!serde_json::to_string(&run.attempts).unwrap().contains("said no"));
}

#[tokio::test(start_paused = true)]
async fn parameters_are_filled_in_before_anything_is_planned() {
    let rule = with_before("before: {command: [lock, \"${params.who}\"], timeout: 5s}")
        .replace("spec:\n", "spec:\n  params: [{name: who, default: all}]\n");
    for (given, deed) in [(None, "web-1 lock all"), (Some("a b"), "web-1 lock a b")] {
        let world = World::new();
        let params = given.map(|value| ("who".to_owned(), value.to_owned())).into_iter().collect();
        let run = world.engine().run(RunRequest { params, ..request(&rule) }, Control::default()).await;
        assert!(world.deeds().contains(&deed.to_owned()), "{:?} {:?}", run.failures, world.deeds());
    }
    let params = [("whom".to_owned(), "x".to_owned())].into();
    let run = World::new().engine().run(RunRequest { params, ..request(&rule) }, Control::default()).await;
    assert_eq!(run.failures[0].kind, FailureKind::Plan);
    assert!(run.failures[0].message.contains("no parameter `whom`; it has who"));
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_allows_to_be_ignored_is_still_in_the_record() {
    let rule = TWO_STEPS.replace("  - name: lock\n", "  - name: lock\n    onFailure: ignore\n");
    let run = run(&World::with(Fault::Exit("web-1 lock", 1)), &rule).await;
    assert_eq!((run.phase, run.level), (Phase::Succeeded, Some(Level::Application)));
    assert_eq!((run.ignored.len(), run.ignored[0].kind), (1, FailureKind::Before));
}
