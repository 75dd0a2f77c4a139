//! Letting agents in: the controller's side of `proto/enrol.proto`.
//!
//! # Flow
//! 1. The token is reviewed; it must be the agents' service account's, for our audience, and name a node ([`agent_of`]).
//! 2. The request must ask for exactly that node's name; it is signed for [`Enrolment::lifetime`].
//! 3. The host and its address are written down and become part of the fleet ([`Roll`]).
//! 4. The certificate is given out.
//!
//! # Guarantees
//! A failure in any step gives out nothing. Tokens are in no log and no message. At most [`AT_ONCE`] enrolments go on at
//! a time, so that a restart of a large cluster does not become a flood at the API server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::hosts::Roll;
use super::tokens::{AgentAccount, TokenReviewer, agent_of};
use crate::controller::fleet::AgentAddress;
use crate::domain::{Fault, HostName};
use crate::identity::authority::Authority;
use crate::proto::enrol::enrolment_server::Enrolment as Api;
use crate::proto::enrol::{EnrolRequest, EnrolResponse, KnownPoolsRequest, KnownPoolsResponse};
use crate::wire::status_of;

/// Enrolments at the same time.
const AT_ONCE: usize = 16;
/// Service account tokens have 1 to 2 KiB.
const TOKEN_LIMIT_BYTES: usize = 16 << 10;

/// The enrolment service.
pub struct Enrolment {
    /// Who knows tokens.
    pub tokens: Arc<dyn TokenReviewer>,
    /// Whose tokens are accepted.
    pub account: AgentAccount,
    /// Who signs.
    pub authority: Arc<Authority>,
    /// How long what is signed is valid.
    pub lifetime: Duration,
    /// Where hosts are written down.
    pub roll: Roll,
    places: Semaphore,
}

impl Enrolment {
    /// Puts it together.
    pub fn new(
        tokens: Arc<dyn TokenReviewer>,
        account: AgentAccount,
        authority: Arc<Authority>,
        lifetime: Duration,
        roll: Roll,
    ) -> Self {
        Self { tokens, account, authority, lifetime, roll, places: Semaphore::new(AT_ONCE) }
    }

    /// The node of an agent's token.
    async fn node_of(&self, token: &str) -> Result<HostName, Fault> {
        if token.is_empty() || token.len() > TOKEN_LIMIT_BYTES {
            return Err(Fault::denied("there is no token that could be one; mount a projected token"));
        }
        agent_of(self.tokens.review(token).await?, &self.account)
    }

    async fn known_pools_of(&self, token: &str) -> Result<KnownPoolsResponse, Fault> {
        let place = self.places.acquire().await;
        let _place = place.map_err(|_| Fault::unavailable("the controller ends; ask again"))?;
        let host = self.node_of(token).await?;
        let pools = self.roll.fleet().known_pools().on(&host);
        Ok(KnownPoolsResponse { pools: pools.iter().map(ToString::to_string).collect() })
    }

    async fn admit(&self, asked: EnrolRequest) -> Result<EnrolResponse, Fault> {
        let place = self.places.acquire().await;
        let _place = place.map_err(|_| Fault::unavailable("the controller ends; ask again"))?;
        let address: SocketAddr = asked
            .address
            .parse()
            .map_err(|_| Fault::invalid("address is not ip:port; give the pod's own address"))?;
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(Fault::invalid(format!(
                "nobody can be reached at {address}; give the pod's own address"
            )));
        }
        let host = self.node_of(&asked.token).await?;
        let certificate = self.authority.sign_agent(&asked.request, &host, self.lifetime)?;
        self.roll.enter(AgentAddress { host: host.clone(), address: address.to_string() }).await?;
        tracing::info!(%host, %address, "agent enrolled");
        Ok(EnrolResponse { certificate, valid_s: self.lifetime.as_secs() })
    }
}

#[tonic::async_trait]
impl Api for Enrolment {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let peer = request.remote_addr();
        self.admit(request.into_inner()).await.map(Response::new).map_err(|fault| {
            tracing::warn!(?peer, code = ?fault.code, %fault, "an enrolment failed");
            status_of(fault)
        })
    }

    async fn known_pools(
        &self,
        request: Request<KnownPoolsRequest>,
    ) -> Result<Response<KnownPoolsResponse>, Status> {
        let peer = request.remote_addr();
        self.known_pools_of(&request.into_inner().token).await.map(Response::new).map_err(|fault| {
            tracing::warn!(?peer, code = ?fault.code, %fault, "an agent could not be told its node's pools");
            status_of(fault)
        })
    }
}

#[cfg(test)]
mod tests;
