//! Pending cleanup outlives the snapshot, and what was restored from a backup is never run.

use serde_json::{Value, json};

use super::world::World;
use super::*;

/// Its `after` fails until the file LOCK exists.
const STUBBORN: &str = r#"{"steps": [{
    "name": "flush", "pods": {"selector": {"matchLabels": {"app": "pg"}}},
    "before": {"shell": "echo x >> FLUSHES"},
    "after": {"shell": "test -e LOCK", "retry": {"times": 1, "pause": "100ms"}, "timeout": "2s"}
}]}"#;

/// A snapshot whose run has pending cleanup, and the path of its object.
async fn pending(world: &World) -> String {
    world.annotate("flush");
    world.rule("flush", STUBBORN);
    world.take(NAME).await.unwrap();
    let run = &world.runs()[0];
    assert_eq!(
        (&run["status"]["phase"], &run["status"]["debts"][0]["state"]),
        (&json!("Overdue"), &json!("unpaid"))
    );
    path_of(run)
}

fn path_of(run: &Value) -> String {
    let name = run["metadata"]["name"].as_str().unwrap();
    format!("/apis/stillpoint.dev/v1alpha1/namespaces/shop/runs/{name}")
}

async fn until_gone(world: &World, path: &str) {
    let gone = async {
        while world.cluster.get(path).is_some() {
            world.cuts.collect().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), gone)
        .await
        .expect("it goes when nothing is pending any more");
}

#[tokio::test]
async fn pending_cleanup_is_done_although_the_snapshot_and_with_it_the_run_was_deleted() {
    let world = World::start().await;
    let path = pending(&world).await;
    world.cluster.delete(&path);
    world.cuts.collect().await;
    let run = world.cluster.get(&path).expect("it stays until its cleanup is done");
    assert!(!run["metadata"]["deletionTimestamp"].is_null());
    std::fs::write(world.file("lock"), "").unwrap();
    until_gone(&world, &path).await;
    assert_eq!(world.cuts.overdue(), []);
}

#[tokio::test]
async fn the_next_controller_does_it_too() {
    let world = World::start().await;
    let path = pending(&world).await;
    world.cluster.delete(&path);
    let mut run = world.cluster.get(&path).unwrap();
    run["status"]["renewedAt"] = json!("2020-01-01T00:00:00Z");
    world.cluster.put(&path, run);
    std::fs::write(world.file("lock"), "").unwrap();
    let next = world.another_controller();
    next.recover().await.unwrap();
    assert_eq!(world.cluster.get(&path), None);
}

#[tokio::test]
async fn cleanup_is_given_up_by_an_annotation_and_ends_with_its_pod() {
    let world = World::start().await;
    let path = pending(&world).await;
    let mut run = world.cluster.get(&path).unwrap();
    run["metadata"]["annotations"] = json!({ "stillpoint.dev/give-up-cleanup": "unlocked by hand" });
    world.cluster.put(&path, run);
    let ended = async {
        while !world.cuts.overdue().is_empty() {
            world.cuts.collect().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), ended).await.unwrap();
    let run = world.cluster.get(&path).unwrap();
    assert_eq!(
        (&run["status"]["phase"], &run["status"]["debts"][0]["state"]),
        (&json!("Failed"), &json!("givenup"))
    );
    assert_eq!(run["metadata"]["finalizers"], json!([]));

    let world = World::start().await;
    let path = pending(&world).await;
    world.cluster.remove("/api/v1/namespaces/shop/pods/pg-0");
    world.cluster.delete(&path);
    until_gone(&world, &path).await;
}

#[tokio::test]
async fn a_run_whose_snapshot_is_deleted_meanwhile_is_stopped_and_undone() {
    let world = World::start().await;
    world.annotate("flush");
    world.rule(
        "flush",
        &super::world::RULE.replace(
            r#""before": {"shell": "echo flushed;"#,
            r#""after": {"shell": "touch LOCK"}, "before": {"shell": "echo x >> FLUSHES; sleep 60;"#,
        ),
    );
    let deleting = async {
        while world.flushes() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.cluster.delete(&path_of(&world.runs()[0]));
    };
    let (taken, ()) = tokio::join!(world.take(NAME), deleting);
    let fault = taken.unwrap_err();
    assert!(fault.message.contains("was deleted"), "{fault}");
    assert!(world.file("lock").exists(), "what it did is undone");
    assert_eq!(world.runs(), Vec::<Value>::new());
}

