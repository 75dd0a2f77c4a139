//! Whole agents in this process, each with one pool of a chosen kind, and a controller behind a real CSI socket. For
//! tests of what is in images; [`super::stack`] starts the product's own processes instead.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use stillpoint::agent::config::AgentConfig;
use stillpoint::agent::pool::Pool;
use stillpoint::agent::run::{Agent, Listeners};
use stillpoint::backend::{BackendKind, IMAGE};
use stillpoint::controller::cuts::Cuts;
use stillpoint::controller::fleet::{AgentAddress, Fleet};
use stillpoint::controller::placement::Policy;
use stillpoint::controller::volumes::Volumes;
use stillpoint::csi;
use stillpoint::domain::round::Limits;
use stillpoint::domain::{Bytes, HostName};
use stillpoint::host::Host;
use stillpoint::host::fake::FakeHost;
use stillpoint::host::linux::LinuxHost;
use stillpoint::identity::tls::{Credentials, TlsFiles};
use stillpoint::identity::{acceptor, pki};
use stillpoint_csi_proto::v1;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_csi_proto::v1::group_controller_client::GroupControllerClient;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::csi::TOPOLOGY_KEY;
use crate::scratch::Scratch;

/// Size of a block.
pub const BLOCK: usize = 4096;
/// Size of the pools on disks.
const POOL: Bytes = Bytes::gib(4);

/// A host.
pub struct SiteHost {
    /// Its name.
    pub name: String,
    /// Its kernel.
    pub kernel: Arc<dyn Host>,
    fake: Option<FakeHost>,
    pool: PathBuf,
}

/// The hosts and their controller.
pub struct Site {
    /// The hosts, called h0, h1, ….
    pub hosts: Vec<SiteHost>,
    /// The controller's CSI socket.
    pub csi: Channel,
    /// The agents.
    pub fleet: Fleet,
    stop: Vec<oneshot::Sender<()>>,
    tasks: Vec<JoinHandle<()>>,
    _scratch: Scratch,
}

impl Site {
    /// A host with a pool of each of these kinds.
    pub async fn new(kinds: &[BackendKind]) -> Result<Self> {
        // Short, for the socket's path.
        let scratch = Scratch::new("site")?;
        let pki_dir = scratch.directory("pki")?;
        let names: Vec<HostName> =
            (0..kinds.len()).map(|index| format!("h{index}").parse()).collect::<Result<_, _>>()?;
        pki::init(&pki_dir, &names)?;
        let (mut hosts, mut agents, mut stop, mut tasks) = (vec![], vec![], vec![], vec![]);
        for (name, kind) in names.iter().zip(kinds) {
            let host = host(&scratch, name, *kind)?;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            agents.push(AgentAddress { host: name.clone(), address: listener.local_addr()?.to_string() });
            let agent = agent(&scratch, &pki_dir, &host, listener.local_addr()?).await?;
            let credentials = Credentials::of_agent(&files(&pki_dir, &format!("agents/{name}")), name)?;
            let (sender, stopped) = oneshot::channel();
            let listeners = Listeners { api: listener, csi: None, metrics: None };
            tasks.push(tokio::spawn(async move {
                let stop = async { drop(stopped.await) };
                drop(agent.serve(listeners, acceptor::fixed(credentials), stop).await);
            }));
            stop.push(sender);
            hosts.push(host);
        }
        let fleet = Fleet::new(agents, &Credentials::of_controller(&files(&pki_dir, "controller"))?)?;
        let cuts = Cuts::new(fleet.clone(), Limits::default());
        let volumes = Volumes::new(Arc::new(fleet.clone()), Arc::new(cuts.clone()), Policy::default());
        let socket = scratch.dir().join("csi.sock");
        let listener = csi::socket::bind(&socket)?;
        let (sender, stopped) = oneshot::channel::<()>();
        let blocks = Arc::new(fleet.clone());
        tasks.push(tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            drop(csi::serve_controller(listener, Arc::new(volumes), Arc::new(cuts), blocks, stop).await);
        }));
        stop.push(sender);
        Ok(Self { hosts, csi: super::csi::channel(&socket).await?, fleet, stop, tasks, _scratch: scratch })
    }

    /// A raw volume on a host; from nothing, or a copy.
    pub async fn volume(
        &self,
        name: &str,
        host: usize,
        size: Bytes,
        source: Option<v1::VolumeContentSource>,
    ) -> Result<v1::Volume> {
        use v1::volume_capability::{AccessMode, AccessType, BlockVolume, access_mode::Mode};
        let place =
            v1::Topology { segments: [(TOPOLOGY_KEY.to_owned(), self.hosts[host].name.clone())].into() };
        let request = v1::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(v1::CapacityRange {
                required_bytes: i64::try_from(size.0)?,
                ..Default::default()
            }),
            volume_capabilities: vec![v1::VolumeCapability {
                access_type: Some(AccessType::Block(BlockVolume {})),
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            }],
            parameters: self.backend_of(host),
            volume_content_source: source,
            accessibility_requirements: Some(v1::TopologyRequirement {
                requisite: vec![place.clone()],
                preferred: vec![place],
            }),
            ..Default::default()
        };
        let made = ControllerClient::new(self.csi.clone()).create_volume(request).await?.into_inner();
        made.volume.context("an answer without a volume")
    }

    /// Memory pools are only taken by requests that name them.
    fn backend_of(&self, host: usize) -> std::collections::HashMap<String, String> {
        let memory = self.hosts[host].fake.is_some();
        memory.then(|| ("stillpoint.dev/backend".to_owned(), "memory".to_owned())).into_iter().collect()
    }

    /// A snapshot's id.
    pub async fn snapshot(&self, name: &str, volume: &v1::Volume) -> Result<String> {
        let request = v1::CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: volume.volume_id.clone(),
            ..Default::default()
        };
        let taken = ControllerClient::new(self.csi.clone()).create_snapshot(request).await?.into_inner();
        Ok(taken.snapshot.context("an answer without a snapshot")?.snapshot_id)
    }

    /// Snapshots of a group, in the order of the volumes.
    pub async fn group(&self, name: &str, volumes: &[v1::Volume]) -> Result<Vec<String>> {
        let request = v1::CreateVolumeGroupSnapshotRequest {
            name: name.into(),
            source_volume_ids: volumes.iter().map(|volume| volume.volume_id.clone()).collect(),
            ..Default::default()
        };
        let mut client = GroupControllerClient::new(self.csi.clone());
        let taken = client.create_volume_group_snapshot(request).await?.into_inner().group_snapshot;
        let taken = taken.context("an answer without a group")?.snapshots;
        let of = |volume: &v1::Volume| {
            let found = taken.iter().find(|snapshot| snapshot.source_volume_id == volume.volume_id);
            found.map(|snapshot| snapshot.snapshot_id.clone()).context("a member is missing")
        };
        volumes.iter().map(of).collect()
    }

    /// Ends everything.
    pub async fn close(mut self) -> Result<()> {
        self.stop.clear();
        drop(self.csi);
        for task in self.tasks.drain(..) {
            task.await?;
        }
        Ok(())
    }
}

