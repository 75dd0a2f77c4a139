//! Over an API server and cuts in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::json;
use stillpoint_rules::kube::fake::FakeCluster;

use super::annotate::{Annotator, CONSISTENCY, GROUP_ID, GROUP_NAME, INSTANT, PAUSE, REASON};
use super::commands::delete_dangling;
use super::orphans::{Checks, Orphans};
use super::*;
use crate::controller::paging::{Page, PageRequest};
use crate::controller::volumes::Snapshots;
use crate::csi::ports::{Asked, Cutting};
use crate::domain::listing::SnapshotEntry;
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::timeline::Timeline;
use crate::domain::{CutHandle, Level, SnapshotId, VolumeId};
use crate::standalone::fixtures::{record, volumes};

const SINGLES: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
const GROUPS: &str = "/apis/groupsnapshot.storage.k8s.io/v1/volumegroupsnapshotcontents";
const GRACE: Duration = Duration::from_mins(15);
/// A safety limit.
const SOON: Duration = Duration::from_mins(1);

/// Records, and whether everybody answers.
#[derive(Default)]
struct Records {
    cuts: Mutex<BTreeMap<String, CutRecord>>,
    is_silent: AtomicBool,
}

impl Records {
    fn answer<T>(&self, value: T) -> Result<T, Fault> {
        if self.is_silent.load(Ordering::SeqCst) { Err(Fault::unavailable("silent")) } else { Ok(value) }
    }

    fn add(&self, record: CutRecord) {
        self.cuts.lock().unwrap().insert(record.handle().to_string(), record);
    }
}

#[async_trait]
impl Cutting for Records {
    async fn take(&self, _: CutKind, _: &str, _: Vec<VolumeId>, _: &Asked) -> Result<CutRecord, Fault> {
        Err(Fault::unimplemented("not here"))
    }
    async fn find(&self, _: CutKind, _: &str) -> Result<Option<CutRecord>, Fault> {
        Err(Fault::unimplemented("not here"))
    }
    async fn get(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        self.answer(self.cuts.lock().unwrap().get(&id.to_string()).cloned())
    }
    async fn of_snapshot(&self, snapshot: &SnapshotId) -> Result<Option<CutRecord>, Fault> {
        let has = |cut: &&CutRecord| cut.members.iter().any(|member| member.snapshot == *snapshot);
        self.answer(self.cuts.lock().unwrap().values().find(has).cloned())
    }
    async fn snapshots(
        &self,
        _: Option<&VolumeId>,
        request: &PageRequest,
    ) -> Result<Page<SnapshotEntry>, Fault> {
        self.answer(())?;
        let cuts: Vec<CutRecord> = self.cuts.lock().unwrap().values().cloned().collect();
        let mut entries: Vec<SnapshotEntry> = Vec::new();
        for cut in &cuts {
            entries.extend(cut.members.iter().map(|member| cut.entry_of(member)));
        }
        let list = crate::controller::paging::model::Listed::on("a", entries);
        crate::controller::paging::page(vec![list], request, |_| true).await
    }
    async fn delete(&self, _: &CutHandle) -> Result<(), Fault> {
        Err(Fault::unimplemented("nothing is deleted here"))
    }
}

#[async_trait]
impl Snapshots for Records {
    async fn member(&self, _: &SnapshotId) -> Result<Option<CutMember>, Fault> {
        Ok(None)
    }
}

struct World {
    cluster: FakeCluster,
    records: Arc<Records>,
}

/// A group of two volumes, long ago.
fn group() -> CutRecord {
    let members: Vec<_> = volumes().all.into_iter().take(2).collect();
    CutRecord {
        level: Level::Filesystem,
        reasons: vec!["no Rule was asked for".into()],
        timeline: Some(Timeline { window_us: 87_168, ..Timeline::default() }),
        ..record("groupsnapshot-1", &members, 1_000)
    }
}

impl World {
    async fn start() -> Self {
        Self { cluster: FakeCluster::start().await.unwrap(), records: Arc::default() }
    }

