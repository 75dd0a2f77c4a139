//! The agent's process: what it is made of, what it does before it serves, and how it ends.
//!
//! # Flow
//! 1. Read the certificates, open the pools (each is swept), put `rcu_expedited` back if a dead agent left it on.
//! 2. Thaw every filesystem of an own volume that is frozen, and lift the write limits on own raw devices: nobody is
//!    there any more who would. A volume that resists gets a condition and is tried again every 30 s: the agent starts
//!    for the others.
//! 3. Bind both sockets, then serve the agent API and the CSI node service, and empty the trash in the background.
//! 4. At the end (SIGTERM, SIGINT) take no new calls and give those under way [`GOODBYE_LIMIT`]. Volumes stay mounted:
//!    their users go on, and the next agent finds them in the mount table. A round that does not end by itself is
//!    ended by the guard when this process is gone.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stillpoint_guard::expedite::Expedite;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use super::config::{AgentConfig, Expediting, Kernel};
use super::health::{self, Watch};
use super::local::LocalHost;
use super::locks::VolumeLocks;
use super::orphans::{self, Suspects};
use super::pool::{Access, Pool};
use super::pools::{OpenError, Pools};
use super::recovery::Recovered;
use super::round::RoundContext;
use super::round::crew::Threads;
use super::round::watchdog::{GuardProcess, NothingOutlivesUs, Watchdog};
use super::service::Service;
use super::transfer::{self, Transfers};
use super::volumes::NodeVolumes;
use crate::backend::BackendKind;
use crate::csi;
use crate::csi::socket::{self, SocketError};
use crate::domain::round::LONGEST_HOLD;
use crate::domain::{Bytes, Fault, HostName};
use crate::host::Host;
use crate::host::fake::FakeHost;
use crate::host::linux::{LinuxHost, memory};
use crate::identity::acceptor::{self, Renewed};
use crate::identity::tls::{Callers, Credentials, TlsError, only_the_controller};
use crate::observe::holds;
use crate::observe::metrics;
use crate::observe::rpc::Observe;
use crate::proto::agent::agent_server::AgentServer;
use crate::proto::agent::blocks_server::BlocksServer;
use crate::proto::agent::moves_server::MovesServer;
use crate::proto::agent::peer_server::PeerServer;

