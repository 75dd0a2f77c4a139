//! Several snapshots of the same pods at once: each has what its rule did at its instant.

use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY, READY_TO_USE, allow_exec, claim, pod, rule, snapshot, source};

/// A lock as a file on the volume: whoever overlaps another run loses it.
const LOCK: &str = r#"{name: lock, pods: {selector: {matchLabels: {app: one}}}, before: {shell: "touch /data/lock; sleep 2; test -e /data/lock"}, after: {shell: "rm /data/lock"}}"#;

const NAMES: [&str; 3] = ["first", "second", "third"];

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn three_snapshots_at_once_each_have_the_lock_when_they_are_restored() {
    let space = Workspace::new(&cluster(), "overlap").unwrap();
    let labelled = pod("one").replace("metadata: {name: one}", "metadata: {name: one, labels: {app: one}}");
    space.apply(&(claim("one", "") + &labelled + &rule("lock", LOCK))).unwrap();
    space.wait("pod/one", READY).unwrap();
    allow_exec(&space).unwrap();
    let annotated = |name: &str| {
        let annotations = format!("{{name: {name}, annotations: {{stillpoint.dev/rule: lock}}}}");
        snapshot(name, "one").replace(&format!("{{name: {name}}}"), &annotations) + "---\n"
    };
    space.apply(&NAMES.map(annotated).concat()).unwrap();
    for name in NAMES {
        space.wait(&format!("volumesnapshot/{name}"), READY_TO_USE).unwrap();
        let path = format!(r#"jsonpath={{.items[?(@.spec.snapshot.name=="{name}")].status.level}}"#);
        assert_eq!(space.run(&["get", "runs", "-o", &path]).unwrap(), "application", "{name}");
    }
    let open = space.run(&["get", "runs", "-l", "stillpoint.dev/open=true", "-o", "name"]).unwrap();
    assert_eq!(open, "", "no run is pending");
    assert!(space.shell("one", "test -e /data/lock").is_err(), "the last `after` has removed the lock");
    for name in NAMES {
        let restored = format!("restored-{name}");
        space.apply(&(claim(&restored, &source("VolumeSnapshot", name)) + &pod(&restored))).unwrap();
        space.wait(&format!("pod/{restored}"), READY).unwrap();
        space.shell(&restored, "test -e /data/lock").unwrap();
    }
    space.close().unwrap();
}