impl SiteHost {
    /// The image of a volume.
    pub fn image(&self, volume: &str) -> PathBuf {
        self.pool.join("volumes").join(volume).join(IMAGE)
    }

    /// The image of a snapshot.
    pub fn snapshot_image(&self, volume: &str, snapshot: &str) -> PathBuf {
        self.pool.join("snapshots").join(volume).join(snapshot).join(IMAGE)
    }

    /// Writes a block of an image that is not in use; each word of it is `content`.
    pub fn write(&self, image: &Path, block: u64, content: u64) -> Result<()> {
        if let Some(fake) = &self.fake {
            return Ok(fake.write_block(image, block, content)?);
        }
        let file = fs::OpenOptions::new().write(true).open(image)?;
        let bytes = content.to_be_bytes().repeat(BLOCK / 8);
        Ok(file.write_all_at(&bytes, block * BLOCK as u64)?)
    }

    /// All of an image.
    pub fn read(&self, image: &Path, size: Bytes) -> Result<Vec<u8>> {
        use stillpoint::host::blocks::{AlignedBuffer, BlockAccess};
        let mut buffer = AlignedBuffer::zeroed(usize::try_from(size.0)?);
        self.kernel.open_blocks(image, BlockAccess::Read)?.read_at(0, buffer.as_mut())?;
        Ok(AsRef::<[u8]>::as_ref(&buffer).to_vec())
    }
}

fn host(scratch: &Scratch, name: &HostName, kind: BackendKind) -> Result<SiteHost> {
    if kind == BackendKind::Memory {
        let pool = PathBuf::from(format!("/pool-{name}"));
        let fake = FakeHost::with_disk(kind.as_str(), POOL, &pool);
        Pool::make(&fake, kind, &pool)?;
        let kernel = Arc::new(fake.clone());
        return Ok(SiteHost { name: name.to_string(), kernel, fake: Some(fake), pool });
    }
    let pool = scratch.filesystem(&format!("pool-{name}"), kind, POOL)?;
    Pool::make(&LinuxHost, kind, &pool)?;
    Ok(SiteHost { name: name.to_string(), kernel: Arc::new(LinuxHost), fake: None, pool })
}

async fn agent(
    scratch: &Scratch,
    pki_dir: &Path,
    host: &SiteHost,
    address: std::net::SocketAddr,
) -> Result<Agent> {
    let tls = files(pki_dir, &format!("agents/{}", host.name));
    let config = serde_json::json!({
        "host": host.name,
        "listen": address,
        "tls": {"ca": tls.ca, "cert": tls.cert, "key": tls.key},
        "pools": [host.pool],
        // Small pools with many volumes that are hardly written.
        "overcommit": {host.pool.display().to_string(): 20},
        "stateDir": scratch.directory(&format!("state-{}", host.name))?,
    });
    let config = AgentConfig::parse(&config.to_string())?;
    let kernel = Arc::clone(&host.kernel);
    Ok(tokio::task::spawn_blocking(move || Agent::open(&config, kernel)).await??)
}

fn files(dir: &Path, name: &str) -> TlsFiles {
    let at = |end: &str| dir.join(format!("{name}.{end}"));
    TlsFiles { ca: dir.join("ca.crt"), cert: at("crt"), key: at("key") }
}
