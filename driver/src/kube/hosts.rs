//! Which hosts there are: a ConfigMap with one line per host that has ever enrolled, and the fleet that follows it.
//!
//! # Guarantees
//! A host is written down before its agent gets a certificate, so before it can have a volume. A controller that starts
//! knows all of them, also those that are silent: nobody concludes from silence that something does not exist. A host
//! leaves only when somebody removes its line (`kubectl edit configmap stillpoint-hosts`), which is how a node that will
//! never come back is given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::api::{api_fault, is_absent, is_conflict};
use super::ownership::{Installation, Mark};
use crate::controller::fleet::{AgentAddress, Fleet};
use crate::domain::round::AGENTS_MAX;
use crate::domain::{Fault, HostName};

/// Name of the ConfigMap.
pub const HOSTS: &str = "stillpoint-hosts";
/// How often lines that people or other controllers have changed are looked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(30);

const AFTER_DELETION: &str = "it is written anew from what the controller knows and what agents say when they enrol; a \
                              node whose agent does not run is unknown until it does";

/// Hosts and where their agents listen.
pub type Lines = BTreeMap<String, String>;

/// Where such lines are written down.
#[async_trait]
pub trait LineBook: Send + Sync {
    /// All lines; `None` where the book does not exist.
    async fn read(&self) -> Result<Option<Lines>, Fault>;
    /// Writes or replaces these lines and leaves all others alone; makes the book where it does not exist.
    async fn write(&self, lines: &Lines) -> Result<(), Fault>;
}

/// A ConfigMap.
pub struct ClusterLines {
    maps: Api<ConfigMap>,
    name: &'static str,
    installation: Installation,
}

impl ClusterLines {
    /// The ConfigMap of this name in this installation's namespace.
    pub fn new(client: kube::Client, installation: &Installation, name: &'static str) -> Self {
        let maps = Api::namespaced(client, &installation.namespace);
        Self { maps, name, installation: installation.clone() }
    }

    /// The ConfigMap, if it is this installation's.
    async fn own(&self) -> Result<Option<(Mark, ConfigMap)>, Fault> {
        let found = self.maps.get_opt(self.name).await;
        let found =
            found.map_err(|error| api_fault(&format!("cannot read ConfigMap {}", self.name), &error))?;
        let Some(map) = found else { return Ok(None) };
        let mark = self.installation.check("ConfigMap", self.name, &map.metadata, AFTER_DELETION)?;
        Ok(Some((mark, map)))
    }
}

#[async_trait]
impl LineBook for ClusterLines {
    async fn read(&self) -> Result<Option<Lines>, Fault> {
        let Some((mark, map)) = self.own().await? else { return Ok(None) };
        match mark {
            Mark::Own => {}
            // From then on it counts here only.
            Mark::Absent => self.write(&Lines::new()).await?,
        }
        Ok(Some(map.data.unwrap_or_default()))
    }

