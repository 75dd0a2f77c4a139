//! Who owns the files of a volume: the kubelet changes their group as the pod asks (`fsGroup`, `fsGroupChangePolicy`).

use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY, READY_TO_USE, claim, pod, snapshot, source};

/// A pod whose user is `id`, and whose volume belongs to the group `id` by this policy. It is also in group 3000.
fn pod_of(name: &str, id: u32, policy: &str) -> String {
    let context = format!(
        "spec:\n  securityContext: {{runAsUser: {id}, runAsGroup: {id}, fsGroup: {id}, supplementalGroups: [3000], \
         fsGroupChangePolicy: {policy}}}\n"
    );
    pod(name).replacen("spec:\n", &context, 1)
}

fn replace_pod(space: &Workspace, name: &str, id: u32, policy: &str) {
    space.run(&["delete", &format!("pod/{name}"), "--timeout=60s"]).unwrap();
    space.apply(&pod_of(name, id, policy)).unwrap();
    space.wait(&format!("pod/{name}"), READY).unwrap();
}

fn group_of(space: &Workspace, pod: &str, path: &str) -> String {
    space.shell(pod, &format!("stat -c %g {path}")).unwrap()
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn both_fs_group_change_policies_do_what_kubernetes_says() {
    let space = Workspace::new(&cluster(), "fsgroup").unwrap();
    space.apply(&(claim("one", "") + &pod_of("one", 1000, "OnRootMismatch"))).unwrap();
    space.wait("pod/one", READY).unwrap();
    let file = "/data/deep/file";
    space.shell("one", &format!("mkdir /data/deep; echo text > {file}; chgrp 3000 {file}; sync")).unwrap();
    // The root directory has the right group already, so nothing below it is looked at.
    replace_pod(&space, "one", 1000, "OnRootMismatch");
    assert_eq!(group_of(&space, "one", file), "3000");
    replace_pod(&space, "one", 1000, "Always");
    assert_eq!(group_of(&space, "one", file), "1000");
    // Another group: the root directory does not match, so both policies change everything.
    replace_pod(&space, "one", 1500, "OnRootMismatch");
    assert_eq!(group_of(&space, "one", file), "1500");
    space.shell("one", &format!("echo more >> {file}")).unwrap();
    space.close().unwrap();
}

/// What was written by one group is read and written by another, in another namespace, as a backup tool restores it.
#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_snapshot_that_is_restored_into_another_namespace_belongs_to_the_group_of_its_pod() {
    let space = Workspace::new(&cluster(), "writers").unwrap();
    let other = Workspace::new(&cluster(), "readers").unwrap();
    space.apply(&(claim("one", "") + &pod_of("one", 1000, "OnRootMismatch"))).unwrap();
    space.wait("pod/one", READY).unwrap();
    let file = "/data/deep/file";
    space
        .shell("one", &format!("mkdir -m 700 /data/deep; echo text > {file}; chmod 600 {file}; sync"))
        .unwrap();
    space.apply(&snapshot("taken", "one")).unwrap();
    space.wait("volumesnapshot/taken", READY_TO_USE).unwrap();

    let content = "jsonpath={.status.boundVolumeSnapshotContentName}";
    let content = space.run(&["get", "volumesnapshot/taken", "-o", content]).unwrap();
    let handle = "jsonpath={.status.snapshotHandle}";
    let handle = space.kubectl.run(&["get", "volumesnapshotcontent", &content, "-o", handle]).unwrap();
    other.apply(&format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotContent\nmetadata: {{name: readers-copy}}\nspec:\n  \
         driver: csi.stillpoint.dev\n  deletionPolicy: Retain\n  source: {{snapshotHandle: {handle}}}\n  \
         volumeSnapshotRef: {{name: copy, namespace: readers}}\n---\n\
         apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {{name: copy}}\nspec:\n  \
         source: {{volumeSnapshotContentName: readers-copy}}\n"
    )).unwrap();
    other.wait("volumesnapshot/copy", READY_TO_USE).unwrap();
    for (name, id, policy) in [("always", 2000, "Always"), ("mismatch", 2500, "OnRootMismatch")] {
        let restored = claim(name, &source("VolumeSnapshot", "copy")) + &pod_of(name, id, policy);
        other.apply(&restored).unwrap();
        other.wait(&format!("pod/{name}"), READY).unwrap();
        assert_eq!(other.shell(name, &format!("cat {file}")).unwrap(), "text", "{policy}");
        other.shell(name, &format!("echo more >> {file}; echo new > /data/deep/new")).unwrap();
        assert_eq!(group_of(&other, name, file), id.to_string(), "{policy}");
    }
    other.run(&["delete", "pods,pvc,volumesnapshots", "--all", "--timeout=60s"]).unwrap();
    other.kubectl.run(&["delete", "volumesnapshotcontent/readers-copy", "--timeout=60s"]).unwrap();
    other.leave().unwrap();
    space.close().unwrap();
}
