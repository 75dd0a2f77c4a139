//! Tells every claim of a pool when the pool fills up: whoever owns the claim sees it in `kubectl describe pvc`, and may have
//! no access to nodes, agents or metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Client;
use kube::api::{Api, ListParams};
use stillpoint_rules::kube::{EventKind, Events, ObjectRef};
use tokio::time::Instant;

use super::api::api_fault;
use crate::controller::volumes::Hosts;
use crate::csi::DRIVER_NAME;
use crate::domain::health::{Ailment, Condition};
use crate::domain::{Fault, HostName, PoolId, VolumeId};

/// Between two looks at the pools.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// The API server forgets events after an hour; as long as it goes on, it is told again.
const TELL_AGAIN: Duration = Duration::from_mins(55);
/// Volumes in one answer of the API server.
const PAGE: u32 = 500;

/// Watches pools and tells their claims.
pub struct PoolEvents {
    client: Client,
    events: Events,
    hosts: Arc<dyn Hosts>,
}

/// What was told of a pool last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    condition: Condition,
    at: Instant,
}

/// What the claims of a pool are to be told now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum News {
    /// The pool fills up, or is full.
    Low { host: HostName, ailment: Ailment },
    /// There is room again.
    Over,
}

impl PoolEvents {
    /// Of these hosts, in this cluster.
    pub fn new(client: Client, reporter: &str, hosts: Arc<dyn Hosts>) -> Self {
        Self { events: Events::new(client.clone(), reporter), client, hosts }
    }