    /// The objects of a member of the group, with the annotations that the VolumeSnapshot came with.
    fn member(&self, name: &str, handle: &str, annotations: serde_json::Value) {
        self.cluster.put(
            &format!("/apis/snapshot.storage.k8s.io/v1/namespaces/shop/volumesnapshots/{name}"),
            json!({ "metadata": { "uid": format!("uid-of-{name}"), "annotations": annotations } }),
        );
        self.cluster.put(
            &format!("{SINGLES}/content-{name}"),
            json!({
                "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" },
                "spec": {
                    "driver": "csi.stillpoint.dev", "source": { "volumeHandle": "v" },
                    "volumeSnapshotRef": { "namespace": "shop", "name": name, "uid": format!("uid-of-{name}") }
                },
                "status": {
                    "snapshotHandle": handle, "readyToUse": true, "volumeGroupSnapshotHandle": group().handle().to_string()
                }
            }),
        );
    }

    fn group(&self, name: &str, handle: &str) {
        self.cluster.put(
            &format!("/apis/groupsnapshot.storage.k8s.io/v1/namespaces/shop/volumegroupsnapshots/{name}"),
            json!({ "metadata": { "uid": format!("uid-of-{name}") } }),
        );
        self.cluster.put(
            &format!("{GROUPS}/content-{name}"),
            json!({
                "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" },
                "spec": {
                    "driver": "csi.stillpoint.dev", "source": { "volumeHandles": ["v"] },
                    "volumeGroupSnapshotRef": { "namespace": "shop", "name": name, "uid": format!("uid-of-{name}") }
                },
                "status": { "volumeGroupSnapshotHandle": handle, "readyToUse": true }
            }),
        );
    }

    fn annotation(&self, path: &str, key: &str) -> Option<String> {
        let object = self.cluster.get(path)?;
        object["metadata"]["annotations"][key].as_str().map(str::to_owned)
    }

    /// Runs an annotator until `is_so`.
    async fn annotated_until(&self, is_so: impl Fn() -> bool) {
        let annotator = Annotator::new(self.cluster.client().unwrap(), Arc::clone(&self.records) as _);
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = annotator.run() => {}
            waited = tokio::time::timeout(SOON, waiting) => waited.unwrap(),
        }
    }

    fn patches(&self) -> usize {
        self.cluster.log().iter().filter(|line| line.starts_with("PATCH")).count()
    }

    fn orphans(&self) -> Orphans {
        let client = self.cluster.client().unwrap();
        Orphans::new(client, Arc::clone(&self.records) as _, "me", GRACE, "stillpoint-system")
    }
}

const SNAPSHOT: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/shop/volumesnapshots/data";
const GROUP: &str = "/apis/groupsnapshot.storage.k8s.io/v1/namespaces/shop/volumegroupsnapshots/all";

#[tokio::test]
async fn what_was_reached_is_written_to_all_four_objects_once_and_a_copied_claim_is_not_believed() {
    let world = World::start().await;
    let record = group();
    world.records.add(record.clone());
    // A tool has copied the object from another cluster.
    let foreign = json!({ "stillpoint.dev/consistency": "application", "stillpoint.dev/instant": "then", "own": "kept" });
    world.member("data", &record.members[0].snapshot.to_string(), foreign);
    world.group("all", &record.handle().to_string());
    let content = format!("{SINGLES}/content-data");
    let group_content = format!("{GROUPS}/content-all");
    let all = [SNAPSHOT, &content, GROUP, &group_content];
    world.annotated_until(|| all.iter().all(|path| world.annotation(path, GROUP_ID).is_some())).await;
    for path in all {
        let expected = [
            (CONSISTENCY, "filesystem".to_owned()),
            (REASON, "no Rule was asked for".to_owned()),
            (INSTANT, record.cut_at.to_string()),
            (PAUSE, "87168".to_owned()),
            (GROUP_ID, record.handle().to_string()),
            (GROUP_NAME, "groupsnapshot-1".to_owned()),
        ];
        for (key, value) in expected {
            assert_eq!(world.annotation(path, key), Some(value), "{path} {key}");
        }
    }
    assert_eq!(world.annotation(SNAPSHOT, "own").as_deref(), Some("kept"));
    assert_eq!(world.patches(), 4);
    // The next controller finds that it is done; a new snapshot is written while it watches.
    world.member("late", &record.members[1].snapshot.to_string(), json!({}));
    let late = format!("{SINGLES}/content-late");
    world.annotated_until(|| world.annotation(&late, CONSISTENCY).is_some()).await;
    assert_eq!(world.patches(), 6, "only the new one");
}

#[tokio::test]
async fn a_content_that_becomes_ready_while_it_is_watched_is_annotated_and_foreign_ones_are_left_alone() {
    let world = World::start().await;
    let record = group();
    world.records.add(record.clone());
    world.group("all", &record.handle().to_string());
    let foreign = json!({ "spec": { "driver": "other.example" }, "status": { "snapshotHandle": "x", "readyToUse": true } });
    world.cluster.put(&format!("{SINGLES}/foreign"), foreign);
    let changing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.member("data", &record.members[0].snapshot.to_string(), json!({}));
    };
    let content = format!("{SINGLES}/content-data");
    tokio::join!(changing, world.annotated_until(|| world.annotation(&content, CONSISTENCY).is_some()));
    assert_eq!(world.annotation(SNAPSHOT, CONSISTENCY).as_deref(), Some("filesystem"));
    assert_eq!(world.annotation(&format!("{SINGLES}/foreign"), CONSISTENCY), None);
}

#[tokio::test]
async fn another_object_under_the_same_name_is_not_annotated() {
    let world = World::start().await;
    let record = group();
    world.records.add(record.clone());
    world.member("data", &record.members[0].snapshot.to_string(), json!({}));
    world.cluster.put(SNAPSHOT, json!({ "metadata": { "uid": "another" } }));
    let content = format!("{SINGLES}/content-data");
    world.annotated_until(|| world.annotation(&content, CONSISTENCY).is_some()).await;
    assert_eq!(world.annotation(SNAPSHOT, CONSISTENCY), None);
}

