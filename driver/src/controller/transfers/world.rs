//! Two whole agents with pools in memory, over mTLS on loopback, for tests of copies and moves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::agent::config::AgentConfig;
use crate::agent::pool::Pool;
use crate::agent::run::{Agent as AgentProcess, Listeners};
use crate::backend::{BackendKind, IMAGE};
use crate::controller::cuts::{Barrier, CutOrder, Cuts};
use crate::controller::fleet::{AgentAddress, Fleet};
use crate::controller::orders::{Content, Copies, Places, SizeRange, VolumeOrder};
use crate::controller::placement::Policy;
use crate::controller::volumes::Volumes;
use crate::domain::record::Source;
use crate::domain::round::Limits;
use crate::domain::{Bytes, CutKind, SnapshotId, VolumeId};
use crate::host::fake::FakeHost;
use crate::identity::acceptor;
use crate::identity::pki;
use crate::identity::tls::{Credentials, TlsFiles};

pub const BLOCK: u64 = 4096;
pub const SIZE: Bytes = Bytes::mib(16);
/// Every block that is written; more than one chunk, with holes.
pub const WRITTEN: std::ops::Range<u64> = 100..3000;

pub struct Host {
    pub kernel: FakeHost,
    pub pool: PathBuf,
    pub address: SocketAddr,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<()>,
}

impl Host {
    pub async fn start(dir: &Path, name: &str, kernel: FakeHost) -> Self {
        Self::start_with(dir, name, kernel, PathBuf::from(format!("/pool-{name}"))).await
    }

    /// With a pool that another host had before.
    pub async fn start_with(dir: &Path, name: &str, kernel: FakeHost, pool: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = dir.join(format!("state-{name}"));
        let tls = files(dir, &format!("agents/{name}"));
        let config = format!(
            "host: {name}\nlisten: {address}\npools: [{}]\nstateDir: {}\nkernel: memory\n\
             tls: {{ca: {}, cert: {}, key: {}}}\n",
            pool.display(),
            state.display(),
            tls.ca.display(),
            tls.cert.display(),
            tls.key.display(),
        );
        let config = AgentConfig::parse(&config).unwrap();
        let opened = kernel.clone();
        let agent =
            tokio::task::spawn_blocking(move || AgentProcess::open(&config, Arc::new(opened)).unwrap());
        let agent = agent.await.unwrap();
        let credentials =
            Credentials::of_agent(&files(dir, &format!("agents/{name}")), &name.parse().unwrap());
        let renewed = acceptor::fixed(credentials.unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            agent.serve(Listeners { api: listener, csi: None, metrics: None }, renewed, stop).await.unwrap();
        });
        Self { kernel, pool, address, stop: Some(stop), task }
    }

    pub async fn end(&mut self) {
        self.stop.take();
        (&mut self.task).await.unwrap();
    }

    pub fn image(&self, volume: &VolumeId) -> PathBuf {
        self.pool.join("volumes").join(volume.to_string()).join(IMAGE)
    }

    pub fn read(&self, volume: &VolumeId) -> Vec<u64> {
        (0..SIZE.0 / BLOCK).map(|block| self.kernel.read_block(&self.image(volume), block).unwrap()).collect()
    }

    pub fn parts(&self) -> usize {
        self.part_ids().len()
    }

    /// Ids of volumes that have arrived in part.
    pub fn part_ids(&self) -> Vec<String> {
        use crate::host::Files;
        let volumes = self.kernel.list(&self.pool.join("volumes")).unwrap();
        volumes.iter().filter_map(|(name, _)| name.strip_prefix(".part-")).map(str::to_owned).collect()
    }
}

pub fn files(dir: &Path, name: &str) -> TlsFiles {
    let at = |end: &str| dir.join(format!("{name}.{end}"));
    TlsFiles { ca: dir.join("ca.crt"), cert: at("crt"), key: at("key") }
}

pub fn kernel(name: &str) -> FakeHost {
    let dir = PathBuf::from(format!("/pool-{name}"));
    let host = FakeHost::with_disk("memory", Bytes::gib(8), &dir);
    Pool::make(&host, BackendKind::Memory, &dir).unwrap();
    host
}

pub struct World {
    pub a: Host,
    pub b: Host,
    pub fleet: Fleet,
    pub cuts: Cuts,
    pub volumes: Volumes,
    pub dir: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::through(|address| address).await
    }

    /// As [`World::new`], with host a reached at another address.
    pub async fn through(way: impl FnOnce(SocketAddr) -> SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "b"].map(|name| name.parse().unwrap());
        pki::init(dir.path(), &names).unwrap();
        let a = Host::start(dir.path(), "a", kernel("a")).await;
        let b = Host::start(dir.path(), "b", kernel("b")).await;
        let [name_a, name_b] = names;
        let agents = [
            AgentAddress { host: name_a, address: way(a.address).to_string() },
            AgentAddress { host: name_b, address: b.address.to_string() },
        ];
        let credentials = Credentials::of_controller(&files(dir.path(), "controller")).unwrap();
        let fleet = Fleet::new(agents, &credentials).unwrap();
        let cuts = Cuts::new(fleet.clone(), Limits::default());
        let volumes = Volumes::new(Arc::new(fleet.clone()), Arc::new(cuts.clone()), Policy::default());
        Self { a, b, fleet, cuts, volumes, dir }
    }

    /// A raw volume on host a with data in it.
    pub async fn volume(&self) -> VolumeId {
        let made = self.volumes.create(&order("data", None, "a")).await.unwrap();
        let id = made.info.record.id;
        let image = self.a.image(&id);
        for block in WRITTEN.filter(|block| block % 7 != 0) {
            self.a.kernel.write_block(&image, block, block + 1).unwrap();
        }
        id
    }

    pub async fn snapshot(&self, volume: &VolumeId) -> SnapshotId {
        let order = CutOrder {
            kind: CutKind::Single,
            name: "nightly".into(),
            volumes: vec![volume.clone()],
            barrier: Barrier::Up,
        };
        self.cuts.take(order).await.unwrap().members[0].snapshot.clone()
    }
}

pub fn order(name: &str, source: Option<Source>, host: &str) -> VolumeOrder {
    VolumeOrder {
        name: name.into(),
        size: SizeRange { required: SIZE, limit: None },
        content: Content::Device,
        backend: Some(BackendKind::Memory),
        source,
        places: Places { requisite: Some(vec![host.parse().unwrap()]), preferred: vec![] },
        copies: Copies::BesideSource,
        claim: None,
    }
}
