//! One volume at a time.

use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY, READY_TO_USE, block_pod, claim, pod, snapshot, source};

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