/// As a backup tool restores it: another object with the same status, and with its labels.
fn restored(world: &World, namespace: &str, change: impl Fn(&mut Value)) -> String {
    let mut copy = world.run_of_another("dead", "2020-01-01T00:00:00Z");
    copy["metadata"]["uid"] = json!("uid-of-the-copy");
    change(&mut copy);
    let path = format!("/apis/stillpoint.dev/v1alpha1/namespaces/{namespace}/runs/copy");
    copy["metadata"]["name"] = json!("copy");
    world.cluster.put(&path, copy);
    path
}

#[tokio::test]
async fn a_restored_run_runs_nothing_and_is_reported_and_removed() {
    for namespace in ["shop", "restored"] {
        let world = World::start().await;
        let path = restored(&world, namespace, |copy| copy["metadata"]["ownerReferences"] = json!(null));
        world.cluster.remove(&path_of(
            &world.runs().into_iter().find(|run| run["metadata"]["name"] != "copy").unwrap(),
        ));
        world.cuts.recover().await.unwrap();
        assert_eq!(world.undone(), 0, "{namespace}");
        assert_eq!(world.cluster.get(&path), None);
        let events = world.cluster.below(&format!("/api/v1/namespaces/{namespace}/events"));
        assert_eq!(events.iter().map(|event| event["reason"].clone()).collect::<Vec<_>>(), ["RestoredRun"]);
    }
}

#[tokio::test]
async fn an_ended_run_that_was_restored_is_removed_by_the_look_at_all_runs_and_ours_stay() {
    let world = World::start().await;
    world.annotate("flush");
    world.take(NAME).await.unwrap();
    let mut copy = world.runs()[0].clone();
    copy["metadata"] = json!({ "name": "copy", "uid": "uid-of-the-copy", "namespace": "shop" });
    let path = "/apis/stillpoint.dev/v1alpha1/namespaces/shop/runs/copy";
    world.cluster.put(path, copy);
    world.cuts.remove_restored().await;
    assert_eq!(world.cluster.get(path), None);
    assert_eq!(world.runs().len(), 1);
}

#[tokio::test]
async fn a_copy_under_the_name_of_the_snapshots_own_run_is_replaced_and_its_cut_is_not_believed() {
    let world = World::start().await;
    world.annotate("flush");
    world.run_of_another("dead", "2020-01-01T00:00:00Z");
    let path = path_of(&world.runs()[0]);
    let mut copy = world.cluster.get(&path).unwrap();
    copy["metadata"]["uid"] = json!("uid-of-the-copy");
    world.cluster.put(&path, copy);
    world.take(NAME).await.unwrap();
    assert_eq!((world.undone(), world.flushes()), (0, 1));
    assert_eq!(world.runs()[0]["status"]["attempt"], 1);
}

#[tokio::test]
async fn a_copy_of_an_ended_run_under_the_name_of_the_snapshots_own_run_is_replaced() {
    let world = World::start().await;
    world.annotate("flush");
    let mut copy = world.run_of_another("dead", "2020-01-01T00:00:00Z");
    copy["metadata"]["uid"] = json!("uid-of-the-copy");
    for (field, value) in [("phase", json!("Succeeded")), ("record", json!(null)), ("attempt", json!(3))] {
        copy["status"][field] = value;
    }
    world.put_run(copy);
    world.take(NAME).await.unwrap();
    assert_eq!(world.runs()[0]["status"]["attempt"], 1, "attempts of the copy are none of this run");
    assert!(world.events().contains(&"RestoredRun".to_owned()), "{:?}", world.events());
}

#[tokio::test]
async fn a_run_that_is_being_deleted_is_not_begun_again_and_the_next_attempt_makes_a_new_one() {
    let world = World::start().await;
    world.annotate("flush");
    let mut ended = world.run_of_another("dead", "2020-01-01T00:00:00Z");
    ended["status"]["record"] = json!(null);
    world.put_run(ended);
    let path = path_of(&world.runs()[0]);
    world.cluster.delete(&path);
    let fault = world.take(NAME).await.unwrap_err();
    assert!(fault.message.contains("is being deleted"), "{fault}");
    assert_eq!((world.flushes(), world.cluster.get(&path)), (0, None), "nothing keeps it any more");
    world.take(NAME).await.unwrap();
    assert_eq!((world.flushes(), &world.runs()[0]["status"]["attempt"]), (1, &json!(1)));
}

