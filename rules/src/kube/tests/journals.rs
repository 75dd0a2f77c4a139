use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::kube::objects::{Lane, Run};
use crate::kube::{Begun, KubeError, KubeJournal, ObjectRef, RunOrder, run_object_name};
use crate::machine::Phase;
use crate::plan::{Action, PlannedCommand};
use crate::ports::Journal;
use crate::run::{Attempt, Debt, DebtState, Run as Record};

fn order() -> RunOrder {
    let owner = ObjectRef {
        api_version: "groupsnapshot.storage.k8s.io/v1".into(),
        kind: "VolumeGroupSnapshot".into(),
        namespace: "shop".into(),
        name: "nightly".into(),
        uid: "owner-uid".into(),
    };
    RunOrder { owner, rule: "flush".into(), cut: "groupsnapshot-1".into() }
}

fn record() -> Record {
    let mut run = Record::new("groupsnapshot-1", Some("flush"), Timestamp::now());
    run.phase = Phase::Preparing(0);
    run.debts.push(Debt {
        step: 0,
        step_name: "s".into(),
        target: target(),
        host: "node-a".into(),
        command: PlannedCommand::plain(vec!["unlock".into()], Duration::from_secs(1)),
        state: DebtState::Owed,
    });
    run
}

fn path() -> String {
    format!("/apis/stillpoint.dev/v1alpha1/namespaces/shop/runs/{}", run_object_name(&order().owner))
}

fn stored(cluster: &FakeCluster) -> Run {
    serde_json::from_value(cluster.get(&path()).unwrap()).unwrap()
}

const FRESH: Begun = Begun::Ready { earlier_cut: None, waiting_since: None };

#[tokio::test]
async fn a_run_is_an_object_of_its_snapshot_and_shows_debts_before_deeds() {
    let (cluster, _) = cluster().await;
    let journal = KubeJournal::new(cluster.client().unwrap(), "one");
    assert_eq!(journal.begin(&order()).await.unwrap(), FRESH);
    journal.persist(&record()).await.unwrap();
    let object = stored(&cluster);
    let owner = &object.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("VolumeGroupSnapshot", "owner-uid"));
    let status = object.status.unwrap();
    assert_eq!((status.phase.as_str(), status.attempt), ("Running", 1));
    assert_eq!((status.debts[0].command.as_str(), status.debts[0].state.as_str()), ("unlock", "owed"));
    assert_eq!(status.holder.as_deref(), Some("one"));
    let debts = status.conditions.iter().find(|condition| condition.type_ == "DebtsPaid").unwrap();
    assert_eq!(debts.status, "False");
}

#[tokio::test]
async fn an_ended_run_keeps_its_report_and_lets_go_of_its_lease() {
    let (cluster, _) = cluster().await;
    let journal = KubeJournal::new(cluster.client().unwrap(), "one");
    journal.begin(&order()).await.unwrap();
    let mut run = record();
    journal.persist(&run).await.unwrap();
    run.attempts.push(Attempt {
        step: "s".into(),
        action: Action::Before,
        target: target(),
        host: "node-a".into(),
        number: 1,
        command: "flush".into(),
        started_at: Timestamp::now(),
        duration_us: 5,
        exit_code: Some(0),
        http_status: None,
        held_after_us: None,
        output: "x".repeat(1_000_000),
        omitted_bytes: 0,
        error: None,
        fault: None,
    });
    run.debts[0].state = DebtState::Paid;
    run.phase = Phase::Succeeded;
    journal.persist(&run).await.unwrap();
    let lane = Lane { of: "volume data".into(), node: "node-a".into(), spans: vec![] };
    journal.end("groupsnapshot-1", vec![lane]).await.unwrap();
    let status = stored(&cluster).status.unwrap();
    assert_eq!((status.phase.as_str(), status.record, status.holder), ("Succeeded", None, None));
    assert!(status.pods[0].output.len() < 300_000 && status.pods[0].omitted_bytes > Some(700_000));
    assert_eq!(
        status.timeline.iter().map(|lane| lane.of.as_str()).collect::<Vec<_>>(),
        ["pod shop/db-0", "volume data"]
    );
    assert_eq!(journal.begin(&order()).await.unwrap(), FRESH, "a later attempt may begin");
}

