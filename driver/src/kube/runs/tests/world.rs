//! A cluster with one database, a group snapshot of its two volumes, and storage in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use stillpoint_rules::kube::fake::FakeCluster;
use stillpoint_rules::kube::run_object_name;
use stillpoint_rules::machine::Phase as RunPhase;
use stillpoint_rules::plan::PlannedCommand;
use stillpoint_rules::ports::{
    CutError, CutReport, CutRequest, Cutter, OpenCut, PodTarget, SealRequest, StorageLevel,
};
use stillpoint_rules::run::{Debt, DebtState};

use super::*;
use crate::csi::ports::SnapshotObject;
use crate::domain::Level;
use crate::standalone::fixtures::{record, volumes};

pub(super) const SNAPSHOT: &str =
    "/apis/groupsnapshot.storage.k8s.io/v1/namespaces/shop/volumegroupsnapshots/nightly";
const RUNS: &str = "/apis/stillpoint.dev/v1alpha1/namespaces/shop/runs";

/// The database's rule; every use of it leaves a line in the file FLUSHES.
pub(super) const RULE: &str = r#"{"steps": [{
    "name": "flush", "pods": {"selector": {"matchLabels": {"app": "pg"}}},
    "before": {"shell": "echo flushed; echo x >> FLUSHES"}
}]}"#;

pub(super) struct World {
    pub(super) cluster: FakeCluster,
    pub(super) storage: Arc<MemoryStorage>,
    pub(super) cuts: RuledCuts,
    directory: tempfile::TempDir,
}

pub(super) fn asked() -> Asked {
    let object = SnapshotObject { namespace: "shop".into(), name: "nightly".into() };
    Asked { object: Some(object), rule: None }
}

impl World {
    pub(super) async fn start() -> Self {
        let cluster = FakeCluster::start().await.unwrap();
        let storage = Arc::new(MemoryStorage::default());
        let cuts = RuledCuts::over(cluster.client().unwrap(), "me", Arc::clone(&storage) as _);
        let world = Self { cluster, storage, cuts, directory: tempfile::tempdir().unwrap() };
        world.snapshot(json!({}));
        world.rule("flush", RULE);
        for name in ["pg-data", "pg-wal"] {
            world.volume(name);
        }
        world.cluster.put("/api/v1/namespaces/shop/pods/pg-0", pod());
        world
    }

    fn snapshot(&self, annotations: Value) {
        let object = json!({ "metadata": { "uid": "snapshot-uid", "annotations": annotations } });
        self.cluster.put(SNAPSHOT, object);
    }

    fn volume(&self, name: &str) {
        let handle = volumes().all.iter().find(|v| v.name() == name).unwrap().id().to_string();
        let claim = json!({ "namespace": "shop", "name": name });
        let volume = json!({
            "spec": { "csi": { "driver": DRIVER_NAME, "volumeHandle": handle }, "claimRef": claim },
            "status": { "phase": "Bound" }
        });
        self.cluster.put(&format!("/api/v1/persistentvolumes/{name}"), volume);
        self.cluster.put(
            &format!("/api/v1/namespaces/shop/persistentvolumeclaims/{name}"),
            json!({ "metadata": {} }),
        );
    }

    pub(super) fn annotate(&self, rule: &str) {
        self.snapshot(json!({ "stillpoint.dev/rule": rule }));
    }

    pub(super) fn rule(&self, name: &str, spec: &str) {
        let path = |file: &str| self.directory.path().join(file).display().to_string();
        let spec = spec.replace("FLUSHES", &path("flushes")).replace("LOCK", &path("lock"));
        let spec: Value = serde_json::from_str(&spec).unwrap();
        let path = format!("/apis/stillpoint.dev/v1alpha1/namespaces/shop/rules/{name}");
        self.cluster.put(&path, json!({ "metadata": {}, "spec": spec }));
    }

    pub(super) async fn take(&self, name: &str) -> Result<CutRecord, Fault> {
        self.cuts.take(CutKind::Group, name, self.storage.volumes(), &asked()).await
    }

    /// Another controller of the same cluster.
    pub(super) fn another_controller(&self) -> RuledCuts {
        RuledCuts::over(self.cluster.client().unwrap(), "you", Arc::clone(&self.storage) as _)
    }

    /// One more snapshot of the same volumes, with the rule `flush`.
    pub(super) fn one_more(&self, name: &str) -> Asked {
        let annotations = json!({ "stillpoint.dev/rule": "flush" });
        let object = json!({ "metadata": { "uid": format!("uid-of-{name}"), "annotations": annotations } });
        self.cluster.put(&SNAPSHOT.replace("nightly", name), object);
        Asked { object: Some(SnapshotObject { namespace: "shop".into(), name: name.into() }), rule: None }
    }

