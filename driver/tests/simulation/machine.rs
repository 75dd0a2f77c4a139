//! One simulated host: a kernel in memory with a pool and volumes in use, a guard, and the agent's process.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillpoint::agent::local::LocalHost;
use stillpoint::agent::locks::VolumeLocks;
use stillpoint::agent::pool::Pool;
use stillpoint::agent::pools::Pools;
use stillpoint::agent::round::RoundContext;
use stillpoint::agent::run::with_limits;
use stillpoint::agent::service::Service;
use stillpoint::agent::volumes::NodeVolumes;
use stillpoint::backend::BackendKind;
use stillpoint::domain::record::PoolRecord;
use stillpoint::domain::{Bytes, Fault, Filesystem, HostName, Incarnation, NewVolume, PoolId, VolumeId};
use stillpoint::host::fake::{Crash, FakeHost};
use stillpoint::host::{Files, Host, LoopDevice, Loops, MountRequest, Mounts};
use stillpoint::proto::agent::agent_server::AgentServer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use turmoil::net::TcpListener;

use super::crew::{Pace, Tasks};
use super::dice::Dice;
use super::guard::SimGuard;
use super::net::{Connection, PORT};

pub const POOL: &str = "/pool";
/// After a start that failed, an orchestrator starts a process again.
const START_AGAIN: Duration = Duration::from_millis(500);
const EMPTY_TRASH: Duration = Duration::from_secs(1);

/// A host. Clones are the same host.
#[derive(Clone)]
pub struct Machine {
    pub name: HostName,
    pub host: FakeHost,
    pub guard: SimGuard,
    pub volumes: Vec<Used>,
    pub pace: Arc<Mutex<Pace>>,
    dice: Arc<Mutex<Dice>>,
}

/// A volume that is in use and written.
#[derive(Debug, Clone)]
pub struct Used {
    pub id: VolumeId,
    pub device: LoopDevice,
    pub access: Access,
}

/// How a volume is used.
#[derive(Debug, Clone)]
pub enum Access {
    Mounted(PathBuf),
    /// As a block device, by the processes of a cgroup.
    Raw,
}

/// Where raw devices are published.
const RAW: &str = "/raw";
/// Whose processes have raw devices open.
const POD: &str = "/pod";

impl Machine {
    /// A host with so many volumes, of which the last is a raw one if there is one.
    pub fn new(name: &str, volumes: usize, raw: bool, dice: Dice) -> Self {
        let host = FakeHost::with_disk("memory", Bytes::gib(64), Path::new(POOL));
        let mut machine = Self {
            name: name.parse().expect("a host's name"),
            guard: SimGuard::of(host.clone()),
            host,
            volumes: Vec::new(),
            pace: Arc::default(),
            dice: Arc::new(Mutex::new(dice)),
        };
        machine.make_pool();
        let pool = Pool::open(Arc::new(machine.host.clone()), Path::new(POOL)).expect("a new pool opens").0;
        for index in 0..volumes {
            let access = if raw && index + 1 == volumes {
                Access::Raw
            } else {
                Access::Mounted(PathBuf::from(format!("/mnt/{index}")))
            };
            machine.add_volume(&pool, index, access);
        }
        machine
    }

    /// A pool whose id is not random: ids decide which pool is home, so they belong to the seed.
    fn make_pool(&self) {
        Pool::make(&self.host, BackendKind::Memory, Path::new(POOL)).expect("an empty disk becomes a pool");
        let path = Path::new(POOL).join("stillpoint.json");
        let text = self.host.read(&path).expect("its record");
        let mut record: PoolRecord = serde_json::from_slice(&text).expect("a record");
        let bytes = self.dice.lock().unwrap_or_else(PoisonError::into_inner).next().to_be_bytes();
        record.id = PoolId::from_random([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]);
        let text = serde_json::to_vec(&record).expect("a record is JSON");
        self.host.write_synced(&path, &text).expect("written");
    }

    fn add_volume(&mut self, pool: &Pool, index: usize, access: Access) {
        let name = format!("{}-{index}", self.name);
        let id = VolumeId::new(pool.id().clone(), &name, Incarnation(1));
        let filesystem = match access {
            Access::Mounted(_) => Some(Filesystem::Ext4),
            Access::Raw => None,
        };
        let new = NewVolume { id: id.clone(), name, capacity: Bytes::mib(64), filesystem, source: None };
        pool.create_volume(&new).expect("a volume");
        let device = self.put_to_use(&id, &access);
        self.volumes.push(Used { id, device, access });
    }

