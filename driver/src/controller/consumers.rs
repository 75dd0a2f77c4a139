//! On which node a new volume must be so that the pods that wait for it can run. Pure: facts about the pods go in, nodes
//! come out.
//!
//! Volumes are local to their node, so a volume ties its pods to that node for good. A pod with volumes on two nodes can
//! never be scheduled. Three rules follow:
//! * A node that the scheduler has selected is always right: the scheduler knows all claims of the pod.
//! * The source's node, where a copy takes no time, is right only if the pod waits for this one claim and surely can run
//!   there. "Surely" is strict: what is not known counts as a no, and the data is transferred to the selected node.
//! * Without a selected node (volumeBindingMode Immediate), claims of one pod go to the nodes that its other volumes
//!   allow, or all to one node that follows from the pod's identity alone: they are provisioned at the same time, so
//!   nothing else is the same for all of them.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::orders::{Copies, Places};
use crate::domain::{Fault, HostName};

/// The claim that a volume is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Whether a pod can run on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// It can.
    Fits,
    /// It may; why it is not sure.
    Unsure(String),
    /// It cannot; why not.
    Refuses(String),
}

/// A pod that uses the claim and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`, for messages.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// The node that it runs on.
    pub node: Option<HostName>,
    /// Other claims of it that have no volume yet.
    pub unbound: usize,
    /// Nodes that were looked at; volumes that the pod has already are part of the answer.
    pub fits: BTreeMap<HostName, Fit>,
}

/// Who waits for a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consumers {
    /// The node that the scheduler has selected for the claim.
    pub selected: Option<HostName>,
    /// Pods that use the claim.
    pub pods: Vec<Pod>,
}

/// Tells who waits for a claim.
#[async_trait]
pub trait ConsumerLookup: Send + Sync + 'static {
    /// The pods of a claim, and whether each can run on `source` (where a node is selected), or else on each of `nodes`. Where
    /// a node is selected and there is no other `source`, pods may be left out: they change nothing.
    async fn consumers(
        &self,
        claim: &ClaimRef,
        nodes: &[HostName],
        source: Option<&HostName>,
    ) -> Result<Consumers, Fault>;
}

/// Where a volume goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// Where it may and should be.
    pub places: Places,
    /// Whether the source's pool or the preferred places come first.
    pub copies: Copies,
    /// Why, for the log.
    pub why: String,
}

impl Course {
    /// What the request says, without any knowledge of who waits.
    pub fn as_requested(places: &Places, copies: Copies) -> Self {
        Self { places: places.clone(), copies, why: "as the request says".into() }
    }

    /// Only these nodes, best first.
    fn only(nodes: Vec<HostName>, why: impl Into<String>) -> Self {
        let places = Places { requisite: Some(nodes.clone()), preferred: nodes };
        Self { places, copies: Copies::WherePreferred, why: why.into() }
    }
}

/// Decides for a volume that is a copy of something on `source`, or of nothing. `nodes` are those that have a pool for it.
pub fn decide(
    asked: Copies,
    request: &Places,
    consumers: &Consumers,
    nodes: &[HostName],
    source: Option<&HostName>,
) -> Course {
    if source.is_some() && asked == Copies::BesideSource {
        return Course::as_requested(request, asked);
    }
    let running = consumers.pods.iter().find_map(|pod| Some((pod, pod.node.clone()?)));
    if let Some((pod, node)) = running.filter(|(_, node)| request.allow(node)) {
        return Course::only(vec![node], format!("pod {} runs there", pod.name));
    }
    let source = source.filter(|source| asked == Copies::Auto && request.allow(source));
    match consumers.selected.as_ref().filter(|selected| request.allow(selected)) {
        Some(selected) => beside_scheduler(selected, consumers, source),
        None => without_scheduler(asked, request, consumers, nodes, source),
    }
}

/// The scheduler has selected a node.
fn beside_scheduler(selected: &HostName, consumers: &Consumers, source: Option<&HostName>) -> Course {
    let scheduled = |why: String| Course::only(vec![selected.clone()], why);
    let Some(source) = source.filter(|source| *source != selected) else {
        return scheduled("the scheduler has selected it".into());
    };
    if consumers.pods.is_empty() {
        return scheduled("the scheduler has selected it, and its pod is not known".into());
    }
    match consumers.pods.iter().find_map(|pod| objection(pod, source)) {
        Some(objection) => scheduled(format!(
            "the scheduler has selected it, and staying at {source} is not safe: {objection}"
        )),
        None => Course::only(
            vec![source.clone(), selected.clone()],
            "the source is there, and the pod can run there too",
        ),
    }
}

/// Why a pod may not be able to run on a node with this volume.
fn objection(pod: &Pod, node: &HostName) -> Option<String> {
    let name = &pod.name;
    if pod.unbound > 0 {
        let others = pod.unbound;
        return Some(format!(
            "pod {name} has {others} other claims without a volume, which follow the scheduler"
        ));
    }
    match pod.fits.get(node) {
        Some(Fit::Fits) => None,
        Some(Fit::Unsure(why) | Fit::Refuses(why)) => Some(format!("pod {name}: {why}")),
        None => Some(format!("pod {name}: the node was not looked at")),
    }
}

/// Nobody has selected a node: the class binds at once.
fn without_scheduler(
    asked: Copies,
    request: &Places,
    consumers: &Consumers,
    nodes: &[HostName],
    source: Option<&HostName>,
) -> Course {
    let as_requested = || {
        // The orchestrator's preferred places are a spread over all nodes here, and say nothing about the pod.
        let copies = if source.is_some() { Copies::BesideSource } else { asked };
        Course::as_requested(request, copies)
    };
    let Some(first) = consumers.pods.iter().min_by_key(|pod| &pod.uid) else { return as_requested() };
    let refused = |node: &HostName| {
        consumers.pods.iter().any(|pod| matches!(pod.fits.get(node), Some(Fit::Refuses(_))))
    };
    let allowed: BTreeSet<&HostName> =
        nodes.iter().filter(|node| request.allow(node) && !refused(node)).collect();
    if allowed.is_empty() {
        return as_requested();
    }
    if consumers.pods.iter().any(|pod| pod.unbound > 0) {
        // The same for all claims of the pod, whatever each is a copy of, also once one of them has its volume there.
        let chosen = allowed
            .iter()
            .max_by_key(|node| *blake3::hash(format!("{}/{node}", first.uid).as_bytes()).as_bytes());
        let chosen = chosen.map(|node| vec![(*node).clone()]).unwrap_or_default();
        return Course::only(chosen, format!("all claims of pod {} go there", first.name));
    }
    let rank = |node: &HostName| {
        let all_fit = consumers.pods.iter().all(|pod| pod.fits.get(node) == Some(&Fit::Fits));
        let preferred = request.preferred.iter().position(|one| one == node);
        (!all_fit, source != Some(node), preferred.unwrap_or(usize::MAX))
    };
    let mut allowed: Vec<HostName> = allowed.into_iter().cloned().collect();
    allowed.sort_by_key(|node| rank(node));
    Course::only(allowed, format!("pod {} can run there", first.name))
}

#[cfg(test)]
mod tests;
