//! `stillpoint controller`: puts the parts together for Kubernetes and serves until it is told to stop.
//!
//! # Flow
//! 1. Find or make the certificate authority; make an own certificate; tell agents where to enrol.
//! 2. Read which hosts have ever enrolled, and which pools they had: both are missed from the first call on.
//! 3. Bind all sockets, then serve CSI to the sidecars, enrolments to agents and probes to the kubelet.
//! 4. Meanwhile sweep, follow the list of hosts, renew the own certificate, and keep the address known.
//! 5. At the end (SIGTERM) calls under way are finished. Nothing is on disk: the next controller knows as much.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Server;

use super::authority::{ClusterSecret, TrustMap, load_or_make};
use super::consumers::ClusterConsumers;
use super::contents::annotate::Annotator;
use super::contents::orphans::Orphans;
use super::enrol::Enrolment;
use super::health::{self, Readiness};
use super::hosts::{ClusterLines, HOSTS, Lines, Roll};
use super::ownership::Installation;
use super::pool_events::PoolEvents;
use super::pools::{POOLS, PoolBook};
use super::runs::RuledCuts;
use super::tokens::{AgentAccount, ClusterTokens};
use crate::controller::cuts::{Barrier, Cuts};
use crate::controller::fleet::Fleet;
use crate::controller::fleet::known::KnownPools;
use crate::controller::placement::Policy;
use crate::controller::process::{
    self, STOPPED, UNDO_GRACE, bind, ended, handed_over, sweep, together, until,
};
use crate::controller::volumes::Volumes;
use crate::csi;
use crate::domain::round::{HARD_MS, Limits, SOFT_MS};
use crate::domain::{Code, Fault};
use crate::identity::acceptor;
use crate::identity::authority::Authority;
use crate::identity::tls::{Callers, Credentials};
use crate::observe::metrics;
use crate::observe::rpc::Observe;
use crate::proto::enrol::enrolment_server::EnrolmentServer;

/// Least, default and most of the lifetime of certificates, in minutes.
const CERTIFICATE_MINUTES: (u64, u64, u64) = (2, 480, 43_200);
/// An enrolment is a token review, a signature and a write.
const ENROLMENT_LIMIT: Duration = Duration::from_secs(10);
/// How often it is made sure that agents find this controller.
const PUBLISH_EVERY: Duration = Duration::from_mins(1);
/// How often runs are looked for that controllers that are gone have left.
const SETTLE_EVERY: Duration = Duration::from_mins(1);
/// Between two looks at what the own runs still owe to applications.
const COLLECT_EVERY: Duration = Duration::from_secs(5);
/// How often copies of runs that a backup tool has restored are looked for.
const REMOVE_EVERY: Duration = Duration::from_hours(1);
/// Between two attempts to reach the API server at the start.
const START_PAUSE: Duration = Duration::from_secs(2);

