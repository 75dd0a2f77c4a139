//! Rules inside the CSI call, over an API server and storage in memory.

mod cleanup;
mod overlap;
mod world;

use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;
use world::{RULE, World, asked};

const NAME: &str = "groupsnapshot-1";

#[tokio::test]
async fn a_snapshot_without_a_rule_is_a_plain_cut_and_makes_no_run() {
    let world = World::start().await;
    let record = world.take(NAME).await.unwrap();
    assert_eq!(record.name, NAME);
    assert_eq!(world.deeds(), ["plain cut"]);
    assert_eq!(world.runs(), Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn the_rule_of_the_snapshot_runs_around_the_cut_and_the_run_tells_all() {
    let world = World::start().await;
    world.annotate("flush");
    let record = world.take(NAME).await.unwrap();
    assert_eq!(record.level, crate::domain::Level::Application);
    assert_eq!(world.deeds(), ["open", "cut", "seal"]);
    let run = &world.runs()[0];
    assert_eq!(run["metadata"]["ownerReferences"][0]["name"], "nightly");
    let status = &run["status"];
    assert_eq!((&status["phase"], &status["level"]), (&json!("Succeeded"), &json!("application")));
    assert_eq!(status["attempt"], 1);
    assert_eq!((&status["pods"][0]["pod"], &status["pods"][0]["exitCode"]), (&json!("pg-0"), &json!(0)));
    assert_eq!(status["pods"][0]["output"], "flushed\n");
    assert!(status["plan"].to_string().contains("shop/pg-data"), "claims are named: {}", status["plan"]);
    assert_eq!(status["cut"]["windowMicros"], 20_000);
    let lanes: Vec<_> =
        status["timeline"].as_array().unwrap().iter().map(|lane| lane["of"].clone()).collect();
    assert!(
        lanes.contains(&json!("volume shop/pg-data")) && lanes.contains(&json!("pod shop/pg-0")),
        "{lanes:?}"
    );
    assert_eq!(world.events(), ["RuleSucceeded"]);
    assert_eq!(world.flushes(), 1);
}

#[tokio::test]
async fn a_retry_after_the_seal_gets_the_same_cut_and_runs_nothing() {
    let world = World::start().await;
    world.annotate("flush");
    let first = world.take(NAME).await.unwrap();
    assert_eq!(world.take(NAME).await.unwrap(), first);
    assert_eq!(world.flushes(), 1);
    // Even when no host finds the name any more: the run knows the cut.
    world.storage.hides_names.store(true, Ordering::SeqCst);
    assert_eq!(world.take(NAME).await.unwrap(), first);
    assert_eq!(world.flushes(), 1);
}

#[tokio::test]
async fn a_cut_that_may_be_on_a_silent_host_is_not_taken_again() {
    let world = World::start().await;
    world.annotate("flush");
    world.take(NAME).await.unwrap();
    world.storage.hides_names.store(true, Ordering::SeqCst);
    world.storage.silent.store(true, Ordering::SeqCst);
    assert_eq!(world.take(NAME).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(world.flushes(), 1);
}

#[tokio::test]
async fn rules_are_taken_from_claims_and_from_the_class_too() {
    let world = World::start().await;
    let claim = "/api/v1/namespaces/shop/persistentvolumeclaims/pg-data";
    world.cluster.put(claim, json!({ "metadata": { "annotations": { "stillpoint.dev/rule": "flush" } } }));
    world.take(NAME).await.unwrap();
    assert_eq!(world.flushes(), 1);
    world.cluster.put(claim, json!({ "metadata": {} }));
    let asked = Asked { rule: Some("flush".into()), ..asked() };
    let volumes = world.storage.volumes();
    world.cuts.take(CutKind::Group, "another", volumes, &asked).await.unwrap();
    assert_eq!(world.flushes(), 2);
}

#[tokio::test]
async fn a_rule_that_does_not_exist_fails_for_good_with_an_event_and_succeeds_once_it_is_made() {
    let world = World::start().await;
    world.annotate("missing");
    let fault = world.take(NAME).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition);
    assert!(
        fault.message.contains("rule shop/missing, named by VolumeGroupSnapshot shop/nightly"),
        "{fault}"
    );
    assert_eq!(world.events(), ["RuleNotFound"]);
    assert_eq!(world.deeds(), Vec::<String>::new());
    world.rule("missing", RULE);
    world.take(NAME).await.unwrap();
    assert_eq!(world.flushes(), 1);
}

#[tokio::test]
async fn a_rule_that_matches_nothing_or_fails_leaves_nothing_and_the_fixed_one_makes_the_same_snapshot_ready()
{
    let world = World::start().await;
    world.annotate("flush");
    world.rule("flush", &RULE.replace("\"pg\"", "\"typo\""));
    let fault = world.take(NAME).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition, "{fault}");
    assert!(fault.message.contains("typo"), "{fault}");
    world.rule("flush", &RULE.replace("echo flushed", "echo broken; exit 9; echo"));
    let fault = world.take(NAME).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition, "{fault}");
    assert!(fault.message.contains("exit code 9") && fault.message.contains("broken"), "{fault}");
    assert_eq!(world.deeds(), Vec::<String>::new(), "no host was touched");
    let run = &world.runs()[0]["status"];
    assert_eq!((&run["phase"], &run["attempt"]), (&json!("Failed"), &json!(2)));
    assert_eq!(run["conditions"][0]["status"], "False");
    world.rule("flush", RULE);
    world.take(NAME).await.unwrap();
    assert_eq!(world.runs()[0]["status"]["attempt"], 3);
    assert_eq!(world.events(), ["RuleFailed", "RuleFailed", "RuleSucceeded"]);
}

