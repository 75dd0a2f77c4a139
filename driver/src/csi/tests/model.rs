//! Cuts and a host's volumes in memory, over the controller's model of hosts.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::controller::blocks::{Blocks, Page, Walk};
use crate::controller::paging::model::Listed;
use crate::controller::paging::{Page as ListPage, PageRequest, page};
use crate::controller::placement::Policy;
use crate::controller::volumes::model::{Model, host};
use crate::controller::volumes::{Hosts, Snapshots, Volumes};
use crate::csi::ports::{Asked, Cutting, NodeWork};
use crate::csi::{serve_controller, serve_node, socket};
use crate::domain::blocks::WalkOrder;
use crate::domain::health::{Ailment, Condition};
use crate::domain::listing::SnapshotEntry;
use crate::domain::node::{GrowRequest, PublishRequest, StageRequest, Usage};
use crate::domain::record::{CutMember, CutRecord, CutState};
use crate::domain::{
    Bytes, Code, CutHandle, CutId, CutKind, Fault, Incarnation, Level, SnapshotId, VolumeId,
};

/// Cuts in memory.
#[derive(Default)]
pub struct ModelCuts {
    hosts: Arc<Model>,
    cuts: Mutex<BTreeMap<CutId, CutRecord>>,
    /// How long a cut takes.
    pub delay: Mutex<Duration>,
    /// How many cuts were begun.
    pub begun: AtomicUsize,
    attempts: AtomicU32,
}

impl ModelCuts {
    fn table(&self) -> MutexGuard<'_, BTreeMap<CutId, CutRecord>> {
        self.cuts.lock().unwrap()
    }

    fn named(&self, kind: CutKind, name: &str) -> Option<CutRecord> {
        self.table().values().find(|cut| cut.id.kind == kind && cut.name == name).cloned()
    }

    async fn members(
        &self,
        id: &CutId,
        attempt: Incarnation,
        volumes: &[VolumeId],
    ) -> Result<Vec<CutMember>, Fault> {
        let mut members = Vec::new();
        for volume in volumes {
            let placed = self.hosts.volume(volume).await?;
            let placed = placed.ok_or_else(|| Fault::not_found(format!("volume {volume} does not exist")))?;
            members.push(CutMember {
                known_as: None,
                volume: volume.clone(),
                volume_name: placed.info.record.name,
                snapshot: SnapshotId::of(volume, id, attempt),
                host: placed.host,
                capacity: placed.info.record.capacity,
                filesystem: placed.info.record.filesystem,
            });
        }
        Ok(members)
    }
}