/// What `stillpoint controller` is told. Every option can be given by its environment variable, so by a ConfigMap.
#[derive(Debug, Clone, Args)]
pub struct ControllerArgs {
    /// Namespace of the controller and the agents.
    #[arg(long, env = "STILLPOINT_NAMESPACE", default_value = "stillpoint-system", hide_env_values = true)]
    pub namespace: String,
    /// Address of this pod, at which agents enrol.
    #[arg(long, value_name = "IP", env = "STILLPOINT_POD_IP", hide_env_values = true)]
    pub pod_ip: IpAddr,
    /// Name of this pod, for the leases of runs.
    #[arg(long, value_name = "NAME", env = "STILLPOINT_POD", hide_env_values = true)]
    pub pod: String,
    /// Socket for the sidecars.
    #[arg(
        long,
        value_name = "PATH",
        env = "STILLPOINT_CSI_SOCKET",
        default_value = "/csi/csi.sock",
        hide_env_values = true
    )]
    pub csi_socket: PathBuf,
    /// Where agents enrol.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STILLPOINT_ENROL_LISTEN",
        default_value = "0.0.0.0:9702",
        hide_env_values = true
    )]
    pub enrol_listen: SocketAddr,
    /// Where probes are answered.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STILLPOINT_HEALTH_LISTEN",
        default_value = "0.0.0.0:9703",
        hide_env_values = true
    )]
    pub health_listen: SocketAddr,
    /// Where metrics are served (Prometheus, /metrics).
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STILLPOINT_METRICS_LISTEN",
        default_value = "0.0.0.0:9705",
        hide_env_values = true
    )]
    pub metrics_listen: SocketAddr,
    /// Service account of the agents; nobody else may enrol.
    #[arg(
        long,
        value_name = "NAME",
        env = "STILLPOINT_AGENT_ACCOUNT",
        default_value = "stillpoint-agent",
        hide_env_values = true
    )]
    pub agent_account: String,
    /// How long certificates are valid; they are renewed after half of it.
    #[arg(long, value_name = "MINUTES", env = "STILLPOINT_CERTIFICATE_MINUTES", default_value_t = CERTIFICATE_MINUTES.1, value_parser = clap::value_parser!(u64).range(CERTIFICATE_MINUTES.0..=CERTIFICATE_MINUTES.2), hide_env_values = true)]
    pub certificate_minutes: u64,
    /// A round that holds longer is given up.
    #[arg(long, value_name = "MS", env = "STILLPOINT_SOFT_LIMIT_MS", default_value_t = SOFT_MS.1, value_parser = clap::value_parser!(u64).range(SOFT_MS.0..=SOFT_MS.2), hide_env_values = true)]
    pub soft_limit_ms: u64,
    /// The guards let go by themselves after this; must be above the soft limit.
    #[arg(long, value_name = "MS", env = "STILLPOINT_HARD_LIMIT_MS", default_value_t = HARD_MS.1, value_parser = clap::value_parser!(u64).range(HARD_MS.0..=HARD_MS.2), hide_env_values = true)]
    pub hard_limit_ms: u64,
    /// Snapshots and contents that lack each other are told as orphans after this time, by two checks in a row.
    #[arg(long, value_name = "SECONDS", env = "STILLPOINT_ORPHAN_GRACE_SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=604_800), hide_env_values = true)]
    pub orphan_grace_seconds: u64,
    /// Test switch, never for real data: `off` cuts one host after another without holding them together. Snapshots are
    /// recorded as level crash. For showing that a consistency check can fail.
    #[cfg(feature = "test-switches")]
    #[arg(
        long,
        hide = true,
        value_name = "on|off",
        value_enum,
        env = "STILLPOINT_TEST_BARRIER",
        default_value = "on",
        hide_env_values = true,
        hide_possible_values = true
    )]
    pub test_barrier: TestBarrier,
}

/// Values of the test switch.
#[cfg(feature = "test-switches")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TestBarrier {
    /// All hosts are held before the first is cut.
    On,
    /// Host after host.
    Off,
}

#[cfg(feature = "test-switches")]
impl TestBarrier {
    fn barrier(self) -> Barrier {
        match self {
            Self::On => Barrier::Up,
            Self::Off => {
                tracing::error!("the barrier is switched off for a test: no group is of one instant");
                Barrier::Down
            }
        }
    }
}

impl ControllerArgs {
    #[cfg(feature = "test-switches")]
    fn barrier(&self) -> Barrier {
        self.test_barrier.barrier()
    }

    /// A build without test switches always quiesces all nodes together.
    #[cfg(not(feature = "test-switches"))]
    #[allow(clippy::unused_self)] // As with the switch.
    fn barrier(&self) -> Barrier {
        Barrier::Up
    }

    fn limits(&self) -> Result<Limits, Fault> {
        let (soft, hard) = (self.soft_limit_ms, self.hard_limit_ms);
        if soft >= hard {
            return Err(Fault::invalid(format!(
                "--soft-limit-ms {soft} is not below --hard-limit-ms {hard}; the controller must give up before the guards do"
            )));
        }
        let (soft, hard) = (Duration::from_millis(soft), Duration::from_millis(hard));
        Ok(Limits { soft, hard, ..Limits::default() })
    }

    fn lifetime(&self) -> Duration {
        Duration::from_mins(self.certificate_minutes)
    }

