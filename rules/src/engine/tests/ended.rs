//! A cleanup counts only when what it undoes can have no effect any more.

use super::*;
use crate::run::AttemptFault;

/// Collects until nothing is pending any more; gives the runs that ended.
async fn collected(engine: &Engine) -> Vec<Run> {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_mins(11)).await;
        let ended = engine.collect().await;
        if !ended.is_empty() {
            return ended;
        }
    }
    Vec::new()
}

fn done(world: &World, deed: &str) -> usize {
    world.deeds().iter().filter(|done| *done == deed).count()
}

#[tokio::test(start_paused = true)]
async fn an_after_is_done_at_once_and_again_until_the_command_before_it_has_provably_ended() {
    let world = World::with(Fault::RunsOn("db-1 flush", 2));
    let engine = world.engine();
    let run = engine.run(request(TWO_STEPS), Control::default()).await;
    assert_eq!(run.phase, Phase::Overdue, "{:?}", run.failures);
    let words = crate::failure::in_words(&run.failures);
    assert!(words.contains("what it undoes may still be running"), "{words}");
    assert!(words.contains("processes are left"), "{words}");
    assert_eq!(done(&world, "db-1 unflush"), 1, "the application is helped at once");
    let before = run.attempts.iter().find(|attempt| attempt.command == "flush" && attempt.error.is_some());
    assert_eq!(before.unwrap().fault, Some(AttemptFault::MayRun));
    let ended = collected(&engine).await;
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].phase, unpaid(&ended[0])), (Phase::Failed, 0), "{:?}", ended[0].failures);
    assert_eq!(done(&world, "db-1 unflush"), 3, "once before the proof and twice with it in vain");
    assert_eq!(done(&world, "db-2 unflush"), 1, "where the end was known it is done once");
}

#[tokio::test(start_paused = true)]
async fn an_after_that_may_not_be_repeated_waits_for_the_proof() {
    let world = World::with(Fault::RunsOn("db-1 flush", 1));
    let engine = world.engine();
    let rule = TWO_STEPS.replace("[unflush], timeout: 5s", "[unflush], timeout: 5s, idempotent: false");
    let run = engine.run(request(&rule), Control::default()).await;
    assert_eq!((run.phase, done(&world, "db-1 unflush")), (Phase::Overdue, 0), "{:?}", run.failures);
    let words = crate::failure::in_words(&run.failures);
    assert!(words.contains("it was not begun, because it may not be repeated"), "{words}");
    let ended = collected(&engine).await;
    assert_eq!((ended[0].phase, done(&world, "db-1 unflush")), (Phase::Failed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_can_be_proven_by_nobody_and_stays_pending() {
    let rule = TWO_STEPS.replace(
        "before: {command: [lock], timeout: 5s}",
        "before: {http: {method: POST, port: 80, path: /lock}, timeout: 5s}",
    );
    let world = World::with(Fault::NoAnswer);
    let engine = world.engine();
    let run = engine.run(request(&rule), Control::default()).await;
    let words = crate::failure::in_words(&run.failures);
    assert!(words.contains("a request was sent and not answered"), "{words}");
    assert_eq!(collected(&engine).await.len(), 0);
    assert_eq!(engine.overdue().len(), 1);
    assert!(done(&world, "web-1 unlock") > 5, "it is undone again and again");
}