    async fn write(&self, lines: &Lines) -> Result<(), Fault> {
        let failed = |error: kube::Error| api_fault(&format!("cannot write ConfigMap {}", self.name), &error);
        // Lines of this installation among those of another one could not be told apart.
        self.own().await?;
        let patch = Patch::Merge(json!({ "metadata": self.installation.patch(), "data": lines }));
        match self.maps.patch(self.name, &PatchParams::default(), &patch).await {
            Ok(_) => return Ok(()),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        let metadata = self.installation.metadata(self.name);
        let map = ConfigMap { metadata, data: Some(lines.clone()), ..ConfigMap::default() };
        match self.maps.create(&PostParams::default(), &map).await {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) => {
                let again = self.maps.patch(self.name, &PatchParams::default(), &patch).await;
                again.map(drop).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// The fleet, as the book has it.
#[derive(Clone)]
pub struct Roll {
    book: Arc<dyn LineBook>,
    fleet: Fleet,
}

impl Roll {
    /// Keeps this fleet in step with this book.
    pub fn new(book: Arc<dyn LineBook>, fleet: Fleet) -> Self {
        Self { book, fleet }
    }

    /// The fleet that is kept in step.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Writes a host down, then makes it a member.
    pub async fn enter(&self, address: AgentAddress) -> Result<(), Fault> {
        let addresses = self.fleet.addresses();
        if !addresses.contains(&address) {
            // Only a new host: one that is written down already must stay known, whatever the limit says.
            let is_new = addresses.iter().all(|known| known.host != address.host);
            if is_new && addresses.len() >= AGENTS_MAX {
                return Err(Fault::exhausted(format!(
                    "cannot enrol {}: {AGENTS_MAX} nodes are enrolled, which is the most that one controller works with; \
                     remove the lines of nodes that will not come back from ConfigMap {HOSTS}",
                    address.host
                )));
            }
            self.book.write(&lines(std::slice::from_ref(&address))).await?;
        }
        self.fleet.admit(address).map_err(|error| Fault::invalid(error.to_string()))
    }

    /// Makes the fleet what the book says. `seen` are the lines of the last time: only what was there and is gone now was
    /// removed by somebody; what has never been there is being written at this moment.
    pub async fn follow(&self, seen: &Lines) -> Result<Lines, Fault> {
        let Some(now) = self.book.read().await? else {
            let members = lines(&self.fleet.addresses());
            tracing::warn!(
                "ConfigMap {HOSTS} is missing; it is written anew from what this controller knows"
            );
            self.book.write(&members).await?;
            return Ok(members);
        };
        for (host, address) in &now {
            let Ok(host) = host.parse::<HostName>() else {
                tracing::warn!(%host, "a line of ConfigMap {HOSTS} is no host; remove it");
                continue;
            };
            let member = AgentAddress { host, address: address.clone() };
            if seen.get(member.host.as_str()) != Some(address)
                && let Err(error) = self.fleet.admit(member)
            {
                tracing::warn!(%error, "a line of ConfigMap {HOSTS} cannot be used");
            }
        }
        for gone in seen.keys().filter(|host| !now.contains_key(*host)) {
            if let Ok(host) = gone.parse() {
                tracing::warn!(%host, "its line was removed from ConfigMap {HOSTS}: it is not asked any more");
                self.fleet.dismiss(&host);
            }
        }
        Ok(now)
    }

    /// Follows the book for ever.
    pub async fn keep_following(&self, mut seen: Lines) {
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            match self.follow(&seen).await {
                Ok(now) => seen = now,
                Err(fault) => tracing::warn!(%fault, "the hosts stay as they were"),
            }
        }
    }
}

fn lines(addresses: &[AgentAddress]) -> Lines {
    addresses.iter().map(|agent| (agent.host.to_string(), agent.address.clone())).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::identity::authority::Authority;

    /// A book in memory.
    #[derive(Default)]
    pub struct Notebook(pub Mutex<Option<Lines>>);

    #[async_trait]
    impl LineBook for Notebook {
        async fn read(&self) -> Result<Option<Lines>, Fault> {
            Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
        }
        async fn write(&self, lines: &Lines) -> Result<(), Fault> {
            let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            book.get_or_insert_default().extend(lines.clone());
            Ok(())
        }
    }

    fn stage(lines: &[(&str, &str)]) -> (Arc<Notebook>, Roll, Fleet) {
        let authority = Authority::from_pair(&Authority::make().unwrap()).unwrap();
        let fleet = Fleet::discovered(authority.controller(Duration::from_hours(1)).unwrap());
        let book = Arc::new(Notebook::default());
        if !lines.is_empty() {
            *book.0.lock().unwrap() =
                Some(lines.iter().map(|(host, at)| ((*host).into(), (*at).into())).collect());
        }
        (Arc::clone(&book), Roll::new(book, fleet.clone()), fleet)
    }

    fn address(host: &str, address: &str) -> AgentAddress {
        AgentAddress { host: host.parse().unwrap(), address: address.into() }
    }

    fn hosts(fleet: &Fleet) -> Vec<String> {
        fleet.hosts().iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_controller_that_starts_knows_every_host_that_ever_enrolled() {
        let (_, roll, fleet) = stage(&[("a", "10.0.0.1:9700"), ("b", "10.0.0.2:9700")]);
        roll.follow(&Lines::new()).await.unwrap();
        assert_eq!(hosts(&fleet), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_host_is_written_down_when_it_enters_and_again_when_it_moves() {
        let (book, roll, fleet) = stage(&[]);
        for at in ["10.0.0.1:9700", "10.0.0.9:9700"] {
            roll.enter(address("a", at)).await.unwrap();
            assert_eq!(book.read().await.unwrap().unwrap()["a"], at);
            assert_eq!(fleet.addresses(), [address("a", at)]);
        }
    }

    #[tokio::test]
    async fn one_node_more_than_a_controller_works_with_is_refused_and_known_ones_go_on() {
        let known: Vec<_> = (0..AGENTS_MAX)
            .map(|n| (format!("node-{n}"), format!("10.0.{}.{}:9700", n / 200, n % 200 + 1)))
            .collect();
        let known: Vec<_> = known.iter().map(|(host, at)| (host.as_str(), at.as_str())).collect();
        let (book, roll, fleet) = stage(&known);
        roll.follow(&Lines::new()).await.unwrap();
        let refused = roll.enter(address("one-more", "10.1.0.1:9700")).await.unwrap_err();
        assert!(
            refused.message.contains("256 nodes are enrolled") && refused.message.contains(HOSTS),
            "{refused}"
        );
        assert_eq!(book.read().await.unwrap().unwrap().len(), AGENTS_MAX, "nothing was written down");
        roll.enter(address("node-0", "10.1.0.2:9700")).await.unwrap();
        // What is written down already is never left out: its volumes would count as gone.
        book.write(&Lines::from([("written".into(), "10.1.0.3:9700".into())])).await.unwrap();
        roll.follow(&Lines::new()).await.unwrap();
        assert_eq!(fleet.addresses().len(), AGENTS_MAX + 1);
    }

    #[tokio::test]
    async fn only_a_line_that_somebody_removed_removes_a_host() {
        let (book, roll, fleet) = stage(&[("a", "10.0.0.1:9700"), ("b", "10.0.0.2:9700")]);
        let seen = roll.follow(&Lines::new()).await.unwrap();
        // Being written by another thread at this moment: in the fleet, not in what is read.
        fleet.admit(address("new", "10.0.0.3:9700")).unwrap();
        book.0.lock().unwrap().as_mut().unwrap().remove("b");
        roll.follow(&seen).await.unwrap();
        assert_eq!(hosts(&fleet), ["a", "new"]);
    }

    #[tokio::test]
    async fn a_book_that_was_lost_removes_nobody_and_is_written_anew() {
        let (book, roll, fleet) = stage(&[("a", "10.0.0.1:9700")]);
        let seen = roll.follow(&Lines::new()).await.unwrap();
        *book.0.lock().unwrap() = None;
        roll.follow(&seen).await.unwrap();
        assert_eq!(hosts(&fleet), ["a"]);
        assert_eq!(book.read().await.unwrap().unwrap()["a"], "10.0.0.1:9700");
    }

    #[tokio::test]
    async fn a_line_that_makes_no_sense_does_not_keep_the_others_away() {
        let (_, roll, fleet) =
            stage(&[("Not_a_host", "10.0.0.1:9700"), ("a", "nowhere"), ("b", "10.0.0.2:9700")]);
        roll.follow(&Lines::new()).await.unwrap();
        assert_eq!(hosts(&fleet), ["b"]);
    }
}
