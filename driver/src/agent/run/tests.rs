//! A whole agent with a pool in memory, asked over real sockets with real certificates.

use std::time::Duration;

use jiff::Timestamp;
use stillpoint_csi_proto::v1;

use super::*;
use crate::agent::fixtures::STAGING;
use crate::controller::fleet::{self, AgentAddress, Fleet};
use crate::domain::listing::{CutFilter, CutScope, Detail, Piece, Slice};
use crate::domain::record::{CutMember, CutRecord, CutState};
use crate::domain::{
    Code, CutId, CutKind, Filesystem, Incarnation, Level, NameHash, NewVolume, PoolId, SnapshotId, VolumeId,
};
use crate::host::Mounts;
use crate::identity::pki;
use crate::identity::tls::TlsFiles;

/// A safety deadline for what must happen at all.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    host: FakeHost,
    agent: fleet::Agent,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), RunError>>,
    directory: tempfile::TempDir,
}

fn host_name() -> HostName {
    "node-1".parse().unwrap()
}

fn files(directory: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        ca: directory.join("ca.crt"),
        cert: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
    }
}

fn config(directory: &Path, listen: SocketAddr) -> AgentConfig {
    AgentConfig {
        host: host_name(),
        listen,
        tls: Some(files(directory, "agents/node-1")),
        pools: vec!["/pool".into()],
        overcommit: std::collections::BTreeMap::new(),
        state_dir: directory.join("state"),
        csi_socket: Some(directory.join("csi.sock")),
        guard_socket: None,
        expedite: Expediting::Auto,
        metrics_listen: None,
        kernel: Kernel::Memory,
    }
}

impl Running {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        pki::init(directory.path(), &[host_name()]).unwrap();
        let config = config(directory.path(), ([127, 0, 0, 1], 0).into());
        let host = FakeHost::with_disk("memory", Bytes::gib(64), Path::new("/pool"));
        host.make_all(Path::new(STAGING));
        Pool::make(&host, BackendKind::Memory, Path::new("/pool")).unwrap();
        let api = TcpListener::bind(config.listen).await.unwrap();
        let address = api.local_addr().unwrap().to_string();
        let csi = Some(socket::bind(config.csi_socket.as_ref().unwrap()).unwrap());
        let kernel: Arc<dyn Host> = Arc::new(host.clone());
        let credentials = Credentials::of_agent(config.tls.as_ref().unwrap(), &config.host).unwrap();
        let agent = Agent::open(&config, kernel).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            agent
                .serve(Listeners { api, csi, metrics: None }, acceptor::fixed(credentials), async {
                    drop(stopped.await);
                })
                .await
        });
        let controller = Credentials::of_controller(&files(directory.path(), "controller")).unwrap();
        let fleet = Fleet::new([AgentAddress { host: host_name(), address }], &controller).unwrap();
        let agent = fleet.agent(&host_name()).unwrap();
        Self { host, agent, stop, task, directory }
    }

    async fn volume(&self, name: &str) -> VolumeId {
        let pool = self.agent.describe().await.unwrap().pools[0].id.clone();
        let volume = new_volume(&pool, name);
        self.agent.create_volume(&volume).await.unwrap().record.id
    }

    async fn node(&self) -> v1::node_client::NodeClient<tonic::transport::Channel> {
        let url = format!("unix:{}", self.directory.path().join("csi.sock").display());
        v1::node_client::NodeClient::connect(url).await.unwrap()
    }

    async fn stop(self) -> (FakeHost, Result<(), RunError>) {
        self.stop.send(()).unwrap();
        (self.host, tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap())
    }
}

fn new_volume(pool: &PoolId, name: &str) -> NewVolume {
    NewVolume {
        id: VolumeId::new(pool.clone(), name, Incarnation(1)),
        name: name.into(),
        capacity: Bytes::gib(1),
        filesystem: Some(Filesystem::Xfs),
        source: None,
    }
}

fn record(volume: &VolumeId) -> CutRecord {
    let id = CutId::new(CutKind::Single, "nightly", [volume]).unwrap();
    CutRecord {
        members: vec![CutMember {
            known_as: None,
            volume: volume.clone(),
            volume_name: "data".into(),
            snapshot: SnapshotId::of(volume, &id, Incarnation(1)),
            host: host_name(),
            capacity: Bytes::gib(1),
            filesystem: Some(Filesystem::Xfs),
        }],
        id,
        name: "nightly".into(),
        state: CutState::Sealed,
        attempt: Incarnation(1),
        cut_at: Timestamp::now(),
        level: Level::Filesystem,
        reasons: vec![],
        timeline: None,
    }
}

