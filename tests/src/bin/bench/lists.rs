//! Lists of a large fleet: agents of this process with pools in memory, asked by a real controller in a process of its
//! own, over TLS. Asked of it are pages of snapshots, over its CSI socket; measured are their times and its memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use stillpoint::agent::local::LocalHost;
use stillpoint::agent::locks::VolumeLocks;
use stillpoint::agent::pool::Pool;
use stillpoint::agent::pools::Pools;
use stillpoint::agent::round::RoundContext;
use stillpoint::agent::round::crew::Threads;
use stillpoint::agent::round::watchdog::NothingOutlivesUs;
use stillpoint::agent::service::Service;
use stillpoint::agent::volumes::NodeVolumes;
use stillpoint::backend::BackendKind;
use stillpoint::domain::record::{CutMember, CutRecord, CutState};
use stillpoint::domain::{
    Bytes, CutId, CutKind, HostName, Incarnation, Level, NewVolume, SnapshotId, VolumeId,
};
use stillpoint::host::Host;
use stillpoint::host::fake::FakeHost;
use stillpoint::identity::tls::{Callers, Credentials, TlsFiles, only_the_controller};
use stillpoint::identity::{acceptor, pki};
use stillpoint::proto::agent::agent_server::AgentServer;
use stillpoint_csi_proto::v1;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_tests::harness::operator::Operator;
use stillpoint_tests::harness::{Process, RunDir, Spec, Step, binaries, csi};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::service::InterceptorLayer;
use tonic::transport::{Channel, Server};

use super::table::{Goal, Row, Samples};

const HOSTS: usize = 64;
const VOLUMES: usize = 10_000;
const SNAPSHOTS: usize = 50_000;
/// One page of snapshots in all: what a page costs beside nothing else.
const FEW: usize = 500;
const PAGE: i32 = 500;
/// How often a list is read from its beginning to its end.
const PASSES: usize = 3;
const START_LIMIT: Duration = Duration::from_mins(1);

/// A host in memory; volumes and snapshots are made by its pool, as by its agent.
struct Crowd {
    name: HostName,
    pool: Arc<Pool>,
    volumes: Vec<VolumeId>,
    snapshots: usize,
}

/// Times of pages, beside those of a fleet with one page, and the controller's memory afterwards.
pub async fn rows() -> Result<Vec<Row>> {
    let run = RunDir::new("lists")?;
    let pki = run.directory("pki")?;
    let names: Vec<HostName> = (0..HOSTS).map(|host| format!("h{host}").parse()).collect::<Result<_, _>>()?;
    pki::init(&pki, &names)?;
    let (mut crowd, mut agents) = (Vec::new(), Vec::new());
    // Ended with this function, and what they have with them.
    let mut servers = JoinSet::new();
    for name in names {
        let (host, address) = serve(name, &pki, &mut servers).await?;
        agents.push(json!({"host": host.name, "address": address}));
        crowd.push(host);
    }
    let step = Step::begin(format!("lists of {HOSTS} hosts with {FEW} snapshots"));
    let crowd = fill(crowd, FEW, FEW).await?;
    let (mut controller, socket) = start_controller(&run, &pki, &agents).await?;
    let channel = csi::channel(&socket).await?;
    let mut few = Vec::new();
    for _ in 0..PASSES * SNAPSHOTS / FEW {
        few.extend(pages(&channel, FEW).await?);
    }
    step.done();
    let step =
        Step::begin(format!("lists of {HOSTS} hosts with {VOLUMES} volumes and {SNAPSHOTS} snapshots"));
    let _crowd = fill(crowd, VOLUMES, SNAPSHOTS).await?;
    step.detail("made");
    let mut many = Vec::new();
    for _ in 0..PASSES {
        many.extend(pages(&channel, SNAPSHOTS).await?);
    }
    let of_volumes = volume_pages(&channel).await?;
    let resident = controller.peak_kib()?;
    step.detail("all cuts at once, as people ask for them");
    let began = Instant::now();
    let cuts = Operator::connect(&run.path().join("op.sock")).await?.cuts().await?;
    ensure!(cuts.len() == SNAPSHOTS, "{} cuts are listed", cuts.len());
    let whole = began.elapsed();
    let resident_whole = controller.peak_kib()?;
    controller.kill()?;
    step.done();
    drop((servers, run.close()));
    let profile = binaries::profile()?;
    let memory = |title: String, kib| Row {
        own: Samples::Memory(kib),
        ..Row::times(title, vec![], vec![Goal::MiB(150)])
    };
    Ok(vec![
        Row {
            other: Some(Samples::times(few)),
            ..Row::times(
                format!("ListSnapshots, page of {PAGE} of {SNAPSHOTS} (script: of {FEW} in all)"),
                many,
                vec![Goal::MiddleMs(20)],
            )
        },
        Row::times(format!("ListVolumes, page of {PAGE} of {VOLUMES}"), of_volumes, vec![]),
        memory(format!("memory of the controller after these lists, highest ({profile} build)"), resident),
        Row::times(
            format!("all {SNAPSHOTS} cuts in one answer, for `stillpoint snapshots`"),
            vec![whole],
            vec![],
        ),
        memory(format!("memory of the controller after that, highest ({profile} build)"), resident_whole),
    ])
}

