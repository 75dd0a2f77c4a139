//! What a round costs by itself: many real agents in this process on kernels in memory, whose calls take no time, reached
//! over streams in memory. What is left is messages, threads and state machines.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
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
use stillpoint::controller::cuts::{Barrier, CutOrder, Cuts, Opened};
use stillpoint::controller::fleet::{AgentAddress, Dial, Fleet, FleetError, with_limits};
use stillpoint::domain::round::Limits;
use stillpoint::domain::timeline::Timeline;
use stillpoint::domain::{Bytes, CutKind, Filesystem, HostName, Incarnation, NewVolume, VolumeId};
use stillpoint::host::fake::FakeHost;
use stillpoint::host::{Host, Loops, MountRequest, Mounts};
use stillpoint::proto::agent::agent_server::AgentServer;
use stillpoint_tests::harness::Step;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tower::service_fn;

use super::phases::Phases;
use super::table::{Goal, Row};

const AGENTS: usize = 256;
const POOL: &str = "/pool";
const STREAM_BYTES: usize = 256 << 10;

type Doors = BTreeMap<HostName, mpsc::Sender<io::Result<DuplexStream>>>;

/// How agents of this process are reached.
#[derive(Debug)]
struct InProcess(Doors);

impl Dial for InProcess {
    fn dial(&self, agent: &AgentAddress) -> Result<Channel, FleetError> {
        let door = self.0.get(&agent.host).cloned();
        let connect = service_fn(move |_: Uri| {
            let door = door.clone();
            async move {
                let gone = || io::Error::from(io::ErrorKind::ConnectionRefused);
                let (near, far) = tokio::io::duplex(STREAM_BYTES);
                door.ok_or_else(gone)?.send(Ok(far)).await.map_err(|_| gone())?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        });
        let endpoint = Endpoint::from_static("http://agent.invalid");
        Ok(with_limits(endpoint).connect_with_connector_lazy(connect))
    }
}

/// Rounds over all agents with one filesystem each: their windows as in all other lines, from the order to hold to the
/// last thaw, and until all have reported that their snapshots are durable, when nobody is held any more.
pub async fn coordinator(rounds: u32) -> Result<Vec<Row>> {
    let (mut doors, mut volumes, mut addresses) = (Doors::new(), Vec::new(), Vec::new());
    for number in 0..AGENTS {
        let name: HostName = format!("agent-{number}").parse()?;
        let (service, volume) = agent(&name)?;
        let (door, incoming) = mpsc::channel(1);
        let server = Server::builder().add_service(AgentServer::new(service));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
        doors.insert(name.clone(), door);
        addresses.push(AgentAddress { host: name, address: "in this process".into() });
        volumes.push(volume);
    }
    let cuts = Cuts::new(Fleet::reached_by(addresses, Arc::new(InProcess(doors)))?, Limits::default());
    let step = Step::begin(format!("a round over {AGENTS} agents in this process"));
    let (mut windows, mut whole, mut phases) = (Vec::new(), Vec::new(), Phases::default());
    for number in 0..=rounds {
        let (time, timeline) = cut(&cuts, &format!("overhead-{number}"), &volumes).await?;
        // The first one connects.
        if number > 0 {
            windows.push(Duration::from_micros(timeline.window_us));
            whole.push(time);
            phases.add(&timeline);
        }
    }
    step.done();
    let title = format!("window of {AGENTS} agents whose kernels take no time (in this process)");
    Ok(vec![
        Row { phases: Some(phases), ..Row::times(title, windows, vec![Goal::MiddleMs(30)]) },
        Row::times(format!("the same {AGENTS} agents, until all snapshots are durable"), whole, vec![]),
    ])
}

async fn cut(cuts: &Cuts, name: &str, volumes: &[VolumeId]) -> Result<(Duration, Timeline)> {
    let order =
        CutOrder { kind: CutKind::Group, name: name.into(), volumes: volumes.to_vec(), barrier: Barrier::Up };
    let Opened::Ready(mut open) = cuts.open(order).await? else { bail!("cut {name} exists already") };
    let begin = Instant::now();
    let taken = open.cut().await?;
    let time = begin.elapsed();
    let record = open.seal(taken.level, taken.reasons).await?;
    cuts.delete(&record.handle()).await?;
    Ok((time, taken.timeline))
}

/// An agent with one volume in use.
fn agent(name: &HostName) -> Result<(Service, VolumeId)> {
    let host = FakeHost::with_disk("memory", Bytes::gib(16), Path::new(POOL));
    host.let_the_clock_run();
    Pool::make(&host, BackendKind::Memory, Path::new(POOL))?;
    let volume = volume(&host, name)?;
    let kernel: Arc<dyn Host> = Arc::new(host);
    let pools = Pools::open(&kernel, &[PathBuf::from(POOL)], &BTreeMap::new());
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
    Ok((Service::new(Arc::new(local), Arc::new(rounds)), volume))
}

fn volume(host: &FakeHost, name: &HostName) -> Result<VolumeId> {
    let (pool, _) = Pool::open(Arc::new(host.clone()), Path::new(POOL))?;
    let filesystem = Filesystem::Ext4;
    let id = VolumeId::new(pool.id().clone(), name.as_str(), Incarnation(1));
    pool.create_volume(&NewVolume {
        id: id.clone(),
        name: name.to_string(),
        capacity: Bytes::mib(64),
        filesystem: Some(filesystem),
        source: None,
    })?;
    let device = host.attach(&pool.image(&id)?, false).context("attach")?.path;
    let target = Path::new("/volume");
    host.make_all(target);
    host.mount(&MountRequest { device: &device, target, filesystem, read_only: false, options: &[] })?;
    Ok(id)
}
