//! `stillpoint node-agent`: an agent in a pod. As `stillpoint agent`, but its certificates come by enrolment, it makes
//! its pool where there is none, and it introduces itself to the kubelet.
//!
//! # Flow
//! 1. Mount the pool that is there. Where there is none, a controller is asked which pools this node had: a new one is
//!    made only if it had none. A state directory or a disk that is not mounted must not look like a new node.
//!    One that is there and cannot be used is tried again while the agent runs without it: pods can still end.
//! 2. Start the agent; pods of this node can use their volumes from here on, whether or not there is a controller.
//! 3. Register with the kubelet; enrol with a controller and stay enrolled.
//! 4. At the end (SIGTERM) the kubelet is told first; volumes stay mounted.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::health::{self, Readiness};
use super::pools::POOLS;
use super::registration::{KubeletPaths, stay_registered};
use super::renewal::Renewal;
use crate::agent::config::{AgentConfig, Expediting, Kernel};
use crate::agent::creation::{CarrierChoice, Existing, PoolOrder, create_pool, would_make};
use crate::agent::pool::Overcommit;
use crate::agent::run::{self, RunError};
use crate::backend::BackendKind;
use crate::controller::process::{self, until};
use crate::domain::{Bytes, Fault, HostName, PoolId};
use crate::identity::tls::Credentials;

/// Between two questions to a controller that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Between two tries to mount a pool that is there and cannot be used.
const BRING_UP_AGAIN: Duration = Duration::from_secs(30);

/// What `stillpoint node-agent` is told. Every option can be given by its environment variable, so by a ConfigMap.
#[derive(Debug, Clone, Args)]
pub struct NodeAgentArgs {
    /// Name of this node.
    #[arg(long, value_name = "NODE", env = "STILLPOINT_NODE", hide_env_values = true)]
    pub node: HostName,
    /// Address of this pod, at which the controller reaches the agent.
    #[arg(long, value_name = "IP", env = "STILLPOINT_POD_IP", hide_env_values = true)]
    pub pod_ip: IpAddr,
    /// Where the agent API listens.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STILLPOINT_LISTEN",
        default_value = "0.0.0.0:9700",
        hide_env_values = true
    )]
    pub listen: SocketAddr,
    /// Where probes are answered.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STILLPOINT_HEALTH_LISTEN",
        default_value = "0.0.0.0:9701",
        hide_env_values = true
    )]
    pub health_listen: SocketAddr,
    /// Where metrics are served (Prometheus, /metrics).
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STILLPOINT_METRICS_LISTEN",
        default_value = "0.0.0.0:9704",
        hide_env_values = true
    )]
    pub metrics_listen: SocketAddr,
    /// Directory at which the pool is mounted.
    #[arg(
        long,
        value_name = "DIR",
        env = "STILLPOINT_POOL",
        default_value = "/var/lib/stillpoint/pool",
        hide_env_values = true
    )]
    pub pool: PathBuf,
    /// Block device that holds the pool: for production. Empty: a file.
    #[arg(
        long,
        value_name = "DEV",
        env = "STILLPOINT_POOL_DEVICE",
        default_value = "",
        hide_env_values = true
    )]
    pub pool_device: String,
    /// Sparse file that holds the pool where no device is given.
    #[arg(
        long,
        value_name = "PATH",
        env = "STILLPOINT_POOL_FILE",
        default_value = "/var/lib/stillpoint/pool.img",
        hide_env_values = true
    )]
    pub pool_file: PathBuf,
    /// Size of a new file.
    #[arg(
        long,
        value_name = "SIZE",
        env = "STILLPOINT_POOL_SIZE",
        default_value = "20GiB",
        hide_env_values = true
    )]
    pub pool_size: Bytes,
    /// Filesystem of a new pool: btrfs or xfs.
    #[arg(long, env = "STILLPOINT_POOL_BACKEND", default_value = "btrfs", hide_env_values = true)]
    pub pool_backend: BackendKind,
    /// How many times its size the pool may promise to its volumes: more than 1 trusts that not all of them are filled.
    #[arg(
        long,
        value_name = "FACTOR",
        env = "STILLPOINT_POOL_OVERCOMMIT",
        default_value = "1",
        hide_env_values = true
    )]
    pub pool_overcommit: Overcommit,
    /// The agent's own directory; not on the pool.
    #[arg(
        long,
        value_name = "DIR",
        env = "STILLPOINT_STATE_DIR",
        default_value = "/var/lib/stillpoint/state",
        hide_env_values = true
    )]
    pub state_dir: PathBuf,
    /// Socket of the guard.
    #[arg(
        long,
        value_name = "PATH",
        env = "STILLPOINT_GUARD_SOCKET",
        default_value = "/run/stillpoint/guard.sock",
        hide_env_values = true
    )]
    pub guard_socket: PathBuf,
    /// Directory of the kubelet, the same on the node and in this pod.
    #[arg(
        long,
        value_name = "DIR",
        env = "STILLPOINT_KUBELET_DIR",
        default_value = "/var/lib/kubelet",
        hide_env_values = true
    )]
    pub kubelet_dir: PathBuf,
    /// Directory with the authority's certificate and the addresses of controllers.
    #[arg(
        long,
        value_name = "DIR",
        env = "STILLPOINT_TRUST",
        default_value = "/etc/stillpoint/trust",
        hide_env_values = true
    )]
    pub trust: PathBuf,
    /// The pod's token for audience "stillpoint".
    #[arg(
        long,
        value_name = "PATH",
        env = "STILLPOINT_TOKEN",
        default_value = "/var/run/secrets/stillpoint/token",
        hide_env_values = true
    )]
    pub token: PathBuf,
}

