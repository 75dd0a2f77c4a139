//! Real agents' servers over loopback, with scripted descriptions.

use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::domain::{Bytes, Code, CutKind, Incarnation, NameHash, PoolInfo, VolumeId};
use crate::identity::tls::{Callers, TlsFiles, only_the_controller};
use crate::identity::{acceptor, pki};
use crate::proto::agent as proto;
use crate::proto::agent::agent_server::{Agent as Api, AgentServer};
use crate::wire::convert;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn pool(number: u8) -> PoolId {
    PoolId::from_random([number; 6])
}

fn files(dir: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        ca: dir.join("ca.crt"),
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    }
}

/// An agent that can be described; it knows no volume and no cut.
struct Scripted(Arc<Mutex<HostInfo>>);

macro_rules! knows_nothing {
    ($($method:ident($request:ty) -> $answer:ty),* $(,)?) => {
        #[async_trait::async_trait]
        impl Api for Scripted {
            type RoundStream = tokio_stream::Empty<Result<proto::RoundReport, Status>>;
            async fn round(&self, _: Request<Streaming<proto::RoundOrder>>) -> Result<Response<Self::RoundStream>, Status> {
                Ok(Response::new(tokio_stream::empty()))
            }
            async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
                Ok(Response::new(convert::host_to_proto(&self.0.lock().unwrap())))
            }
            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$answer>, Status> {
                Err(Status::not_found(stringify!($method)))
            })*
        }
    };
}
knows_nothing! {
    create_volume(proto::CreateVolumeRequest) -> proto::Volume,
    delete_volume(proto::DeleteVolumeRequest) -> proto::DeleteVolumeResponse,
    get_volume(proto::GetVolumeRequest) -> proto::Volume,
    list_volumes(proto::ListVolumesRequest) -> proto::ListVolumesResponse,
    expand_volume(proto::ExpandVolumeRequest) -> proto::Volume,
    seal(proto::SealRequest) -> proto::SealResponse,
    void(proto::VoidRequest) -> proto::VoidResponse,
    get_cut(proto::GetCutRequest) -> proto::GetCutResponse,
    list_cuts(proto::ListCutsRequest) -> proto::ListCutsResponse,
    list_snapshots(proto::ListSnapshotsRequest) -> proto::ListSnapshotsResponse,
    delete_cut(proto::DeleteCutRequest) -> proto::DeleteCutResponse,
}

struct Served {
    info: Arc<Mutex<HostInfo>>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    fn has(&self, pools: &[PoolId]) {
        self.info.lock().unwrap().pools = pools
            .iter()
            .map(|id| PoolInfo {
                id: id.clone(),
                backend: "btrfs".into(),
                total: Bytes::gib(2),
                available: Bytes::gib(1),
                path: "/pool".into(),
                conditions: vec![],
            })
            .collect();
    }

    /// Ends it together with its connections.
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

async fn serve(dir: &Path, name: &str) -> Served {
    let info = HostInfo { host: host(name), version: "test".into(), pools: Vec::new() };
    let info = Arc::new(Mutex::new(info));
    let credentials = Credentials::of_agent(&files(dir, &format!("agents/{name}")), &host(name)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let agent = AgentServer::new(Scripted(info.clone()));
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let incoming = acceptor::incoming(listener, acceptor::fixed(credentials), Callers::WithCertificate);
        Server::builder()
            .layer(InterceptorLayer::new(only_the_controller))
            .add_service(agent)
            .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) })
            .await
            .unwrap();
    });
    Served { info, address, stop, task }
}

/// Two hosts, `a` and `b`, and the fleet of them.
async fn stage() -> (Fleet, Served, Served) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    pki::init(dir, &[host("a"), host("b")]).unwrap();
    let (a, b) = (serve(dir, "a").await, serve(dir, "b").await);
    let controller = Credentials::of_controller(&files(dir, "controller")).unwrap();
    let agents = [("b", &b), ("a", &a)]
        .map(|(name, server)| AgentAddress { host: host(name), address: server.address.to_string() });
    (Fleet::new(agents, &controller).unwrap(), a, b)
}

