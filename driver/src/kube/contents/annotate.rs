//! What a snapshot reached, as annotations on its VolumeSnapshotContent and VolumeSnapshot (groups alike). Backup tools
//! delete VolumeSnapshots and keep a copy of them, or keep the content: the annotations stay when the RuleRun goes.
//!
//! # Flow
//! 1. All contents are listed once, page by page, then watched.
//! 2. A content that is ready, and whose annotations this controller has not written yet, is looked up at the driver.
//! 3. The annotations are written to the VolumeSnapshot first and to the content last, so that a content which has them
//!    is done. A content that is not bound yet is looked at again when it changes.
//!
//! # Guarantees
//! Annotations are written from the driver's records and never read as facts: one that came with a copied object is
//! replaced by what the record says. What this controller has written is known by the field manager that the API
//! server records. Writing twice changes nothing; a controller that dies in the middle is followed by step 1 of the
//! next. A node that does not answer makes it wait, never write less.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::{Content, contents, each, snapshots};
use crate::csi::ports::Cutting;
use crate::domain::record::CutRecord;
use crate::domain::{CutHandle, CutKind, Fault, SnapshotId};
use crate::kube::api::{api_fault, is_absent, is_conflict};

/// Who writes these fields.
pub const MANAGER: &str = "stillpoint-controller";
/// The consistency that was reached: none, crash, group, filesystem or application.
pub const CONSISTENCY: &str = "stillpoint.dev/consistency";
/// Why it is not higher.
pub const REASON: &str = "stillpoint.dev/consistency-reason";
/// When the snapshot was taken.
pub const INSTANT: &str = "stillpoint.dev/instant";
/// How long writes were stopped.
pub const PAUSE: &str = "stillpoint.dev/pause-microseconds";
/// Id of the group snapshot that it belongs to.
pub const GROUP_ID: &str = "stillpoint.dev/group-snapshot-id";
/// The name by which that group snapshot was asked for.
pub const GROUP_NAME: &str = "stillpoint.dev/group-snapshot-name";

/// The snapshot controller writes to a content and its VolumeSnapshot several times in a row; a write in between would
/// make it try again.
const SETTLED: Duration = Duration::from_secs(1);
/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// Contents that are to be written at once; the rest is found by another list.
const WAITING: usize = 4096;
/// Characters of the reason that are written.
const REASON_LIMIT: usize = 1024;

/// What the record says. A key without a value is removed from the object.
pub fn annotations(record: &CutRecord) -> BTreeMap<&'static str, Option<String>> {
    let reason: String = record.reasons.join("; ").chars().take(REASON_LIMIT).collect();
    let of_group = |text: String| (record.id.kind == CutKind::Group).then_some(text);
    BTreeMap::from([
        (CONSISTENCY, Some(record.level.to_string())),
        (REASON, (!reason.is_empty()).then_some(reason)),
        (INSTANT, Some(record.cut_at.to_string())),
        (PAUSE, record.timeline.as_ref().map(|timeline| timeline.window_us.to_string())),
        (GROUP_ID, of_group(record.handle().to_string())),
        (GROUP_NAME, of_group(record.name.clone())),
    ])
}

/// Whether this controller, or one before it, has written the annotations of this object.
fn is_done(object: &DynamicObject) -> bool {
    let written = format!("f:{CONSISTENCY}");
    object.metadata.managed_fields.iter().flatten().any(|entry| {
        let fields = serde_json::to_value(&entry.fields_v1).unwrap_or_default();
        entry.manager.as_deref() == Some(MANAGER)
            && !fields["f:metadata"]["f:annotations"][&written].is_null()
    })
}

/// Keeps contents and their snapshots annotated. Cheap to clone.
#[derive(Clone)]
pub struct Annotator {
    client: Client,
    cuts: Arc<dyn Cutting>,
}

/// Contents that are to be looked at, and from when on.
#[derive(Default)]
struct Due {
    contents: BTreeMap<String, (Instant, DynamicObject)>,
    /// There was no room for some: they are found by another list.
    is_short: bool,
}

impl Due {
    fn add(&mut self, object: DynamicObject, after: Duration) {
        let Some(name) = object.metadata.name.clone() else { return };
        if self.contents.len() < WAITING || self.contents.contains_key(&name) {
            self.contents.insert(name, (Instant::now() + after, object));
        } else {
            self.is_short = true;
        }
    }

