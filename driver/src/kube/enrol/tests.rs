//! Real handshakes over loopback; only the API server is a double.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use super::super::agent::may_make;
use super::super::controller::serve_enrolments;
use super::super::hosts::tests::Notebook;
use super::super::renewal::Renewal;
use super::super::tokens::{AUDIENCE, Bearer, Review};
use super::*;
use crate::agent::config::{AgentConfig, Expediting, Kernel};
use crate::agent::creation::{CarrierChoice, Existing, PoolOrder};
use crate::agent::run::serve_with;
use crate::backend::BackendKind;
use crate::controller::fleet::Fleet;
use crate::domain::{Code, PoolId};
use crate::identity::acceptor;
use crate::identity::authority::Wish;
use crate::identity::tls::to_the_controller;
use crate::proto::enrol::enrolment_client::EnrolmentClient;
use crate::wire::fault_of;

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_hours(1);

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

/// An API server that knows these tokens.
#[derive(Default)]
struct Scripted {
    tokens: Mutex<BTreeMap<String, Review>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn knows(&self, token: &str, review: Review) {
        self.tokens.lock().unwrap().insert(token.into(), review);
    }
}

#[async_trait]
impl TokenReviewer for Scripted {
    async fn review(&self, token: &str) -> Result<Review, Fault> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let known = self.tokens.lock().unwrap().get(token).cloned();
        Ok(known.unwrap_or_else(|| Review::Refused("invalid bearer token".into())))
    }
}

fn bearer(node: &str) -> Bearer {
    Bearer {
        user: "system:serviceaccount:stillpoint-system:stillpoint-agent".into(),
        audiences: vec![AUDIENCE.into()],
        extra: BTreeMap::from([("authentication.kubernetes.io/node-name".into(), vec![node.into()])]),
    }
}

/// A controller that lets agents in.
struct Stage {
    tokens: Arc<Scripted>,
    book: Arc<Notebook>,
    authority: Arc<Authority>,
    fleet: Fleet,
    address: SocketAddr,
    scratch: tempfile::TempDir,
}

