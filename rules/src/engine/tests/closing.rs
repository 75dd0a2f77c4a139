//! A process that is told to end: runs are undone within its grace, or handed over to the next one.

use super::*;

const GRACE: Duration = Duration::from_secs(12);

/// Ends the process while this deed hangs; how long that took, and what had not ended.
async fn end_at(world: &Arc<World>, engine: Arc<Engine>, rule: &str, deed: &str) -> (Run, Duration, usize) {
    let running = tokio::spawn({
        let (engine, request) = (Arc::clone(&engine), request(rule));
        async move { engine.run(request, Control::default()).await }
    });
    world.until(deed).await;
    let began = Instant::now();
    let left = engine.shutdown("the controller is stopped", GRACE).await;
    (running.await.unwrap(), began.elapsed(), left)
}

#[tokio::test(start_paused = true)]
async fn an_after_that_hangs_is_handed_over_within_the_grace_and_does_not_keep_the_others_from_being_undone()
{
    let world = World::with(Fault::Hang("web-1 unlock"));
    let (run, took, left) = end_at(&world, Arc::new(world.engine()), TWO_STEPS, "web-1 unlock").await;
    assert!(took <= GRACE, "{took:?}");
    assert_eq!((left, run.phase), (0, Phase::Overdue), "{:?}", run.failures);
    let states: Vec<_> = run.debts.iter().map(|debt| (debt.target.pod.as_str(), debt.state)).collect();
    assert_eq!(states, [("db-1", DebtState::Paid), ("db-2", DebtState::Paid), ("web-1", DebtState::Unpaid)]);
    assert_eq!(world.stored()[0].debts, run.debts, "the next process knows what it has to do");
    let tries =
        run.attempts.iter().filter(|attempt| attempt.target.pod == "web-1" && attempt.error.is_some());
    assert_eq!(tries.count(), 1, "there is no time to try again");
    let budget = run.budget.unwrap();
    assert!(budget.letting_go && budget.left_ms < 12_000, "{budget:?}");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_repeated_and_hangs_is_left_to_people() {
    let rule = TWO_STEPS.replace("[unlock], timeout: 5s", "[unlock], timeout: 1h, idempotent: false");
    let world = World::with(Fault::Hang("web-1 unlock"));
    let (run, took, _) = end_at(&world, Arc::new(world.engine()), &rule, "web-1 unlock").await;
    let debt = run.debts.iter().find(|debt| debt.step_name == "lock").unwrap();
    assert_eq!((run.phase, debt.state), (Phase::Overdue, DebtState::Unknown));
    assert!(took <= GRACE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn hosts_that_never_seal_do_not_keep_the_process() {
    let world = World::with(Fault::HangSeal);
    let (run, took, left) = end_at(&world, Arc::new(world.engine()), TWO_STEPS, "seal application").await;
    assert!(took <= GRACE, "{took:?}");
    assert!(run.failures[0].message.contains("not made real"), "{:?}", run.failures);
    assert_eq!(left, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_run_has_left_is_in_its_record() {
    let world = World::new();
    let run = run(&world, TWO_STEPS).await;
    let budget = run.budget.unwrap();
    assert_eq!((budget.until_cut_ms, budget.letting_go), (60_000, true));
    // Three `after`s of 5 s and 10 s of grace, three times with pauses, a seal, and writes of the journal.
    assert!(budget.left_ms > 60_000 && budget.left_ms < 600_000, "{budget:?}");
}
