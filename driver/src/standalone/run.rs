//! `stillpoint standalone`: puts the parts together and serves until it is told to stop.
//!
//! # Flow
//! 1. Read the configuration and the certificates; lock the state directory; read the inventory.
//! 2. Bind both sockets. CSI is served from here on.
//! 3. Pay what runs of a dead controller still owe to applications, then serve the operator's socket.
//! 4. Meanwhile, every [`SWEEP_EVERY`], settle cuts that dead controllers have left.
//! 5. At the end (SIGTERM, SIGINT) runs are stopped and undone, and calls under way get [`GOODBYE_LIMIT`].

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use stillpoint_rules::engine::{Engine, Limits as EngineLimits, Ports};
use stillpoint_rules::standalone::FileJournal;
use stillpoint_rules::standalone::StandalonePods;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::cli::client::MESSAGE_LIMIT;
use crate::controller::cuts::{Barrier, Cuts};
use crate::controller::fleet::Fleet;
use crate::controller::placement::Policy;
use crate::controller::volumes::Volumes;
use crate::csi::{self, socket};
use crate::cutter::FleetCutter;
use crate::domain::{CutKind, Fault};
use crate::identity::tls::Credentials;
use crate::proto::operator::operator_server::OperatorServer;

use super::config::{Config, PodSource};
use super::fleet_storage::FleetStorage;
use super::operator::{Engines, Operator};
use super::selection::VolumeNamesOf;
use super::service::Service;
use super::storage::Storage;

/// How often cuts that dead controllers have left are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// A cut that is younger may still be under way in another controller: longer than any round.
const SWEEP_GRACE: Duration = Duration::from_mins(5);
/// How long calls under way may take after the controller was told to end.
const GOODBYE_LIMIT: Duration = Duration::from_secs(20);

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: &Path) -> Result<(), Fault> {
    let config = Config::read(config).map_err(|error| Fault::invalid(error.to_string()))?;
    let controller = Controller::open(&config)?;
    let (stop, stopped) = watch::channel(false);
    let signals = wait_for_signal()?;
    let serving = controller.serve(&config, stopped);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = signals => {}
    }
    tracing::info!("told to stop: runs are stopped and undone, calls under way are finished");
    stop.send_replace(true);
    if let Ok(ended) = tokio::time::timeout(GOODBYE_LIMIT, serving).await {
        return ended;
    }
    tracing::warn!("not everything ended within {GOODBYE_LIMIT:?}; what runs owe is paid at the next start");
    Ok(())
}

/// A controller that is put together and does not serve yet.
pub struct Controller {
    cuts: Cuts,
    volumes: Arc<Volumes>,
    operator: Arc<Operator>,
    /// Only one process may use a state directory.
    _lock: Flock<File>,
}

impl Controller {
    /// Step 1 of the flow. Connects to nobody.
    pub fn open(config: &Config) -> Result<Self, Fault> {
        let refused = |error: &dyn std::fmt::Display| Fault::precondition(error.to_string());
        let credentials = Credentials::of_controller(&config.tls).map_err(|error| refused(&error))?;
        let fleet = Fleet::new(config.agents.clone(), &credentials).map_err(|error| refused(&error))?;
        let cuts = Cuts::new(fleet.clone(), config.limits);
        let policy = Policy { without_topology: config.without_topology.clone() };
        let volumes = Arc::new(Volumes::new(Arc::new(fleet.clone()), Arc::new(cuts.clone()), policy));
        let lock = lock(&config.state_dir)?;
        let journal = FileJournal::open(config.state_dir.join("runs")).map_err(|error| refused(&error))?;
        let storage: Arc<dyn Storage> =
            Arc::new(FleetStorage { fleet, cuts: cuts.clone(), volumes: Arc::clone(&volumes) });
        let pods = Arc::new(pods(&config.pods, &storage)?);
        let engine = |barrier| {
            let ports = Ports {
                inventory: Arc::clone(&pods) as _,
                exec: Arc::clone(&pods) as _,
                cutter: Arc::new(FleetCutter::new(cuts.clone(), CutKind::Group, barrier)),
                journal: Arc::new(journal.clone()),
            };
            Engine::new(ports, EngineLimits::default())
        };
        let engines = Engines { together: engine(Barrier::Up), one_after_another: engine(Barrier::Down) };
        let operator = Operator::new(storage, Arc::clone(&pods) as _, engines, journal.clone());
        Ok(Self { cuts, volumes, operator: Arc::new(operator), _lock: lock })
    }

