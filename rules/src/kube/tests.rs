//! Tests of the adapters for Kubernetes, over an API server in memory.

mod commands;
mod journals;
mod lists;
mod shells;

use serde_json::{Value, json};

use super::KubePods;
use super::fake::FakeCluster;
use crate::ports::PodTarget;

const POD: &str = "/api/v1/namespaces/shop/pods/db-0";

/// A pod that is ready, as an API server shows it.
fn ready_pod(name: &str, uid: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop", "uid": uid, "labels": { "app": "db" } },
        "spec": {
            "nodeName": "node-a",
            "containers": [{ "name": "db" }, { "name": "sidecar" }],
            "volumes": [
                { "name": "data", "persistentVolumeClaim": { "claimName": "data-db-0" } },
                { "name": "scratch", "emptyDir": {} }
            ]
        },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [
                { "name": "db", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
                  "state": { "running": {} } }
            ]
        }
    })
}

fn target() -> PodTarget {
    PodTarget { namespace: "shop".into(), pod: "db-0".into(), uid: "u1".into(), container: "db".into() }
}

async fn cluster() -> (FakeCluster, KubePods) {
    let cluster = FakeCluster::start().await.unwrap();
    cluster.put(POD, ready_pod("db-0", "u1"));
    let pods = KubePods::new(cluster.client().unwrap(), "csi.stillpoint.dev");
    (cluster, pods)
}
