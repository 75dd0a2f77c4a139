//! Several snapshots of the same pods at once.

use serde_json::json;
use tokio::task::JoinSet;

use super::world::{SNAPSHOT, World};
use super::*;

/// A lock as a file: whoever overlaps another run loses it.
const LOCK: &str = r#"{"steps": [{
    "name": "lock", "pods": {"selector": {"matchLabels": {"app": "pg"}}},
    "before": {"shell": "touch LOCK; sleep 0.2"}, "after": {"shell": "rm LOCK"}
}]}"#;

async fn all_at_once(world: &World, controllers: &[Arc<RuledCuts>]) {
    world.rule("flush", LOCK);
    world.watch_lock();
    let mut takes = JoinSet::new();
    for (name, controller) in ["a", "b", "c"].into_iter().zip(controllers.iter().cycle()) {
        let (controller, asked, volumes) =
            (Arc::clone(controller), world.one_more(name), world.storage.volumes());
        takes.spawn(async move { controller.take(CutKind::Group, name, volumes, &asked).await });
    }
    for record in takes.join_all().await {
        assert_eq!(record.unwrap().level, crate::domain::Level::Application);
    }
    let cuts: Vec<String> = world.deeds().into_iter().filter(|deed| deed.starts_with("cut")).collect();
    assert_eq!(cuts, ["cut with lock"; 3]);
    assert!(!world.file("lock").exists());
    let open =
        world.runs().into_iter().filter(|run| run["metadata"]["labels"]["stillpoint.dev/open"] == "true");
    assert_eq!(open.count(), 0);
}

#[tokio::test]
async fn three_snapshots_at_once_each_have_the_lock_at_their_instant() {
    let world = World::start().await;
    let controller = Arc::new(world.another_controller());
    all_at_once(&world, &[controller]).await;
}

#[tokio::test]
async fn the_same_over_two_controllers() {
    let world = World::start().await;
    let controllers = [
        Arc::new(world.another_controller()),
        Arc::new(RuledCuts::over(world.cluster.client().unwrap(), "they", Arc::clone(&world.storage) as _)),
    ];
    all_at_once(&world, &controllers).await;
}

async fn until_a_run_waits(world: &World) {
    let told = async {
        while !world.events().contains(&"WaitingForRun".to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("no run says that it waits");
}

#[tokio::test]
async fn a_snapshot_waits_for_the_run_of_another_controller_says_so_and_goes_on_when_that_has_ended() {
    let world = World::start().await;
    world.annotate("flush");
    let mut other = world.run_of_another("other", &jiff::Timestamp::now().to_string());
    let asked = world.one_more("late");
    let taking = world.cuts.take(CutKind::Group, "late", world.storage.volumes(), &asked);
    let ending = async {
        until_a_run_waits(&world).await;
        assert_eq!(world.flushes(), 0);
        let runs = world.runs();
        let late = runs.iter().find(|run| run["spec"]["cut"] == "late").unwrap();
        assert_eq!(late["status"]["phase"], "Waiting");
        let doing = late["status"]["doing"].as_str().unwrap();
        assert!(
            doing.contains("waiting for Run shop/nightly-") && doing.contains("pod shop/pg-0"),
            "{doing}"
        );
        other["status"]["record"] = json!(null);
        other["metadata"]["labels"] = json!({});
        world.put_run(other);
    };
    let (taken, ()) = tokio::join!(taking, ending);
    taken.unwrap();
    assert_eq!(world.flushes(), 1);
}

#[tokio::test]
async fn what_a_dead_controller_left_keeps_its_pods_until_it_is_undone() {
    let world = World::start().await;
    world.run_of_another("dead", "2020-01-01T00:00:00Z");
    let asked = world.one_more("late");
    let taking = world.cuts.take(CutKind::Group, "late", world.storage.volumes(), &asked);
    let recovering = async {
        until_a_run_waits(&world).await;
        assert_eq!((world.undone(), world.flushes()), (0, 0));
        world.cuts.recover().await.unwrap();
        assert_eq!(world.undone(), 1);
    };
    let (taken, ()) = tokio::join!(taking, recovering);
    taken.unwrap();
    assert_eq!(world.flushes(), 1);
    assert!(world.cluster.get(SNAPSHOT).is_some());
}