    /// Notes from now on whether the file LOCK of rules exists when a snapshot is taken.
    pub(super) fn watch_lock(&self) {
        *self.storage.watched.lock().unwrap() = Some(self.directory.path().join("lock"));
    }

    pub(super) fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn deeds(&self) -> Vec<String> {
        self.storage.deeds.lock().unwrap().clone()
    }

    pub(super) fn runs(&self) -> Vec<Value> {
        self.cluster.below(RUNS)
    }

    pub(super) fn events(&self) -> Vec<String> {
        let mut events = self.cluster.below("/api/v1/namespaces/shop/events");
        events.sort_by_key(|event| {
            event["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        });
        events.iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) fn flushes(&self) -> usize {
        self.lines("flushes")
    }

    pub(super) fn undone(&self) -> usize {
        self.lines("undone")
    }

    fn lines(&self, file: &str) -> usize {
        std::fs::read_to_string(self.directory.path().join(file)).unwrap_or_default().lines().count()
    }

    /// A run of this snapshot that another controller has begun and that owes something.
    pub(super) fn run_of_another(&self, holder: &str, renewed_at: &str) -> Value {
        let mut run = Run::new(super::NAME, Some("flush"), jiff::Timestamp::now());
        run.phase = RunPhase::Preparing(0);
        let undo = format!("echo x >> {}", self.directory.path().join("undone").display());
        run.debts.push(Debt {
            step: 0,
            step_name: "flush".into(),
            target: PodTarget {
                namespace: "shop".into(),
                pod: "pg-0".into(),
                uid: "pod-uid".into(),
                container: "pg".into(),
            },
            host: "node-1".into(),
            command: PlannedCommand::plain(
                vec!["/bin/sh".into(), "-c".into(), undo],
                std::time::Duration::from_secs(20),
            ),
            state: DebtState::Owed,
        });
        let object = json!({
            "apiVersion": "stillpoint.dev/v1alpha1", "kind": "Run",
            "metadata": {
                "uid": "run-uid", "labels": { "stillpoint.dev/open": "true" },
                "finalizers": ["stillpoint.dev/pending-cleanup"],
                "ownerReferences": [{
                    "apiVersion": "groupsnapshot.storage.k8s.io/v1", "kind": "VolumeGroupSnapshot",
                    "name": "nightly", "uid": "snapshot-uid", "controller": true
                }]
            },
            "spec": {
                "snapshot": { "kind": "VolumeGroupSnapshot", "name": "nightly", "uid": "snapshot-uid" },
                "rule": "flush", "cut": super::NAME
            },
            "status": {
                "phase": "Running", "attempt": 1, "holder": holder, "renewedAt": renewed_at,
                "identity": { "uid": "run-uid", "namespace": "shop" },
                "record": serde_json::to_value(&run).unwrap()
            }
        });
        self.put_run(object.clone());
        object
    }

    pub(super) fn put_run(&self, object: Value) {
        let owner = ObjectRef {
            api_version: "groupsnapshot.storage.k8s.io/v1".into(),
            kind: "VolumeGroupSnapshot".into(),
            namespace: "shop".into(),
            name: "nightly".into(),
            uid: "snapshot-uid".into(),
        };
        self.cluster.put(&format!("{RUNS}/{}", run_object_name(&owner)), object);
    }
}

fn pod() -> Value {
    json!({
        "metadata": { "uid": "pod-uid", "labels": { "app": "pg" } },
        "spec": {
            "nodeName": "node-1", "containers": [{ "name": "pg" }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "pg-data" } }]
        },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{
                "name": "pg", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
                "state": { "running": {} }
            }]
        }
    })
}

/// Cuts in memory.
#[derive(Default)]
pub(super) struct MemoryStorage {
    deeds: Arc<Mutex<Vec<String>>>,
    sealed: Arc<Mutex<BTreeMap<CutHandle, CutRecord>>>,
    /// Cuts are not found by name: a host does not answer.
    pub(super) hides_names: AtomicBool,
    /// Nobody answers.
    pub(super) silent: AtomicBool,
    pub(super) fails_to_cut: Arc<AtomicBool>,
    watched: Arc<Mutex<Option<std::path::PathBuf>>>,
}

impl MemoryStorage {
    #[expect(clippy::unused_self, reason = "reads as what it is")]
    pub(super) fn volumes(&self) -> Vec<VolumeId> {
        volumes().all.iter().take(2).map(|volume| volume.id().clone()).collect()
    }

    fn named(&self, name: &str) -> Option<CutRecord> {
        self.sealed.lock().unwrap().values().find(|record| record.name == name).cloned()
    }

    fn answers(&self) -> Result<(), Fault> {
        if self.silent.load(Ordering::SeqCst) { Err(Fault::unavailable("silent")) } else { Ok(()) }
    }
}

