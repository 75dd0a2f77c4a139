//! Who waits for a claim, from the API server: the claim, the pods that use it, what else they use, and the nodes on which
//! they may run.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;

use super::api::api_fault;
use super::fit::fit;
use crate::controller::consumers::{self, ClaimRef, ConsumerLookup, Consumers, Fit};
use crate::domain::{Fault, HostName};

/// The scheduler's choice, on a claim.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Pods in one answer of the API server.
const PAGE: u32 = 500;

/// The API server as a source of facts.
pub struct ClusterConsumers {
    client: Client,
}

/// A node and the pods on it.
struct NodeFacts {
    node: Option<Node>,
    pods: Vec<Pod>,
}

impl ClusterConsumers {
    /// Facts of this cluster.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, Fault> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        api.get_opt(name).await.map_err(|error| failed(&format!("claim {namespace}/{name}"), &error))
    }

    async fn pods(&self, api: Api<Pod>, what: &str, params: ListParams) -> Result<Vec<Pod>, Fault> {
        listed(&api, params).await.map_err(|error| failed(what, &error))
    }

    /// Nodes that a pod may run on, and the pods that are there.
    async fn nodes(&self, names: &[&HostName]) -> Result<BTreeMap<HostName, NodeFacts>, Fault> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut facts = BTreeMap::new();
        for name in names {
            let found = api.get_opt(name.as_str()).await;
            let node = found.map_err(|error| failed(&format!("node {name}"), &error))?;
            let params = ListParams::default().fields(&format!("spec.nodeName={name}"));
            let all = Api::all(self.client.clone());
            let pods = self.pods(all, &format!("the pods of node {name}"), params).await?;
            let pods = pods.into_iter().filter(|pod| node_of(pod) == Some(name.as_str()) && !has_ended(pod));
            facts.insert((*name).clone(), NodeFacts { node, pods: pods.collect() });
        }
        Ok(facts)
    }

    /// What a pod has besides this claim: volumes, and how many claims without one.
    async fn others(
        &self,
        namespace: &str,
        pod: &Pod,
        but: &str,
    ) -> Result<(Vec<PersistentVolume>, usize), Fault> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let (mut volumes, mut unbound) = (Vec::new(), 0);
        for name in claims_of(pod).into_iter().filter(|name| name != but) {
            let claim = self.claim(namespace, &name).await?;
            let volume = claim.and_then(|claim| claim.spec?.volume_name).filter(|name| !name.is_empty());
            let volume = match volume {
                Some(name) => {
                    let found = api.get_opt(&name).await;
                    found.map_err(|error| failed(&format!("volume {name}"), &error))?
                }
                None => None,
            };
            match volume {
                Some(volume) => volumes.push(volume),
                None => unbound += 1,
            }
        }
        Ok((volumes, unbound))
    }
}

#[async_trait]
impl ConsumerLookup for ClusterConsumers {
    async fn consumers(
        &self,
        claim: &ClaimRef,
        nodes: &[HostName],
        source: Option<&HostName>,
    ) -> Result<Consumers, Fault> {
        let ClaimRef { namespace, name } = claim;
        let Some(found) = self.claim(namespace, name).await? else { return Ok(Consumers::default()) };
        let annotations = found.metadata.annotations.unwrap_or_default();
        let selected: Option<HostName> = annotations.get(SELECTED_NODE).and_then(|node| node.parse().ok());
        if selected.is_some() && source.is_none_or(|source| Some(source) == selected.as_ref()) {
            // The ordinary case, and many at once: one request is enough.
            return Ok(Consumers { selected, pods: vec![] });
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods =
            self.pods(api, &format!("the pods of namespace {namespace}"), ListParams::default()).await?;
        let uses = |pod: &Pod| claims_of(pod).contains(name);
        let pods: Vec<Pod> = pods.into_iter().filter(|pod| uses(pod) && !has_ended(pod)).collect();
        let looked_at: Vec<&HostName> = match (&selected, pods.is_empty()) {
            (_, true) => vec![],
            (Some(_), false) => source.into_iter().collect(),
            (None, false) => nodes.iter().collect(),
        };
        let facts = self.nodes(&looked_at).await?;
        let mut consumers = Consumers { selected, pods: Vec::with_capacity(pods.len()) };
        for pod in pods {
            let (volumes, unbound) = self.others(namespace, &pod, name).await?;
            let fits = facts.iter().map(|(name, facts)| {
                let fit = match &facts.node {
                    Some(node) => fit(&pod, node, &volumes, &facts.pods),
                    None => Fit::Refuses(format!("node {name} does not exist")),
                };
                (name.clone(), fit)
            });
            consumers.pods.push(consumers::Pod {
                fits: fits.collect(),
                name: format!("{namespace}/{}", pod.metadata.name.as_deref().unwrap_or_default()),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                node: node_of(&pod).and_then(|node| node.parse().ok()),
                unbound,
            });
        }
        Ok(consumers)
    }
}

fn failed(what: &str, error: &kube::Error) -> Fault {
    api_fault(&format!("cannot tell which pods wait for the volume: cannot read {what}"), error)
}

async fn listed<T>(api: &Api<T>, params: ListParams) -> Result<Vec<T>, kube::Error>
where
    T: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut all = Vec::new();
    let mut params = params.limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// A pod that has ended, or is being deleted before it ran, waits for nothing.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
        || (pod.metadata.deletion_timestamp.is_some() && node_of(pod).is_none())
}

/// The claims that a pod uses, those of its ephemeral volumes included.
fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
            (None, None) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