/// How long calls under way may take after the agent was told to end; longer than any hold by default.
pub const GOODBYE_LIMIT: Duration = Duration::from_secs(5);
/// How often deleted volumes and snapshots are looked after, and how many are removed at a time.
const TRASH_EVERY: Duration = Duration::from_secs(1);
const TRASH_AT_ONCE: usize = 16;
/// How often it is looked whether a pool needs compacting.
const COMPACT_EVERY: Duration = Duration::from_secs(5);
/// How often conditions and orphans are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked whether a hold has ended.
const HELD_POLL: Duration = Duration::from_millis(50);
/// Size that a pool in memory pretends to have.
const MEMORY_POOL: Bytes = Bytes::gib(64);
/// A cut record with a thousand members fits.
const REQUEST_LIMIT_BYTES: usize = 16 << 20;
/// Who does not answer a ping is gone, and with it what it held.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(2);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificates.
    #[error(
        "tls is missing in the configuration; give ca, cert and key as `stillpoint pki agent` makes them"
    )]
    NoCertificate,
    /// Its pools.
    #[error(transparent)]
    Pools(#[from] OpenError),
    /// A directory of its own.
    #[error("{field} {} cannot be made: {source}", path.display())]
    Directory {
        /// Field of the configuration.
        field: &'static str,
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its address.
    #[error("cannot listen on {address}: {source}; is another agent running?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its CSI socket.
    #[error("csiSocket: {0}")]
    Socket(#[from] SocketError),
    /// A server that ended by itself.
    #[error("the {what} server ended: {why}")]
    Server {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Signals cannot be received.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        let message = error.to_string();
        match error {
            RunError::Pools(OpenError::Pool { source, .. }) => Self::new(source.code(), message),
            RunError::Server { .. } | RunError::Signals(_) => Self::internal(message),
            RunError::Tls(_)
            | RunError::NoCertificate
            | RunError::Pools(OpenError::Twice { .. } | OpenError::InUse { .. })
            | RunError::Directory { .. }
            | RunError::Listen { .. }
            | RunError::Socket(_) => Self::precondition(message),
        }
    }
}

/// Where an agent is talked to.
pub struct Listeners {
    /// The agent API.
    pub api: TcpListener,
    /// The CSI node service.
    pub csi: Option<UnixListener>,
    /// Metrics.
    pub metrics: Option<TcpListener>,
}

/// An agent that is put together and has not begun to serve.
pub struct Agent {
    host: HostName,
    pools: Pools,
    local: Arc<LocalHost>,
    node: Arc<NodeVolumes>,
    rounds: Arc<RoundContext>,
}

/// `stillpoint agent --config FILE`: runs until SIGTERM or SIGINT.
pub async fn run(path: &Path) -> Result<(), Fault> {
    let config =
        AgentConfig::load(path).map_err(|why| Fault::invalid(format!("{}: {why}", path.display())))?;
    let stop = stop_signal().map_err(RunError::Signals)?;
    Ok(serve(config, stop).await?)
}

/// As [`run`], until `stop` is done.
pub async fn serve(config: AgentConfig, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let files = config.tls.as_ref().ok_or(RunError::NoCertificate)?;
    let credentials = Credentials::of_agent(files, &config.host)?;
    serve_with(config, acceptor::fixed(credentials), |_| {}, stop).await
}

/// As [`serve`], with certificates that are renewed. `serving` is told once the sockets are bound, which is before
/// there is a first certificate: the CSI node service needs none.
pub async fn serve_with(
    config: AgentConfig,
    credentials: Renewed,
    serving: impl FnOnce(&HostName),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    memory::keep_few_arenas();
    let opened = config.clone();
    let agent = tokio::task::spawn_blocking(move || Agent::open(&opened, kernel(&opened)?))
        .await
        .unwrap_or_else(|why| Err(RunError::Server { what: "start-up", why: why.to_string() }))?;
    let api = TcpListener::bind(config.listen)
        .await
        .map_err(|source| RunError::Listen { address: config.listen, source })?;
    let csi = config.csi_socket.as_deref().map(socket::bind).transpose()?;
    let metrics = match config.metrics_listen {
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.map_err(|source| RunError::Listen { address, source })?)
        }
        None => None,
    };
    serving(&config.host);
    agent.serve(Listeners { api, csi, metrics }, credentials, stop).await
}

/// The kernel that the configuration names; the one in memory comes with its pools.
fn kernel(config: &AgentConfig) -> Result<Arc<dyn Host>, RunError> {
    match config.kernel {
        Kernel::Linux => Ok(Arc::new(LinuxHost)),
        Kernel::Memory => {
            let host = FakeHost::new();
            for dir in &config.pools {
                host.add_disk(BackendKind::Memory.as_str(), MEMORY_POOL, dir);
                let made = Pool::make(&host, BackendKind::Memory, dir);
                made.map_err(|source| OpenError::Pool { dir: dir.clone(), source: Box::new(source) })?;
            }
            Ok(Arc::new(host))
        }
    }
}

fn private_directory(field: &'static str, path: &Path) -> Result<(), RunError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| RunError::Directory { field, path: path.into(), source })
}

impl Agent {
    /// Steps 1 and 2 of the flow. Blocks.
    pub fn open(config: &AgentConfig, host: Arc<dyn Host>) -> Result<Self, RunError> {
        private_directory("stateDir", &config.state_dir)?;
        let pools = Pools::open(&host, &config.pools, &config.overcommit);
        let locks = VolumeLocks::default();
        let catalogue = Arc::new(pools.clone());
        let node = Arc::new(NodeVolumes::new(Arc::clone(&host), catalogue, locks.clone()));
        let name = config.host.clone();
        let local =
            LocalHost::new(name.clone(), Arc::clone(&host), pools.clone(), locks.clone(), Arc::clone(&node));
        tell_recovered(&local.recover());
        let rounds = RoundContext {
            pools: pools.clone(),
            locks,
            watchdog: watchdog(config.guard_socket.as_deref()),
            expedite: expedite(config, &*host),
            never_hold: never_hold(&*host, &config.state_dir),
            crew: Arc::new(Threads),
            host,
        };
        Ok(Self { host: name, pools, local: Arc::new(local), node, rounds: Arc::new(rounds) })
    }

