//! How agents are reached: addresses, and connections with limits.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::domain::HostName;
use crate::identity::tls::Credentials;

/// A host that does not accept a connection within this is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How often a connection is asked whether the other end still lives, and how long it may think.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_LIMIT: Duration = Duration::from_secs(3);

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAddress {
    /// Its host; its certificate must be this host's.
    pub host: HostName,
    /// `name:port` or `ip:port`.
    pub address: String,
}

/// A list of agents that cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Nobody to talk to.
    #[error("the list of agents is empty; name at least one host")]
    Empty,
    /// A host that is there twice.
    #[error("host {0} is in the list of agents twice; each host has one agent")]
    Twice(HostName),
    /// An address that is none.
    #[error("agent {host}: {address:?} is not an address ({why}); write host:port, such as 10.0.0.7:9700")]
    Address {
        /// The host.
        host: HostName,
        /// What was given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// Certificates that TLS does not take.
    #[error("agent {host}: the controller's certificates cannot be used: {why}")]
    Tls {
        /// The host.
        host: HostName,
        /// What is wrong.
        why: String,
    },
}

/// How agents are reached. The seam for a network that is simulated; everywhere else it is [`Credentials`]: TCP and TLS.
pub trait Dial: std::fmt::Debug + Send + Sync + 'static {
    /// A channel to this agent that connects at its first use, and again after a loss.
    fn dial(&self, agent: &AgentAddress) -> Result<Channel, FleetError>;
}

impl Dial for Credentials {
    fn dial(&self, agent: &AgentAddress) -> Result<Channel, FleetError> {
        Ok(endpoint(agent, self)?.connect_lazy())
    }
}

fn endpoint(agent: &AgentAddress, credentials: &Credentials) -> Result<Endpoint, FleetError> {
    let address = |why: String| FleetError::Address {
        host: agent.host.clone(),
        address: agent.address.chars().take(64).collect(),
        why,
    };
    let (name, port) = agent.address.rsplit_once(':').ok_or_else(|| address("no port".into()))?;
    if name.is_empty() || name.contains('/') || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(address("no host name, or no port".into()));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", agent.address))
        .map_err(|why| address(why.to_string()))?;
    let endpoint = endpoint
        .tls_config(credentials.client(&agent.host))
        .map_err(|why| FleetError::Tls { host: agent.host.clone(), why: why.to_string() })?;
    Ok(with_limits(endpoint))
}

/// How patient a controller is with a connection.
pub fn with_limits(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
}
