use super::*;
use crate::ports::{Inventory, PodState};

fn volume(name: &str, driver: &str, claim: &str, phase: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "csi": { "driver": driver, "volumeHandle": format!("handle-{name}") },
            "claimRef": { "namespace": "shop", "name": claim }
        },
        "status": { "phase": phase }
    })
}

#[tokio::test]
async fn pods_know_the_volumes_of_our_driver_that_they_mount() {
    let (cluster, pods) = cluster().await;
    cluster.put("/api/v1/persistentvolumes/a", volume("a", "csi.stillpoint.dev", "data-db-0", "Bound"));
    cluster.put("/api/v1/persistentvolumes/b", volume("b", "other.driver", "scratch", "Bound"));
    cluster.put("/api/v1/persistentvolumes/c", volume("c", "csi.stillpoint.dev", "data-db-0", "Released"));
    cluster.put("/api/v1/namespaces/other/pods/db-0", ready_pod("db-0", "u9"));
    let found = pods.pods(&["shop".into()]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].name.as_str(), found[0].uid.as_str(), found[0].host.as_str()),
        ("db-0", "u1", "node-a")
    );
    assert_eq!(found[0].volumes, ["handle-a"]);
    assert_eq!(found[0].containers.ordinary, ["db", "sidecar"]);
    assert_eq!(found[0].state, PodState::Ready);
    assert_eq!(pods.pods(&[]).await.unwrap().len(), 2, "no namespace means all of them");
}

#[tokio::test]
async fn native_sidecars_and_the_default_container_are_read_and_ordinary_init_containers_are_not() {
    let (cluster, pods) = cluster().await;
    let mut pod = ready_pod("db-1", "u2");
    pod["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/default-container": "db" });
    pod["spec"]["initContainers"] =
        json!([{ "name": "prepare" }, { "name": "proxy", "restartPolicy": "Always" }]);
    cluster.put("/api/v1/namespaces/shop/pods/db-1", pod);
    let found = pods.pods(&["shop".into()]).await.unwrap();
    let read = &found.iter().find(|pod| pod.name == "db-1").unwrap().containers;
    assert_eq!(
        (read.sidecars.as_slice(), read.default.as_deref()),
        (["proxy".to_owned()].as_slice(), Some("db"))
    );
}

#[tokio::test]
async fn pods_that_cannot_be_worked_with_say_why() {
    let (cluster, pods) = cluster().await;
    let mut pending = ready_pod("db-1", "u2");
    pending["status"]["phase"] = json!("Pending");
    let mut unready = ready_pod("db-2", "u3");
    unready["status"]["conditions"] = json!([{ "type": "Ready", "status": "False", "message": "no route" }]);
    let mut leaving = ready_pod("db-3", "u4");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut done = ready_pod("db-4", "u5");
    done["status"]["phase"] = json!("Succeeded");
    for pod in [pending, unready, leaving, done] {
        let path = format!("/api/v1/namespaces/shop/pods/{}", pod["metadata"]["name"].as_str().unwrap());
        cluster.put(&path, pod);
    }
    let states: Vec<PodState> =
        pods.pods(&["shop".into()]).await.unwrap().into_iter().map(|pod| pod.state).collect();
    assert_eq!(
        states,
        [
            PodState::Ready,
            PodState::NotReady("its phase is Pending".into()),
            PodState::NotReady("no route".into()),
            PodState::NotReady("it is being deleted".into()),
            PodState::Finished,
        ]
    );
}

#[tokio::test]
async fn pods_that_cannot_be_listed_fail_in_words() {
    let (cluster, pods) = cluster().await;
    cluster.refuse("GET /api/v1/namespaces/shop/pods", 403);
    let error = pods.pods(&["shop".into()]).await.unwrap_err().to_string();
    assert!(error.contains("pods of shop") && error.contains("ClusterRole"), "{error}");
}

fn asked(handle: &str, name: &str) -> (String, Option<String>) {
    (handle.into(), Some(name.into()))
}

#[tokio::test]
async fn claims_are_asked_for_by_name_and_listed_only_where_that_does_not_find_them() {
    let (cluster, pods) = cluster().await;
    for name in ["a", "b"] {
        let path = format!("/api/v1/persistentvolumes/{name}");
        cluster.put(&path, volume(name, "csi.stillpoint.dev", &format!("data-{name}"), "Bound"));
    }
    let lists = || {
        let log = cluster.log();
        log.iter()
            .filter(|line| line.contains("persistentvolumes") && !line.contains("persistentvolumes/"))
            .count()
    };
    let claim = |name: &str| ("shop".to_owned(), format!("data-{name}"));
    let found = pods.claims_of(&[asked("handle-a", "a"), asked("handle-b", "b")]).await.unwrap();
    assert_eq!(found, [("handle-a".into(), claim("a")), ("handle-b".into(), claim("b"))].into());
    assert_eq!(lists(), 0);
    // An object of this name is another volume's; the volume's own object was made by hand and has another name.
    let found = pods.claims_of(&[asked("handle-a", "b")]).await.unwrap();
    assert_eq!(found, [("handle-a".into(), claim("a"))].into());
    assert_eq!(lists(), 1);
    let found = pods.claims_of(&[("handle-a".into(), None)]).await.unwrap();
    assert_eq!((found.len(), lists()), (1, 2), "its name is not known");
    assert!(pods.claims_of(&[asked("handle-z", "z")]).await.unwrap().is_empty());
    let many: Vec<_> = (0..65).map(|n| asked(&format!("handle-{n}"), &n.to_string())).collect();
    let before = cluster.log().len();
    assert!(pods.claims_of(&many).await.unwrap().is_empty());
    assert_eq!(cluster.log().len(), before + 1, "one list instead of many questions");
}

#[tokio::test]
async fn a_claim_that_cannot_be_asked_for_is_an_error() {
    let (cluster, pods) = cluster().await;
    cluster.refuse("GET /api/v1/persistentvolumes/a", 403);
    let error = pods.claims_of(&[asked("handle-a", "a")]).await.unwrap_err().to_string();
    assert!(error.contains("persistent volume a"), "{error}");
}