impl NodeAgentArgs {
    fn kubelet(&self) -> KubeletPaths {
        KubeletPaths::under(&self.kubelet_dir)
    }

    fn order(&self) -> PoolOrder {
        let carrier = if self.pool_device.is_empty() {
            CarrierChoice::File { path: self.pool_file.clone(), size: Some(self.pool_size) }
        } else {
            CarrierChoice::Device(self.pool_device.clone().into())
        };
        PoolOrder { dir: self.pool.clone(), carrier, backend: self.pool_backend, existing: Existing::Keep }
    }

    fn config(&self) -> Result<AgentConfig, Fault> {
        let config = AgentConfig {
            host: self.node.clone(),
            listen: self.listen,
            tls: None,
            pools: vec![self.pool.clone()],
            overcommit: [(self.pool.clone(), self.pool_overcommit)].into(),
            state_dir: self.state_dir.clone(),
            csi_socket: Some(self.kubelet().csi),
            guard_socket: Some(self.guard_socket.clone()),
            expedite: Expediting::Auto,
            metrics_listen: Some(self.metrics_listen),
            kernel: Kernel::Linux,
        };
        config.check().map_err(|error| Fault::invalid(error.to_string()))?;
        Ok(config)
    }

    fn renewal(&self) -> Renewal {
        Renewal {
            host: self.node.clone(),
            address: SocketAddr::new(self.pod_ip, self.listen.port()),
            trust: self.trust.clone(),
            token: self.token.clone(),
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: NodeAgentArgs) -> Result<(), Fault> {
    let config = args.config()?;
    process::until_signal(|stopped| async move {
        let (order, renewal) = (args.order(), args.renewal());
        let allowed = tokio::select! {
            allowed = may_make(&order, &renewal) => allowed,
            () = until(stopped.clone()) => return Ok(()),
        };
        let ready = match allowed {
            Ok(()) => match bring_up(&order).await {
                // There is nothing yet that anybody could use.
                Err(fault) if is_new(&order).await? => return Err(fault),
                ready => ready,
            },
            Err(missing) => Err(missing),
        };
        let Err(fault) = ready else { return serve(&args, config, stopped).await };
        tracing::error!(%fault, "the pool of this node cannot be used: its volumes can only be unmounted");
        tokio::select! {
            ended = serve(&args, config, stopped) => ended,
            () = keep_bringing_up(&order, &renewal) => Ok(()),
        }
    })
    .await
}

async fn is_new(order: &PoolOrder) -> Result<bool, Fault> {
    let order = order.clone();
    on_own_thread(move || would_make(&order)).await
}

async fn bring_up(order: &PoolOrder) -> Result<(), Fault> {
    let order = order.clone();
    tracing::info!("{}", on_own_thread(move || create_pool(&order)).await?);
    Ok(())
}

/// Tries again until the pool is mounted, which the agent then finds; never ends.
async fn keep_bringing_up(order: &PoolOrder, renewal: &Renewal) {
    loop {
        tokio::time::sleep(BRING_UP_AGAIN).await;
        let ready = match may_make(order, renewal).await {
            Ok(()) => bring_up(order).await,
            Err(missing) => Err(missing),
        };
        match ready {
            Ok(()) => return std::future::pending().await,
            Err(fault) => tracing::warn!(%fault, "the pool of this node still cannot be used"),
        }
    }
}

/// Makes sure that no new pool is made where this node had one. Waits for a controller where there is no pool: only it
/// knows.
pub async fn may_make(order: &PoolOrder, renewal: &Renewal) -> Result<(), Fault> {
    if !is_new(order).await? {
        return Ok(());
    }
    loop {
        let fault = match renewal.known_pools().await {
            Ok(known) if known.is_empty() => return Ok(()),
            Ok(known) => return Err(pool_is_missing(order, &renewal.host, &known)),
            Err(fault) => fault,
        };
        tracing::warn!(%fault, again_in = ?ASK_AGAIN, "waits for a controller to say whether this node had a pool");
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn pool_is_missing(order: &PoolOrder, node: &HostName, known: &[PoolId]) -> Fault {
    let pools = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let carrier = match &order.carrier {
        CarrierChoice::File { path, .. } => path,
        CarrierChoice::Device(device) => device,
    };
    Fault::precondition(format!(
        "no new pool is made: node {node} had pool {pools}, and neither {} nor {} has it; attach its disk or mount the \
         directory again, or, if the pool is lost for good, dismiss it in ConfigMap {POOLS} \
         (kubectl patch configmap {POOLS} --type merge -p '{{\"data\":{{\"<pool>\":\"dismissed\"}}}}')",
        order.dir.display(),
        carrier.display()
    ))
}

/// Blocking work.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::internal(format!("looking after the pool broke off: {error}"))))
}

/// Steps 2 to 4 of the flow, with this configuration.
pub async fn serve(
    args: &NodeAgentArgs,
    config: AgentConfig,
    stopped: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let paths = args.kubelet();
    paths.make_directories()?;
    let probes = TcpListener::bind(args.health_listen)
        .await
        .map_err(|source| Fault::from(RunError::Listen { address: args.health_listen, source }))?;
    let (renewed, credentials) = watch::channel(None);
    let (ready, readiness) = watch::channel(Readiness::NotReady);
    let mut tasks = JoinSet::new();
    let stop = until(stopped.clone());
    tasks.spawn(async move {
        health::serve(probes, readiness, stop).await.map_err(|error| process::ended("health", &error))
    });
    let renewal = args.renewal();
    let enrolled = credentials.clone();
    tasks.spawn(async move {
        renewal.keep_fresh(renewed).await;
        Err(Fault::internal("nobody looks after the certificates any more"))
    });
    tasks.spawn(tell_ready(enrolled, ready, until(stopped.clone())));
    let (bound, is_bound) = tokio::sync::oneshot::channel();
    let stop = until(stopped.clone());
    tasks.spawn(async move {
        match is_bound.await {
            Ok(()) => stay_registered(paths, stop).await,
            // The agent did not start and says why.
            Err(_) => Ok(()),
        }
    });
    // Nobody waits for it where registering has failed, which ends the process.
    let serving = run::serve_with(
        config,
        credentials,
        move |_| {
            let _ = bound.send(());
        },
        until(stopped.clone()),
    );
    tokio::pin!(serving);
    let outcome = tokio::select! {
        ended = &mut serving => return Ok(ended?),
        died = first_death(&mut tasks, &stopped) => died,
    };
    match outcome {
        // Told to stop: the agent takes its time.
        Ok(()) => Ok(serving.await?),
        Err(fault) => Err(fault),
    }
}

/// Ready once there is a certificate: before that the controller cannot reach this agent.
async fn tell_ready(
    mut credentials: watch::Receiver<Option<Credentials>>,
    ready: watch::Sender<Readiness>,
    stop: impl Future<Output = ()>,
) -> Result<(), Fault> {
    tokio::pin!(stop);
    tokio::select! {
        // An error means that nobody renews any more, which ends the process anyway.
        _ = credentials.wait_for(Option::is_some) => { ready.send_replace(Readiness::Ready); }
        () = &mut stop => return Ok(()),
    }
    stop.await;
    ready.send_replace(Readiness::NotReady);
    Ok(())
}

/// No task ends before the process is told to stop.
async fn first_death(
    tasks: &mut JoinSet<Result<(), Fault>>,
    stopped: &watch::Receiver<bool>,
) -> Result<(), Fault> {
    match tasks.join_next().await {
        Some(Ok(ended)) if *stopped.borrow() => ended,
        Some(Ok(ended)) => ended.and_then(|()| Err(Fault::internal("a part of the agent ended by itself"))),
        Some(Err(error)) => Err(Fault::internal(format!("a part of the agent died: {error}"))),
        None => Ok(()),
    }
}
