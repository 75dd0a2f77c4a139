//! What a snapshot reached stays on the contents when a backup tool has deleted the snapshots.

use std::collections::BTreeMap;

use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{allow_exec, rule};
use crate::three::{group, members, start_pods, wait_for_group};

const FLUSH: &str =
    r#"{name: flush, pods: {selector: {matchLabels: {app: three}}}, before: {command: ["true"]}}"#;
const RETAIN: &str = r#"{"spec": {"deletionPolicy": "Retain"}}"#;
const DELETE: &str = r#"{"spec": {"deletionPolicy": "Delete"}}"#;

/// Our annotations of an object, without the part before the slash.
fn annotations(space: &Workspace, object: &str) -> BTreeMap<String, String> {
    let text = space.run(&["get", object, "-o", "jsonpath={.metadata.annotations}"]).unwrap();
    let all: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    let own = |(key, value): (String, String)| Some((key.strip_prefix("stillpoint.dev/")?.to_owned(), value));
    all.into_iter().filter_map(own).collect()
}

/// The objects of the contents of a group and its members.
fn contents(space: &Workspace, group: &str) -> Vec<String> {
    let path = "jsonpath={.status.boundVolumeGroupSnapshotContentName}";
    let content = space.run(&["get", &format!("volumegroupsnapshot/{group}"), "-o", path]).unwrap();
    let mut all = vec![format!("volumegroupsnapshotcontent/{content}")];
    for member in members(space, group).unwrap() {
        let path = "jsonpath={.status.boundVolumeSnapshotContentName}";
        let content = space.run(&["get", &format!("volumesnapshot/{member}"), "-o", path]).unwrap();
        all.push(format!("volumesnapshotcontent/{content}"));
    }
    all
}

/// What the annotations must say, by the Run and by the record that the pools have.
fn expected(space: &Workspace) -> BTreeMap<String, String> {
    let text = space.run(&["get", "runs", "-o", "jsonpath={.items[*].status}"]).unwrap();
    let run: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let records = space.all_cuts().unwrap();
    let [instant] = records
        .iter()
        .map(|record| record.cut_at.to_string())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
        .try_into()
        .expect("all pools have the same instant");
    assert_eq!(run["level"], "application", "{run}");
    BTreeMap::from([
        ("consistency".into(), run["level"].as_str().unwrap().into()),
        ("instant".into(), instant),
        ("pause-microseconds".into(), run["cut"]["windowMicros"].to_string()),
        ("group-snapshot-id".into(), run["cut"]["id"].as_str().unwrap().into()),
        ("group-snapshot-name".into(), records[0].name.clone()),
    ])
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn contents_say_what_was_reached_after_the_snapshots_and_the_run_were_deleted() {
    let space = Workspace::new(&cluster(), "annotations").unwrap();
    start_pods(&space).unwrap();
    allow_exec(&space).unwrap();
    space.apply(&(rule("flush", FLUSH) + &group("kept", Some("flush")))).unwrap();
    wait_for_group(&space, "kept").unwrap();
    let contents = contents(&space, "kept");
    let mut objects = contents.clone();
    objects.push("volumegroupsnapshot/kept".into());
    objects.extend(members(&space, "kept").unwrap().iter().map(|member| format!("volumesnapshot/{member}")));
    let expected = expected(&space);
    for object in &objects {
        // The rule that was asked for is an annotation too, and not ours to compare.
        let reached = || {
            let mut all = annotations(&space, object);
            all.remove("rule");
            all
        };
        space.eventually(&format!("{object} says {expected:?}"), || Ok(reached() == expected)).unwrap();
    }

    // As a backup tool does: the contents are kept, the snapshots go.
    for content in &contents {
        space.run(&["patch", content, "--type=merge", "-p", RETAIN]).unwrap();
    }
    space.run(&["delete", "volumegroupsnapshot/kept", "--timeout=60s"]).unwrap();
    let left = || space.run(&["get", "volumesnapshots,volumegroupsnapshots,runs", "-o", "name"]);
    space.eventually("the snapshots and the Run are gone", || Ok(left()?.trim().is_empty())).unwrap();
    assert_eq!(space.all_cuts().unwrap().len(), 3, "the group is still there");
    for content in &contents {
        assert_eq!(annotations(&space, content), expected, "{content}");
    }

    for content in &contents {
        space.run(&["patch", content, "--type=merge", "-p", DELETE]).unwrap();
    }
    for content in &contents {
        space.run(&["delete", content, "--timeout=60s"]).unwrap();
    }
    space.close().unwrap();
}