    /// When the next one is due.
    async fn next(&self) {
        match self.contents.values().map(|(at, _)| *at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self) -> Vec<DynamicObject> {
        let now = Instant::now();
        let due: Vec<String> =
            self.contents.iter().filter(|(_, (at, _))| *at <= now).map(|(name, _)| name.clone()).collect();
        due.iter().filter_map(|name| self.contents.remove(name)).map(|(_, object)| object).collect()
    }
}

impl Annotator {
    /// Over this cluster; `cuts` has the records.
    pub fn new(client: Client, cuts: Arc<dyn Cutting>) -> Self {
        Self { client, cuts }
    }

    /// Runs for ever.
    pub async fn run(&self) {
        tokio::join!(self.follow(CutKind::Single), self.follow(CutKind::Group));
    }

    async fn follow(&self, kind: CutKind) {
        loop {
            let mut due = Due::default();
            let listed = each(&self.client, kind, |object| {
                if is_candidate(kind, &object) {
                    due.add(object, Duration::ZERO);
                }
            });
            match listed.await {
                Ok(version) => self.watch(kind, version, due).await,
                Err(fault) => tracing::warn!(%fault, "snapshots cannot be annotated with what they reached"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Until the versions that the API server keeps no longer reach back to the last one seen.
    async fn watch(&self, kind: CutKind, mut version: String, mut due: Due) {
        let api = contents(&self.client, kind);
        loop {
            let events = match api.watch(&WatchParams::default(), &version).await {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!(%error, "snapshot contents cannot be watched");
                    return;
                }
            };
            let mut events = std::pin::pin!(events);
            loop {
                tokio::select! {
                    event = events.next() => match event {
                        Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                            version = object.metadata.resource_version.clone().unwrap_or(version);
                            if is_candidate(kind, &object) {
                                due.add(object, SETTLED);
                            }
                        }
                        Some(Ok(WatchEvent::Deleted(object))) => {
                            version = object.metadata.resource_version.unwrap_or(version);
                            due.contents.remove(&object.metadata.name.unwrap_or_default());
                        }
                        Some(Ok(WatchEvent::Bookmark(mark))) => version = mark.metadata.resource_version,
                        Some(Ok(WatchEvent::Error(_)) | Err(_)) => return,
                        None => break,
                    },
                    () = due.next() => {
                        for object in due.take() {
                            if let Err(fault) = self.annotate(kind, &object).await {
                                tracing::debug!(%fault, "a snapshot is annotated later");
                                due.add(object, AGAIN);
                            }
                        }
                        if due.is_short && due.contents.is_empty() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Writes the annotations of one content and its VolumeSnapshot.
    pub async fn annotate(&self, kind: CutKind, object: &DynamicObject) -> Result<(), Fault> {
        let Some(content) = Content::of(kind, object) else { return Ok(()) };
        // A snapshot that does not exist has reached nothing; orphans are told elsewhere.
        let Some(record) = self.record(&content).await? else { return Ok(()) };
        let wanted = annotations(&record);
        let bound = &content.bound_to;
        let snapshot = snapshots(&self.client, kind, &bound.namespace);
        write(&snapshot, &bound.name, &bound.uid, &wanted).await?;
        write(&contents(&self.client, kind), &content.name, &content.uid, &wanted).await
    }

    async fn record(&self, content: &Content) -> Result<Option<CutRecord>, Fault> {
        let Some(handle) = &content.handle else { return Ok(None) };
        match content.kind {
            CutKind::Single => match handle.parse::<SnapshotId>() {
                Ok(id) => self.cuts.of_snapshot(&id).await,
                Err(_) => Ok(None),
            },
            CutKind::Group => match handle.parse::<CutHandle>() {
                Ok(id) => self.cuts.get(&id).await,
                Err(_) => Ok(None),
            },
        }
    }
}

fn is_candidate(kind: CutKind, object: &DynamicObject) -> bool {
    let is_complete = |content: Content| {
        content.is_ready && !content.is_going && content.handle.is_some() && !content.bound_to.uid.is_empty()
    };
    Content::of(kind, object).is_some_and(is_complete) && !is_done(object)
}

/// Writes to the object with this identity; one that is gone, or another one under its name, needs nothing.
async fn write(
    api: &Api<DynamicObject>,
    name: &str,
    uid: &str,
    annotations: &BTreeMap<&'static str, Option<String>>,
) -> Result<(), Fault> {
    let values: serde_json::Map<String, Value> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let patch = json!({ "metadata": { "uid": uid, "annotations": values } });
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match api.patch_metadata(name, &parameters, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_absent(&error) || is_conflict(&error) || is_invalid(&error) => Ok(()),
        Err(error) => Err(api_fault(&format!("cannot annotate {name}"), &error)),
    }
}

/// The identity does not fit.
fn is_invalid(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 422)
}