fn stage_request(volume: &VolumeId) -> v1::NodeStageVolumeRequest {
    use v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    v1::NodeStageVolumeRequest {
        volume_id: volume.to_string(),
        staging_target_path: STAGING.into(),
        volume_capability: Some(v1::VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn volumes_live_over_the_wire() {
    let running = Running::new().await;
    let agent = &running.agent;
    let info = agent.describe().await.unwrap();
    assert_eq!((info.host, info.pools.len()), (host_name(), 1));
    let id = running.volume("data").await;
    assert_eq!(running.volume("data").await, id, "the same name is the same volume");
    let smaller = NewVolume { capacity: Bytes::mib(512), ..new_volume(&id.pool, "data") };
    assert_eq!(agent.create_volume(&smaller).await.unwrap_err().code, Code::AlreadyExists);
    let found = agent.find_volume(&NameHash::of("data")).await.unwrap().unwrap();
    assert_eq!(found, agent.volume(&id).await.unwrap());
    assert_eq!(agent.find_volume(&NameHash::of("other")).await, Ok(None));
    assert_eq!(agent.expand_volume(&id, Bytes::gib(2)).await.unwrap().record.capacity, Bytes::gib(2));
    assert_eq!(agent.volumes().await.unwrap().len(), 1);
    for _ in 0..2 {
        agent.delete_volume(&id).await.unwrap();
    }
    assert_eq!(agent.volume(&id).await.unwrap_err().code, Code::NotFound);
    let moved = VolumeId::new(PoolId::from_random([9; 6]), "data", Incarnation(1));
    let fault = agent.delete_volume(&moved).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "nobody may conclude that it is deleted: {fault}");
    running.stop().await.1.unwrap();
}

#[tokio::test]
async fn cut_records_live_over_the_wire() {
    let running = Running::new().await;
    let agent = &running.agent;
    let volume = running.volume("data").await;
    let record = record(&volume);
    for _ in 0..2 {
        agent.void(&record.id, record.attempt).await.unwrap();
        agent.delete_cut(&record.id, record.attempt).await.unwrap();
    }
    assert_eq!(agent.cut(&record.id).await, Ok(None));
    assert_eq!(agent.find_cut(CutKind::Single, &NameHash::of("nightly")).await, Ok(None));
    let (first, all) = (Slice { after: None, limit: 10 }, CutFilter::of(CutScope::All, Detail::Members));
    assert_eq!(agent.cuts_in(&first, &all).await, Ok(Piece { entries: vec![], more: false }));
    let fault = agent.seal(&record).await.unwrap_err();
    assert_eq!(fault.code, Code::NotFound, "nothing was prepared: {fault}");
    let elsewhere = VolumeId::new(PoolId::from_random([9; 6]), "data", Incarnation(1));
    let mut foreign = record.clone();
    foreign.members[0].volume = elsewhere;
    assert_eq!(agent.seal(&foreign).await.unwrap_err().code, Code::Invalid);
    running.stop().await.1.unwrap();
}

#[tokio::test]
async fn a_round_whose_stream_ends_is_over_and_leaves_no_lock() {
    let running = Running::new().await;
    let volume = running.volume("data").await;
    let (orders, receiver) = tokio::sync::mpsc::channel(1);
    let mut reports = running.agent.round(receiver).await.unwrap();
    drop(orders);
    assert!(reports.message().await.unwrap().is_none_or(|report| report.report.is_some()));
    running.agent.delete_volume(&volume).await.unwrap();
    running.stop().await.1.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_leaves_volumes_mounted_and_its_successor_finds_them() {
    let running = Running::new().await;
    let volume = running.volume("data").await;
    let mut node = running.node().await;
    node.node_stage_volume(stage_request(&volume)).await.unwrap();
    assert_eq!(running.agent.volume(&volume).await.unwrap().published_at, Some(STAGING.into()));
    let mounts = running.host.mounts().unwrap();
    let (host, ended) = running.stop().await;
    ended.unwrap();
    assert_eq!(host.mounts().unwrap(), mounts);
    let successor = crate::agent::fixtures::Bench::on(host);
    assert_eq!(successor.local.volume(&volume).unwrap().published_at, Some(STAGING.into()));
    successor.node.unstage(&volume, Path::new(STAGING)).unwrap();
    successor.local.delete_volume(&volume).unwrap();
}

#[tokio::test]
async fn a_connection_that_stays_open_does_not_keep_an_agent_from_ending() {
    let running = Running::new().await;
    let (_orders, receiver) = tokio::sync::mpsc::channel(1);
    let _reports = running.agent.round(receiver).await.unwrap();
    let (_, ended) = running.stop().await;
    ended.unwrap();
}

#[tokio::test]
async fn a_signal_ends_an_agent_in_order() {
    let directory = tempfile::tempdir().unwrap();
    pki::init(directory.path(), &[host_name()]).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = directory.path().join("agent.yaml");
    let config = config(directory.path(), free);
    std::fs::write(&path, serde_yaml::to_string(&config).unwrap()).unwrap();
    let task = tokio::spawn(async move { run(&path).await });
    let socket = config.csi_socket.unwrap();
    let serves = async {
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, serves).await.unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap(), Ok(()));
}

#[tokio::test]
async fn what_an_agent_cannot_start_with_is_said() {
    let directory = tempfile::tempdir().unwrap();
    pki::init(directory.path(), &[host_name()]).unwrap();
    let good = config(directory.path(), ([127, 0, 0, 1], 0).into());
    let refused = async |config: AgentConfig| {
        let fault = Fault::from(serve(config, std::future::pending()).await.unwrap_err());
        (fault.code, fault.message)
    };
    let other = AgentConfig { host: "node-2".parse().unwrap(), ..good.clone() };
    let (code, message) = refused(other).await;
    assert_eq!(code, Code::Precondition);
    assert!(message.contains("another name"), "{message}");
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy = AgentConfig { listen: taken.local_addr().unwrap(), ..good.clone() };
    let (code, message) = refused(busy).await;
    assert_eq!(code, Code::Precondition);
    assert!(message.contains("cannot listen on"), "{message}");
    std::fs::write(directory.path().join("csi.sock"), "").unwrap();
    let (code, message) = refused(good).await;
    assert_eq!(code, Code::Precondition);
    assert!(message.contains("csiSocket") && message.contains("not a socket"), "{message}");
}