fn made(name: &str, level: Level) -> CutRecord {
    let members: Vec<_> = volumes().all.into_iter().take(2).collect();
    CutRecord { level, ..record(name, &members, 1_000) }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn plain(&self) -> &dyn Cutting {
        self
    }

    fn cutter(&self, _: CutKind) -> Arc<dyn Cutter> {
        Arc::new(MemoryCutter {
            deeds: Arc::clone(&self.deeds),
            sealed: Arc::clone(&self.sealed),
            fails: Arc::clone(&self.fails_to_cut),
            watched: Arc::clone(&self.watched),
        })
    }

    async fn find_of(&self, kind: CutKind, name: &str, _: &[VolumeId]) -> Result<Option<CutRecord>, Fault> {
        self.find(kind, name).await
    }

    async fn settle(&self, _: CutKind, name: &str, _: &[VolumeId]) -> Result<Option<CutRecord>, Fault> {
        self.answers()?;
        Ok(self.named(name))
    }

    async fn volume(&self, id: &VolumeId) -> Result<CutVolume, Fault> {
        let all = volumes().all;
        let found = all.iter().find(|volume| volume.id() == id);
        let found = found.ok_or_else(|| Fault::not_found("no such volume"))?;
        Ok(CutVolume { id: id.to_string(), name: found.name().into(), host: found.host.to_string() })
    }
}

#[async_trait]
impl Cutting for MemoryStorage {
    async fn take(&self, _: CutKind, name: &str, _: Vec<VolumeId>, _: &Asked) -> Result<CutRecord, Fault> {
        self.deeds.lock().unwrap().push("plain cut".into());
        let record = made(name, Level::Filesystem);
        self.sealed.lock().unwrap().insert(record.handle(), record.clone());
        Ok(record)
    }
    async fn find(&self, _: CutKind, name: &str) -> Result<Option<CutRecord>, Fault> {
        if self.hides_names.load(Ordering::SeqCst) { Ok(None) } else { Ok(self.named(name)) }
    }
    async fn get(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        self.answers()?;
        Ok(self.sealed.lock().unwrap().get(id).cloned())
    }
    async fn of_snapshot(&self, _: &SnapshotId) -> Result<Option<CutRecord>, Fault> {
        Ok(None)
    }
    async fn snapshots(&self, _: Option<&VolumeId>, _: &PageRequest) -> Result<Page<SnapshotEntry>, Fault> {
        Ok(Page::empty())
    }
    async fn delete(&self, id: &CutHandle) -> Result<(), Fault> {
        self.sealed.lock().unwrap().remove(id);
        Ok(())
    }
}

#[async_trait]
impl Snapshots for MemoryStorage {
    async fn member(&self, _: &SnapshotId) -> Result<Option<CutMember>, Fault> {
        Ok(None)
    }
}

#[derive(Clone)]
struct MemoryCutter {
    deeds: Arc<Mutex<Vec<String>>>,
    sealed: Arc<Mutex<BTreeMap<CutHandle, CutRecord>>>,
    fails: Arc<AtomicBool>,
    watched: Arc<Mutex<Option<std::path::PathBuf>>>,
}

struct MemoryCut {
    cutter: MemoryCutter,
    record: CutRecord,
}

impl MemoryCutter {
    fn note(&self, deed: &str) {
        self.deeds.lock().unwrap().push(deed.into());
    }
}

#[async_trait]
impl Cutter for MemoryCutter {
    async fn open(&self, request: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        self.note("open");
        Ok(Box::new(MemoryCut { cutter: self.clone(), record: made(&request.name, Level::Filesystem) }))
    }
}

#[async_trait]
impl OpenCut for MemoryCut {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        if self.cutter.fails.load(Ordering::SeqCst) {
            return Err(CutError { retry: true, message: "a host went away".into() });
        }
        let watched = self.cutter.watched.lock().unwrap().clone();
        match watched {
            None => self.cutter.note("cut"),
            Some(lock) if lock.exists() => self.cutter.note("cut with lock"),
            Some(_) => self.cutter.note("cut without lock"),
        }
        Ok(CutReport {
            cut_id: self.record.handle().to_string(),
            level: StorageLevel::Filesystem,
            reasons: vec![],
            hold_requested_at: jiff::Timestamp::now(),
            window_us: 20_000,
            skew_us: 10,
        })
    }

    async fn seal(mut self: Box<Self>, request: SealRequest) -> Result<(), CutError> {
        self.cutter.note("seal");
        if request.application {
            self.record.level = Level::Application;
        }
        self.cutter.sealed.lock().unwrap().insert(self.record.handle(), self.record);
        Ok(())
    }
}
