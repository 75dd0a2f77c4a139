//! Real handshakes over loopback. The service behind them is the agent API with nothing in it: who gets
//! UNIMPLEMENTED has been let in.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::{Channel, Endpoint, Server};

use super::*;
use crate::domain::Code;
use crate::identity::{acceptor, pki};
use crate::proto::agent::DescribeRequest;
use crate::proto::agent::agent_client::AgentClient;
use crate::wire::fault_of;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn files(dir: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        ca: dir.join("ca.crt"),
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    }
}

/// Two authorities, each with a controller and two agents; a server of host `a` of the first one.
struct Stage {
    scratch: tempfile::TempDir,
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stage {
    async fn set() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for authority in ["ours", "theirs"] {
            pki::init(&scratch.path().join(authority), &[host("a"), host("b")]).unwrap();
        }
        let credentials =
            Credentials::of_agent(&files(&scratch.path().join("ours"), "agents/a"), &host("a")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let incoming =
                acceptor::incoming(listener, acceptor::fixed(credentials), Callers::WithCertificate);
            Server::builder()
                .layer(InterceptorLayer::new(only_the_controller))
                .add_routes(Routes::default())
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self { scratch, address, server }
    }

    fn dir(&self, authority: &str) -> PathBuf {
        self.scratch.path().join(authority)
    }

    async fn call(&self, tls: ClientTlsConfig) -> Fault {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        let channel: Channel = endpoint.tls_config(tls).unwrap().connect_lazy();
        fault_of(AgentClient::new(channel).describe(DescribeRequest {}).await.unwrap_err())
    }
}

#[tokio::test]
async fn the_controller_is_let_in() {
    let stage = Stage::set().await;
    let controller = Credentials::of_controller(&files(&stage.dir("ours"), "controller")).unwrap();
    let fault = stage.call(controller.client(&host("a"))).await;
    assert_eq!(fault.code, Code::Unimplemented, "{fault}");
}

#[tokio::test]
async fn a_caller_without_a_certificate_does_not_get_through_the_handshake() {
    let stage = Stage::set().await;
    let ca = fs::read_to_string(stage.dir("ours").join("ca.crt")).unwrap();
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(agent_name(&host("a")));
    let fault = stage.call(tls).await;
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    assert!(fault.message.contains("CertificateRequired"), "{fault}");
}

#[tokio::test]
async fn a_caller_without_tls_gets_no_answer() {
    let stage = Stage::set().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", stage.address)).unwrap();
    let mut client = AgentClient::new(endpoint.connect_lazy());
    let fault = fault_of(client.describe(DescribeRequest {}).await.unwrap_err());
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
}

#[tokio::test]
async fn a_controller_of_another_authority_does_not_get_through_the_handshake() {
    let stage = Stage::set().await;
    let mixed =
        TlsFiles { ca: stage.dir("ours").join("ca.crt"), ..files(&stage.dir("theirs"), "controller") };
    let why = Credentials::of_controller(&mixed).unwrap_err();
    assert!(why.to_string().contains("another authority has signed it"), "{why}");
    // One who skips that check of its own files is refused by the agent.
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let tls = ClientTlsConfig::new()
        .identity(Identity::from_pem(read(&mixed.cert), read(&mixed.key)))
        .ca_certificate(Certificate::from_pem(read(&mixed.ca)))
        .domain_name(agent_name(&host("a")));
    let fault = stage.call(tls).await;
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
}

#[tokio::test]
async fn another_agent_is_known_and_may_not_call() {
    let stage = Stage::set().await;
    let agent = Credentials::of_agent(&files(&stage.dir("ours"), "agents/b"), &host("b")).unwrap();
    let fault = stage.call(agent.client(&host("a"))).await;
    assert_eq!(fault.code, Code::Denied, "{fault}");
    assert!(fault.message.contains(CONTROLLER), "{fault}");
}

#[tokio::test]
async fn the_controller_does_not_talk_to_another_host_at_the_same_address() {
    let stage = Stage::set().await;
    let controller = Credentials::of_controller(&files(&stage.dir("ours"), "controller")).unwrap();
    let fault = stage.call(controller.client(&host("b"))).await;
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    assert!(fault.message.contains("b.agent.stillpoint"), "{fault}");
}

#[tokio::test]
async fn the_controller_does_not_talk_to_an_agent_of_another_authority() {
    let stage = Stage::set().await;
    let controller = Credentials::of_controller(&files(&stage.dir("theirs"), "controller")).unwrap();
    let fault = stage.call(controller.client(&host("a"))).await;
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    assert!(fault.message.contains("invalid peer certificate"), "{fault}");
}

#[test]
fn unfit_files_are_refused_before_anything_listens() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    pki::init(dir, &[host("a")]).unwrap();
    let load =
        |files: &TlsFiles, name: &str| Credentials::of_agent(files, &host(name)).unwrap_err().to_string();
    let good = files(dir, "agents/a");
    assert!(load(&good, "b").contains("it carries another name"));
    let swapped = TlsFiles { key: good.cert.clone(), ..good.clone() };
    fs::set_permissions(&good.cert, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(load(&swapped, "a").contains("no private key"));
    let missing = TlsFiles { ca: dir.join("nothing"), ..good.clone() };
    assert!(load(&missing, "a").contains("nothing"));
    fs::set_permissions(&good.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load(&good, "a").contains("chmod 600"));
}
