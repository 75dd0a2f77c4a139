//! An agent's certificates: got from a controller with the pod's token, and renewed while the agent runs.
//!
//! # Flow
//! 1. Key and request are made in memory; the key is never written anywhere.
//! 2. The authority's certificate, the controllers' addresses and the token are read from their files, each time anew:
//!    the kubelet keeps them fresh.
//! 3. The controllers are asked in turn, over TLS that proves that it is a controller.
//! 4. What comes back is checked and replaces the old certificate for all handshakes from now on.
//! 5. After half of its life, or when the authority's file has changed, from the beginning.
//!
//! A failure is logged and tried again, at most [`PAUSE_MAX`] later; the old certificate stays in use meanwhile.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::authority::{CA_FILE, CONTROLLERS_FILE};
use crate::domain::{Fault, HostName, PoolId};
use crate::identity::authority::{Pair, Wish};
use crate::identity::tls::{Credentials, to_the_controller};
use crate::proto::enrol::enrolment_client::EnrolmentClient;
use crate::proto::enrol::{EnrolRequest, KnownPoolsRequest};
use crate::text_file;
use crate::wire::{fault_of, transport_fault};

/// A controller that does not accept a connection within this is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A token review and two writes at the API server.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Between two attempts, at first and at last.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How often the authority's file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Certificates, addresses and tokens are far smaller.
const FILE_LIMIT_BYTES: u64 = 64 << 10;
/// Controllers that are asked in one attempt.
const CONTROLLERS_MAX: usize = 8;

/// How an agent gets its certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Its host.
    pub host: HostName,
    /// Where its API can be reached.
    pub address: SocketAddr,
    /// Directory with `ca.crt` and `controllers`.
    pub trust: PathBuf,
    /// The pod's token for our audience.
    pub token: PathBuf,
}

/// A new certificate.
struct Fresh {
    credentials: Credentials,
    ca: String,
    lifetime: Duration,
}

/// Whom to ask, and how to be believed.
struct Trust {
    ca: String,
    /// The newest first.
    controllers: Vec<String>,
    token: String,
    /// Where the controllers are named.
    file: PathBuf,
}

impl Trust {
    fn names_nobody(&self) -> Fault {
        Fault::unavailable(format!("{} names no controller yet; is its pod running?", self.file.display()))
    }
}

async fn ask_for_pools(controller: &str, trust: &Trust) -> Result<Vec<PoolId>, Fault> {
    let request = KnownPoolsRequest { token: trust.token.clone() };
    let answer = connect(controller, &trust.ca).await?.known_pools(request).await.map_err(fault_of)?;
    let parse = |pool: String| {
        pool.parse()
            .map_err(|error| Fault::internal(format!("the controller's answer is not understood: {error}")))
    };
    answer.into_inner().pools.into_iter().map(parse).collect()
}

impl Renewal {
    /// Gives out fresh certificates for ever.
    pub async fn keep_fresh(self, sender: watch::Sender<Option<Credentials>>) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.enrol().await {
                Ok(fresh) => {
                    pause = PAUSE_MIN;
                    let again_in = fresh.lifetime / 2;
                    tracing::info!(host = %self.host, ?again_in, "has a new certificate");
                    sender.send_replace(Some(fresh.credentials));
                    self.until_stale(&fresh.ca, again_in).await;
                }
                Err(fault) => {
                    tracing::warn!(%fault, again_in = ?pause, "cannot enrol");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn until_stale(&self, ca: &str, age: Duration) {
        let end = Instant::now() + age;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
            // A file that cannot be read at this moment tells nothing.
            if read(&self.trust.join(CA_FILE)).is_ok_and(|now| now != ca) {
                tracing::info!("the authority has changed");
                return;
            }
        }
    }

    async fn enrol(&self) -> Result<Fresh, Fault> {
        let (wish, trust) = (Wish::of_agent(&self.host)?, self.trust()?);
        let mut newest = None;
        for controller in &trust.controllers {
            match self.ask(controller, &trust.ca, &trust.token, &wish).await {
                Ok(fresh) => return Ok(fresh),
                Err(fault) => {
                    newest.get_or_insert(fault.context(format_args!("controller {controller}")));
                }
            }
        }
        Err(newest.unwrap_or_else(|| trust.names_nobody()))
    }

    /// The pools that this node announced last, as a controller remembers them.
    pub async fn known_pools(&self) -> Result<Vec<PoolId>, Fault> {
        let trust = self.trust()?;
        let mut newest = None;
        for controller in &trust.controllers {
            match ask_for_pools(controller, &trust).await {
                Ok(pools) => return Ok(pools),
                Err(fault) => {
                    newest.get_or_insert(fault.context(format_args!("controller {controller}")));
                }
            }
        }
        Err(newest.unwrap_or_else(|| trust.names_nobody()))
    }

    /// The files as they are now.
    fn trust(&self) -> Result<Trust, Fault> {
        let file = self.trust.join(CONTROLLERS_FILE);
        let text = read(&file)?;
        let controllers = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(Trust {
            ca: read(&self.trust.join(CA_FILE))?,
            controllers: controllers.take(CONTROLLERS_MAX).map(str::to_owned).collect(),
            token: read(&self.token)?.trim().to_owned(),
            file,
        })
    }

    async fn ask(&self, controller: &str, ca: &str, token: &str, wish: &Wish) -> Result<Fresh, Fault> {
        let request = EnrolRequest {
            token: token.into(),
            request: wish.request.clone(),
            address: self.address.to_string(),
        };
        let answer = connect(controller, ca).await?.enrol(request).await.map_err(fault_of)?.into_inner();
        let pair = Pair { certificate: answer.certificate, key: wish.key.clone() };
        let credentials = Credentials::issued_to_agent(ca, &pair, &self.host)
            .map_err(|error| Fault::precondition(error.to_string()))?;
        Ok(Fresh { credentials, ca: ca.into(), lifetime: Duration::from_secs(answer.valid_s.max(2)) })
    }
}

/// A connection to a controller, which proves that it is the authority's.
async fn connect(controller: &str, ca: &str) -> Result<EnrolmentClient<Channel>, Fault> {
    let wrong = |error: tonic::transport::Error| Fault::invalid(format!("not an address: {error}"));
    let tls = to_the_controller(ca).map_err(|error| Fault::precondition(error.to_string()))?;
    let endpoint = Endpoint::from_shared(format!("https://{controller}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(wrong)?
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT);
    Ok(EnrolmentClient::new(endpoint.connect().await.map_err(|error| transport_fault(&error))?))
}

fn read(path: &Path) -> Result<String, Fault> {
    text_file::read(path, FILE_LIMIT_BYTES)
        .map_err(|error| Fault::unavailable(format!("cannot read {error}")))
}
