//! csi-sanity, and what it has no test for, against a controller with three agents. See tests/sanity/README.md.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use stillpoint::domain::Bytes;
use stillpoint_csi_proto::v1 as csi;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_csi_proto::v1::group_controller_client::GroupControllerClient;
use stillpoint_tests::harness::csi::{channel, from_snapshot};
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Blueprint, Lack, Stack, binaries, go, leftovers, process, skip};

const TOOL: &str = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity";
const VERSION: &str = "v5.6.0";
const INSTALL_LIMIT: Duration = Duration::from_mins(10);
const SUITE_LIMIT: Duration = Duration::from_mins(10);
/// Fewer tests than this that pass mean that the suite did not really run.
const PASSED_AT_LEAST: usize = 76;
const VOLUME: Bytes = Bytes::mib(512);
const GROWN: Bytes = Bytes::gib(1);
const HOSTS: [&str; 3] = ["one", "two", "three"];

/// The tool's path; built by this Go where it is not there yet.
async fn tool(go: &Path) -> Result<PathBuf> {
    let directory = binaries::target_directory()?.join("tools").join(format!("csi-sanity-{VERSION}"));
    let tool = directory.join("csi-sanity");
    if !tool.is_file() {
        fs::create_dir_all(&directory)?;
        let gobin = format!("GOBIN={}", directory.display());
        let package = format!("{TOOL}@{VERSION}");
        let go = go.to_str().context("the path of Go is no text")?;
        let args = [gobin.as_str(), go, "install", package.as_str()];
        process::succeed(None, Path::new("env"), args, INSTALL_LIMIT).await?;
    }
    Ok(tool)
}

/// Three hosts; what names no place goes to the first. `None` where they cannot be built; the reason is printed.
async fn stack(label: &str) -> Result<Option<Stack>> {
    if !nix::unistd::geteuid().is_root() {
        skip(label, "needs root to mount");
        return Ok(None);
    }
    let run = Stack::directory(label)?;
    let blueprint = Blueprint {
        hosts: HOSTS.map(str::to_owned).into(),
        pool_size: Bytes::gib(24),
        pods: vec![],
        rcu: Rcu::Auto,
    };
    let serde_json::Value::Object(more) = json!({"placement": {"withoutTopology": HOSTS[0]}}) else {
        bail!("an object was written above");
    };
    Stack::start_with(run, &blueprint, more).await.map(Some)
}

/// The suite's report, as far as we read it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        let mut words = self.container_hierarchy_texts.clone().unwrap_or_default();
        words.push(self.leaf_node_text.clone());
        words.join(" / ")
    }
}

/// Tests that may be skipped, with the reason.
fn allowed_skips() -> BTreeMap<String, String> {
    let mut skips = BTreeMap::new();
    let mut reason = String::new();
    for line in include_str!("../sanity/skips.txt").lines() {
        if let Some(why) = line.strip_prefix("because: ") {
            why.clone_into(&mut reason);
        } else if !line.is_empty() && !line.starts_with('#') {
            skips.insert(line.to_owned(), reason.clone());
        }
    }
    skips
}

/// Fails with everything that is wrong with a run.
fn judge(specs: &[Spec], allowed: &BTreeMap<String, String>) -> Result<usize> {
    let mut wrong = Vec::new();
    let mut passed = 0;
    let mut skipped = BTreeSet::new();
    for spec in specs {
        let name = spec.name();
        match (spec.state.as_str(), allowed.get(&name)) {
            ("passed", _) => passed += usize::from(spec.leaf_node_type == "It"),
            ("skipped" | "pending", Some(why)) => {
                println!("skipped: {name}: {why}");
                skipped.insert(name);
            }
            ("skipped" | "pending", None) => {
                wrong.push(format!("skipped for no known reason: {name} ({})", spec.failure.message));
            }
            (state, _) => wrong.push(format!("{state}: {name}: {}", spec.failure.message)),
        }
    }
    let stale = allowed.keys().filter(|name| !skipped.contains(*name));
    wrong.extend(stale.map(|name| format!("no longer skipped, take it out of skips.txt: {name}")));
    ensure!(wrong.is_empty(), "csi-sanity:\n{}", wrong.join("\n"));
    ensure!(passed >= PASSED_AT_LEAST, "only {passed} tests of csi-sanity ran");
    Ok(passed)
}