    /// Where agents reach this controller.
    fn enrol_address(&self) -> String {
        SocketAddr::new(self.pod_ip, self.enrol_listen.port()).to_string()
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: ControllerArgs) -> Result<(), Fault> {
    let limits = args.limits()?;
    let client = kube::Client::try_default().await.map_err(|error| {
        Fault::precondition(format!(
            "no way to the API server: {error}; run this in a pod with a service account"
        ))
    })?;
    process::until_signal(|stopped| async move {
        let controller = tokio::select! {
            () = until(stopped.clone()) => return Ok(()),
            opened = Controller::open(&args, limits, &client) => opened?,
        };
        controller.serve(&args, client, stopped).await
    })
    .await
}

/// A controller that is put together and does not serve yet.
pub struct Controller {
    authority: Arc<Authority>,
    credentials: Credentials,
    fleet: Fleet,
    roll: Roll,
    seen: Lines,
    cuts: Cuts,
    ruled: Arc<RuledCuts>,
    volumes: Arc<Volumes>,
    pool_events: PoolEvents,
    pools: PoolBook,
    installation: Installation,
}

impl Controller {
    /// Steps 1 and 2 of the flow. Waits for an API server that does not answer.
    pub async fn open(args: &ControllerArgs, limits: Limits, client: &kube::Client) -> Result<Self, Fault> {
        let installation = patiently(|| Installation::read(client, &args.namespace)).await?;
        let keeper = ClusterSecret::new(client.clone(), &installation);
        let authority = Arc::new(patiently(|| load_or_make(&keeper)).await?);
        let credentials = authority.controller(args.lifetime())?;
        let lines = |name| Arc::new(ClusterLines::new(client.clone(), &installation, name));
        let pools = PoolBook::new(lines(POOLS));
        let remembered = patiently(|| pools.read()).await?;
        let known = KnownPools::stored(remembered, Arc::new(pools.clone()));
        let fleet = Fleet::discovered(credentials.clone()).remembering(known);
        let book = lines(HOSTS);
        let roll = Roll::new(book, fleet.clone());
        let nothing = Lines::new();
        let seen = patiently(|| roll.follow(&nothing)).await?;
        let cuts = Cuts::new(fleet.clone(), limits).with_barrier(args.barrier());
        let volumes = Volumes::new(Arc::new(fleet.clone()), Arc::new(cuts.clone()), Policy::default());
        let volumes = Arc::new(volumes.with_consumers(Arc::new(ClusterConsumers::new(client.clone()))));
        let holder = holder(&args.pod)?;
        let ruled = Arc::new(RuledCuts::new(client.clone(), &holder, cuts.clone(), Arc::clone(&volumes)));
        let pool_events = PoolEvents::new(client.clone(), &holder, Arc::new(fleet.clone()));
        Ok(Self {
            authority,
            credentials,
            fleet,
            roll,
            seen,
            cuts,
            ruled,
            volumes,
            pool_events,
            pools,
            installation,
        })
    }

    /// Steps 3 to 5. A part that ends by itself is an error.
    pub async fn serve(
        self,
        args: &ControllerArgs,
        client: kube::Client,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), Fault> {
        let csi_listener = bind(&args.csi_socket)?;
        let enrolments = listen(args.enrol_listen).await?;
        let probes = listen(args.health_listen).await?;
        let scrapes = metrics::serve::listen(args.metrics_listen).await?;
        let trust = TrustMap::new(client.clone(), &self.installation);
        let (ca, own) = (self.authority.certificate().to_owned(), args.enrol_address());
        let account = AgentAccount { namespace: args.namespace.clone(), name: args.agent_account.clone() };
        let tokens = Arc::new(ClusterTokens::new(client.clone()));
        let grace = Duration::from_secs(args.orphan_grace_seconds);
        let annotator = Annotator::new(client.clone(), Arc::clone(&self.ruled) as _);
        let orphans = Orphans::new(client, Arc::clone(&self.ruled) as _, &args.pod, grace, &args.namespace);
        let enrolment =
            Enrolment::new(tokens, account, Arc::clone(&self.authority), args.lifetime(), self.roll.clone());
        let (renewed, credentials) = watch::channel(Some(self.credentials));
        let (ready, readiness) = watch::channel(Readiness::NotReady);
        tracing::info!(csi = %args.csi_socket.display(), enrol = %own, hosts = self.fleet.hosts().len(), "serving");

        let mut parts = JoinSet::new();
        let (volumes, cuts, stop) = (self.volumes, Arc::clone(&self.ruled) as _, until(stopped.clone()));
        let blocks = Arc::new(self.fleet.clone());
        parts.spawn(async move {
            let served = csi::serve_controller(csi_listener, volumes, cuts, blocks, stop).await;
            served.map_err(|error| ended("CSI", &error))
        });
        let stop = until(stopped.clone());
        parts.spawn(serve_enrolments(enrolments, credentials, enrolment, stop));
        let stop = until(stopped.clone());
        parts.spawn(async move {
            health::serve(probes, readiness, stop).await.map_err(|error| ended("health", &error))
        });
        let served = metrics::serve::serve(
            scrapes,
            metrics::of_controller(Arc::clone(self.fleet.transfers())),
            until(stopped.clone()),
        );
        parts.spawn(async move {
            served.await;
            Ok(())
        });
        parts.spawn(sweep(self.fleet.clone(), self.cuts, stopped.clone()));
        parts.spawn(settle_runs(self.ruled, stopped.clone()));
        parts.spawn(while_running(stopped.clone(), async move { annotator.run().await }));
        parts.spawn(while_running(stopped.clone(), async move { orphans.run().await }));
        let (roll, seen) = (self.roll, self.seen);
        parts.spawn(while_running(stopped.clone(), async move { roll.keep_following(seen).await }));
        let (pools, known) = (self.pools, self.fleet.known_pools().clone());
        parts.spawn(while_running(stopped.clone(), async move { pools.keep_following(&known).await }));
        let (authority, lifetime, fleet) = (self.authority, args.lifetime(), self.fleet);
        parts.spawn(while_running(stopped.clone(), async move {
            renew(&authority, lifetime, &fleet, &renewed).await;
        }));
        parts.spawn(while_running(stopped.clone(), self.pool_events.keep_telling()));
        parts.spawn(while_running(stopped.clone(), async move { publish(&trust, &ca, &own, &ready).await }));
        let outcome = together(parts, stopped).await;
        // A socket that is left behind is replaced at the next start.
        let _ = std::fs::remove_file(&args.csi_socket);
        outcome
    }
}

/// The name of this process among all that ever run rules: a container that is started again is another one.
fn holder(pod: &str) -> Result<String, Fault> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| Fault::internal(format!("no random numbers: {error}")))?;
    Ok(format!("{pod}-{:08x}", u32::from_be_bytes(random)))
}

