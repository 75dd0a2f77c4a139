//! Three hosts of [`super::bench`] in this process with their agents' services over mTLS on loopback, and a
//! controller.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use stillpoint::agent::local::LocalHost;
use stillpoint::agent::pools::Pools;
use stillpoint::agent::service::Service;
use stillpoint::agent::volumes::NodeVolumes;
use stillpoint::controller::cuts::{Barrier, CutOrder, Cuts};
use stillpoint::controller::fleet::{AgentAddress, Fleet};
use stillpoint::domain::round::Limits;
use stillpoint::domain::{CutKind, HostName, VolumeId};
use stillpoint::identity::tls::{Callers, Credentials, TlsFiles, only_the_controller};
use stillpoint::identity::{acceptor, pki};
use stillpoint::proto::agent::agent_server::AgentServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;

use super::RunDir;
use super::bench::{Bench, needs_root};

/// What a volume is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Mounted, with XFS.
    Filesystem,
    /// A raw block device.
    Raw,
}

/// Three hosts and a controller. Fields are dropped in this order: servers, hosts, then the directory.
pub struct Cluster {
    /// Their services; aborting one makes its host silent.
    pub servers: Vec<JoinHandle<()>>,
    /// The hosts, called a, b and c.
    pub hosts: Vec<Bench>,
    /// The controller.
    pub cuts: Cuts,
    credentials: Credentials,
    addresses: Vec<AgentAddress>,
    /// Below which everything is.
    pub run: RunDir,
}

impl Cluster {
    /// `None` where it cannot be built; the reason is printed.
    pub async fn new(label: &str) -> Result<Option<Self>> {
        Self::of(label, [Shape::Filesystem; 3]).await
    }

    /// As [`Cluster::new`], with a volume of this shape on each host.
    pub async fn of(label: &str, shapes: [Shape; 3]) -> Result<Option<Self>> {
        if !needs_root(label) {
            return Ok(None);
        }
        let run = RunDir::new(label)?;
        let pki_dir = run.directory("pki")?;
        let names: Vec<HostName> = ["a", "b", "c"].into_iter().map(str::parse).collect::<Result<_, _>>()?;
        pki::init(&pki_dir, &names)?;
        let (mut servers, mut hosts, mut addresses) = (vec![], vec![], vec![]);
        for (name, shape) in names.iter().zip(shapes) {
            let mut bench = Bench::new(&run, name.as_str(), 0)?;
            match shape {
                Shape::Filesystem => bench.add_volume(&format!("{name}-0"))?,
                Shape::Raw => bench.add_raw(&format!("{name}-0"))?,
            }
            let (server, address) = serve(&bench, name, &pki_dir).await?;
            servers.push(server);
            hosts.push(bench);
            addresses.push(AgentAddress { host: name.clone(), address });
        }
        let credentials = Credentials::of_controller(&files(&pki_dir, "controller"))?;
        let fleet = Fleet::new(addresses.clone(), &credentials)?;
        let cuts = Cuts::new(fleet, Limits::default());
        Ok(Some(Self { servers, hosts, cuts, credentials, addresses, run }))
    }

    /// All volumes.
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.hosts.iter().flat_map(|host| host.volumes.clone()).collect()
    }

    /// A cut of all of them.
    pub fn order(&self, name: &str) -> CutOrder {
        CutOrder { kind: CutKind::Group, name: name.into(), volumes: self.volumes(), barrier: Barrier::Up }
    }

    /// A controller that knows nothing of what others did.
    pub fn other_controller(&self) -> Result<Cuts> {
        Ok(Cuts::new(Fleet::new(self.addresses.clone(), &self.credentials)?, Limits::default()))
    }

    /// What a void cut must leave on every host.
    pub fn check_nothing_left(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Bench::check_nothing_left)
    }

    /// As [`Cluster::check_nothing_left`], for what goes on in the background.
    pub async fn check_nothing_left_soon(&self) -> Result<()> {
        for _ in 0..100 {
            if self.check_nothing_left().is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.check_nothing_left()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

fn files(dir: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        ca: dir.join("ca.crt"),
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    }
}

async fn serve(bench: &Bench, name: &HostName, pki_dir: &Path) -> Result<(JoinHandle<()>, String)> {
    let host = Arc::clone(&bench.context.host);
    let pools = Pools::of([Arc::clone(&bench.pool)]);
    let locks = bench.context.locks.clone();
    let node = Arc::new(NodeVolumes::new(Arc::clone(&host), Arc::new(pools.clone()), locks.clone()));
    let local = Arc::new(LocalHost::new(name.clone(), host, pools, locks, node));
    let service = AgentServer::new(Service::new(local, Arc::clone(&bench.context)));
    let credentials = Credentials::of_agent(&files(pki_dir, &format!("agents/{name}")), name)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let incoming = acceptor::incoming(listener, acceptor::fixed(credentials), Callers::WithCertificate);
    let server = Server::builder()
        .layer(InterceptorLayer::new(only_the_controller))
        .add_service(service)
        .serve_with_incoming(incoming);
    Ok((tokio::spawn(async move { drop(server.await) }), address))
}