async fn sanity(access: &str) -> Result<()> {
    let label = format!("sanity-{access}");
    let go = go::find();
    let Ok(go) = &go else {
        if let Some(why) = Lack::of_tools(go) {
            skip(&label, &why);
        }
        return Ok(());
    };
    let tool = tool(go).await.context("csi-sanity cannot be built")?;
    let Some(mut stack) = stack(&label).await? else { return Ok(()) };
    let at = |name: &str| stack.path().join(name).display().to_string();
    let report = at("report.json");
    let node = format!("host-{}/csi.sock", HOSTS[0]);
    let args = [
        format!("--csi.endpoint=unix://{}", at(&node)),
        format!("--csi.controllerendpoint=unix://{}", at("csi.sock")),
        format!("--csi.mountdir={}", at("mount")),
        format!("--csi.stagingdir={}", at("staging")),
        format!("--csi.testvolumeaccesstype={access}"),
        format!("--csi.testvolumesize={}", VOLUME.0),
        format!("--csi.testvolumeexpandsize={}", GROWN.0),
        format!("--ginkgo.json-report={report}"),
        "--ginkgo.no-color".into(),
    ];
    let outcome = process::run(None, &tool, args, SUITE_LIMIT).await?;
    stack.check_alive()?;
    let text = fs::read_to_string(&report).with_context(|| {
        format!("csi-sanity wrote no report; it said: {}{}", outcome.stdout, outcome.stderr)
    })?;
    let suites: Vec<Suite> = serde_json::from_str(&text)?;
    let specs: Vec<Spec> = suites.into_iter().flat_map(|suite| suite.spec_reports).collect();
    let passed = judge(&specs, &allowed_skips())?;
    ensure!(outcome.success, "csi-sanity ended with an error and reported none: {}", outcome.stderr);
    println!("csi-sanity {VERSION}, {access}: {passed} passed, 0 failed");
    nothing_left(stack).await
}