#[test]
fn what_is_not_known_is_removed_and_a_single_snapshot_names_no_group() {
    let members: Vec<_> = volumes().all.into_iter().take(1).collect();
    let mut single = CutRecord { reasons: vec![], timeline: None, ..record("snapshot-1", &members, 1_000) };
    single.id.kind = CutKind::Single;
    let written = annotate::annotations(&single);
    for key in [REASON, PAUSE, GROUP_ID, GROUP_NAME] {
        assert_eq!(written[key], None, "{key}");
    }
}

fn later() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

#[tokio::test]
async fn a_group_without_its_content_and_contents_without_their_snapshot_are_found() {
    let world = World::start().await;
    let record = group();
    world.records.add(record.clone());
    world.group("all", &record.handle().to_string());
    world.member("data", &record.members[0].snapshot.to_string(), json!({}));
    let orphans = world.orphans();
    let later = later().max(record.cut_at + SignedDuration::from_hours(1));
    assert_eq!(orphans.check(later).await.unwrap(), orphans::Found::default());

    // Members' contents do not keep a group: it goes only as a whole.
    world.cluster.remove(&format!("{GROUPS}/content-all"));
    let found = orphans.check(later).await.unwrap();
    let unclaimed = &found.unclaimed[&record.handle().to_string()];
    assert_eq!((unclaimed.members.len(), found.dangling.len()), (2, 0));
    let adopt = unclaimed.adopt("stillpoint-system");
    // A log puts a backslash before what it has to quote, and no shell takes that.
    assert_eq!(format!("{adopt:?}"), format!("\"{adopt}\""), "it can be copied out of a log");
    for part in [
        record.handle().to_string(),
        record.members[0].snapshot.to_string(),
        record.members[1].snapshot.to_string(),
    ] {
        assert!(adopt.contains(&part), "{adopt}");
    }

    world.records.cuts.lock().unwrap().clear();
    world.group("all", &record.handle().to_string());
    world.group("garbage", "no id of ours");
    let found = orphans.check(later).await.unwrap();
    let names: Vec<&str> = found.dangling.values().map(|content| content.name.as_str()).collect();
    assert_eq!(names, ["content-all", "content-garbage", "content-data"]);
    let of_group = "kubectl -n shop delete volumegroupsnapshot/all --ignore-not-found && \
                    kubectl delete volumegroupsnapshotcontent/content-all --ignore-not-found";
    let command = |name: &str| {
        let content = found.dangling.values().find(|content| content.name == name).unwrap();
        delete_dangling(content, found.dangling.values())
    };
    assert_eq!(command("content-all"), of_group);
    assert_eq!(command("content-data"), of_group, "a member goes only with its group");
    assert!(command("content-garbage").contains("volumegroupsnapshotcontent/content-garbage"));
    assert_eq!(found.unclaimed.len(), 0);
}

#[tokio::test]
async fn nothing_is_concluded_from_silence_nor_about_what_is_young() {
    let world = World::start().await;
    let record = group();
    world.group("all", &record.handle().to_string());
    world.records.is_silent.store(true, Ordering::SeqCst);
    let orphans = world.orphans();
    assert_eq!(orphans.check(later()).await.unwrap_err().code, crate::domain::Code::Unavailable);
    world.records.is_silent.store(false, Ordering::SeqCst);
    let young = "2026-01-01T00:10:00Z".parse().unwrap();
    assert_eq!(orphans.check(young).await.unwrap(), orphans::Found::default());
    assert_eq!(orphans.check(later()).await.unwrap().dangling.len(), 1);
    world.cluster.refuse("volumegroupsnapshotcontents", 500);
    assert!(orphans.check(later()).await.is_err(), "what the API server does not tell is not missing");
}

/// Its content is written after it is taken.
#[tokio::test]
async fn a_young_snapshot_without_a_content_is_left_alone() {
    let world = World::start().await;
    let record = group();
    world.records.add(record.clone());
    let orphans = world.orphans();
    let after = |minutes| record.cut_at + SignedDuration::from_mins(minutes);
    assert_eq!(orphans.check(after(14)).await.unwrap(), orphans::Found::default());
    assert_eq!(orphans.check(after(16)).await.unwrap().unclaimed.len(), 1);
}

#[tokio::test]
async fn an_orphan_is_told_after_two_checks_and_only_once() {
    let world = World::start().await;
    world.group("gone", &group().handle().to_string());
    let (orphans, mut checks) = (world.orphans(), Checks::default());
    let events = || world.cluster.below("/api/v1/namespaces/default/events").len();
    for told in [0, 1, 1, 1] {
        orphans.check_again(&mut checks, later()).await.unwrap();
        assert_eq!(events(), told);
    }
    // It is gone and comes back: two checks again.
    world.cluster.remove(&format!("{GROUPS}/content-gone"));
    orphans.check_again(&mut checks, later()).await.unwrap();
    world.group("gone", &group().handle().to_string());
    for told in [1, 2, 2] {
        orphans.check_again(&mut checks, later()).await.unwrap();
        assert_eq!(events(), told);
    }
}
