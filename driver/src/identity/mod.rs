//! Who may talk to whom. One certificate authority per installation; every connection between a controller and
//! an agent is TLS with certificates on both sides, and both sides check the **name** in the other's certificate:
//!
//! | who | name in its certificate | who may connect to it |
//! |---|---|---|
//! | controller | `controller.stillpoint` | agents, to enrol (Kubernetes only; see `kube::enrol`) |
//! | agent of host `a` | `a.agent.stillpoint` | the controller; an agent, for what the controller has granted it |
//!
//! An agent's certificate is good for both directions, because agents stream blocks to each other (service `Peer`, which
//! looks for a grant to the very host that the caller's certificate names); everything else that an agent serves answers
//! nobody but the controller.

pub mod acceptor;
pub mod authority;
pub mod pki;
pub mod tls;

use crate::domain::HostName;

/// The name in the controller's certificate.
pub const CONTROLLER: &str = "controller.stillpoint";

/// The name in the certificate of the agent of this host.
pub fn agent_name(host: &HostName) -> String {
    format!("{host}.agent.stillpoint")
}

/// The host whose agent has this name in its certificate.
fn host_of_agent(name: &str) -> Option<HostName> {
    name.strip_suffix(".agent.stillpoint")?.parse().ok()
}
