//! `stillpoint standalone`: puts the parts together and serves until it is told to stop.
//!
//! # Flow
//! 1. Read the configuration and the certificates; lock the state directory; read the inventory.
//! 2. Bind both sockets. CSI is served from here on.
//! 3. Pay what runs of a dead controller still owe to applications, then serve the operator's socket.
//! 4. From then on start what schedules have due, the run first that a dead controller had started.
//!    Every minute, settle cuts that dead controllers have left.
//! 5. At the end (SIGTERM, SIGINT) runs are stopped and undone, as far as that goes in 12 s, and calls under way
//!    get 20 s.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use stillpoint_rules::engine::{Engine, Limits as EngineLimits, NothingCut, Ports};
use stillpoint_rules::ports::{Cutter, NoSecrets, Secrets};
use stillpoint_rules::standalone::{FileJournal, FileSecrets, StandalonePods};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::cli::client::MESSAGE_LIMIT;
use crate::controller::cuts::{Barrier, Cuts};
use crate::controller::fleet::Fleet;
use crate::controller::placement::Policy;
use crate::controller::process::{
    self, STOPPED, UNDO_GRACE, bind, ended, handed_over, sweep, together, until,
};
use crate::controller::volumes::Volumes;
use crate::csi;
use crate::cutter::FleetCutter;
use crate::domain::{CutKind, Fault};
use crate::identity::tls::Credentials;
use crate::observe::metrics;
use crate::observe::rpc::Observe;
use crate::proto::operator::operator_server::OperatorServer;

use super::config::{Config, PodSource};
use super::fleet_storage::FleetStorage;
use super::operator::{Engines, Operator};
use super::pool_file;
use super::schedules::{self, Runner, Schedules};
use super::selection::VolumeNamesOf;
use super::service::Service;
use super::storage::Storage;

/// Between two looks at what runs still owe.
const COLLECT_EVERY: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: &Path) -> Result<(), Fault> {
    let config = Config::read(config).map_err(|error| Fault::invalid(error.to_string()))?;
    let controller = Controller::open(&config)?;
    process::until_signal(|stopped| controller.serve(&config, stopped)).await
}

/// A controller that is put together and does not serve yet.
pub struct Controller {
    fleet: Fleet,
    cuts: Cuts,
    volumes: Arc<Volumes>,
    operator: Arc<Operator>,
    schedules: Schedules,
    runner: Runner,
    /// Only one process may use a state directory.
    _lock: Flock<File>,
}

impl Controller {
    /// Step 1 of the flow. Connects to nobody.
    pub fn open(config: &Config) -> Result<Self, Fault> {
        let refused = |error: &dyn std::fmt::Display| Fault::precondition(error.to_string());
        let credentials = Credentials::of_controller(&config.tls).map_err(|error| refused(&error))?;
        let lock = lock(&config.state_dir)?;
        let fleet = Fleet::new(config.agents.clone(), &credentials).map_err(|error| refused(&error))?;
        let fleet = fleet.remembering(pool_file::open(&config.state_dir)?);
        let cuts = Cuts::new(fleet.clone(), config.limits);
        let policy = Policy { without_topology: config.without_topology.clone() };
        let volumes = Arc::new(Volumes::new(Arc::new(fleet.clone()), Arc::new(cuts.clone()), policy));
        let journal = FileJournal::open(config.state_dir.join("runs")).map_err(|error| refused(&error))?;
        let storage: Arc<dyn Storage> = Arc::new(FleetStorage {
            fleet: fleet.clone(),
            cuts: cuts.clone(),
            volumes: Arc::clone(&volumes),
        });
        let pods = Arc::new(pods(config, &storage)?);
        let fleet_cutter = |barrier| Arc::new(FleetCutter::new(cuts.clone(), CutKind::Group, barrier));
        let engine = |cutter: Arc<dyn Cutter>| {
            let ports = Ports {
                inventory: Arc::clone(&pods) as _,
                exec: Arc::clone(&pods) as _,
                secrets: secrets(config),
                cutter,
                journal: Arc::new(journal.clone()),
            };
            Engine::new(ports, EngineLimits::default())
        };
        let engines = Engines {
            together: engine(fleet_cutter(Barrier::Up)),
            one_after_another: engine(fleet_cutter(Barrier::Down)),
            rehearsal: engine(Arc::new(NothingCut)),
        };
        let operator = Arc::new(Operator::new(storage, Arc::clone(&pods) as _, engines, journal.clone()));
        let (schedules, runner) = schedules::open(
            Arc::clone(&operator),
            config.schedules.clone(),
            config.state_dir.join("schedules"),
            Timestamp::now,
        )?;
        Ok(Self { fleet, cuts, volumes, operator, schedules, runner, _lock: lock })
    }