impl Stage {
    async fn set(lifetime: Duration) -> Self {
        let authority = Arc::new(Authority::from_pair(&Authority::make().unwrap()).unwrap());
        let credentials = authority.controller(HOUR).unwrap();
        let fleet = Fleet::discovered(credentials.clone());
        let (tokens, book) = (Arc::new(Scripted::default()), Arc::new(Notebook::default()));
        tokens.knows("token of node-1", Review::Of(bearer("node-1")));
        let account = AgentAccount { namespace: "stillpoint-system".into(), name: "stillpoint-agent".into() };
        let roll = Roll::new(Arc::clone(&book) as _, fleet.clone());
        let service =
            Enrolment::new(Arc::clone(&tokens) as _, account, Arc::clone(&authority), lifetime, roll);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_enrolments(
            listener,
            acceptor::fixed(credentials),
            service,
            std::future::pending(),
        ));
        let stage = Self { tokens, book, authority, fleet, address, scratch: tempfile::tempdir().unwrap() };
        stage.write("ca.crt", stage.authority.certificate());
        stage.write("controllers", &format!("{address}\n"));
        stage.write("token", "token of node-1\n");
        stage
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir().join(name), text).unwrap();
    }

    fn renewal(&self, address: SocketAddr) -> Renewal {
        let token = self.dir().join("token");
        Renewal { host: host("node-1"), address, trust: self.dir().into(), token }
    }

    /// What the service says to this.
    async fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, Fault> {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        let tls = to_the_controller(self.authority.certificate()).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let answer = EnrolmentClient::new(channel).enrol(request).await;
        answer.map(tonic::Response::into_inner).map_err(fault_of)
    }

    fn request(token: &str, name: &str) -> EnrolRequest {
        let request = Wish::of_agent(&host(name)).unwrap().request;
        EnrolRequest { token: token.into(), request, address: "10.0.0.7:9700".into() }
    }

    fn has_let_in_nobody(&self) -> bool {
        self.book.0.lock().unwrap().is_none() && self.fleet.hosts().is_empty()
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

/// An agent with a pool in memory at this address.
fn config(stage: &Stage, listen: SocketAddr) -> AgentConfig {
    AgentConfig {
        host: host("node-1"),
        listen,
        tls: None,
        pools: vec!["/pool".into()],
        overcommit: std::collections::BTreeMap::new(),
        state_dir: stage.dir().join("state"),
        csi_socket: None,
        guard_socket: None,
        expedite: Expediting::Never,
        metrics_listen: None,
        kernel: Kernel::Memory,
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_is_found_and_stays_reachable_while_both_sides_renew_their_certificates() {
    // Shorter than the test: without renewal the last handshakes would fail.
    let lifetime = Duration::from_secs(3);
    let stage = Stage::set(lifetime).await;
    let listen = free_address();
    let (renewed, credentials) = watch::channel(None);
    tokio::spawn(serve_with(config(&stage, listen), credentials, |_| {}, std::future::pending()));
    tokio::spawn(stage.renewal(listen).keep_fresh(renewed));
    eventually("the agent has enrolled", || stage.fleet.hosts() == [host("node-1")]).await;
    assert_eq!(stage.book.0.lock().unwrap().as_ref().unwrap()["node-1"], listen.to_string());
    let reach = async || {
        let found = tokio::time::timeout(PATIENCE, async {
            while stage.fleet.agent(&host("node-1")).unwrap().describe().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(found.await.is_ok(), "the agent is not reached");
    };
    reach().await;
    eventually("the first certificate is over", || stage.tokens.asked.load(Ordering::SeqCst) >= 4).await;
    // Connects anew, with a new certificate of our own, to one that was not there at the start.
    stage.fleet.renew(stage.authority.controller(HOUR).unwrap()).unwrap();
    stage.fleet.agent(&host("node-1")).unwrap().describe().await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_foreign_expired_or_for_somebody_else_gets_nothing() {
    let stage = Stage::set(HOUR).await;
    stage.tokens.knows("secret expired", Review::Refused("token has expired".into()));
    stage.tokens.knows(
        "secret for vault",
        Review::Of(Bearer { audiences: vec!["vault".into()], ..bearer("node-1") }),
    );
    let user = "system:serviceaccount:shop:default".to_owned();
    stage.tokens.knows("secret of a shop", Review::Of(Bearer { user, ..bearer("node-1") }));
    stage
        .tokens
        .knows("secret of no node", Review::Of(Bearer { extra: BTreeMap::new(), ..bearer("node-1") }));
    for token in
        ["", "secret foreign", "secret expired", "secret for vault", "secret of a shop", "secret of no node"]
    {
        let fault = stage.enrol(Stage::request(token, "node-1")).await.unwrap_err();
        assert_eq!(fault.code, Code::Denied, "{token}: {fault}");
        assert!(token.is_empty() || !fault.message.contains(token), "the token is told: {fault}");
    }
    assert!(stage.has_let_in_nobody());
    stage.enrol(Stage::request("token of node-1", "node-1")).await.expect("the same with a good token");
}

#[tokio::test]
async fn another_nodes_name_gets_nothing() {
    let stage = Stage::set(HOUR).await;
    let fault = stage.enrol(Stage::request("token of node-1", "node-2")).await.unwrap_err();
    assert_eq!(fault.code, Code::Denied, "{fault}");
    assert!(fault.message.contains("node-2.agent.stillpoint"), "{fault}");
    assert!(stage.has_let_in_nobody());
}

#[tokio::test]
async fn an_address_at_which_nobody_can_be_reached_is_refused() {
    let stage = Stage::set(HOUR).await;
    for address in ["", "node-1:9700", "0.0.0.0:9700", "[::]:9700", "10.0.0.7:0", "10.0.0.7"] {
        let request = EnrolRequest { address: address.into(), ..Stage::request("token of node-1", "node-1") };
        let fault = stage.enrol(request).await.unwrap_err();
        assert_eq!(fault.code, Code::Invalid, "{address}: {fault}");
    }
    assert!(stage.has_let_in_nobody());
}

#[tokio::test]
async fn an_agent_shows_its_token_to_nobody_who_is_not_the_controller() {
    let impostor = Stage::set(HOUR).await;
    let real = Stage::set(HOUR).await;
    // The real authority, but the impostor's address.
    real.write("controllers", &format!("{}\n", impostor.address));
    let (renewed, credentials) = watch::channel(None);
    let task = tokio::spawn(real.renewal(free_address()).keep_fresh(renewed));
    // Three attempts have been made after this.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(impostor.tokens.asked.load(Ordering::SeqCst), 0);
    assert!(credentials.borrow().is_none());
    // It is not the agent that is broken: with the real controller listed second, it gets through.
    real.write("controllers", &format!("{}\n{}\n", impostor.address, real.address));
    eventually("the real controller is asked", || credentials.borrow().is_some()).await;
    assert_eq!(impostor.tokens.asked.load(Ordering::SeqCst), 0);
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_pod_serves_its_node_without_a_controller_and_is_ready_once_it_has_enrolled() {
    use crate::kube::agent::{NodeAgentArgs, serve};
    use crate::proto::health::HealthCheckRequest;
    use crate::proto::health::health_client::HealthClient;
    use clap::{Args, FromArgMatches};
    use stillpoint_csi_proto::v1;

    let stage = Stage::set(HOUR).await;
    stage.write("controllers", "\n");
    let (listen, probes) = (free_address(), free_address());
    let dir = |name: &str| stage.dir().join(name).display().to_string();
    let words = [
        ("--node", "node-1".to_owned()),
        ("--pod-ip", "127.0.0.1".to_owned()),
        ("--listen", listen.to_string()),
        ("--health-listen", probes.to_string()),
        ("--kubelet-dir", dir("kubelet")),
        ("--trust", dir("")),
        ("--token", dir("token")),
    ];
    let words = words.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
    let command = NodeAgentArgs::augment_args(clap::Command::new("node-agent").no_binary_name(true));
    let args = NodeAgentArgs::from_arg_matches(&command.get_matches_from(words)).unwrap();
    let csi = stage.dir().join("kubelet/plugins/csi.stillpoint.dev/csi.sock");
    let config = AgentConfig { csi_socket: Some(csi.clone()), ..config(&stage, listen) };
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(async move { serve(&args, config, stopped).await });

    let registration = stage.dir().join("kubelet/plugins_registry/csi.stillpoint.dev@reg.sock");
    eventually("the kubelet is told", || registration.exists()).await;
    let mut node = v1::node_client::NodeClient::connect(format!("unix:{}", csi.display())).await.unwrap();
    let info = node.node_get_info(v1::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.node_id, "node-1");
    let mut health = HealthClient::connect(format!("http://{probes}")).await.unwrap();
    let mut is_ready = async || {
        let request = HealthCheckRequest { service: "ready".into() };
        health.check(request).await.unwrap().into_inner().status == 1
    };
    assert!(!is_ready().await, "nobody can reach it yet");
    stage.write("controllers", &format!("{}\n", stage.address));
    let wait = async {
        while !is_ready().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    stage.fleet.agent(&host("node-1")).unwrap().describe().await.unwrap();
    // Streams that are open do not end by themselves.
    drop((node, health));
    stop.send_replace(true);
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
    assert!(!registration.exists() && stage.fleet.agent(&host("node-1")).unwrap().describe().await.is_err());
}

fn order(dir: &Path) -> PoolOrder {
    PoolOrder {
        dir: dir.join("pool"),
        carrier: CarrierChoice::File { path: dir.join("pool.img"), size: None },
        backend: BackendKind::Btrfs,
        existing: Existing::Keep,
    }
}

#[tokio::test]
async fn a_node_that_had_a_pool_makes_no_new_one_until_that_is_dismissed() {
    let stage = Stage::set(HOUR).await;
    let renewal = stage.renewal("127.0.0.1:1".parse().unwrap());
    let order = order(stage.dir());
    may_make(&order, &renewal).await.unwrap();
    let (pool, other) = (PoolId::from_random([1; 6]), PoolId::from_random([2; 6]));
    let known = stage.fleet.known_pools();
    known.note(&host("node-2"), std::iter::once(&other)).await.unwrap();
    may_make(&order, &renewal).await.unwrap();
    known.note(&host("node-1"), std::iter::once(&pool)).await.unwrap();
    let fault = may_make(&order, &renewal).await.unwrap_err();
    assert!(fault.message.contains(pool.as_str()) && fault.message.contains("dismiss"), "{fault}");
    std::fs::write(stage.dir().join("pool.img"), "something").unwrap();
    may_make(&order, &renewal).await.unwrap();
    std::fs::remove_file(stage.dir().join("pool.img")).unwrap();
    known.dismiss(&pool).await.unwrap();
    may_make(&order, &renewal).await.unwrap();
}

#[tokio::test]
async fn a_node_without_a_pool_waits_for_a_controller_before_it_makes_one() {
    let stage = Stage::set(HOUR).await;
    let renewal = stage.renewal("127.0.0.1:1".parse().unwrap());
    stage.write("controllers", "127.0.0.1:9\n");
    let order = order(stage.dir());
    let asked = tokio::time::timeout(Duration::from_millis(500), may_make(&order, &renewal)).await;
    assert!(asked.is_err(), "nobody has said that it may");
    stage.write("controllers", &format!("{}\n", stage.address));
    may_make(&order, &renewal).await.unwrap();
}

#[tokio::test]
async fn only_an_agent_is_told_the_pools_of_its_node() {
    let stage = Stage::set(HOUR).await;
    stage.write("token", "token of nobody\n");
    let fault = stage.renewal("127.0.0.1:1".parse().unwrap()).known_pools().await.unwrap_err();
    assert_eq!(fault.code, Code::Denied, "{fault}");
}
