//! Whose token is this? The API server knows ([`ClusterTokens`]); what follows from its answer is [`agent_of`], which is
//! pure.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};

use super::api::api_fault;
use crate::domain::{Fault, HostName};

/// The audience of the tokens that agents present here, and nowhere else.
pub const AUDIENCE: &str = "stillpoint";
/// Where the API server says on which node the pod of a token runs (Kubernetes 1.32 on).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What the API server says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Review {
    /// It is nobody's: forged, expired, of a pod that is gone, or for another audience.
    Refused(String),
    /// It is this one's.
    Of(Bearer),
}

/// Who a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bearer {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// For whom the token is meant.
    pub audiences: Vec<String>,
    /// What else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Asks whose a token is.
#[async_trait]
pub trait TokenReviewer: Send + Sync {
    /// The error is about asking, not about the token.
    async fn review(&self, token: &str) -> Result<Review, Fault>;
}

/// Asks the API server.
pub struct ClusterTokens {
    reviews: Api<TokenReview>,
}

impl ClusterTokens {
    /// Asks with this client.
    pub fn new(client: kube::Client) -> Self {
        Self { reviews: Api::all(client) }
    }
}

#[async_trait]
impl TokenReviewer for ClusterTokens {
    async fn review(&self, token: &str) -> Result<Review, Fault> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.into()]), token: token.into() };
        let question = TokenReview { spec, ..TokenReview::default() };
        let answer = self.reviews.create(&PostParams::default(), &question).await;
        let status = answer.map_err(|error| api_fault("cannot have a token reviewed", &error))?.status;
        let status = status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(Review::Refused(status.error.unwrap_or_else(|| "it is not known".into())));
        }
        let user = status.user.unwrap_or_default();
        Ok(Review::Of(Bearer {
            user: user.username.unwrap_or_default(),
            audiences: status.audiences.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }
}

/// The service account of the agents, and nobody else, may enrol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl AgentAccount {
    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

/// The host whose agent presented the token; DENIED in every other case.
pub fn agent_of(review: Review, account: &AgentAccount) -> Result<HostName, Fault> {
    let bearer = match review {
        Review::Of(bearer) => bearer,
        Review::Refused(why) => {
            return Err(Fault::denied(format!(
                "the token is not accepted: {why}; the kubelet renews the agent's token by itself, so this lasts only where the token is not the agent's own"
            )));
        }
    };
    if !bearer.audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(Fault::denied(format!(
            "the token is not for audience {AUDIENCE} but for {}; mount one with that audience (deploy/kustomize/agent.yaml does)",
            list(&bearer.audiences)
        )));
    }
    if bearer.user != account.user() {
        return Err(Fault::denied(format!(
            "the token is of {}; only {} may enrol agents",
            bearer.user,
            account.user()
        )));
    }
    let nodes = bearer.extra.get(NODE_NAME).map_or(&[][..], Vec::as_slice);
    let [node] = nodes else {
        return Err(Fault::denied(format!(
            "the token says nothing of the node of its pod ({NODE_NAME}); Kubernetes 1.32 or newer is needed, and a token that is projected into a pod"
        )));
    };
    node.parse().map_err(|why| Fault::denied(format!("node {node:?} cannot be a host: {why}")))
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "the API server".into() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Code;

    fn account() -> AgentAccount {
        AgentAccount { namespace: "stillpoint-system".into(), name: "stillpoint-agent".into() }
    }

    fn bearer() -> Bearer {
        Bearer {
            user: "system:serviceaccount:stillpoint-system:stillpoint-agent".into(),
            audiences: vec!["stillpoint".into()],
            extra: BTreeMap::from([(NODE_NAME.into(), vec!["node-1".into()])]),
        }
    }

    fn refused(review: Review) -> String {
        let fault = agent_of(review, &account()).unwrap_err();
        assert_eq!(fault.code, Code::Denied, "{fault}");
        fault.message
    }

    #[test]
    fn the_agent_of_a_node_is_known_by_its_token() {
        assert_eq!(agent_of(Review::Of(bearer()), &account()).unwrap().as_str(), "node-1");
    }

    #[test]
    fn a_token_that_the_api_server_does_not_accept_is_refused_with_its_words() {
        assert!(refused(Review::Refused("token has expired".into())).contains("token has expired"));
    }

    #[test]
    fn a_token_for_another_audience_is_refused() {
        for audiences in [vec![], vec!["vault".into()]] {
            let why = refused(Review::Of(Bearer { audiences, ..bearer() }));
            assert!(why.contains("audience stillpoint"), "{why}");
        }
    }

    #[test]
    fn a_token_of_somebody_else_is_refused() {
        for user in [
            "system:serviceaccount:stillpoint-system:stillpoint-controller",
            "system:serviceaccount:shop:stillpoint-agent",
            "system:node:node-1",
            "stillpoint-agent",
            "",
        ] {
            let why = refused(Review::Of(Bearer { user: user.into(), ..bearer() }));
            assert!(why.contains("may enrol"), "{why}");
        }
    }

    #[test]
    fn a_token_that_names_no_node_or_several_is_refused() {
        for nodes in [vec![], vec!["node-1".to_owned(), "node-2".to_owned()]] {
            let extra = BTreeMap::from([(NODE_NAME.to_owned(), nodes)]);
            let why = refused(Review::Of(Bearer { extra, ..bearer() }));
            assert!(why.contains(NODE_NAME), "{why}");
        }
        assert!(refused(Review::Of(Bearer { extra: BTreeMap::new(), ..bearer() })).contains(NODE_NAME));
        let extra = BTreeMap::from([(NODE_NAME.to_owned(), vec!["Node_1".to_owned()])]);
        assert!(refused(Review::Of(Bearer { extra, ..bearer() })).contains("cannot be a host"));
    }
}
