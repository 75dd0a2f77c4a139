//! Pods as the API server knows them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, PersistentVolume, Pod as ApiPod};
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::task::JoinSet;

use crate::plan::DEFAULT_CONTAINER;
use crate::ports::{Containers, Inventory, InventoryError, Pod, PodState};

use super::error::KubeError;
use super::shells::Shells;

/// Pods that one answer of the API server brings.
const PAGE: u32 = 500;
/// Volumes whose objects are asked for one by one; of more, all are listed.
const ASKED_BY_NAME: usize = 64;
/// Pages that are read; more pods than that are not looked through for one snapshot.
const PAGES: usize = 200;

/// Pods of a cluster; also runs commands in them.
#[derive(Clone)]
pub struct KubePods {
    pub(super) client: Client,
    driver: String,
    shells: Shells,
}

impl KubePods {
    /// Pods of this cluster; their volumes are those of this CSI driver.
    pub fn new(client: Client, driver: impl Into<String>) -> Self {
        Self { client, driver: driver.into(), shells: Shells::default() }
    }

    pub(super) fn shells(&self) -> &Shells {
        &self.shells
    }

    /// The claim (`namespace`, `name`) of every volume of the driver, by volume id.
    pub async fn claims(&self) -> Result<BTreeMap<String, (String, String)>, KubeError> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let claims =
            list(&api, "persistent volumes", |volume| claim_of_volume(&volume, &self.driver)).await?;
        Ok(claims.into_iter().collect())
    }

    /// The claims of these volumes, each with the name that it was made by. A provisioner calls the object of a volume so,
    /// and an object that has the volume's handle is its object, whatever it is called: so each is asked for by name, and
    /// all are listed only where one is not found so, or where there are so many that a list costs less.
    pub async fn claims_of(
        &self,
        volumes: &[(String, Option<String>)],
    ) -> Result<BTreeMap<String, (String, String)>, KubeError> {
        let mut found = BTreeMap::new();
        if volumes.len() <= ASKED_BY_NAME {
            let mut asked = JoinSet::new();
            for (volume, name) in volumes {
                let Some(name) = name.clone() else { break };
                let (own, volume) = (self.clone(), volume.clone());
                asked.spawn(async move { own.claim_of(&name, &volume).await.map(|claim| (volume, claim)) });
            }
            for answer in asked.join_all().await {
                let (volume, claim) = answer?;
                found.extend(claim.map(|claim| (volume, claim)));
            }
            if found.len() == volumes.len() {
                return Ok(found);
            }
        }
        let mut all = self.claims().await?;
        all.retain(|volume, _| volumes.iter().any(|(wanted, _)| wanted == volume));
        Ok(all)
    }

    /// The claim of a volume whose object has this name; `None`: it has another one, or no claim.
    async fn claim_of(&self, name: &str, volume: &str) -> Result<Option<(String, String)>, KubeError> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let what = format!("persistent volume {name}");
        match api.get_opt(name).await {
            Ok(found) => Ok(found
                .and_then(|found| claim_of_volume(&found, &self.driver))
                .and_then(|(handle, claim)| (handle == volume).then_some(claim))),
            // A volume may have a name that no object can have.
            Err(kube::Error::Api(status)) if status.code == 400 || status.code == 404 => Ok(None),
            Err(error) => Err(KubeError::of(what, error)),
        }
    }

    /// Pods with their volumes, sorted by namespace and name.
    async fn listed(&self, namespaces: &[String]) -> Result<Vec<Pod>, KubeError> {
        let claims = self.claims().await?.into_iter();
        let volumes: BTreeMap<_, _> = claims.map(|(volume, claim)| (claim, volume)).collect();
        let keep = |pod: ApiPod| seen(pod, &volumes);
        let mut pods = Vec::new();
        if namespaces.is_empty() {
            pods = list(&Api::all(self.client.clone()), "pods", keep).await?;
        }
        for namespace in namespaces {
            let api = Api::namespaced(self.client.clone(), namespace);
            pods.extend(list(&api, &format!("pods of {namespace}"), keep).await?);
        }
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(pods)
    }
}