#[async_trait]
impl Cutting for ModelCuts {
    async fn take(
        &self,
        kind: CutKind,
        name: &str,
        volumes: Vec<VolumeId>,
        _: &Asked,
    ) -> Result<CutRecord, Fault> {
        let id = CutId::new(kind, name, &volumes).unwrap();
        let attempt = Incarnation(self.attempts.fetch_add(1, Ordering::SeqCst));
        // As the real one: members are looked at before the name is.
        let members = self.members(&id, attempt, &volumes).await?;
        if let Some(cut) = self.named(kind, name) {
            let same = cut.members.len() == members.len()
                && members.iter().all(|member| cut.members.iter().any(|other| other.volume == member.volume));
            return if same { Ok(cut) } else { Err(Fault::already_exists("other members")) };
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        let cut = CutRecord {
            id: id.clone(),
            name: name.into(),
            state: CutState::Sealed,
            attempt,
            members,
            cut_at: Timestamp::now(),
            level: Level::Group,
            reasons: vec![],
            timeline: None,
        };
        for member in &cut.members {
            self.hosts.add_snapshot(member.clone());
        }
        self.table().insert(id, cut.clone());
        Ok(cut)
    }

    async fn find(&self, kind: CutKind, name: &str) -> Result<Option<CutRecord>, Fault> {
        Ok(self.named(kind, name))
    }

    async fn get(&self, handle: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        Ok(self.table().get(&handle.cut).filter(|cut| cut.attempt == handle.attempt).cloned())
    }

    async fn of_snapshot(&self, snapshot: &SnapshotId) -> Result<Option<CutRecord>, Fault> {
        let has = |cut: &&CutRecord| cut.members.iter().any(|member| member.snapshot == *snapshot);
        Ok(self.table().values().find(has).cloned())
    }

    async fn snapshots(
        &self,
        volume: Option<&VolumeId>,
        request: &PageRequest,
    ) -> Result<ListPage<SnapshotEntry>, Fault> {
        let entries: Vec<_> = {
            let table = self.table();
            let entries = |cut: &CutRecord| cut.members.iter().map(|m| cut.entry_of(m)).collect::<Vec<_>>();
            table.values().flat_map(entries).collect()
        };
        let entries = entries.into_iter().filter(|entry| volume.is_none_or(|of| entry.id.volume == *of));
        page(vec![Listed::on("a", entries)], request, |_| true).await
    }

    async fn delete(&self, handle: &CutHandle) -> Result<(), Fault> {
        if self.get(handle).await?.is_none() {
            return Ok(());
        }
        let gone = self.table().remove(&handle.cut);
        for member in gone.iter().flat_map(|cut| &cut.members) {
            self.hosts.remove_snapshot(&member.snapshot);
        }
        Ok(())
    }
}

#[async_trait]
impl Snapshots for ModelCuts {
    async fn member(&self, snapshot: &SnapshotId) -> Result<Option<CutMember>, Fault> {
        self.hosts.member(snapshot).await
    }
}

/// Targets of one host, as directories and files without anything in them.
pub struct ModelNode {
    hosts: Arc<Model>,
    runtime: tokio::runtime::Handle,
    published: Mutex<BTreeMap<PathBuf, PublishRequest>>,
}

impl ModelNode {
    fn exists(&self, volume: &VolumeId) -> Result<(), Fault> {
        let found = self.runtime.block_on(self.hosts.volume(volume))?;
        found.map(drop).ok_or_else(|| Fault::not_found(format!("volume {volume} is not on this host")))
    }
}

impl NodeWork for ModelNode {
    fn stage(&self, request: &StageRequest) -> Result<(), Fault> {
        self.exists(&request.volume)
    }

    fn unstage(&self, _: &VolumeId, _: &Path) -> Result<(), Fault> {
        Ok(())
    }

    fn publish(&self, request: &PublishRequest) -> Result<(), Fault> {
        self.exists(&request.volume)?;
        let mut published = self.published.lock().unwrap();
        let elsewhere =
            published.iter().any(|(path, other)| other.volume == request.volume && *path != request.target);
        if request.single_writer && elsewhere {
            return Err(Fault::precondition("published at another target"));
        }
        let made = if request.access.is_block() {
            fs::write(&request.target, "")
        } else {
            fs::create_dir_all(&request.target)
        };
        made.map_err(|error| Fault::internal(error.to_string()))?;
        published.insert(request.target.clone(), request.clone());
        Ok(())
    }

    fn unpublish(&self, _: &VolumeId, target: &Path) -> Result<(), Fault> {
        if let Some(request) = self.published.lock().unwrap().remove(target) {
            let removed =
                if request.access.is_block() { fs::remove_file(target) } else { fs::remove_dir(target) };
            removed.map_err(|error| Fault::internal(error.to_string()))?;
        }
        Ok(())
    }

    fn stats(&self, volume: &VolumeId, path: &Path) -> Result<Usage, Fault> {
        self.exists(volume)?;
        match self.published.lock().unwrap().get(path) {
            None => Err(Fault::new(Code::NotFound, "not published there")),
            Some(request) if request.access.is_block() => Ok(Usage::Device { total: Bytes::gib(1) }),
            Some(_) => Ok(Usage::Filesystem {
                total: Bytes::gib(1),
                available: Bytes::mib(1000),
                inodes: 10,
                inodes_free: 9,
            }),
        }
    }

    fn health(&self, volume: &VolumeId) -> Result<Vec<Ailment>, Fault> {
        self.exists(volume)?;
        Ok(vec![Ailment::new(Condition::FilesystemShutDown, "the disk is broken")])
    }

    fn storage_health(&self) -> Vec<Ailment> {
        vec![Ailment::new(Condition::PoolNearlyFull, "little is left")]
    }

