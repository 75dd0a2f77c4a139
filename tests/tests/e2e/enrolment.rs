//! Who gets a certificate: tokens of the real API server at the controller's enrolment port.

use std::time::Duration;

use rcgen::{KeyPair, SigningKey};
use serde_json::Value;
use stillpoint::domain::HostName;
use stillpoint::identity::authority::Wish;
use stillpoint::identity::tls::to_the_controller;
use stillpoint::proto::enrol::EnrolRequest;
use stillpoint::proto::enrol::enrolment_client::EnrolmentClient;
use stillpoint_tests::cluster::workspace::Workspace;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::manifests::READY;
use crate::{client, cluster};

const OWN: &str = "stillpoint-system";
const LIMIT: Duration = Duration::from_secs(20);

/// What the test knows of the cluster.
struct Door<'a> {
    space: &'a Workspace,
    ca: String,
    controller: String,
    /// An agent's pod, its node, and the address of its API.
    pod: String,
    node: String,
    address: String,
}

impl<'a> Door<'a> {
    fn of(space: &'a Workspace) -> Self {
        let own = |args: &[&str]| space.kubectl.run(&[&["-n", OWN], args].concat()).unwrap();
        let trust = |key: &str| {
            own(&["get", "configmap", "stillpoint-trust", "-o", &format!("jsonpath={{.data.{key}}}")])
        };
        let agents = own(&[
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/component=agent",
            "-o",
            "jsonpath={.items[0].metadata.name} {.items[0].spec.nodeName} {.items[0].status.podIP}",
        ]);
        let [pod, node, ip] = agents.split(' ').collect::<Vec<_>>()[..] else { panic!("{agents}") };
        Self {
            space,
            ca: trust(r"ca\.crt"),
            controller: trust("controllers").lines().next().unwrap().to_owned(),
            pod: pod.into(),
            node: node.into(),
            address: format!("{ip}:9700"),
        }
    }

    /// A token of a service account of the API server.
    fn token(&self, account: &str, audience: &str, pod: Option<&str>) -> String {
        let audience = format!("--audience={audience}");
        let mut args = vec!["-n", OWN, "create", "token", account, "--duration=10m", &audience];
        if let Some(pod) = pod {
            args.extend(["--bound-object-kind=Pod", "--bound-object-name", pod]);
        }
        self.space.kubectl.run(&args).unwrap().trim().to_owned()
    }

    /// Asks for a certificate for a node; the code and the words of a refusal.
    fn ask(&self, token: &str, node: &str) -> Result<String, (Code, String)> {
        let work = || client::block_on(self.enrol(token, node));
        self.space.in_network(work).unwrap().map_err(|status| (status.code(), status.message().to_owned()))
    }

    async fn enrol(&self, token: &str, node: &str) -> Result<String, tonic::Status> {
        let host: HostName = node.parse().unwrap();
        let request = Wish::of_agent(&host).unwrap().request.clone();
        let endpoint = Endpoint::from_shared(format!("https://{}", self.controller)).unwrap();
        let endpoint = endpoint.tls_config(to_the_controller(&self.ca).unwrap()).unwrap().timeout(LIMIT);
        let mut client = EnrolmentClient::new(endpoint.connect().await.unwrap());
        let asked = EnrolRequest { token: token.into(), request, address: self.address.clone() };
        client.enrol(asked).await.map(|answer| answer.into_inner().certificate)
    }

    #[track_caller]
    fn refuses(&self, token: &str, node: &str, why: &str) {
        let (code, message) = self.ask(token, node).expect_err(why);
        assert_eq!(code, Code::PermissionDenied, "{message}");
        assert!(message.contains(why), "{message:?} does not say {why:?}");
    }