#[tokio::test]
async fn a_pool_is_found_on_the_host_that_has_it() {
    let (fleet, a, b) = stage().await;
    a.has(&[pool(1)]);
    b.has(&[pool(2), pool(3)]);
    assert_eq!(fleet.hosts(), [host("a"), host("b")]);
    assert_eq!(fleet.agent_of_pool(&pool(3)).await.unwrap().host(), &host("b"));
    assert_eq!(fleet.agent_of_pool(&pool(1)).await.unwrap().host(), &host("a"));
    assert_eq!(fleet.agents()[0].describe().await.unwrap().pools[0].available, Bytes::gib(1));
}

#[tokio::test]
async fn a_pool_that_no_host_has_is_not_found_only_when_all_hosts_answered() {
    let (fleet, a, b) = stage().await;
    a.has(&[pool(1)]);
    let fault = fleet.agent_of_pool(&pool(9)).await.unwrap_err();
    assert_eq!(fault.code, Code::NotFound, "{fault}");
    b.stop().await;
    let fault = fleet.agent_of_pool(&pool(9)).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    assert!(fault.message.contains("host b: no connection"), "{fault}");
    assert_eq!(fleet.agent_of_pool(&pool(1)).await.unwrap().host(), &host("a"), "b is not needed for this");
}

#[tokio::test]
async fn a_pool_that_moved_is_found_again_after_its_old_host_failed() {
    let (fleet, a, b) = stage().await;
    a.has(&[pool(1)]);
    let agent = fleet.agent_of_pool(&pool(1)).await.unwrap();
    a.stop().await;
    b.has(&[pool(1)]);
    let fault = agent.volume(&VolumeId::new(pool(1), "data", Incarnation(1))).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    assert_eq!(fleet.agent_of_pool(&pool(1)).await.unwrap().host(), &host("b"));
}

/// A discovered fleet that knows nobody, with the certificates to know these two.
async fn discovered() -> (tempfile::TempDir, Fleet, [(AgentAddress, Served); 2]) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    pki::init(dir, &[host("a"), host("b")]).unwrap();
    let (a, b) = (serve(dir, "a").await, serve(dir, "b").await);
    let controller = Credentials::of_controller(&files(dir, "controller")).unwrap();
    let at =
        |name: &str, served: &Served| AgentAddress { host: host(name), address: served.address.to_string() };
    let agents = [(at("a", &a), a), (at("b", &b), b)];
    (scratch, Fleet::discovered(controller), agents)
}