    /// Step 3 of the flow, until `stop` is done, and step 4.
    pub async fn serve(
        self,
        listeners: Listeners,
        credentials: Renewed,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let (stopping, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        let transfers = Arc::new(self.transfers(credentials.clone()));
        let api = self.api(listeners.api, credentials, Arc::clone(&transfers), ended(stopped.clone()));
        tasks.spawn(async move { api.await.map_err(|why| server("agent API", &why)) });
        if let Some(listener) = listeners.csi {
            let csi = csi::serve_node(listener, self.host.clone(), self.node, ended(stopped.clone()));
            tasks.spawn(async move { csi.await.map_err(|why| server("CSI node", &why)) });
        }
        if let Some(listener) = listeners.metrics {
            let exposition = metrics::of_agent(self.pools.clone(), Arc::clone(&transfers.counters));
            let served = metrics::serve::serve(listener, exposition, ended(stopped.clone()));
            tasks.spawn(async move {
                served.await;
                Ok(())
            });
        }
        tasks.spawn(transfer::service::end_idle_grants(transfers, ended(stopped.clone())));
        tasks.spawn(empty_trash(self.pools.clone(), ended(stopped.clone())));
        tasks.spawn(compact(self.pools.clone(), ended(stopped.clone())));
        tasks.spawn(look_around(self.local, ended(stopped)));
        tracing::info!(host = %self.host, "agent serves");
        tokio::select! {
            () = stop => {}
            ended = tasks.join_next() => return premature(ended),
        }
        tracing::info!("agent ends; volumes stay mounted");
        drop(stopping);
        let goodbye = async {
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(|why| server("agent", &why))??;
            }
            Ok(())
        };
        tokio::time::timeout(GOODBYE_LIMIT, goodbye).await.unwrap_or_else(|_| {
            tracing::warn!(
                "calls under way did not end within {GOODBYE_LIMIT:?}; the guard thaws what they hold"
            );
            Ok(())
        })
    }

    fn transfers(&self, credentials: Renewed) -> Transfers {
        let (host, locks) = (Arc::clone(&self.rounds.host), self.rounds.locks.clone());
        Transfers::new(Arc::clone(&self.local), host, self.pools.clone(), locks, credentials)
    }

    fn api(
        &self,
        listener: TcpListener,
        credentials: Renewed,
        transfers: Arc<Transfers>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static {
        let service = Service::new(Arc::clone(&self.local), Arc::clone(&self.rounds));
        let service = Arc::new(service);
        let agent =
            AgentServer::from_arc(Arc::clone(&service)).max_decoding_message_size(REQUEST_LIMIT_BYTES);
        let moves = MovesServer::from_arc(service);
        let (blocks, peer) =
            (BlocksServer::from_arc(Arc::clone(&transfers)), PeerServer::from_arc(transfers));
        let server = with_limits(Server::builder())
            .layer(Observe)
            .add_service(InterceptedService::new(agent, only_the_controller))
            .add_service(InterceptedService::new(blocks, only_the_controller))
            .add_service(InterceptedService::new(moves, only_the_controller))
            // Finds out by itself whether the caller is the agent that a grant names.
            .add_service(peer);
        let incoming = acceptor::incoming(listener, credentials, Callers::WithCertificate);
        server.serve_with_incoming_shutdown(incoming, stop)
    }
}

/// How patient an agent is with a connection.
pub fn with_limits(server: Server) -> Server {
    server.http2_keepalive_interval(Some(PING_EVERY)).http2_keepalive_timeout(Some(PING_LIMIT))
}

/// No task ends before it is told to.
fn premature(ended: Option<Result<Result<(), RunError>, tokio::task::JoinError>>) -> Result<(), RunError> {
    match ended {
        Some(Ok(Err(why))) => Err(why),
        Some(Err(why)) => Err(server("agent", &why)),
        Some(Ok(Ok(()))) | None => Err(server("agent", &"it stopped without being told to")),
    }
}

fn server(what: &'static str, why: &dyn std::fmt::Display) -> RunError {
    RunError::Server { what, why: why.to_string() }
}

/// Done when the sender is gone.
async fn ended(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

/// Removes what was deleted, a little at a time; the pools pause it during rounds.
async fn empty_trash(pools: Pools, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(TRASH_EVERY) => {}
        }
        for pool in pools.iter().filter(|pool| pool.trash_len() > 0) {
            let emptied = Arc::clone(&pool);
            let outcome = tokio::task::spawn_blocking(move || emptied.empty_trash(TRASH_AT_ONCE)).await;
            match outcome {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(pool = %pool.id(), %error, "the trash could not be emptied"),
                Err(why) => return Err(server("trash", &why)),
            }
        }
    }
}