    /// Steps 2 to 5. A server that ends by itself is an error.
    pub async fn serve(self, config: &Config, stopped: watch::Receiver<bool>) -> Result<(), Fault> {
        let csi_listener = bind(&config.csi_socket)?;
        let operator_listener = bind(&config.operator_socket)?;
        tracing::info!(
            csi = %config.csi_socket.display(),
            operator = %config.operator_socket.display(),
            agents = config.agents.len(),
            "serving"
        );
        let mut parts = JoinSet::new();
        let (volumes, cuts) = (Arc::clone(&self.volumes), Arc::new(self.cuts.clone()));
        let stop = until(stopped.clone());
        parts.spawn(async move {
            csi::serve_controller(csi_listener, volumes, cuts, stop)
                .await
                .map_err(|error| ended("CSI", &error))
        });
        parts.spawn(serve_operator(operator_listener, Arc::clone(&self.operator), stopped.clone()));
        parts.spawn(sweep(self.cuts.clone(), stopped.clone()));
        let mut outcome = Ok(());
        while let Some(part) = parts.join_next().await {
            let part = part.unwrap_or_else(|error| {
                Err(Fault::internal(format!("a part of the controller died: {error}")))
            });
            if part.is_err() || !*stopped.borrow() {
                // One part without the others would look alive and be half dead.
                outcome =
                    part.and_then(|()| Err(Fault::internal("a part of the controller ended by itself")));
                break;
            }
        }
        for path in [&config.csi_socket, &config.operator_socket] {
            // A socket that is left behind is replaced at the next start.
            let _ = fs::remove_file(path);
        }
        outcome
    }
}

fn pods(source: &PodSource, storage: &Arc<dyn Storage>) -> Result<StandalonePods, Fault> {
    let names = Arc::new(VolumeNamesOf { storage: Arc::clone(storage) });
    match source {
        PodSource::List(pods) => Ok(StandalonePods::fixed(pods.clone(), names)),
        PodSource::File(path) => StandalonePods::from_file(path.clone(), names)
            .map_err(|error| Fault::invalid(format!("cannot use the inventory: {error}"))),
    }
}

fn lock(state_dir: &Path) -> Result<Flock<File>, Fault> {
    let fail = |what: &str, error: std::io::Error| {
        Fault::precondition(format!("cannot {what} stateDir {}: {error}", state_dir.display()))
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(|error| fail("make", error))?;
    let file = File::create(state_dir.join("lock")).map_err(|error| fail("write in", error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        Fault::precondition(format!(
            "stateDir {} is in use ({errno}): another controller runs with it; stop that one, or give this one its own",
            state_dir.display()
        ))
    })
}

fn bind(path: &Path) -> Result<UnixListener, Fault> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|error| {
            Fault::precondition(format!(
                "cannot make the directory {} of a socket: {error}",
                parent.display()
            ))
        })?;
    }
    socket::bind(path).map_err(|error| Fault::precondition(error.to_string()))
}

async fn serve_operator(
    listener: UnixListener,
    operator: Arc<Operator>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Fault> {
    for run in operator.recover().await? {
        tracing::warn!(
            run = run.id,
            verdict = run.verdict(),
            "settled a run that a dead controller had left"
        );
    }
    let service = OperatorServer::new(Service::new(Arc::clone(&operator)))
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let stop = async move {
        until(stopped).await;
        operator.shutdown("the controller was told to stop").await;
    };
    let server = Server::builder().add_service(service);
    server
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(|error| ended("operator", &error))
}

async fn sweep(cuts: Cuts, stopped: watch::Receiver<bool>) -> Result<(), Fault> {
    let stop = until(stopped);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        let swept = cuts.sweep(SWEEP_GRACE).await;
        for id in &swept.voided {
            tracing::info!(cut = %id, "removed a cut that was never sealed");
        }
        for id in &swept.rolled_forward {
            tracing::info!(cut = %id, "sealed a cut on the hosts that did not know of it yet");
        }
        for (id, fault) in &swept.left {
            tracing::warn!(cut = %id, %fault, "cannot settle a cut yet");
        }
    }
}

/// Until the process is told to stop.
async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that nobody can tell any more: stop.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn ended(what: &str, error: &tonic::transport::Error) -> Fault {
    Fault::internal(format!("the {what} server ended: {error}"))
}

/// Signals are taken from here on; the future ends at the first.
fn wait_for_signal() -> Result<impl Future<Output = ()>, Fault> {
    let take =
        |kind| signal(kind).map_err(|error| Fault::internal(format!("cannot wait for signals: {error}")));
    let (mut terminate, mut interrupt) = (take(SignalKind::terminate())?, take(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
