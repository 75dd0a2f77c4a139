//! Run objects at a real API server, which drops what its schema does not know.

use std::time::Duration;

use jiff::Timestamp;
use stillpoint_rules::failure::{Failure, FailureKind};
use stillpoint_rules::kube::objects::{Lane, Run};
use stillpoint_rules::kube::{Begun, KubeJournal, ObjectRef, RunOrder, run_object_name};
use stillpoint_rules::machine::Phase;
use stillpoint_rules::plan::PlannedCommand;
use stillpoint_rules::ports::{Journal, PodTarget};
use stillpoint_rules::run::{Debt, DebtState, Run as Record};
use stillpoint_tests::cluster::workspace::Workspace;

use crate::{client, cluster};

const NAMESPACE: &str = "journal";

/// Its owner must exist: the API server removes what belongs to nobody.
fn order(space: &Workspace) -> RunOrder {
    space.run(&["create", "configmap", "nightly"]).unwrap();
    let owner = ObjectRef {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        namespace: NAMESPACE.into(),
        name: "nightly".into(),
        uid: space.run(&["get", "configmap", "nightly", "-o", "jsonpath={.metadata.uid}"]).unwrap(),
    };
    RunOrder { owner, rule: "flush".into(), cut: "groupsnapshot-1".into() }
}

fn record() -> Record {
    let mut run = Record::new("groupsnapshot-1", Some("flush"), Timestamp::now());
    run.phase = Phase::Preparing(0);
    run.debts.push(Debt {
        step: 0,
        step_name: "s".into(),
        target: PodTarget {
            namespace: NAMESPACE.into(),
            pod: "db-0".into(),
            uid: "u1".into(),
            container: "db".into(),
        },
        host: "node-a".into(),
        command: PlannedCommand::plain(vec!["unlock".into()], Duration::from_secs(1)),
        state: DebtState::Owed,
    });
    run
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_real_api_server_keeps_a_run_as_it_was_written() {
    let space = Workspace::new(&cluster(), NAMESPACE).unwrap();
    space.in_network(|| client::block_on(kept(&space))).unwrap();
    space.close().unwrap();
}

async fn kept(space: &Workspace) {
    let client = client::connect(space).await;
    let order = order(space);
    let journal = KubeJournal::new(client.clone(), "one");
    assert_eq!(journal.begin(&order).await.unwrap(), Begun::Ready { earlier_cut: None, waiting_since: None });
    let mut run = record();
    journal.persist(&run).await.unwrap();
    journal.renew(&order.cut).await.unwrap();
    let other = KubeJournal::new(client.clone(), "two");
    assert_eq!(other.begin(&order).await.unwrap(), Begun::Held { by: "one".into() });
    let api: kube::Api<Run> = kube::Api::namespaced(client, NAMESPACE);
    let object = api.get(&run_object_name(&order.owner)).await.unwrap();
    let kept: Record = serde_json::from_value(object.status.unwrap().record.unwrap()).unwrap();
    assert_eq!(kept, run, "nothing of the record was dropped");
    run.phase = Phase::Failed;
    run.failures.push(Failure::new(FailureKind::Before, "why"));
    journal.persist(&run).await.unwrap();
    let lane = Lane { of: "volume x".into(), node: "n".into(), spans: vec![] };
    journal.end(&order.cut, vec![lane]).await.unwrap();
    let status = api.get(&run_object_name(&order.owner)).await.unwrap().status.unwrap();
    assert_eq!((status.phase.as_str(), status.record.is_none()), ("Failed", true));
    assert_eq!((status.debts.len(), status.timeline.len(), status.conditions.len()), (1, 1, 2));
}