#[tokio::test]
async fn marks_that_were_taken_away_are_put_back_before_anything_else_is_begun() {
    let world = World::start().await;
    world.annotate("flush");
    let step = |name: &str, shell: &str| {
        json!({
            "name": name, "pods": { "selector": { "matchLabels": { "app": "pg" } } }, "before": { "shell": shell }
        })
    };
    let steps = [step("one", "echo x >> FLUSHES; sleep 1"), step("two", "touch LOCK; sleep 1")];
    world.rule("flush", &json!({ "steps": steps }).to_string());
    let watching = async {
        while world.flushes() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut run = world.runs().remove(0);
        let path = path_of(&run);
        (run["metadata"]["labels"], run["metadata"]["finalizers"]) = (json!({}), json!([]));
        world.cluster.put(&path, run);
        while !world.file("lock").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let run = world.cluster.get(&path).unwrap();
        assert_eq!(run["metadata"]["labels"]["stillpoint.dev/open"], "true");
        assert_eq!(run["metadata"]["finalizers"], json!(["stillpoint.dev/pending-cleanup"]));
    };
    let (taken, ()) = tokio::join!(world.take(NAME), watching);
    taken.unwrap();
}

#[tokio::test]
async fn backup_tools_are_told_to_leave_runs_out() {
    let world = World::start().await;
    world.annotate("flush");
    world.take(NAME).await.unwrap();
    let labels = world.runs()[0]["metadata"]["labels"].clone();
    assert_eq!(labels, json!({ "velero.io/exclude-from-backup": "true" }), "also when it has ended");
}

#[tokio::test]
async fn a_record_that_names_pods_of_another_namespace_or_no_controllers_mark_is_not_run() {
    let world = World::start().await;
    let path = restored(&world, "elsewhere", |copy| {
        copy["status"]["identity"] = json!({ "uid": "uid-of-the-copy", "namespace": "elsewhere" });
    });
    world.cluster.remove(&path_of(&world.runs()[0]));
    world.cuts.recover().await.unwrap();
    assert_eq!(world.undone(), 0);
    let unmarked = restored(&world, "shop", |copy| copy["status"]["identity"] = json!(null));
    world
        .cluster
        .remove(&path_of(&world.runs().into_iter().find(|run| run["metadata"]["name"] != "copy").unwrap()));
    world.cuts.recover().await.unwrap();
    assert_eq!(world.undone(), 0);
    assert!(
        world.cluster.get(&path).is_some() && world.cluster.get(&unmarked).is_some(),
        "people must look at them"
    );
}

#[tokio::test]
async fn thousands_of_ended_runs_are_never_listed_to_find_what_is_pending() {
    let world = World::start().await;
    let path = pending(&world).await;
    let ended = world.cluster.get(&path).unwrap();
    for number in 0..1200 {
        let mut run = ended.clone();
        run["metadata"] = json!({ "uid": format!("ended-{number}"), "ownerReferences": ended["metadata"]["ownerReferences"] });
        run["status"]["record"] = json!(null);
        world.cluster.put(&path.replace("nightly", &format!("ended-{number}")), run);
    }
    let before = world.cluster.log().len();
    world.cuts.recover().await.unwrap();
    assert_eq!(world.cuts.journal.unpaid_debts().await.unwrap(), 1);
    let asked = world.cluster.log()[before..].to_vec();
    assert!(asked.iter().all(|line| line.contains("GET /apis/stillpoint.dev/v1alpha1/runs")), "{asked:?}");
    assert!(asked.len() <= 3, "{asked:?}");
}

#[tokio::test]
async fn open_runs_are_listed_page_by_page_and_none_is_left_out() {
    const OTHERS: usize = 600;
    let world = World::start().await;
    let path = pending(&world).await;
    let open = world.cluster.get(&path).unwrap();
    for number in 0..OTHERS {
        let mut run = open.clone();
        let (name, uid) = (format!("open-{number}"), json!(format!("uid-{number}")));
        run["metadata"]["name"] = json!(name);
        run["metadata"]["uid"] = uid.clone();
        run["status"]["identity"]["uid"] = uid;
        world.cluster.put(&format!("/apis/stillpoint.dev/v1alpha1/namespaces/shop/runs/{name}"), run);
    }
    let before = world.cluster.log().len();
    assert_eq!(world.cuts.journal.unpaid_debts().await.unwrap(), OTHERS + 1);
    let asked = world.cluster.log()[before..].to_vec();
    let lists = asked.iter().filter(|line| line.contains("GET /apis/stillpoint.dev/v1alpha1/runs"));
    assert_eq!(lists.count(), 2, "a page has 500");
}
