//! Over an API server in memory.

use serde_json::{Value, json};
use stillpoint_rules::kube::KubePods;
use stillpoint_rules::kube::fake::FakeCluster;
use tokio::time::timeout;

use super::*;

const OBJECT: &str = "/apis/groupsnapshot.storage.k8s.io/v1/namespaces/shop/volumegroupsnapshots/nightly";
const RULES_OF_SHOP: &str = "/apis/stillpoint.dev/v1alpha1/namespaces/shop/rules";
/// Longer than a look and a watch take to be answered, shorter than a look again.
const QUIET: Duration = Duration::from_millis(300);
/// A safety limit.
const SOON: Duration = Duration::from_mins(1);

async fn cluster() -> (FakeCluster, Lookup) {
    let cluster = FakeCluster::start().await.unwrap();
    let client = cluster.client().unwrap();
    let lookup = Lookup::new(client.clone(), KubePods::new(client, "csi.stillpoint.dev"));
    cluster.put(OBJECT, object("flush", None));
    cluster.put(&format!("{RULES_OF_SHOP}/flush"), json!({ "spec": {} }));
    (cluster, lookup)
}

fn object(rule: &str, deleted: Option<&str>) -> Value {
    json!({ "metadata": { "annotations": { "stillpoint.dev/rule": rule }, "deletionTimestamp": deleted } })
}

fn nightly() -> SnapshotObject {
    SnapshotObject { namespace: "shop".into(), name: "nightly".into() }
}

/// Waits for a change while `change` is made, and says whether it was noticed.
async fn noticed(depends_on: DependsOn, change: impl FnOnce(&FakeCluster)) -> bool {
    let (cluster, lookup) = cluster().await;
    let mut seen = None;
    let object = nightly();
    let waits = timeout(QUIET, lookup.changed(CutKind::Group, &object, depends_on, &mut seen)).await;
    assert!(waits.is_err(), "nothing has changed");
    assert!(seen.as_ref().is_some_and(|seen| seen.is_wanted), "{seen:?}");
    let changed = lookup.changed(CutKind::Group, &object, depends_on, &mut seen);
    tokio::pin!(changed);
    assert!(timeout(QUIET, &mut changed).await.is_err(), "nothing has changed");
    change(&cluster);
    timeout(2 * LOOK_AGAIN, changed).await.is_ok()
}

#[tokio::test]
async fn what_people_change_is_noticed() {
    assert!(noticed(DependsOn::Rules, |cluster| cluster.put(OBJECT, object("other", None))).await);
    assert!(noticed(DependsOn::Request, |cluster| cluster.put(OBJECT, object("other", None))).await);
    let deleted = Some("2026-01-01T00:00:00Z");
    assert!(noticed(DependsOn::Request, |cluster| cluster.put(OBJECT, object("flush", deleted))).await);
    assert!(noticed(DependsOn::Request, |cluster| cluster.remove(OBJECT)).await);
    let rule = format!("{RULES_OF_SHOP}/flush");
    assert!(
        noticed(DependsOn::Rules, |cluster| cluster.put(&rule, json!({ "spec": { "steps": [] } }))).await
    );
    assert!(
        noticed(DependsOn::Rules, |cluster| cluster.put(&format!("{RULES_OF_SHOP}/new"), json!({}))).await
    );
    assert!(noticed(DependsOn::Rules, |cluster| cluster.remove(&rule)).await);
}

#[tokio::test]
async fn a_change_that_was_made_between_two_waits_is_noticed_at_once() {
    let (cluster, lookup) = cluster().await;
    let mut seen = lookup.circumstances(CutKind::Group, &nightly(), DependsOn::Rules).await;
    assert!(seen.is_some());
    cluster.put(&format!("{RULES_OF_SHOP}/new"), json!({}));
    let object = nightly();
    timeout(SOON, lookup.changed(CutKind::Group, &object, DependsOn::Rules, &mut seen)).await.unwrap();
}

#[tokio::test]
async fn waiting_costs_a_look_and_a_watch_however_often_the_sidecar_writes_its_status() {
    for (depends_on, requests) in [(DependsOn::Request, 2), (DependsOn::Rules, 4)] {
        let (cluster, lookup) = cluster().await;
        let waiting = async {
            let object = nightly();
            lookup.changed(CutKind::Group, &object, depends_on, &mut None).await;
        };
        let writing = async {
            for number in 0..10 {
                tokio::time::sleep(QUIET / 10).await;
                let mut now = object("flush", None);
                now["status"] = json!({ "error": { "message": format!("failure {number}") } });
                cluster.put(OBJECT, now);
            }
            // Rules of another namespace have nothing to do with it.
            cluster.put("/apis/stillpoint.dev/v1alpha1/namespaces/other/rules/flush", json!({}));
            tokio::time::sleep(QUIET).await;
        };
        tokio::select! {
            () = waiting => panic!("nothing that matters has changed"),
            () = writing => {}
        }
        assert_eq!(cluster.log().len(), requests, "{:?}", cluster.log());
    }
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_asked_again() {
    let (cluster, lookup) = cluster().await;
    let mut seen = lookup.circumstances(CutKind::Group, &nightly(), DependsOn::Request).await;
    cluster.refuse("volumegroupsnapshots", 503);
    assert_eq!(lookup.circumstances(CutKind::Group, &nightly(), DependsOn::Request).await, None);
    let nightly = nightly();
    let changed = lookup.changed(CutKind::Group, &nightly, DependsOn::Request, &mut seen);
    tokio::pin!(changed);
    assert!(timeout(QUIET, &mut changed).await.is_err());
    cluster.put(OBJECT, object("other", None));
    cluster.relent();
    timeout(SOON, changed).await.unwrap();
}

#[tokio::test]
async fn every_rule_of_the_namespace_is_looked_at_however_many_pages_they_fill() {
    let (cluster, lookup) = cluster().await;
    let many = 2 * usize::try_from(PAGE).unwrap() + 1;
    for number in 1..many {
        cluster.put(&format!("{RULES_OF_SHOP}/rule-{number:05}"), json!({ "spec": {} }));
    }
    let found = lookup.circumstances(CutKind::Group, &nightly(), DependsOn::Rules).await.unwrap();
    assert_eq!(found.rules.len(), many);
}