    /// Looks and tells for ever.
    pub async fn keep_telling(self) {
        let mut told = BTreeMap::new();
        loop {
            if let Err(fault) = self.look(&mut told).await {
                tracing::warn!(%fault, "claims cannot be told that their pool fills up");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, told: &mut BTreeMap<PoolId, Told>) -> Result<(), Fault> {
        let now = Instant::now();
        let news = news(
            self.hosts.survey().await.into_iter().flat_map(|facts| {
                let host = facts.host;
                facts.pools.into_iter().flatten().map(move |pool| (host.clone(), pool.id, pool.conditions))
            }),
            told,
            now,
        );
        if news.is_empty() {
            return Ok(());
        }
        let claims = self.claims().await?;
        for (pool, news) in news {
            for claim in claims.get(&pool).into_iter().flatten() {
                let (kind, reason, message) = match &news {
                    News::Low { host, ailment } => (
                        EventKind::Warning,
                        ailment.condition.as_str(),
                        format!("node {host}: {}", ailment.message),
                    ),
                    News::Over => (EventKind::Normal, "PoolHasRoom", format!("pool {pool} has room again")),
                };
                self.events.tell(claim, kind, reason, &message).await;
            }
            match news {
                News::Low { ailment, .. } => {
                    told.insert(pool, Told { condition: ailment.condition, at: now });
                }
                News::Over => drop(told.remove(&pool)),
            }
        }
        Ok(())
    }

    /// The claims of our volumes, by pool.
    async fn claims(&self) -> Result<BTreeMap<PoolId, Vec<ObjectRef>>, Fault> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut claims: BTreeMap<PoolId, Vec<ObjectRef>> = BTreeMap::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await;
            let page = page.map_err(|error| api_fault("cannot list persistent volumes", &error))?;
            for volume in page.items {
                if let Some((pool, claim)) = claim_of(volume) {
                    claims.entry(pool).or_default().push(claim);
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(claims),
            }
        }
    }
}

/// The pool of a volume of ours, and its claim.
fn claim_of(volume: PersistentVolume) -> Option<(PoolId, ObjectRef)> {
    let spec = volume.spec?;
    let csi = spec.csi.filter(|csi| csi.driver == DRIVER_NAME)?;
    let id: VolumeId = csi.volume_handle.parse().ok()?;
    let claim = spec.claim_ref?;
    let about = ObjectRef {
        api_version: "v1".into(),
        kind: "PersistentVolumeClaim".into(),
        namespace: claim.namespace?,
        name: claim.name?,
        uid: claim.uid.unwrap_or_default(),
    };
    Some((id.pool, about))
}

/// What is new, or was told long ago. A pool whose host is silent is not among `pools`, and nothing is said of it.
fn news(
    pools: impl IntoIterator<Item = (HostName, PoolId, Vec<Ailment>)>,
    told: &BTreeMap<PoolId, Told>,
    now: Instant,
) -> Vec<(PoolId, News)> {
    let mut news = Vec::new();
    for (host, pool, conditions) in pools {
        let is_low =
            |ailment: &Ailment| matches!(ailment.condition, Condition::PoolNearlyFull | Condition::PoolFull);
        match (conditions.into_iter().find(is_low), told.get(&pool)) {
            (Some(ailment), Some(told))
                if told.condition == ailment.condition
                    && now.saturating_duration_since(told.at) < TELL_AGAIN => {}
            (Some(ailment), _) => news.push((pool, News::Low { host, ailment })),
            (None, Some(_)) => news.push((pool, News::Over)),
            (None, None) => {}
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stillpoint_rules::kube::fake::FakeCluster;

    use super::*;
    use crate::controller::volumes::model::{Model, pool_id};
    use crate::domain::Incarnation;

    fn low(condition: Condition) -> Vec<Ailment> {
        vec![Ailment::new(condition, "delete something")]
    }

    #[test]
    fn a_condition_is_told_when_it_begins_gets_worse_goes_on_for_long_and_ends() {
        let (now, host, pool) = (Instant::now(), "a".parse::<HostName>().unwrap(), pool_id(1));
        let told = |condition, ago: Duration| {
            BTreeMap::from([(pool.clone(), Told { condition, at: now.checked_sub(ago).unwrap() })])
        };
        let (nearly, full) = (Condition::PoolNearlyFull, Condition::PoolFull);
        let recently = Duration::from_mins(1);
        let table = [
            (vec![], BTreeMap::new(), None),
            (low(nearly), BTreeMap::new(), Some("Low")),
            (low(nearly), told(nearly, recently), None),
            (low(full), told(nearly, recently), Some("Low")),
            (low(nearly), told(nearly, TELL_AGAIN), Some("Low")),
            (vec![], told(full, recently), Some("Over")),
            (low(Condition::PoolFailed), BTreeMap::new(), None),
        ];
        for (conditions, told, expected) in table {
            let found = news([(host.clone(), pool.clone(), conditions.clone())], &told, now);
            let word = found.first().map(|(_, news)| match news {
                News::Low { .. } => "Low",
                News::Over => "Over",
            });
            assert_eq!(word, expected, "{conditions:?} after {told:?}");
        }
        assert_eq!(news([], &told(full, recently), now), [], "a silent host ends nothing");
    }

    #[tokio::test]
    async fn every_claim_of_the_pool_gets_an_event_and_no_other() {
        let cluster = FakeCluster::start().await.unwrap();
        let model = Arc::new(Model::three());
        model.ail("a", low(Condition::PoolNearlyFull));
        let volume = |name: &str, pool: u8, driver: &str| {
            let handle = VolumeId::new(pool_id(pool), name, Incarnation(1)).to_string();
            let object = json!({ "spec": {
                "csi": { "driver": driver, "volumeHandle": handle },
                "claimRef": { "namespace": "shop", "name": name, "uid": format!("uid-{name}") },
            } });
            cluster.put(&format!("/api/v1/persistentvolumes/{name}"), object);
        };
        volume("mine", 1, DRIVER_NAME);
        volume("also-mine", 1, DRIVER_NAME);
        volume("elsewhere", 2, DRIVER_NAME);
        volume("strange", 1, "other.example.com");
        let telling = PoolEvents::new(cluster.client().unwrap(), "me", model.clone());
        let events = || {
            let of = |event: &serde_json::Value| {
                let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
                format!("{name} {}", event["reason"].as_str().unwrap_or_default())
            };
            let mut all: Vec<String> =
                cluster.below("/api/v1/namespaces/shop/events").iter().map(of).collect();
            all.sort();
            all
        };
        let mut told = BTreeMap::new();
        for _ in 0..2 {
            telling.look(&mut told).await.unwrap();
            assert_eq!(events(), ["also-mine PoolNearlyFull", "mine PoolNearlyFull"], "once");
        }
        model.silence("a", true);
        telling.look(&mut told).await.unwrap();
        assert_eq!(events().len(), 2);
        model.silence("a", false);
        model.ail("a", vec![]);
        telling.look(&mut told).await.unwrap();
        assert_eq!(events().iter().filter(|event| event.ends_with("PoolHasRoom")).count(), 2);
    }
}