    fn grow(&self, request: &GrowRequest) -> Result<Bytes, Fault> {
        self.exists(&request.volume)?;
        Ok(request.capacity.unwrap_or(Bytes::gib(1)))
    }
}

/// What a walk over blocks does.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Pages in order.
    pub pages: Vec<Page>,
    /// What comes after them.
    pub end: ScriptEnd,
}

/// What comes after the pages.
#[derive(Debug, Clone, Default)]
pub enum ScriptEnd {
    /// The walk is complete.
    #[default]
    Complete,
    /// It fails.
    Fault(Fault),
    /// Its task dies.
    Panic,
}

/// Blocks as a script says; whoever asks gets all of it, from wherever.
#[derive(Default)]
pub struct ModelBlocks {
    /// The script.
    pub script: Mutex<Script>,
    /// What was asked.
    pub asked: Mutex<Vec<WalkOrder>>,
}

#[async_trait]
impl Blocks for ModelBlocks {
    async fn walk(&self, order: &WalkOrder) -> Result<Box<dyn Walk>, Fault> {
        self.asked.lock().unwrap().push(order.clone());
        let script = self.script.lock().unwrap().clone();
        Ok(Box::new(ScriptedWalk { pages: script.pages.into(), end: script.end }))
    }
}

struct ScriptedWalk {
    pages: VecDeque<Page>,
    end: ScriptEnd,
}

#[async_trait]
impl Walk for ScriptedWalk {
    async fn next(&mut self) -> Result<Option<Page>, Fault> {
        match (self.pages.pop_front(), &self.end) {
            (Some(page), _) => Ok(Some(page)),
            (None, ScriptEnd::Complete) => Ok(None),
            (None, ScriptEnd::Fault(fault)) => Err(fault.clone()),
            (None, ScriptEnd::Panic) => panic!("on purpose"),
        }
    }
}

/// A controller and the node service of host a, served on sockets in a directory of their own.
pub struct World {
    pub hosts: Arc<Model>,
    pub cuts: Arc<ModelCuts>,
    pub blocks: Arc<ModelBlocks>,
    pub directory: tempfile::TempDir,
    pub controller: Channel,
    pub node: Channel,
    stop: Vec<oneshot::Sender<()>>,
    servers: Vec<JoinHandle<()>>,
}

impl World {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hosts = Arc::new(Model::three());
        let cuts = Arc::new(ModelCuts { hosts: hosts.clone(), ..ModelCuts::default() });
        let blocks = Arc::new(ModelBlocks::default());
        let policy = Policy { without_topology: Some(host("a")) };
        let volumes = Arc::new(Volumes::new(hosts.clone(), cuts.clone(), policy));
        let work = Arc::new(ModelNode {
            hosts: hosts.clone(),
            runtime: tokio::runtime::Handle::current(),
            published: Mutex::default(),
        });
        let (stop_controller, stopped) = oneshot::channel::<()>();
        let listener = socket::bind(&directory.path().join("controller.sock")).unwrap();
        let serving =
            serve_controller(listener, volumes, cuts.clone(), blocks.clone(), async { drop(stopped.await) });
        let controller_task = tokio::spawn(async { serving.await.unwrap() });
        let (stop_node, stopped) = oneshot::channel::<()>();
        let listener = socket::bind(&directory.path().join("node.sock")).unwrap();
        let serving = serve_node(listener, host("a"), work, async { drop(stopped.await) });
        let node_task = tokio::spawn(async { serving.await.unwrap() });
        Self {
            controller: connect(&directory.path().join("controller.sock")).await,
            node: connect(&directory.path().join("node.sock")).await,
            hosts,
            cuts,
            blocks,
            directory,
            stop: vec![stop_controller, stop_node],
            servers: vec![controller_task, node_task],
        }
    }

    /// Ends both servers in order.
    pub async fn stop(self) {
        let Self { stop, servers, controller, node, .. } = self;
        drop((stop, controller, node));
        for server in servers {
            server.await.unwrap();
        }
    }
}

pub async fn connect(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://csi").connect_with_connector(connector).await.unwrap()
}