#[async_trait]
impl Inventory for KubePods {
    async fn pods(&self, namespaces: &[String]) -> Result<Vec<Pod>, InventoryError> {
        self.listed(namespaces).await.map_err(|error| InventoryError(error.to_string()))
    }
}

/// What is to be kept of everything that an API lists. Whole objects are in memory for one page at a time: a cluster may
/// have tens of thousands.
async fn list<K, T>(api: &Api<K>, what: &str, keep: impl Fn(K) -> Option<T>) -> Result<Vec<T>, KubeError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut all = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    for _ in 0..PAGES {
        let found = api.list(&page).await.map_err(|error| KubeError::of(what, error))?;
        all.extend(found.items.into_iter().filter_map(&keep));
        match found.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(all),
        }
    }
    Err(KubeError::Refused {
        what: what.to_owned(),
        why: format!("there are more than {}", PAGE as usize * PAGES),
    })
}

/// The id of a volume of this driver that is bound, and its claim.
fn claim_of_volume(volume: &PersistentVolume, driver: &str) -> Option<(String, (String, String))> {
    let spec = volume.spec.as_ref()?;
    let csi = spec.csi.as_ref().filter(|csi| csi.driver == driver)?;
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let claim = spec.claim_ref.as_ref().filter(|_| phase == Some("Bound"))?;
    Some((csi.volume_handle.clone(), (claim.namespace.clone()?, claim.name.clone()?)))
}

/// A pod as the engine sees it; one without a name or identity was not written by an API server.
pub(super) fn seen(pod: ApiPod, volumes: &BTreeMap<(String, String), String>) -> Option<Pod> {
    let state = state(&pod);
    let (name, namespace) = (pod.metadata.name?, pod.metadata.namespace?);
    let spec = pod.spec.unwrap_or_default();
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| match (
        &volume.persistent_volume_claim,
        &volume.ephemeral,
    ) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        // The claim of a generic ephemeral volume is called so by definition.
        (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
        (None, None) => None,
    };
    let claims = spec.volumes.iter().flatten().filter_map(claim);
    let mut mounted: Vec<String> =
        claims.filter_map(|claim| volumes.get(&(namespace.clone(), claim)).cloned()).collect();
    mounted.sort();
    mounted.dedup();
    let is_sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.into_iter().flatten().filter(is_sidecar);
    let annotations = pod.metadata.annotations.unwrap_or_default();
    Some(Pod {
        uid: pod.metadata.uid?,
        labels: pod.metadata.labels.unwrap_or_default(),
        host: spec.node_name.unwrap_or_default(),
        containers: Containers {
            ordinary: spec.containers.into_iter().map(|container| container.name).collect(),
            sidecars: sidecars.map(|container| container.name).collect(),
            default: annotations.get(DEFAULT_CONTAINER).cloned(),
        },
        volumes: mounted,
        state,
        namespace,
        name,
    })
}

fn state(pod: &ApiPod) -> PodState {
    if pod.metadata.deletion_timestamp.is_some() {
        return PodState::NotReady("it is being deleted".to_owned());
    }
    let status = pod.status.clone().unwrap_or_default();
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => return PodState::Finished,
        Some("Running") => {}
        other => return PodState::NotReady(format!("its phase is {}", other.unwrap_or("unknown"))),
    }
    let conditions = status.conditions.unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => PodState::Ready,
        Some(ready) => {
            let why = ready.message.clone().or_else(|| ready.reason.clone());
            PodState::NotReady(why.unwrap_or_else(|| "its condition Ready is not True".to_owned()))
        }
        None => PodState::NotReady("it has no condition Ready yet".to_owned()),
    }
}