#[tokio::test]
async fn two_controllers_never_have_the_same_run() {
    let (cluster, _) = cluster().await;
    let one = KubeJournal::new(cluster.client().unwrap(), "one");
    let two = KubeJournal::new(cluster.client().unwrap(), "two");
    one.begin(&order()).await.unwrap();
    two.begin(&order()).await.unwrap();
    one.persist(&record()).await.unwrap();
    let error = two.persist(&record()).await.unwrap_err().to_string();
    assert!(error.contains("another controller has taken it over"), "{error}");
    assert_eq!(two.begin(&order()).await.unwrap(), Begun::Held { by: "one".into() });
    assert_eq!(two.unfinished().await.unwrap(), [], "it is alive");
}

#[tokio::test]
async fn a_run_whose_controller_is_silent_is_taken_over_and_the_first_can_no_longer_write() {
    let (cluster, _) = cluster().await;
    let one = KubeJournal::new(cluster.client().unwrap(), "one");
    one.begin(&order()).await.unwrap();
    one.persist(&record()).await.unwrap();
    let mut object = cluster.get(&path()).unwrap();
    object["status"]["renewedAt"] = json!("2020-01-01T00:00:00Z");
    cluster.put(&path(), object);
    let two = KubeJournal::new(cluster.client().unwrap(), "two");
    assert_eq!(two.begin(&order()).await.unwrap(), Begun::Orphaned);
    let left = two.unfinished().await.unwrap();
    assert_eq!(left, [record_as_stored(&left[0])]);
    assert!(matches!(one.renew("groupsnapshot-1").await, Err(KubeError::Conflict(_))));
    assert!(one.persist(&record()).await.is_err());
    two.persist(&left[0]).await.unwrap();
    assert_eq!(two.unfinished().await.unwrap(), [], "it is being worked on");
}

/// The record with the times and id that only the first process knew.
fn record_as_stored(left: &Record) -> Record {
    Record { id: left.id.clone(), started_at: left.started_at, ..record() }
}

#[tokio::test]
async fn a_lost_answer_and_a_changed_label_do_not_look_like_another_controller() {
    let (cluster, _) = cluster().await;
    let journal = KubeJournal::new(cluster.client().unwrap(), "one");
    journal.begin(&order()).await.unwrap();
    let mut object = cluster.get(&path()).unwrap();
    object["metadata"]["labels"] = json!({ "by": "somebody" });
    cluster.put(&path(), object);
    journal.persist(&record()).await.unwrap();
    // As if a renewal had been written and its answer lost.
    let mut object = cluster.get(&path()).unwrap();
    object["status"]["renewedAt"] = json!("2030-01-01T00:00:00Z");
    cluster.put(&path(), object);
    journal.persist(&record()).await.unwrap();
    assert_eq!(stored(&cluster).metadata.labels.unwrap()["by"], "somebody");
}

#[tokio::test]
async fn a_process_that_starts_again_under_another_name_ends_what_it_left_only_when_the_lease_is_over() {
    let (cluster, _) = cluster().await;
    let before = KubeJournal::new(cluster.client().unwrap(), "pod-1/start-1");
    before.begin(&order()).await.unwrap();
    before.persist(&record()).await.unwrap();
    let after = KubeJournal::new(cluster.client().unwrap(), "pod-1/start-2");
    assert!(matches!(after.begin(&order()).await.unwrap(), Begun::Held { .. }));
    before.renew("groupsnapshot-1").await.unwrap();
    assert!(matches!(after.begin(&order()).await.unwrap(), Begun::Held { .. }));
}

#[tokio::test]
async fn a_run_that_was_not_begun_cannot_be_written_and_a_deleted_one_says_so() {
    let (cluster, _) = cluster().await;
    let journal = KubeJournal::new(cluster.client().unwrap(), "one");
    assert!(journal.persist(&record()).await.is_err());
    journal.begin(&order()).await.unwrap();
    cluster.remove(&path());
    let error = journal.persist(&record()).await.unwrap_err().to_string();
    assert!(error.contains("was the snapshot deleted?"), "{error}");
}

#[test]
fn the_name_of_a_run_is_readable_and_tells_snapshots_of_the_same_name_apart() {
    let mut owner = order().owner;
    let first = run_object_name(&owner);
    owner.uid = "another".into();
    assert!(first.starts_with("nightly-") && first != run_object_name(&owner));
    owner.name = "x".repeat(253);
    assert!(run_object_name(&owner).len() <= 253);
}
