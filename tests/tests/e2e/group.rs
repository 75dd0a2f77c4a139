//! Volumes of several nodes, taken as one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{GROUP, READY, READY_TO_USE, SPREAD, claim, pod, source};

/// The snapshot-controller says of which group a member is in the member's status, which may be written after the group
/// is ready.
const MEMBERS_LIMIT: Duration = Duration::from_secs(30);

/// The snapshot of a claim that is a member of this group.
pub fn member_of(space: &Workspace, group: &str, claim: &str) -> Result<String> {
    let path = format!(
        r#"jsonpath={{range .items[?(@.status.volumeGroupSnapshotName=="{group}")]}}{{.spec.source.persistentVolumeClaimName}} {{.metadata.name}}{{"\n"}}{{end}}"#
    );
    let end = Instant::now() + MEMBERS_LIMIT;
    loop {
        let listed = space.run(&["get", "volumesnapshots", "-o", &path])?;
        let line = listed.lines().find_map(|line| line.strip_prefix(&format!("{claim} ")));
        if let Some(member) = line {
            return Ok(member.to_owned());
        }
        ensure!(Instant::now() < end, "{group} has no member of {claim} in:\n{listed}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn six_volumes_on_three_nodes_are_one_group_snapshot() {
    let space = Workspace::new(&cluster(), "groups").unwrap();
    space.apply(SPREAD).unwrap();
    let begin = Instant::now();
    for number in 0..3 {
        space.wait(&format!("pod/spread-{number}"), "create").unwrap();
        space.wait(&format!("pod/spread-{number}"), READY).unwrap();
        space.shell(&format!("spread-{number}"), "echo before | tee /a/file > /b/file; sync").unwrap();
    }
    println!("six claims on three nodes: {:?}", begin.elapsed());
    let nodes = space.run(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"]).unwrap();
    let different: std::collections::BTreeSet<_> = nodes.split(' ').collect();
    assert_eq!(different.len(), 3, "{nodes}");

    space.apply(GROUP).unwrap();
    println!("group snapshot ready: {:?}", space.wait("volumegroupsnapshot/all", READY_TO_USE).unwrap());
    // The group is ready a little before the last of its members says so too.
    space
        .run(&["wait", &format!("--for={READY_TO_USE}"), "--timeout=60s", "volumesnapshots", "--all"])
        .unwrap();
    let path = r#"jsonpath={range .items[*]}{.metadata.name} {.spec.source.persistentVolumeClaimName} {.status.readyToUse}{"\n"}{end}"#;
    let members = space.run(&["get", "volumesnapshots", "-o", path]).unwrap();
    assert_eq!(members.lines().filter(|line| line.ends_with(" true")).count(), 6, "{members}");

    space.shell("spread-2", "echo after | tee /a/file > /b/file; sync").unwrap();
    let member =
        members.lines().find(|line| line.contains(" b-spread-2 ")).unwrap_or_else(|| panic!("{members}"));
    let member = member.split(' ').next().unwrap();
    space.apply(&(claim("restored", &source("VolumeSnapshot", member)) + &pod("restored"))).unwrap();
    space.wait("pod/restored", READY).unwrap();
    assert_eq!(space.shell("restored", "cat /data/file").unwrap(), "before");
    // Members can only go together with their group.
    space.run(&["delete", "volumegroupsnapshot/all", "--timeout=60s"]).unwrap();
    space.close().unwrap();
}
