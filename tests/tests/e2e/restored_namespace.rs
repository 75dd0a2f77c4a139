//! What a backup tool restores into the driver's own namespace was true of another installation.

use stillpoint_tests::cluster::system::{self, NAMESPACE};
use stillpoint_tests::cluster::workspace::Workspace;

use crate::manifests::{READY, claim, pod};
use crate::{cluster, printed};

const MADE_IN: &str = "stillpoint.dev/made-in-namespace-uid";
const HOSTS: &str = "configmap/stillpoint-hosts";
/// A node that is not in this cluster.
const RESTORED: &str = r#"{"metadata": {"annotations": {"stillpoint.dev/made-in-namespace-uid": "elsewhere"}}, "data": {"node-9": "10.9.9.9:9700"}}"#;

fn own(space: &Workspace, args: &[&str]) -> anyhow::Result<String> {
    space.kubectl.run(&[&["-n", NAMESPACE], args].concat())
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_restored_list_of_nodes_stops_the_controller_and_the_printed_command_makes_it_work_again() {
    let space = Workspace::new(&cluster(), "restored").unwrap();
    let uid = space.kubectl.get(&["namespace", NAMESPACE], "{.metadata.uid}").unwrap();
    for object in ["secret/stillpoint-ca", "configmap/stillpoint-trust", HOSTS, "configmap/stillpoint-pools"]
    {
        let path = format!(r"jsonpath={{.metadata.annotations.{}}}", MADE_IN.replace('.', r"\."));
        assert_eq!(
            own(&space, &["get", object, "-o", &path]).unwrap(),
            uid,
            "{object} says where it was made"
        );
        let path = r"jsonpath={.metadata.labels.velero\.io/exclude-from-backup}";
        assert_eq!(
            own(&space, &["get", object, "-o", path]).unwrap(),
            "true",
            "{object} is left out of backups"
        );
    }

    own(&space, &["patch", HOSTS, "--type=merge", "-p", RESTORED]).unwrap();
    let pod_of_controller = system::pod(&space.kubectl, "controller", None).unwrap();
    own(&space, &["delete", "pod", &pod_of_controller, "--timeout=60s"]).unwrap();
    let refused = || system::log(&space.kubectl);
    space
        .eventually("the controller refuses the list", || {
            Ok(refused().contains("stillpoint-hosts was made in another installation"))
        })
        .unwrap();
    let log = refused();
    let (_, rest) = log.split_once("let the agents enrol again: ").unwrap();
    let (command, _) = rest.split_once(';').unwrap();
    printed::run(&space, command).unwrap();
    system::wait_for_controller(&space.kubectl).unwrap();
    system::wait_for_agents(&space.kubectl).unwrap();
    let nodes = own(&space, &["get", HOSTS, "-o", "jsonpath={.data}"]).unwrap();
    for node in ["node-1", "node-2", "node-3"] {
        assert!(nodes.contains(node), "{node} is not in {nodes}");
    }
    assert!(!nodes.contains("node-9"), "{nodes}");
    space.apply(&(claim("one", "") + &pod("one"))).unwrap();
    space.wait("pod/one", READY).unwrap();
    space.close().unwrap();
}
