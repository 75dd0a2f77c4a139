//! Over an API server in memory.

use serde_json::json;
use stillpoint_rules::kube::fake::FakeCluster;

use super::*;
use crate::domain::Code;
use crate::identity::authority::Authority;
use crate::kube::authority::{CA_FILE, CONTROLLERS_FILE, ClusterSecret, Keeper, TrustMap};
use crate::kube::hosts::{ClusterLines, HOSTS, LineBook, Lines};
use crate::kube::pools::POOLS;

const NAMESPACE: &str = "/api/v1/namespaces/stillpoint-system";

async fn world() -> (FakeCluster, Installation) {
    let cluster = FakeCluster::start().await.unwrap();
    cluster.put(NAMESPACE, json!({ "metadata": { "uid": "here" } }));
    let installation = Installation::read(&cluster.client().unwrap(), "stillpoint-system").await.unwrap();
    assert_eq!(installation.uid, "here");
    (cluster, installation)
}

fn path(plural: &str, name: &str) -> String {
    format!("{NAMESPACE}/{plural}/{name}")
}

fn lines(text: &str) -> Lines {
    Lines::from([("node-1".into(), text.into())])
}

fn assert_is_own(object: &Value) {
    assert_eq!(object["metadata"]["annotations"][MADE_IN], "here", "{object}");
    assert_eq!(object["metadata"]["labels"][BACKUP_LABEL], "true", "{object}");
}

#[tokio::test]
async fn a_restored_list_of_nodes_or_pools_is_neither_read_nor_written_and_the_error_says_how_to_delete_it() {
    for name in [HOSTS, POOLS] {
        let (cluster, installation) = world().await;
        let book = ClusterLines::new(cluster.client().unwrap(), &installation, name);
        let at = path("configmaps", name);
        let restored = json!({
            "metadata": { "annotations": { MADE_IN: "elsewhere" } },
            "data": { "node-9": "10.9.9.9:9700" }
        });
        cluster.put(&at, restored);
        for refused in [book.read().await.map(drop), book.write(&lines("10.0.0.1:9700")).await] {
            let fault = refused.unwrap_err();
            assert_eq!(fault.code, Code::Precondition, "{fault}");
            let command = format!("kubectl -n stillpoint-system delete configmap/{name} && kubectl");
            assert!(fault.message.contains(&command), "{fault}");
        }
        assert_eq!(cluster.get(&at).unwrap()["data"], json!({ "node-9": "10.9.9.9:9700" }));

        cluster.remove(&at);
        assert_eq!(book.read().await.unwrap(), None);
        book.write(&lines("10.0.0.1:9700")).await.unwrap();
        assert_is_own(&cluster.get(&at).unwrap());
        assert_eq!(book.read().await.unwrap(), Some(lines("10.0.0.1:9700")));
    }
}

#[tokio::test]
async fn a_list_of_an_earlier_version_is_read_and_gets_the_mark() {
    let (cluster, installation) = world().await;
    let book = ClusterLines::new(cluster.client().unwrap(), &installation, HOSTS);
    let at = path("configmaps", HOSTS);
    cluster.put(&at, json!({ "data": { "node-1": "10.0.0.1:9700" } }));
    assert_eq!(book.read().await.unwrap(), Some(lines("10.0.0.1:9700")));
    let object = cluster.get(&at).unwrap();
    assert_is_own(&object);
    assert_eq!(object["data"], json!({ "node-1": "10.0.0.1:9700" }));
}

#[tokio::test]
async fn a_restored_authority_is_not_used() {
    let (cluster, installation) = world().await;
    let keeper = ClusterSecret::new(cluster.client().unwrap(), &installation);
    keeper.create(&Authority::make().unwrap()).await.unwrap();
    let at = path("secrets", "stillpoint-ca");
    let mut object = cluster.get(&at).unwrap();
    assert_is_own(&object);
    assert!(keeper.read().await.unwrap().is_some());
    object["metadata"]["annotations"][MADE_IN] = json!("elsewhere");
    cluster.put(&at, object);
    let fault = keeper.read().await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition, "{fault}");
    assert!(
        fault.message.contains("kubectl -n stillpoint-system delete secret/stillpoint-ca && kubectl"),
        "{fault}"
    );
}

#[tokio::test]
async fn of_a_restored_map_for_agents_no_address_and_no_certificate_stays() {
    let (cluster, installation) = world().await;
    let trust = TrustMap::new(cluster.client().unwrap(), &installation);
    let at = path("configmaps", "stillpoint-trust");
    let restored = json!({
        "metadata": { "annotations": { MADE_IN: "elsewhere" } },
        "data": { CA_FILE: "theirs", CONTROLLERS_FILE: "10.9.9.9:9702\n" }
    });
    cluster.put(&at, restored);
    trust.publish("ours", "10.0.0.1:9702").await.unwrap();
    let object = cluster.get(&at).unwrap();
    assert_is_own(&object);
    assert_eq!(object["data"], json!({ CA_FILE: "ours", CONTROLLERS_FILE: "10.0.0.1:9702\n" }));
    // Another controller of this installation keeps the address.
    trust.publish("ours", "10.0.0.2:9702").await.unwrap();
    let controllers = &cluster.get(&at).unwrap()["data"][CONTROLLERS_FILE];
    assert_eq!(*controllers, json!("10.0.0.2:9702\n10.0.0.1:9702\n"));
}
