//! Stillpoint in a real Kubernetes of three nodes, by plain kubectl. `make e2e` brings the cluster up, runs this one test
//! after the other, and takes the cluster down.

use std::time::Instant;

use stillpoint_tests::cluster::workspace::Workspace;

/// The cluster that `make e2e` makes.
fn cluster() -> String {
    std::env::var("CLUSTER").unwrap_or_else(|_| "e2e".into())
}

fn claim(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}, labels: {{app: e2e}}}}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  storageClassName: stillpoint\n  \
         resources: {{requests: {{storage: 1Gi}}}}\n{extra}---\n"
    )
}

fn source(kind: &str, name: &str) -> String {
    let group = if kind == "VolumeSnapshot" { "apiGroup: snapshot.storage.k8s.io, " } else { "" };
    format!("  dataSource: {{{group}kind: {kind}, name: {name}}}\n")
}

/// A pod that mounts the claim of its own name at /data.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox:stillpoint\n    imagePullPolicy: Never\n    command: [sleep, infinity]\n    \
         volumeMounts: [{{name: data, mountPath: /data}}]\n  \
         volumes: [{{name: data, persistentVolumeClaim: {{claimName: {name}}}}}]\n---\n"
    )
}

fn block_pod(name: &str) -> String {
    pod(name).replace(
        "volumeMounts: [{name: data, mountPath: /data}]",
        "volumeDevices: [{name: data, devicePath: /dev/data}]",
    )
}

fn snapshot(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {{name: {name}}}\nspec:\n  \
         volumeSnapshotClassName: stillpoint\n  source: {{persistentVolumeClaimName: {claim}}}\n"
    )
}

const READY: &str = "condition=Ready";
const READY_TO_USE: &str = "jsonpath={.status.readyToUse}=true";

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_volume_is_snapshotted_restored_cloned_and_grown_and_nothing_of_it_is_left() {
    let space = Workspace::new(&cluster(), "volumes").unwrap();
    space.apply(&(claim("one", "") + &pod("one"))).unwrap();
    println!("claim to running pod: {:?}", space.wait("pod/one", READY).unwrap());
    space.shell("one", "echo before > /data/file; sync").unwrap();

    space.apply(&snapshot("taken", "one")).unwrap();
    println!("snapshot ready: {:?}", space.wait("volumesnapshot/taken", READY_TO_USE).unwrap());
    space.shell("one", "echo after > /data/file; sync").unwrap();

    let restored = claim("restored", &source("VolumeSnapshot", "taken")) + &pod("restored");
    let cloned = claim("cloned", &source("PersistentVolumeClaim", "one")) + &pod("cloned");
    space.apply(&(restored + &cloned)).unwrap();
    space.wait("pod/restored", READY).unwrap();
    space.wait("pod/cloned", READY).unwrap();
    let file = |pod: &str| space.shell(pod, "cat /data/file").unwrap();
    assert_eq!(
        (file("restored"), file("cloned"), file("one")),
        ("before".into(), "after".into(), "after".into())
    );

    let blocks =
        || -> u64 { space.shell("one", "df -k /data | awk 'NR==2 {print $2}'").unwrap().parse().unwrap() };
    let small = blocks();
    space
        .run(&["patch", "pvc/one", "-p", r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#])
        .unwrap();
    space.wait("pvc/one", "jsonpath={.status.capacity.storage}=2Gi").unwrap();
    assert!(blocks() > small + 900_000, "{small} KiB became {} KiB", blocks());
    space.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_raw_block_volume_is_snapshotted_and_restored() {
    let space = Workspace::new(&cluster(), "blocks").unwrap();
    let block = "  volumeMode: Block\n";
    space.apply(&(claim("raw", block) + &block_pod("raw"))).unwrap();
    space.wait("pod/raw", READY).unwrap();
    let write =
        |text: &str| format!("echo {text} | dd of=/dev/data bs=512 seek=2048 conv=sync,fsync 2>/dev/null");
    let read = "dd if=/dev/data bs=512 skip=2048 count=1 2>/dev/null | tr -d '\\0'";
    space.shell("raw", &write("before")).unwrap();
    space.apply(&snapshot("taken", "raw")).unwrap();
    space.wait("volumesnapshot/taken", READY_TO_USE).unwrap();
    space.shell("raw", &write("after")).unwrap();
    let restored =
        claim("again", &(block.to_owned() + &source("VolumeSnapshot", "taken"))) + &block_pod("again");
    space.apply(&restored).unwrap();
    space.wait("pod/again", READY).unwrap();
    assert_eq!(space.shell("again", read).unwrap(), "before");
    assert_eq!(space.shell("raw", read).unwrap(), "after");
    space.close().unwrap();
}

/// Three pods on three nodes, each with two volumes.
const SPREAD: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: spread}
spec:
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: spread}}}
      containers:
      - name: main
        image: busybox:stillpoint
        imagePullPolicy: Never
        command: [sleep, infinity]
        volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}]
  volumeClaimTemplates:
  - metadata: {name: a, labels: {group: spread}}
    spec: {accessModes: [ReadWriteOnce], storageClassName: stillpoint, resources: {requests: {storage: 1Gi}}}
  - metadata: {name: b, labels: {group: spread}}
    spec: {accessModes: [ReadWriteOnce], storageClassName: stillpoint, resources: {requests: {storage: 1Gi}}}
";

const GROUP: &str = "
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshot
metadata: {name: all}
spec:
  volumeGroupSnapshotClassName: stillpoint
  source: {selector: {matchLabels: {group: spread}}}
";

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
