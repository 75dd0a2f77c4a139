//! A pool that cannot be opened: pods on its node can end, and it is used again when it can be, without a restart.

use std::time::Duration;

use stillpoint_tests::cluster::Place;
use stillpoint_tests::cluster::system::{self, NAMESPACE};
use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY, claim, pod};

const RECORD: &str = "/var/lib/stillpoint/pool/stillpoint.json";
const KEPT: &str = "/var/lib/stillpoint/e2e-stillpoint.json";
/// The agent tries to open the pool every 30 s, and the kubelet waits up to two minutes before it asks again.
const TAKEN_UP: Duration = Duration::from_mins(4);

/// The record of a node's pool is damaged until this is dropped.
struct Torn<'a>(&'a Workspace, Place);

impl<'a> Torn<'a> {
    fn new(space: &'a Workspace, place: Place) -> Self {
        space.on_node(place, &format!("cp {RECORD} {KEPT} && echo torn > {RECORD}")).unwrap();
        Self(space, place)
    }
}

impl Drop for Torn<'_> {
    fn drop(&mut self) {
        let restored = self.0.on_node(self.1, &format!("mv {KEPT} {RECORD}"));
        assert!(restored.is_ok() || std::thread::panicking(), "{restored:?}");
    }
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn pods_of_a_node_whose_pool_cannot_be_opened_can_end_and_the_pool_is_used_again() {
    let space = Workspace::new(&cluster(), "sick-pool").unwrap();
    space.apply(&(claim("sick", "") + &pod("sick"))).unwrap();
    space.wait("pod/sick", READY).unwrap();
    space.shell("sick", "echo kept > /data/file; sync").unwrap();
    let node = space.run(&["get", "pod", "sick", "-o", "jsonpath={.spec.nodeName}"]).unwrap();
    let place = Place::nodes().find(|place| place.to_string() == node).unwrap();
    let torn = Torn::new(&space, place);
    let own = |args: &[&str]| space.kubectl.run(&[&["-n", NAMESPACE], args].concat()).unwrap();
    let agent = || system::pod(&space.kubectl, "agent", Some(&node));
    own(&["delete", "pod", &agent().unwrap(), "--timeout=60s"]);
    space
        .eventually("the new agent says what is wrong", || {
            let Ok(agent) = agent() else { return Ok(false) };
            let log = space.kubectl.run(&["-n", NAMESPACE, "logs", &agent, "-c", "agent"])?;
            Ok(log.contains("stillpoint.json cannot be read")
                && log.contains("its volumes can only be unmounted"))
        })
        .unwrap();

    space.run(&["delete", "pod/sick", "--timeout=90s"]).unwrap();
    let volume = space.run(&["get", "pvc", "sick", "-o", "jsonpath={.spec.volumeName}"]).unwrap();
    let mounts = space.on_node(place, "cat /proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&volume), "{volume} is still mounted:\n{mounts}");

    drop(torn);
    space.apply(&pod("sick")).unwrap();
    space.wait_within(TAKEN_UP, "pod/sick", READY).unwrap();
    assert_eq!(space.shell("sick", "cat /data/file").unwrap(), "kept");
    let restarts =
        own(&["get", "pod", &agent().unwrap(), "-o", "jsonpath={.status.containerStatuses[*].restartCount}"]);
    assert!(restarts.split_whitespace().all(|count| count == "0"), "the agent was restarted: {restarts}");
    space.close().unwrap();
}
