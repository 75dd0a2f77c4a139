use std::future::pending;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

async fn waited(budget: &Budget, limit: Duration) -> Duration {
    budget.within(limit, pending::<()>()).await.unwrap_err().0
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_longer_than_its_limit_or_than_what_is_left() {
    let budget = Budget::of_run(10 * SECOND, None);
    assert_eq!(waited(&budget, 4 * SECOND).await, 4 * SECOND);
    assert_eq!(waited(&budget, 60 * SECOND).await, 6 * SECOND);
    assert_eq!(waited(&budget, 60 * SECOND).await, Duration::ZERO, "nothing is begun with nothing left");
    assert_eq!(budget.within_at_least(SECOND, 60 * SECOND, async { 7 }).await.unwrap(), 7);
    assert_eq!(budget.as_recorded().left_ms, 0);
}

#[tokio::test(start_paused = true)]
async fn letting_go_has_a_time_of_its_own_that_begins_once() {
    let mut budget = Budget::of_run(SECOND, None);
    waited(&budget, SECOND).await;
    budget.let_go(|| 30 * SECOND);
    waited(&budget, 10 * SECOND).await;
    budget.let_go(|| panic!("only the first time counts"));
    assert_eq!((budget.left(), budget.going_in()), (20 * SECOND, None));
    assert_eq!(budget.for_command(60 * SECOND, 10 * SECOND), 15 * SECOND, "5 s are kept to end it");
    assert_eq!(budget.for_command(2 * SECOND, 10 * SECOND), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_shortens_a_wait_that_is_under_way_and_is_shared() {
    let (end, closing) = watch::channel(None);
    let budget = Budget::of_undoing(3600 * SECOND, Some(closing)).shared_among(3);
    let ((), took) = tokio::join!(
        async {
            tokio::time::sleep(5 * SECOND).await;
            end.send_replace(Some(Instant::now() + 12 * SECOND));
        },
        waited(&budget, 600 * SECOND)
    );
    assert_eq!(took, 9 * SECOND, "5 s before, and a third of 12 s");
    assert!(budget.is_closing());
    assert_eq!(budget.shared_among(1).left(), 8 * SECOND);
}
