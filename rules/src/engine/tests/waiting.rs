//! A run that waits for its turn while another run works with the same pods.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::failure::FailureKind;
use crate::ports::{Inventory, InventoryError, Journal, JournalError, Pod};
use crate::turns::OpenRun;

use super::*;

/// A journal in which another run has its turn for some looks, and an inventory that changes with its end.
struct Busy {
    world: Arc<World>,
    looks: AtomicUsize,
    /// The other run ends after so many looks.
    ends_after: usize,
}

impl Busy {
    fn new(ends_after: usize) -> Arc<Self> {
        Arc::new(Self { world: World::new(), looks: AtomicUsize::new(0), ends_after })
    }

    async fn run(self: &Arc<Self>) -> Run {
        let ports = Ports { inventory: self.clone(), journal: self.clone(), ..self.world.ports() };
        // More than it may wait.
        let request = RunRequest { budget: Duration::from_hours(1), ..request(TWO_STEPS) };
        Engine::new(ports, Limits::default()).run(request, Control::default()).await
    }
}

#[async_trait]
impl Journal for Busy {
    async fn persist(&self, run: &Run) -> Result<(), JournalError> {
        self.world.persist(run).await
    }

    async fn unfinished(&self) -> Result<Vec<Run>, JournalError> {
        self.world.unfinished().await
    }

    async fn open_runs(&self, asking: &Run) -> Result<Vec<OpenRun>, JournalError> {
        if self.looks.fetch_add(1, Ordering::SeqCst) >= self.ends_after {
            return self.world.open_runs(asking).await;
        }
        let other = OpenRun::of(asking, "the run of nightly".into(), true);
        Ok(vec![OpenRun { id: "other".into(), since: Timestamp::MIN, claimed: true, ..other }])
    }

    async fn run_ended(&self) {
        self.world.run_ended().await;
    }
}

#[async_trait]
impl Inventory for Busy {
    /// `db-2` is removed while the other run has its turn, and `db-1` comes back as another incarnation.
    async fn pods(&self, namespaces: &[String]) -> Result<Vec<Pod>, InventoryError> {
        let mut pods = self.world.pods(namespaces).await?;
        if self.looks.load(Ordering::SeqCst) > 0 {
            pods.retain(|pod| pod.name != "db-2");
            pods.iter_mut().filter(|pod| pod.name == "db-1").for_each(|pod| pod.uid = "uid-new".into());
        }
        Ok(pods)
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_has_waited_works_with_the_pods_that_there_are_then() {
    let busy = Busy::new(3);
    let run = busy.run().await;
    assert_eq!((run.phase, &run.failures), (Phase::Succeeded, &vec![]));
    let flushed = &run.plan.as_ref().unwrap().steps[0].targets;
    let pods: Vec<_> =
        flushed.iter().map(|target| (target.at.pod.as_str(), target.at.uid.as_str())).collect();
    assert_eq!(pods, [("db-1", "uid-new")]);
    assert!(!busy.world.deeds().contains(&"db-2 flush".to_owned()), "{:?}", busy.world.deeds());
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_turn_never_comes_ends_within_its_limit_and_has_done_nothing() {
    let busy = Busy::new(usize::MAX);
    let began = Instant::now();
    let waiting = tokio::time::timeout(Limits::default().turn + Duration::from_mins(1), busy.run());
    let run = waiting.await.expect("it ends by itself");
    assert!(began.elapsed() >= Limits::default().turn, "{:?}", began.elapsed());
    assert_eq!((run.phase, busy.world.deeds()), (Phase::Failed, vec![]));
    let failure = &run.failures[0];
    assert_eq!(failure.kind, FailureKind::Waiting);
    assert!(failure.message.contains("the run of nightly"), "{}", failure.message);
}