/// Gives space back to pools that data has once had, a little at a time; the pools do not do it during rounds.
async fn compact(pools: Pools, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    tokio::pin!(stop);
    let mut pause = COMPACT_EVERY;
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = COMPACT_EVERY;
        for pool in pools.iter().filter(|pool| pool.access() == Access::Writable) {
            let compacted = Arc::clone(&pool);
            match tokio::task::spawn_blocking(move || compacted.compact()).await {
                Ok(Ok(true)) => pause = TRASH_EVERY,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(pool = %pool.id(), %error, "the pool could not be compacted");
                }
                Err(why) => return Err(server("compaction", &why)),
            }
        }
    }
}

/// Tells what is wrong, and collects what nobody will ever come back for.
async fn look_around(local: Arc<LocalHost>, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    tokio::pin!(stop);
    let (mut watch, mut suspects) = (Watch::default(), Suspects::default());
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        until_nothing_is_held().await;
        let local = Arc::clone(&local);
        let look = move || {
            tell_recovered(&local.open_closed_pools());
            tell_recovered(&local.recover_again());
            health::report(&local, &mut watch);
            if let Err(fault) = local.collect_orphans(&mut suspects, Instant::now(), orphans::GRACE) {
                tracing::warn!(%fault, "orphans could not be collected");
            }
            (watch, suspects)
        };
        (watch, suspects) =
            tokio::task::spawn_blocking(look).await.map_err(|why| server("look-out", &why))?;
    }
}

fn tell_recovered(recovered: &Recovered) {
    for volume in &recovered.thawed {
        tracing::warn!(%volume, "an earlier agent had left it frozen; thawed it");
    }
    if recovered.lifted > 0 {
        tracing::warn!(
            lifted = recovered.lifted,
            "an earlier agent had left raw devices throttled; lifted the limits"
        );
    }
    for (volume, fault) in &recovered.failed {
        tracing::error!(%volume, %fault, "an earlier agent may have left it quiesced, and it could not be resumed");
    }
}

/// Looking around reads the pools, which would disturb a cut. Does not wait longer than a hold may last.
async fn until_nothing_is_held() {
    let end = Instant::now() + LONGEST_HOLD;
    while holds::process().count() > 0 && Instant::now() < end {
        tokio::time::sleep(HELD_POLL).await;
    }
}

fn watchdog(socket: Option<&Path>) -> Arc<dyn Watchdog> {
    match socket {
        Some(socket) => Arc::new(GuardProcess { socket: socket.into() }),
        None => Arc::new(NothingOutlivesUs),
    }
}

fn expedite(config: &AgentConfig, host: &dyn Host) -> Option<Expedite> {
    match (config.kernel, config.expedite) {
        (Kernel::Memory, _) | (Kernel::Linux, Expediting::Never) => return None,
        (Kernel::Linux, Expediting::Auto) => {}
    }
    let expedite = Expedite::of_this_kernel();
    if let Err(error) = expedite.put_back_if_unused() {
        tracing::warn!(%error, "rcu_expedited could not be put back; see /sys/kernel/rcu_expedited");
    }
    if host.is_latency_sensitive() {
        tracing::info!(
            "real-time kernel or isolated CPUs: grace periods are not expedited, holds take 30 ms longer"
        );
        return None;
    }
    Some(expedite)
}

/// Filesystems without which this process cannot let go of others.
fn never_hold(host: &dyn Host, state_dir: &Path) -> Vec<u64> {
    let device = |path: &Path| host.stat(path).ok().flatten().map(|meta| meta.device);
    [Path::new("/"), state_dir].into_iter().filter_map(device).collect()
}

/// Signals are taken from here on; the future ends at the first.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests;
