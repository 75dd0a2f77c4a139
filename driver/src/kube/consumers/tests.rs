//! Over an API server in memory.

use serde_json::{Value, json};
use stillpoint_rules::kube::fake::FakeCluster;

use super::*;
use crate::domain::Code;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

struct World {
    cluster: FakeCluster,
    lookup: ClusterConsumers,
}

impl World {
    /// Nodes a and b, and claim `one` for which the scheduler has selected b.
    async fn new() -> Self {
        let cluster = FakeCluster::start().await.unwrap();
        let lookup = ClusterConsumers::new(cluster.client().unwrap());
        for name in ["a", "b"] {
            let status = json!({ "allocatable": { "cpu": "2", "pods": "10" } });
            let node = json!({ "metadata": { "labels": { "topology.stillpoint.dev/node": name } }, "status": status });
            cluster.put(&format!("/api/v1/nodes/{name}"), node);
        }
        let world = Self { cluster, lookup };
        world.claim("one", &json!({ "metadata": { "annotations": { SELECTED_NODE: "b" } }, "spec": {} }));
        world
    }

    fn claim(&self, name: &str, claim: &Value) {
        let path = format!("/api/v1/namespaces/shop/persistentvolumeclaims/{name}");
        self.cluster.put(&path, claim.clone());
    }

    fn pod(&self, name: &str, claims: &[&str], status: &Value) {
        let volume = |claim: &&str| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } });
        let volumes: Vec<Value> = claims.iter().map(volume).collect();
        let spec = json!({ "containers": [{ "name": "main" }], "volumes": volumes });
        let pod = json!({ "metadata": {}, "spec": spec, "status": status });
        self.cluster.put(&format!("/api/v1/namespaces/shop/pods/{name}"), pod);
    }

    /// A claim with a volume on this node.
    fn bound(&self, name: &str, at: &str) {
        self.claim(name, &json!({ "metadata": {}, "spec": { "volumeName": format!("pv-{name}") } }));
        let term = json!({ "key": "topology.stillpoint.dev/node", "operator": "In", "values": [at] });
        let required = json!({ "nodeSelectorTerms": [{ "matchExpressions": [term] }] });
        let volume = json!({ "metadata": {}, "spec": { "nodeAffinity": { "required": required } } });
        self.cluster.put(&format!("/api/v1/persistentvolumes/pv-{name}"), volume);
    }

    async fn look(&self) -> Result<Consumers, Fault> {
        let claim = ClaimRef { namespace: "shop".into(), name: "one".into() };
        self.lookup.consumers(&claim, &[host("a"), host("b")], Some(&host("a"))).await
    }
}

#[tokio::test]
async fn pods_of_a_claim_are_told_with_what_else_they_use() {
    let world = World::new().await;
    world.pod("alone", &["one"], &json!({ "phase": "Pending" }));
    world.pod("with-more", &["one", "two", "three"], &json!({}));
    world.pod("stranger", &["two"], &json!({}));
    world.pod("ended", &["one"], &json!({ "phase": "Succeeded" }));
    world.claim("two", &json!({ "metadata": {}, "spec": {} }));
    world.bound("three", "b");
    let found = world.look().await.unwrap();
    assert_eq!(found.selected, Some(host("b")));
    let of = |name: &str| found.pods.iter().find(|pod| pod.name == format!("shop/{name}")).unwrap();
    assert_eq!(found.pods.len(), 2, "{found:?}");
    assert_eq!((of("alone").unbound, &of("alone").fits[&host("a")]), (0, &Fit::Fits));
    assert_eq!(of("with-more").unbound, 1);
    assert!(matches!(of("with-more").fits[&host("a")], Fit::Refuses(_)), "its volume is on b");
    assert!(
        !world.cluster.log().iter().any(|line| line.ends_with("/nodes/b")),
        "only the source was asked about"
    );
}

#[tokio::test]
async fn for_a_new_volume_on_a_selected_node_only_the_claim_is_read() {
    let world = World::new().await;
    world.pod("p", &["one"], &json!({}));
    let claim = ClaimRef { namespace: "shop".into(), name: "one".into() };
    for source in [None, Some(&host("b"))] {
        let found = world.lookup.consumers(&claim, &[host("a"), host("b")], source).await.unwrap();
        assert_eq!(found, Consumers { selected: Some(host("b")), pods: vec![] });
    }
    assert_eq!(world.cluster.log().len(), 2, "{:?}", world.cluster.log());
}

#[tokio::test]
async fn without_a_selected_node_all_nodes_are_looked_at() {
    let world = World::new().await;
    world.claim("one", &json!({ "metadata": {}, "spec": {} }));
    world.pod("p", &["one", "three"], &json!({}));
    world.bound("three", "b");
    let found = world.look().await.unwrap();
    assert_eq!(found.selected, None);
    assert!(matches!(found.pods[0].fits[&host("a")], Fit::Refuses(_)));
    assert_eq!(found.pods[0].fits[&host("b")], Fit::Fits);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_guessed() {
    let world = World::new().await;
    world.pod("p", &["one"], &json!({}));
    world.cluster.refuse("/nodes/a", 500);
    let fault = world.look().await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable);
    assert!(fault.message.contains("node a"), "{fault}");
    world.cluster.relent();
    world.cluster.refuse("/pods", 403);
    assert_eq!(world.look().await.unwrap_err().code, Code::Precondition);
}