    fn hosts(&self) -> String {
        let args = ["-n", OWN, "get", "configmap", "stillpoint-hosts", "-o", "jsonpath={.data}"];
        self.space.kubectl.run(&args).unwrap()
    }
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn only_an_agents_own_token_of_a_living_pod_is_worth_a_certificate_and_only_for_its_node() {
    let space = Workspace::new(&cluster(), "enrolment").unwrap();
    let door = Door::of(&space);
    let hosts = door.hosts();
    let own = door.token("stillpoint-agent", "stillpoint", Some(&door.pod));
    let certificate = door.ask(&own, &door.node).unwrap();
    assert!(certificate.contains("BEGIN CERTIFICATE"), "{certificate}");

    let other = if door.node == "node-1" { "node-2" } else { "node-1" };
    door.refuses(&own, other, other);
    door.refuses("", &door.node, "no token");
    door.refuses("not.a.token", &door.node, "the token is not accepted");
    let wrong_audience = door.token("stillpoint-agent", "https://kubernetes.default.svc", Some(&door.pod));
    door.refuses(&wrong_audience, &door.node, "the token is not accepted");
    let of_no_pod = door.token("stillpoint-agent", "stillpoint", None);
    door.refuses(&of_no_pod, &door.node, "says nothing of the node");
    let foreign = door.token("stillpoint-controller", "stillpoint", None);
    door.refuses(&foreign, &door.node, "only system:serviceaccount:stillpoint-system:stillpoint-agent");
    assert_eq!(door.hosts(), hosts, "nobody was written down who was refused");
    space.close().unwrap();
}

/// The agents' account, in a pod that does nothing.
const SHORT_LIVED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: short-lived, namespace: stillpoint-system}
spec:
  serviceAccountName: stillpoint-agent
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox:stillpoint, imagePullPolicy: Never, command: [sleep, infinity]}
";

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_token_of_a_deleted_pod_and_an_expired_one_are_worth_nothing() {
    let space = Workspace::new(&cluster(), "expired").unwrap();
    let door = Door::of(&space);
    space.kubectl.apply(SHORT_LIVED).unwrap();
    let own = |args: &[&str]| space.kubectl.run(&[&["-n", OWN], args].concat()).unwrap();
    own(&["wait", &format!("--for={READY}"), "--timeout=60s", "pod/short-lived"]);
    let token = door.token("stillpoint-agent", "stillpoint", Some("short-lived"));
    own(&["delete", "pod", "short-lived", "--timeout=60s"]);
    door.refuses(&token, &door.node, "the token is not accepted");

    // The API server gives out none that is valid for less than ten minutes: so one with its own key.
    let token = door.token("stillpoint-agent", "stillpoint", Some(&door.pod));
    let key = std::fs::read_to_string(space.layout().pki("service-accounts.key")).unwrap();
    let key = KeyPair::from_pem(&key).unwrap();
    let unchanged = jwt::signed_again(&token, &key, |_| ());
    door.ask(&unchanged, &door.node).unwrap();
    let expired = jwt::signed_again(&token, &key, |claims| {
        for (name, seconds) in [("iat", 7200), ("nbf", 7200), ("exp", 7200)] {
            claims[name] = Value::from(claims[name].as_i64().unwrap() - seconds);
        }
    });
    door.refuses(&expired, &door.node, "the token is not accepted");
    space.close().unwrap();
}

/// As much of JSON Web Tokens as it takes to change one.
mod jwt {
    use super::{KeyPair, SigningKey, Value};

    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// The same token with other claims, signed by this P-256 key.
    pub fn signed_again(token: &str, key: &KeyPair, change: impl Fn(&mut Value)) -> String {
        let parts: Vec<&str> = token.split('.').collect();
        let mut claims: Value = serde_json::from_slice(&decoded(parts[1])).unwrap();
        change(&mut claims);
        let text = format!("{}.{}", parts[0], encoded(claims.to_string().as_bytes()));
        let signature = key.sign(text.as_bytes()).unwrap();
        format!("{text}.{}", encoded(&plain(&signature)))
    }

    /// The two numbers of an ASN.1 signature, 32 bytes each, as RFC 7518 wants them (3.4).
    fn plain(asn1: &[u8]) -> Vec<u8> {
        let (mut rest, mut plain) = (&asn1[2..], Vec::new());
        for _ in 0..2 {
            let length = usize::from(rest[1]);
            let number = &rest[2..2 + length];
            let digits = &number[length.saturating_sub(32)..];
            plain.extend(std::iter::repeat_n(0, 32 - digits.len()));
            plain.extend(digits);
            rest = &rest[2 + length..];
        }
        plain
    }

    /// Base64 for URLs, without padding (RFC 4648, 5).
    fn encoded(bytes: &[u8]) -> String {
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            for digit in 0..=chunk.len() {
                text.push(char::from(DIGITS[usize::try_from(word >> (18 - 6 * digit)).unwrap() & 63]));
            }
        }
        text
    }

    fn decoded(text: &str) -> Vec<u8> {
        let (mut bytes, mut word, mut bits) = (Vec::new(), 0_u32, 0);
        for letter in text.bytes() {
            let digit = DIGITS.iter().position(|digit| *digit == letter).unwrap();
            word = (word << 6) | u32::try_from(digit).unwrap();
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                bytes.push(u8::try_from((word >> bits) & 255).unwrap());
            }
        }
        bytes
    }
}