/// Pays what runs of controllers that are gone still owe, now and then; at the end stops and undoes the own ones.
async fn settle_runs(ruled: Arc<RuledCuts>, stopped: watch::Receiver<bool>) -> Result<(), Fault> {
    let paying = async {
        loop {
            if let Err(fault) = ruled.recover().await {
                tracing::warn!(%fault, "cannot look for runs that other controllers have left");
            }
            tokio::time::sleep(SETTLE_EVERY).await;
        }
    };
    let collecting = async {
        loop {
            tokio::time::sleep(COLLECT_EVERY).await;
            ruled.collect().await;
        }
    };
    let removing = async {
        loop {
            ruled.remove_restored().await;
            tokio::time::sleep(REMOVE_EVERY).await;
        }
    };
    tokio::select! {
        () = until(stopped) => {}
        () = async { tokio::join!(paying, collecting, removing); } => {}
    }
    handed_over(ruled.shutdown(STOPPED, UNDO_GRACE).await);
    Ok(())
}

/// Serves enrolments over TLS, with the newest certificate.
pub async fn serve_enrolments(
    listener: TcpListener,
    credentials: acceptor::Renewed,
    enrolment: Enrolment,
    stop: impl Future<Output = ()>,
) -> Result<(), Fault> {
    let incoming = acceptor::incoming(listener, credentials, Callers::Anybody);
    Server::builder()
        .timeout(ENROLMENT_LIMIT)
        .layer(Observe)
        .add_service(EnrolmentServer::new(enrolment))
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .map_err(|error| ended("enrolment", &error))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        Fault::precondition(format!("cannot listen on {address}: {error}; choose another port"))
    })
}

/// Work without an end of its own ends with the process.
async fn while_running(stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) -> Result<(), Fault> {
    tokio::select! {
        () = until(stopped) => {}
        () = work => {}
    }
    Ok(())
}

/// Tries again while the API server does not answer; anything else is final.
async fn patiently<T, F>(deed: impl Fn() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    loop {
        match deed().await {
            Err(fault) if matches!(fault.code, Code::Unavailable | Code::Aborted) => {
                tracing::warn!(%fault, "waiting for the API server");
                tokio::time::sleep(START_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Gives the servers and the fleet a new certificate after half of the old one's life.
async fn renew(
    authority: &Authority,
    lifetime: Duration,
    fleet: &Fleet,
    renewed: &watch::Sender<Option<Credentials>>,
) {
    loop {
        tokio::time::sleep(lifetime / 2).await;
        let fresh = authority.controller(lifetime).map_err(Fault::from);
        let taken = fresh.and_then(|fresh| {
            fleet.renew(fresh.clone()).map_err(|error| Fault::internal(error.to_string()))?;
            renewed.send_replace(Some(fresh));
            Ok(())
        });
        match taken {
            Ok(()) => tracing::info!("has a new certificate"),
            Err(fault) => tracing::error!(%fault, "cannot renew the own certificate"),
        }
    }
}

/// Makes sure that agents find this controller; it is ready once they do.
async fn publish(trust: &TrustMap, ca: &str, own: &str, ready: &watch::Sender<Readiness>) {
    loop {
        match trust.publish(ca, own).await {
            Ok(()) => {
                ready.send_replace(Readiness::Ready);
                tokio::time::sleep(PUBLISH_EVERY).await;
            }
            Err(fault) => {
                tracing::warn!(%fault, "agents cannot find this controller yet");
                tokio::time::sleep(START_PAUSE).await;
            }
        }
    }
}