/// Reads a list to its end; how long each page took.
async fn pages(channel: &Channel, expected: usize) -> Result<Vec<Duration>> {
    let mut client = ControllerClient::new(channel.clone());
    let (mut times, mut token, mut seen) = (Vec::new(), String::new(), 0);
    loop {
        let request =
            v1::ListSnapshotsRequest { max_entries: PAGE, starting_token: token, ..Default::default() };
        let began = Instant::now();
        let page = client.list_snapshots(request).await?.into_inner();
        times.push(began.elapsed());
        seen += page.entries.len();
        token = page.next_token;
        if token.is_empty() {
            ensure!(seen == expected, "{seen} snapshots are listed instead of {expected}");
            return Ok(times);
        }
    }
}

async fn volume_pages(channel: &Channel) -> Result<Vec<Duration>> {
    let mut client = ControllerClient::new(channel.clone());
    let (mut times, mut token, mut seen) = (Vec::new(), String::new(), 0);
    loop {
        let request = v1::ListVolumesRequest { max_entries: PAGE, starting_token: token };
        let began = Instant::now();
        let page = client.list_volumes(request).await?.into_inner();
        times.push(began.elapsed());
        seen += page.entries.len();
        token = page.next_token;
        if token.is_empty() {
            ensure!(seen == VOLUMES, "{seen} volumes are listed instead of {VOLUMES}");
            return Ok(times);
        }
    }
}

/// Makes volumes and snapshots until there are so many in all, all hosts at once.
async fn fill(crowd: Vec<Crowd>, volumes: usize, snapshots: usize) -> Result<Vec<Crowd>> {
    let mut filling = JoinSet::new();
    for (index, mut host) in crowd.into_iter().enumerate() {
        let share = |all: usize| all / HOSTS + usize::from(index < all % HOSTS);
        let (volumes, snapshots) = (share(volumes), share(snapshots));
        filling.spawn_blocking(move || host.fill(volumes, snapshots).map(|()| host));
    }
    filling.join_all().await.into_iter().collect()
}

impl Crowd {
    fn fill(&mut self, volumes: usize, snapshots: usize) -> Result<()> {
        while self.volumes.len() < volumes {
            let name = format!("volume-{}", self.volumes.len());
            let id = VolumeId::new(self.pool.id().clone(), &name, Incarnation(1));
            self.pool.create_volume(&NewVolume {
                id: id.clone(),
                name,
                capacity: Bytes::mib(1),
                filesystem: None,
                source: None,
            })?;
            self.volumes.push(id);
        }
        while self.snapshots < snapshots {
            let volume = &self.volumes[self.snapshots % self.volumes.len()];
            let record = record(volume, &self.name, &format!("{}-{}", self.name, self.snapshots))?;
            for paths in self.pool.prepare_cut(&record)? {
                self.pool.copy_member(&paths)?;
            }
            self.pool.seal_cut(&CutRecord { state: CutState::Sealed, ..record })?;
            self.snapshots += 1;
        }
        Ok(())
    }
}