#[tokio::test]
async fn a_fleet_that_knows_nobody_yet_does_not_conclude_that_nothing_exists() {
    let (_scratch, fleet, [(a, served), _]) = discovered().await;
    let fault = fleet.agent_of_pool(&pool(1)).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    served.has(&[pool(1)]);
    fleet.admit(a).unwrap();
    assert_eq!(fleet.agent_of_pool(&pool(1)).await.unwrap().host(), &host("a"));
    assert_eq!(fleet.agent_of_pool(&pool(9)).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_silent_member_stays_one_until_it_is_dismissed() {
    let (_scratch, fleet, [(a, served_a), (b, served_b)]) = discovered().await;
    fleet.admit(a).unwrap();
    fleet.admit(b).unwrap();
    served_a.has(&[pool(1)]);
    served_b.stop().await;
    assert_eq!(fleet.agent_of_pool(&pool(9)).await.unwrap_err().code, Code::Unavailable);
    fleet.dismiss(&host("b"));
    assert_eq!(fleet.agent_of_pool(&pool(9)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(fleet.hosts(), [host("a")]);
}

#[tokio::test]
async fn an_agent_that_moved_is_found_at_its_new_address() {
    let (scratch, fleet, [(a, served), (b, _served_b)]) = discovered().await;
    fleet.admit(a).unwrap();
    fleet.admit(b).unwrap();
    served.has(&[pool(1)]);
    fleet.agent_of_pool(&pool(1)).await.unwrap();
    served.stop().await;
    let moved = serve(scratch.path(), "a").await;
    moved.has(&[pool(1)]);
    fleet.admit(AgentAddress { host: host("a"), address: moved.address.to_string() }).unwrap();
    let agent = fleet.agent_of_pool(&pool(1)).await.unwrap();
    assert_eq!(agent.describe().await.unwrap().pools.len(), 1);
    assert_eq!(fleet.hosts().len(), 2);
}

#[tokio::test]
async fn renewed_certificates_are_used_without_losing_a_member() {
    let (scratch, fleet, [(a, served), _]) = discovered().await;
    fleet.admit(a).unwrap();
    served.has(&[pool(1)]);
    let before = fleet.agent(&host("a")).unwrap();
    before.describe().await.unwrap();
    let theirs = tempfile::tempdir().unwrap();
    pki::init(theirs.path(), &[]).unwrap();
    fleet.renew(Credentials::of_controller(&files(theirs.path(), "controller")).unwrap()).unwrap();
    let fault = fleet.agent(&host("a")).unwrap().describe().await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "another authority's certificate was really used: {fault}");
    before.describe().await.expect("what was connected goes on");
    fleet.renew(Credentials::of_controller(&files(scratch.path(), "controller")).unwrap()).unwrap();
    fleet.agent(&host("a")).unwrap().describe().await.unwrap();
}

#[tokio::test]
async fn a_pool_on_two_hosts_is_refused() {
    let (fleet, a, b) = stage().await;
    a.has(&[pool(1)]);
    b.has(&[pool(1)]);
    let fault = fleet.agent_of_pool(&pool(1)).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition, "{fault}");
    assert!(fault.message.contains("hosts a and b"), "{fault}");
}

#[tokio::test]
async fn faults_of_an_agent_name_its_host_and_keep_their_code() {
    let (fleet, _a, _b) = stage().await;
    let agent = fleet.agent(&host("b")).unwrap();
    let fault = agent
        .expand_volume(&VolumeId::new(pool(1), "data", Incarnation(1)), Bytes::gib(1))
        .await
        .unwrap_err();
    assert_eq!(fault, Fault::not_found("host b: expand_volume"));
    assert_eq!(agent.find_volume(&NameHash::of("data")).await, Ok(None));
    assert_eq!(agent.find_cut(CutKind::Group, &NameHash::of("nightly")).await, Ok(None));
    assert_eq!(fleet.agent(&host("c")).unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_round_is_a_stream_that_ends_when_the_agent_ends_it() {
    let (fleet, _a, _b) = stage().await;
    let (_orders, receiver) = tokio::sync::mpsc::channel(1);
    let mut reports = fleet.agent(&host("a")).unwrap().round(receiver).await.unwrap();
    assert!(reports.message().await.unwrap().is_none());
}

#[tokio::test]
async fn an_agent_that_calls_itself_otherwise_is_not_believed() {
    let (fleet, a, _b) = stage().await;
    a.info.lock().unwrap().host = host("z");
    let fault = fleet.agent(&host("a")).unwrap().describe().await.unwrap_err();
    assert_eq!(fault.code, Code::Internal, "{fault}");
}

#[tokio::test]
async fn a_list_of_agents_with_a_mistake_is_refused_in_words() {
    let scratch = tempfile::tempdir().unwrap();
    pki::init(scratch.path(), &[]).unwrap();
    let controller = Credentials::of_controller(&files(scratch.path(), "controller")).unwrap();
    let agent = |name: &str, address: &str| AgentAddress { host: host(name), address: address.into() };
    let refuse = |agents: Vec<AgentAddress>| Fleet::new(agents, &controller).unwrap_err().to_string();
    assert!(refuse(vec![]).contains("empty"));
    assert!(
        refuse(vec![agent("a", "h:1"), agent("a", "h:2")]).contains("host a is in the list of agents twice")
    );
    for bad in ["", "h", "h:", "h:0", "h:70000", ":1", "h/../x:1", "h h:1", "https://h:1"] {
        let why = refuse(vec![agent("a", bad)]);
        assert!(why.contains("agent a:") && why.contains("host:port"), "{bad:?}: {why}");
    }
    assert!(Fleet::new([agent("a", "[::1]:9700")], &controller).is_ok());
}
