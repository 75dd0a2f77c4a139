//! Snapshots without a content and contents without a snapshot: both are counted, and the commands that are shown for
//! them do what they say, exactly as they are printed.

use std::time::Instant;

use stillpoint_tests::cluster::system::{self, NAMESPACE, Setting};
use stillpoint_tests::cluster::workspace::Workspace;

use crate::manifests::READY_TO_USE;
use crate::three::{group, members, start_pods, wait_for_group};
use crate::{cluster, printed};

/// Checks follow each other after this; two of them find an orphan.
fn check_often(space: &Workspace) -> Setting {
    Setting::new(&space.kubectl, "STILLPOINT_ORPHAN_GRACE_SECONDS", "2").unwrap()
}

fn found(space: &Workspace, missing: &str) -> Option<u64> {
    let pod = system::pod(&space.kubectl, "controller", None).ok()?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9705/proxy/metrics");
    let text = space.kubectl.run(&["get", "--raw", &path]).ok()?;
    let start = format!("stillpoint_orphan_snapshots{{missing=\"{missing}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start))?.trim().parse().ok()
}

fn wait_for_count(space: &Workspace, missing: &str, count: u64) {
    let what = format!("{count} orphans that lack their {missing} are counted");
    space.eventually(&what, || Ok(found(space, missing) == Some(count))).unwrap();
}

fn controller_log(space: &Workspace) -> String {
    let args = ["-n", NAMESPACE, "logs", "deployment/stillpoint-controller", "-c", "controller", "--tail=-1"];
    space.kubectl.run(&args).unwrap()
}

/// Name of the content of a group, and the driver's id of the group.
fn content_and_handle(space: &Workspace, group: &str) -> (String, String) {
    let path = "jsonpath={.status.boundVolumeGroupSnapshotContentName}";
    let content = space.run(&["get", &format!("volumegroupsnapshot/{group}"), "-o", path]).unwrap();
    let object = ["volumegroupsnapshotcontent", content.as_str()];
    let handle = space.kubectl.get(&object, "{.status.volumeGroupSnapshotHandle}").unwrap();
    (content, handle)
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_group_whose_content_was_deleted_by_hand_is_adopted_and_deleted_by_the_printed_commands() {
    let space = Workspace::new(&cluster(), "orphans").unwrap();
    start_pods(&space).unwrap();
    let setting = check_often(&space);
    space.apply(&group("lost", None)).unwrap();
    wait_for_group(&space, "lost").unwrap();
    let (content, handle) = content_and_handle(&space, "lost");

    // A backup tool keeps the content and deletes the group; then somebody removes the content, as one does with an object
    // that does not go.
    let kind = "volumegroupsnapshotcontent";
    let patch = |change: &str| space.kubectl.run(&["patch", kind, &content, "--type=merge", "-p", change]);
    patch(r#"{"spec": {"deletionPolicy": "Retain"}}"#).unwrap();
    space.run(&["delete", "volumegroupsnapshot/lost", "--timeout=60s"]).unwrap();
    patch(r#"{"metadata": {"finalizers": null}}"#).unwrap();
    space.kubectl.run(&["delete", kind, &content, "--timeout=60s"]).unwrap();
    assert_eq!(space.all_cuts().unwrap().len(), 3, "each of the three pools has a record of the group");
    let begin = Instant::now();
    wait_for_count(&space, "content", 1);
    println!("the orphan is counted after {:?}", begin.elapsed());

    let log = controller_log(&space);
    let line = log.lines().find(|line| line.contains(&handle) && line.contains("names it"));
    let line = line.unwrap_or_else(|| panic!("{handle} is not shown:\n{log}"));
    let said = printed::run(&space, printed::field(line, "adopt").unwrap()).unwrap();
    assert_eq!(said.matches(" created").count(), 2, "{said}");
    let delete = printed::field(line, "delete_when_adopted").unwrap();
    let adopted = delete.rsplit('/').next().unwrap();
    let ready = format!("--for={READY_TO_USE}");
    let object = format!("volumegroupsnapshot/{adopted}");
    space.kubectl.run(&["-n", NAMESPACE, "wait", &ready, "--timeout=60s", &object]).unwrap();
    wait_for_count(&space, "content", 0);

    printed::run(&space, delete).unwrap();
    space
        .eventually("the pools have nothing of the group", || {
            Ok(space.all_cuts()?.is_empty() && space.snapshots()?.is_empty())
        })
        .unwrap();
    wait_for_count(&space, "content", 0);
    drop(setting);
    space.close().unwrap();
}

/// Two contents of one group, as after a restore of the cluster's objects: whoever deletes the one deletes the group of
/// the other.
fn copy_of(space: &Workspace, handle: &str) -> String {
    let path = "jsonpath={range .items[*]}{.status.snapshotHandle} {end}";
    let contents = space.kubectl.run(&["get", "volumesnapshotcontents", "-o", path]).unwrap();
    let members: Vec<&str> = contents.split_whitespace().collect();
    assert_eq!(members.len(), 3, "{contents}");
    format!(
        "apiVersion: groupsnapshot.storage.k8s.io/v1\nkind: VolumeGroupSnapshotContent\nmetadata: {{name: copy}}\nspec:\n  \
         driver: csi.stillpoint.dev\n  deletionPolicy: Delete\n  source:\n    groupSnapshotHandles:\n      \
         volumeGroupSnapshotHandle: {handle}\n      volumeSnapshotHandles: [{}]\n  \
         volumeGroupSnapshotRef: {{name: copy, namespace: dangling}}\n---\n\
         apiVersion: groupsnapshot.storage.k8s.io/v1\nkind: VolumeGroupSnapshot\nmetadata: {{name: copy}}\nspec:\n  \
         source: {{volumeGroupSnapshotContentName: copy}}\n",
        members.join(", ")
    )
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_content_whose_group_is_gone_at_the_driver_is_shown_with_the_command_that_deletes_it() {
    let space = Workspace::new(&cluster(), "dangling").unwrap();
    start_pods(&space).unwrap();
    let setting = check_often(&space);
    space.apply(&group("first", None)).unwrap();
    wait_for_group(&space, "first").unwrap();
    let (content, handle) = content_and_handle(&space, "first");
    let mut contents: Vec<String> = Vec::new();
    for member in members(&space, "first").unwrap() {
        let path = "jsonpath={.status.boundVolumeSnapshotContentName}";
        contents.push(space.run(&["get", &format!("volumesnapshot/{member}"), "-o", path]).unwrap());
    }
    contents.push(content);

    space.apply(&copy_of(&space, &handle)).unwrap();
    space.wait("volumegroupsnapshot/copy", READY_TO_USE).unwrap();
    space.run(&["delete", "volumegroupsnapshot/copy", "--timeout=60s"]).unwrap();
    assert_eq!(space.all_cuts().unwrap(), vec![], "the group is gone at the driver");
    let begin = Instant::now();
    wait_for_count(&space, "snapshot", 4);
    println!("four contents without their snapshot are counted after {:?}", begin.elapsed());

    // Every one of them is shown, and every command works, in whatever order they are run.
    for content in &contents {
        let selector = format!("involvedObject.name={content},reason=SnapshotMissing");
        let told = || {
            let path = "jsonpath={.items[0].message}";
            space.kubectl.run(&["-n", "default", "get", "events", "--field-selector", &selector, "-o", path])
        };
        space
            .eventually("the content has an event", || Ok(told().is_ok_and(|text| !text.is_empty())))
            .unwrap();
        let told = told().unwrap();
        let (_, command) = told.split_once("delete it: ").unwrap_or_else(|| panic!("no command in {told}"));
        printed::run(&space, command).unwrap();
    }
    let kinds = "volumesnapshotcontents,volumegroupsnapshotcontents";
    space
        .eventually("no content is left", || {
            Ok(space.kubectl.run(&["get", kinds, "-o", "name"])?.trim().is_empty())
        })
        .unwrap();
    assert_eq!(space.run(&["get", "volumesnapshots,volumegroupsnapshots", "-o", "name"]).unwrap(), "");
    wait_for_count(&space, "snapshot", 0);
    drop(setting);
    space.close().unwrap();
}