#[tokio::test]
async fn nothing_is_run_for_a_snapshot_that_is_being_deleted() {
    let world = World::start().await;
    let metadata = json!({
        "uid": "snapshot-uid", "annotations": { "stillpoint.dev/rule": "flush" },
        "deletionTimestamp": "2026-01-01T00:00:00Z"
    });
    world.cluster.put(world::SNAPSHOT, json!({ "metadata": metadata }));
    let fault = world.take(NAME).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition, "{fault}");
    assert!(fault.message.contains("is being deleted"), "{fault}");
    assert_eq!((world.flushes(), world.deeds()), (0, vec![]));
}

#[tokio::test]
async fn a_rule_that_cannot_be_read_is_explained_in_the_readers_words() {
    let world = World::start().await;
    world.annotate("flush");
    world.rule("flush", &RULE.replace("\"shell\"", "\"timeout\": \"10\", \"shell\""));
    let fault = world.take(NAME).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition);
    assert!(fault.message.contains("has no unit"), "{fault}");
}

#[tokio::test]
async fn a_namespace_that_does_not_allow_exec_is_told_how_to() {
    let world = World::start().await;
    world.annotate("flush");
    world.cluster.refuse("/exec", 403);
    let fault = world.take(NAME).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition);
    assert!(fault.message.contains("kubectl stillpoint allow -n shop"), "{fault}");
}

#[tokio::test]
async fn as_long_as_something_may_be_left_the_code_is_not_final() {
    let world = World::start().await;
    world.annotate("missing");
    world.storage.silent.store(true, Ordering::SeqCst);
    assert_eq!(world.take(NAME).await.unwrap_err().code, Code::Unavailable);
    world.storage.silent.store(false, Ordering::SeqCst);
    world.annotate("flush");
    world.storage.fails_to_cut.store(true, Ordering::SeqCst);
    assert_eq!(world.take(NAME).await.unwrap_err().code, Code::Aborted);
    world.storage.fails_to_cut.store(false, Ordering::SeqCst);
    world.take(NAME).await.unwrap();
}

#[tokio::test]
async fn an_after_that_fails_keeps_the_cut_and_is_loud() {
    let world = World::start().await;
    world.annotate("flush");
    world.rule("flush", &RULE.replace("\"pods\"", "\"after\": {\"shell\": \"exit 3\"}, \"pods\""));
    world.take(NAME).await.unwrap();
    assert_eq!(world.events(), ["RuleFailedAfterCut", "DebtUnpaid"]);
    let status = &world.runs()[0]["status"];
    assert_eq!(status["debts"][0]["state"], "unpaid");
    let paid = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DebtsPaid").unwrap();
    assert_eq!(paid["status"], "False");
}

#[tokio::test]
async fn a_run_of_another_controller_is_waited_for_and_one_of_a_dead_controller_is_undone_first() {
    let world = World::start().await;
    world.annotate("flush");
    let mut other = world.run_of_another("other", &jiff::Timestamp::now().to_string());
    let fault = world.take(NAME).await.unwrap_err();
    assert_eq!(fault.code, Code::Aborted);
    assert!(fault.message.contains("by the controller other"), "{fault}");
    assert_eq!(world.flushes(), 0);
    other["status"]["renewedAt"] = json!("2020-01-01T00:00:00Z");
    world.put_run(other);
    world.take(NAME).await.unwrap();
    assert_eq!(world.undone(), 1, "what the dead controller owed was paid");
    assert_eq!(world.flushes(), 1);
}

#[tokio::test]
async fn a_snapshot_that_is_gone_is_not_cut_and_an_unnamed_one_only_without_a_rule() {
    let world = World::start().await;
    world.cluster.remove(world::SNAPSHOT);
    let fault = world.take(NAME).await.unwrap_err();
    assert!(fault.code == Code::Precondition && fault.message.contains("no longer exists"), "{fault}");
    let volumes = world.storage.volumes();
    world.cuts.take(CutKind::Group, NAME, volumes.clone(), &Asked::default()).await.unwrap();
    let asked = Asked { object: None, rule: Some("flush".into()) };
    let fault = world.cuts.take(CutKind::Group, "other", volumes, &asked).await.unwrap_err();
    assert!(fault.message.contains("--extra-create-metadata"), "{fault}");
}