    /// Attaches a volume's image and does with it what its user does.
    fn put_to_use(&self, id: &VolumeId, access: &Access) -> LoopDevice {
        let image = Path::new(POOL).join("volumes").join(id.to_string()).join("disk.img");
        let device = self.host.attach(&image, false).expect("a loop device");
        match access {
            Access::Raw => {
                let node = Path::new(RAW).join(id.to_string());
                self.host.make_all(Path::new(RAW));
                self.host.make_file(&node).expect("a file to bind to");
                self.host.bind(&device.path, &node, false).expect("published as a block device");
                self.host.open_device(&device, POD);
            }
            Access::Mounted(target) => {
                self.host.make_all(target);
                let mount = MountRequest {
                    device: &device.path,
                    target,
                    filesystem: Filesystem::Ext4,
                    read_only: false,
                    options: &[],
                };
                self.host.mount(&mount).expect("mounted");
            }
        }
        device
    }

    /// What has not reached the disk is gone, and so is everything that was attached.
    pub fn lose_power(&self, style: Crash) {
        self.guard.lose_power();
        self.host.lose_power(style);
    }

    /// The machine is up again, and those who used its volumes have come back. The guard and the agent start after it.
    pub fn boot(&mut self) {
        if self.has_power() {
            return;
        }
        self.guard.power_is_back();
        self.host.forgive();
        for index in 0..self.volumes.len() {
            let used = &self.volumes[index];
            let device = self.put_to_use(&used.id, &used.access);
            self.volumes[index].device = device;
        }
    }

    pub fn has_power(&self) -> bool {
        self.guard.has_power()
    }

    /// Whether anybody waits for a hold to end.
    pub fn holds_something(&self) -> bool {
        !self.host.frozen_devices().is_empty() || !self.host.throttled_devices().is_empty()
    }

    pub fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the agent's process does from its start on.
    fn start(&self) -> Result<(Service, Pools), Fault> {
        let kernel: Arc<dyn Host> = Arc::new(self.host.clone());
        let pools = Pools::open(&kernel, &[PathBuf::from(POOL)], &BTreeMap::new());
        // Likewise.
        if let Some((_, ailment)) = pools.closed().into_iter().next() {
            return Err(Fault::internal(ailment.message));
        }
        let locks = VolumeLocks::default();
        let node = Arc::new(NodeVolumes::new(Arc::clone(&kernel), Arc::new(pools.clone()), locks.clone()));
        let local =
            LocalHost::new(self.name.clone(), Arc::clone(&kernel), pools.clone(), locks.clone(), node);
        // A real agent starts and tries again every 30 s; here it is the start that is tried again.
        if let Some((_, fault)) = local.recover().failed.into_iter().next() {
            return Err(fault);
        }
        let rounds = RoundContext {
            host: kernel,
            pools: pools.clone(),
            locks,
            watchdog: Arc::new(self.guard.clone()),
            expedite: None,
            never_hold: vec![],
            crew: Arc::new(Tasks { pace: Arc::clone(&self.pace), dice: Arc::clone(&self.dice) }),
        };
        Ok((Service::new(Arc::new(local), Arc::new(rounds)), pools))
    }

    /// The agent's process.
    pub async fn agent(self) -> turmoil::Result {
        let (service, pools) = loop {
            match self.start() {
                Ok(started) => break started,
                Err(_) => tokio::time::sleep(START_AGAIN).await,
            }
        };
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EMPTY_TRASH).await;
                for pool in pools.iter() {
                    // A tree that cannot be removed now is tried again.
                    let _ = pool.empty_trash(16);
                }
            }
        });
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let (sender, incoming) = mpsc::channel::<io::Result<Connection>>(1);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if sender.send(Ok(Connection(stream))).await.is_err() {
                    return;
                }
            }
        });
        let server = with_limits(Server::builder()).add_service(AgentServer::new(service));
        Ok(server.serve_with_incoming(ReceiverStream::new(incoming)).await?)
    }
}