    /// Steps 2 to 5. A server that ends by itself is an error.
    pub async fn serve(self, config: &Config, stopped: watch::Receiver<bool>) -> Result<(), Fault> {
        let csi_listener = bind(&config.csi_socket)?;
        let operator_listener = bind(&config.operator_socket)?;
        let scrapes = match config.metrics_listen {
            Some(address) => Some(metrics::serve::listen(address).await?),
            None => None,
        };
        tracing::info!(
            csi = %config.csi_socket.display(),
            operator = %config.operator_socket.display(),
            agents = config.agents.len(),
            schedules = config.schedules.len(),
            "serving"
        );
        let mut parts = JoinSet::new();
        let (volumes, cuts) = (Arc::clone(&self.volumes), Arc::new(self.cuts.clone()));
        let blocks = Arc::new(self.fleet.clone());
        let stop = until(stopped.clone());
        parts.spawn(async move {
            csi::serve_controller(csi_listener, volumes, cuts, blocks, stop)
                .await
                .map_err(|error| ended("CSI", &error))
        });
        let (settled, is_settled) = watch::channel(false);
        let service = Service::new(Arc::clone(&self.operator), self.schedules);
        parts.spawn(serve_operator(operator_listener, self.operator, service, settled, stopped.clone()));
        parts.spawn(start_when(is_settled, self.runner, stopped.clone()));
        parts.spawn(sweep(self.fleet.clone(), self.cuts.clone(), stopped.clone()));
        if let Some(listener) = scrapes {
            let served = metrics::serve::serve(
                listener,
                metrics::of_controller(Arc::clone(self.fleet.transfers())),
                until(stopped.clone()),
            );
            parts.spawn(async move {
                served.await;
                Ok(())
            });
        }
        let outcome = together(parts, stopped).await;
        for path in [&config.csi_socket, &config.operator_socket] {
            // A socket that is left behind is replaced at the next start.
            let _ = fs::remove_file(path);
        }
        outcome
    }
}

fn pods(config: &Config, storage: &Arc<dyn Storage>) -> Result<StandalonePods, Fault> {
    let hosts = config.agents.iter().map(|agent| agent.host.to_string()).collect();
    let names = Arc::new(VolumeNamesOf { storage: Arc::clone(storage) });
    match &config.pods {
        PodSource::List(pods) => Ok(StandalonePods::fixed(pods.clone(), names)),
        PodSource::File(path) => StandalonePods::from_file(path.clone(), names, Some(hosts))
            .map_err(|error| Fault::invalid(format!("cannot use the inventory: {error}"))),
    }
}

fn secrets(config: &Config) -> Arc<dyn Secrets> {
    match &config.secrets {
        Some(directory) => Arc::new(FileSecrets::new(directory.clone())),
        None => Arc::new(NoSecrets),
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

/// Runs schedules once what dead runs owe is paid: a run must not begin while the one before is being undone.
async fn start_when(
    settled: watch::Receiver<bool>,
    runner: Runner,
    stopped: watch::Receiver<bool>,
) -> Result<(), Fault> {
    tokio::select! {
        () = until(settled) => runner.serve(stopped).await,
        () = until(stopped.clone()) => {}
    }
    Ok(())
}

async fn serve_operator(
    listener: UnixListener,
    operator: Arc<Operator>,
    service: Service,
    settled: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Fault> {
    for run in operator.recover().await? {
        tracing::warn!(
            run = run.id,
            verdict = run.verdict(),
            "settled a run that a dead controller had left"
        );
    }
    settled.send_replace(true);
    let service = OperatorServer::new(service)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let collecting = tokio::spawn({
        let operator = Arc::clone(&operator);
        async move {
            loop {
                tokio::time::sleep(COLLECT_EVERY).await;
                operator.collect().await;
            }
        }
    });
    let stop = async move {
        until(stopped).await;
        collecting.abort();
        handed_over(operator.shutdown(STOPPED, UNDO_GRACE).await);
    };
    let server = Server::builder().layer(Observe).add_service(service);
    server
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(|error| ended("operator", &error))
}