fn record(volume: &VolumeId, host: &HostName, name: &str) -> Result<CutRecord> {
    let id = CutId::new(CutKind::Single, name, [volume]).context("a cut has a member")?;
    let member = CutMember {
        known_as: None,
        volume: volume.clone(),
        volume_name: format!("pvc-{}", volume.hash),
        snapshot: SnapshotId::of(volume, &id, Incarnation(1)),
        host: host.clone(),
        capacity: Bytes::mib(1),
        filesystem: None,
    };
    Ok(CutRecord {
        id,
        name: name.to_owned(),
        state: CutState::Round,
        attempt: Incarnation(1),
        members: vec![member],
        cut_at: Timestamp::now(),
        level: Level::Filesystem,
        reasons: vec![],
        timeline: None,
    })
}

async fn serve(name: HostName, pki: &Path, servers: &mut JoinSet<()>) -> Result<(Crowd, String)> {
    let dir = PathBuf::from("/pool");
    let host = FakeHost::with_disk("memory", Bytes::gib(1 << 20), &dir);
    Pool::make(&host, BackendKind::Memory, &dir)?;
    let kernel: Arc<dyn Host> = Arc::new(host);
    let pools = Pools::open(&kernel, &[dir], &BTreeMap::new());
    let pool = pools.iter().next().context("a pool")?;
    let locks = VolumeLocks::default();
    let node = Arc::new(NodeVolumes::new(Arc::clone(&kernel), Arc::new(pools.clone()), locks.clone()));
    let local = LocalHost::new(name.clone(), Arc::clone(&kernel), pools.clone(), locks.clone(), node);
    let rounds = RoundContext {
        host: kernel,
        pools: pools.clone(),
        locks,
        watchdog: Arc::new(NothingOutlivesUs),
        expedite: None,
        crew: Arc::new(Threads),
        never_hold: vec![],
    };
    let service = AgentServer::new(Service::new(Arc::new(local), Arc::new(rounds)));
    let own = pki.join("agents").join(name.as_str());
    let files =
        TlsFiles { ca: pki.join("ca.crt"), cert: own.with_extension("crt"), key: own.with_extension("key") };
    let credentials = Credentials::of_agent(&files, &name)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let incoming = acceptor::incoming(listener, acceptor::fixed(credentials), Callers::WithCertificate);
    let server = Server::builder().layer(InterceptorLayer::new(only_the_controller)).add_service(service);
    servers.spawn(async move { drop(server.serve_with_incoming(incoming).await) });
    Ok((Crowd { name, pool, volumes: Vec::new(), snapshots: 0 }, address))
}

/// The product's own controller over these agents.
async fn start_controller(
    run: &RunDir,
    pki: &Path,
    agents: &[serde_json::Value],
) -> Result<(Process, PathBuf)> {
    let socket = run.path().join("csi.sock");
    let config = json!({
        "csiSocket": socket,
        "operatorSocket": run.path().join("op.sock"),
        "stateDir": run.directory("controller")?,
        "tls": {
            "ca": pki.join("ca.crt"),
            "cert": pki.join("controller.crt"),
            "key": pki.join("controller.key"),
        },
        "agents": agents,
        "pods": [],
    });
    let path = run.path().join("controller.yaml");
    fs::write(&path, serde_yaml::to_string(&config)?)?;
    let stillpoint = binaries::binary("stillpoint")?;
    let spec = Spec::new("controller", stillpoint).args(["standalone", "--config"]).arg(path);
    let mut controller = spec.start(run.path())?;
    csi::wait_ready(&socket, &mut controller, START_LIMIT).await?;
    Ok((controller, socket))
}