/// No volume, snapshot, mount or loop device is left.
async fn nothing_left(stack: Stack) -> Result<()> {
    let mut client = ControllerClient::new(channel(&stack.path().join("csi.sock")).await?);
    let volumes = client.list_volumes(csi::ListVolumesRequest::default()).await?.into_inner().entries;
    let snapshots = client.list_snapshots(csi::ListSnapshotsRequest::default()).await?.into_inner().entries;
    ensure!(volumes.is_empty() && snapshots.is_empty(), "left: {volumes:?} {snapshots:?}");
    let pools: BTreeSet<PathBuf> = stack.hosts().iter().map(|host| host.pool.clone()).collect();
    let mounts: BTreeSet<PathBuf> = leftovers::mounts_below(stack.path())?.into_iter().collect();
    ensure!(mounts == pools, "mounts besides the pools are left: {mounts:?}");
    let devices = leftovers::loops_below(stack.path())?;
    let of_volumes = devices.iter().filter(|(_, image)| pools.iter().any(|pool| image.starts_with(pool)));
    ensure!(of_volumes.count() == 0, "loop devices of volumes are left: {devices:?}");
    let left = stack.close()?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn csi_sanity_passes_for_mounted_volumes() -> Result<()> {
    sanity("mount").await
}

#[tokio::test(flavor = "multi_thread")]
async fn csi_sanity_passes_for_raw_block_volumes() -> Result<()> {
    sanity("block").await
}

#[test]
fn a_failure_an_unknown_skip_and_a_stale_entry_are_each_noticed() {
    let spec = |name: &str, state: &str| Spec {
        container_hierarchy_texts: None,
        leaf_node_type: "It".into(),
        leaf_node_text: name.into(),
        state: state.into(),
        failure: Failure::default(),
    };
    let many = || (0..PASSED_AT_LEAST).map(|n| spec(&n.to_string(), "passed")).collect::<Vec<_>>();
    let allowed = BTreeMap::from([("s".to_owned(), "why".to_owned())]);
    let with = |more: Vec<Spec>| many().into_iter().chain(more).collect::<Vec<_>>();
    let judged = |specs: Vec<Spec>| judge(&specs, &allowed).map_err(|error| error.to_string());
    assert_eq!(judged(with(vec![spec("s", "skipped")])), Ok(PASSED_AT_LEAST));
    for (specs, said) in [
        (with(vec![spec("s", "skipped"), spec("f", "failed")]), "failed: f"),
        (with(vec![spec("s", "skipped"), spec("t", "timedout")]), "timedout: t"),
        (with(vec![spec("s", "skipped"), spec("u", "skipped")]), "no known reason: u"),
        (with(vec![]), "no longer skipped"),
        (vec![spec("s", "skipped")], "only 0 tests"),
    ] {
        let error = judged(specs).unwrap_err();
        assert!(error.contains(said), "{said:?} is not in {error}");
    }
    assert!(allowed_skips().values().all(|why| why.len() > 20), "a skip without a reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_over_three_hosts_is_taken_restored_and_deleted_as_one() -> Result<()> {
    let Some(stack) = stack("csi-group").await? else { return Ok(()) };
    let mut volumes = Vec::new();
    for (host, filesystem) in HOSTS.into_iter().zip(["xfs", "ext4", "xfs"]) {
        let volume = stack.provision(&format!("data-{host}"), host, VOLUME, filesystem).await?;
        fs::write(volume.path.join("written"), format!("before the cut on {host}"))?;
        volumes.push((host, filesystem, volume));
    }
    let connection = channel(&stack.path().join("csi.sock")).await?;
    let mut groups = GroupControllerClient::new(connection.clone());
    let create = csi::CreateVolumeGroupSnapshotRequest {
        name: "friday".into(),
        source_volume_ids: volumes.iter().map(|(_, _, volume)| volume.id.clone()).collect(),
        ..Default::default()
    };
    let group = groups.create_volume_group_snapshot(create.clone()).await?.into_inner().group_snapshot;
    let group = group.context("no group in the answer")?;
    ensure!(group.ready_to_use && group.snapshots.len() == 3);
    for (host, _, volume) in &volumes {
        fs::write(volume.path.join("written"), format!("after the cut on {host}"))?;
    }
    let again = groups.create_volume_group_snapshot(create).await?.into_inner().group_snapshot;
    ensure!(again.as_ref() == Some(&group), "a retry gave another group");

    for (host, filesystem, volume) in &volumes {
        let snapshot = group.snapshots.iter().find(|one| one.source_volume_id == volume.id);
        let id = &snapshot.context("a member is missing")?.snapshot_id;
        let name = format!("restored-{host}");
        let made = stack.csi().create(&name, host, VOLUME, filesystem, Some(from_snapshot(id))).await?;
        let restored = stillpoint_tests::harness::operator::Restored {
            from: volume.name.clone(),
            name,
            id: made.volume_id,
            host: (*host).into(),
        };
        let mounted = stack.attach(&restored, filesystem).await?;
        let text = fs::read_to_string(mounted.path.join("written"))?;
        ensure!(text == format!("before the cut on {host}"), "restored: {text}");
        stack.retire(&mounted).await?;
    }

    let mut controller = ControllerClient::new(connection);
    let member = csi::DeleteSnapshotRequest {
        snapshot_id: group.snapshots[0].snapshot_id.clone(),
        ..Default::default()
    };
    let refused = controller.delete_snapshot(member).await.err().context("a member was deleted alone")?;
    ensure!(refused.code() == tonic::Code::InvalidArgument, "{refused}");
    let delete = csi::DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: group.group_snapshot_id,
        snapshot_ids: group.snapshots.into_iter().map(|one| one.snapshot_id).collect(),
        ..Default::default()
    };
    groups.delete_volume_group_snapshot(delete).await?;
    for (_, _, volume) in &volumes {
        stack.retire(volume).await?;
    }
    nothing_left(stack).await
}
