//! Pods from a file:
//!
//! ```yaml
//! pods:
//! - name: cassandra-0
//!   namespace: shop                        # default: `default`
//!   labels: {app: cassandra}
//!   host: node-a                           # the agent's name
//!   containers: [cassandra]                # default: [main]
//!   volumes: [cassandra-data-0]            # names or ids
//!   exec: [nsenter, -t, "4711", -m, --]    # put before every command; default: nothing, so on this machine
//!   env: {JAVA_HOME: /opt/java}
//!   cwd: /var/lib/cassandra
//!   address: 10.0.0.7                      # where `http` actions reach it; default: nowhere
//! ```
//! The file is read again whenever it has changed, so a service that was restarted under another process id is seen as
//! another incarnation.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::api::is_dns_label;
use crate::ports::{Inventory, InventoryError, Pod, PodState};
use crate::text::{Node, TextError, clip, decode, read_bounded};

/// A fleet that needs more than this needs Kubernetes.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Turns the names of volumes into ids.
#[async_trait]
pub trait VolumeNames: Send + Sync {
    /// Name or id → id, for those that exist.
    async fn ids(&self, names: &[String]) -> Result<BTreeMap<String, String>, String>;
}

/// For inventories that name volumes by id.
pub struct NamesAreIds;

#[async_trait]
impl VolumeNames for NamesAreIds {
    async fn ids(&self, names: &[String]) -> Result<BTreeMap<String, String>, String> {
        Ok(names.iter().map(|name| (name.clone(), name.clone())).collect())
    }
}

/// One pod as it is written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodDefinition {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Host, by the agent's name.
    pub host: String,
    /// Containers; all of them are reached in the same way.
    pub containers: Vec<String>,
    /// Volumes, by name or id.
    pub volumes: Vec<String>,
    /// Put before every command.
    pub exec: Vec<String>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Where requests of `http` actions go: a name or an IP address without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl PodDefinition {
    /// Identity of this incarnation: a service that is reached in another way is another pod. What it is labelled and what
    /// else is written about it may change, and what is pending in it stays pending.
    pub fn uid(&self) -> String {
        let Self { name, namespace, host, exec, cwd, address, .. } = self;
        let text = serde_json::to_vec(&(name, namespace, host, exec, cwd, address)).unwrap_or_default();
        blake3::hash(&text).to_hex()[..32].to_owned()
    }
}

enum Source {
    File(FileSource),
    Fixed(Arc<[PodDefinition]>),
}

/// A file, and what was read from it last: with hundreds of pods it is asked for hundreds of times within a second.
struct FileSource {
    path: PathBuf,
    hosts: Option<Vec<String>>,
    last: Mutex<Option<Reading>>,
}

/// What was in a file when it looked like this.
struct Reading {
    looks: Looks,
    pods: Arc<[PodDefinition]>,
}

/// What changes whenever a file is written or replaced: device, inode, size, and the time of the last change.
type Looks = (u64, u64, u64, i64, i64);

/// Pods of an inventory; also runs commands in them.
pub struct StandalonePods {
    source: Arc<Source>,
    names: Arc<dyn VolumeNames>,
}

impl StandalonePods {
    /// From a file, which is read at every use. It is read once here, so that mistakes show at the start.
    /// `hosts` are those that exist; `None`: any may be named.
    pub fn from_file(
        path: PathBuf,
        names: Arc<dyn VolumeNames>,
        hosts: Option<Vec<String>>,
    ) -> Result<Self, TextError> {
        let source = FileSource { path, hosts, last: Mutex::new(None) };
        source.pods()?;
        Ok(Self { source: Source::File(source).into(), names })
    }

    /// From definitions that never change.
    pub fn fixed(pods: Vec<PodDefinition>, names: Arc<dyn VolumeNames>) -> Self {
        Self { source: Source::Fixed(pods.into()).into(), names }
    }

    /// The definitions as they are now.
    pub(super) async fn definitions(&self) -> Result<Arc<[PodDefinition]>, String> {
        let source = match &*self.source {
            Source::Fixed(pods) => return Ok(Arc::clone(pods)),
            Source::File(_) => Arc::clone(&self.source),
        };
        let reading = tokio::task::spawn_blocking(move || match &*source {
            Source::Fixed(pods) => Ok(Arc::clone(pods)),
            Source::File(file) => file.pods(),
        });
        reading.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

impl FileSource {
    /// What is in the file now. It is read again only when it looks different.
    fn pods(&self) -> Result<Arc<[PodDefinition]>, TextError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = looks(&self.path);
        if let Some(reading) = last.as_ref().filter(|reading| Some(reading.looks) == looks) {
            return Ok(Arc::clone(&reading.pods));
        }
        let text = read_bounded(&self.path, MAX_BYTES)?;
        let pods: Arc<[PodDefinition]> =
            parse_inventory(&text, self.hosts.as_deref()).map_err(|error| error.in_file(&self.path))?.into();
        *last = looks.filter(has_settled).map(|looks| Reading { looks, pods: Arc::clone(&pods) });
        Ok(pods)
    }
}

/// Whether a later change cannot have the same time: clocks of filesystems tick every few milliseconds only.
fn has_settled(looks: &Looks) -> bool {
    jiff::Timestamp::now().as_second() > looks.3.saturating_add(1)
}

fn looks(path: &Path) -> Option<Looks> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}

#[async_trait]
impl Inventory for StandalonePods {
    async fn pods(&self, namespaces: &[String]) -> Result<Vec<Pod>, InventoryError> {
        let mut definitions = self.definitions().await.map_err(InventoryError)?.to_vec();
        if !namespaces.is_empty() {
            definitions.retain(|pod| namespaces.contains(&pod.namespace));
        }
        definitions.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut names: Vec<String> = definitions.iter().flat_map(|pod| pod.volumes.clone()).collect();
        names.sort();
        names.dedup();
        let ids = self.names.ids(&names).await.map_err(InventoryError)?;
        Ok(definitions.into_iter().map(|pod| seen(pod, &ids)).collect())
    }
}

/// A pod whose volume does not exist is there, but must not be taken for complete.
fn seen(pod: PodDefinition, ids: &BTreeMap<String, String>) -> Pod {
    let missing = pod.volumes.iter().find(|name| !ids.contains_key(*name));
    let state = match missing {
        Some(name) => PodState::NotReady(format!("its volume `{name}` does not exist")),
        None => PodState::Ready,
    };
    Pod {
        uid: pod.uid(),
        volumes: pod.volumes.iter().filter_map(|name| ids.get(name).cloned()).collect(),
        namespace: pod.namespace,
        name: pod.name,
        labels: pod.labels,
        host: pod.host,
        containers: pod.containers.into(),
        state,
    }
}

/// Reads an inventory's text. `hosts` are those that exist; `None`: any may be named.
pub fn parse_inventory(text: &str, hosts: Option<&[String]>) -> Result<Vec<PodDefinition>, TextError> {
    decode(text, MAX_BYTES, |root| {
        let fields = root.fields("an inventory", &["pods"])?;
        pods(&fields.required("pods")?, hosts)
    })
}

/// Reads the `pods` list out of a larger configuration that was read already.
pub fn pods_from_value(
    list: &serde_json::Value,
    hosts: Option<&[String]>,
) -> Result<Vec<PodDefinition>, TextError> {
    let wrapped = serde_json::json!({ "pods": list });
    // JSON is YAML, but for characters that only JSON allows as they are: the same reader gives the same words.
    parse_inventory(&crate::plain::printable_json(&wrapped.to_string()), hosts)
}

fn pods(list: &Node<'_>, hosts: Option<&[String]>) -> Option<Vec<PodDefinition>> {
    let nodes = list.list()?;
    let all: Vec<Option<PodDefinition>> = nodes.iter().map(|node| pod(node, hosts)).collect();
    let all: Vec<PodDefinition> = all.into_iter().collect::<Option<_>>()?;
    let mut seen = std::collections::BTreeSet::new();
    for (pod, node) in all.iter().zip(&nodes) {
        if !seen.insert((&pod.namespace, &pod.name)) {
            node.fail(
                format!("a second pod {}/{}", pod.namespace, pod.name),
                "a name means one pod",
                "give it another name or namespace",
            );
            return None;
        }
    }
    Some(all)
}

fn existing_host(node: &Node<'_>, hosts: Option<&[String]>) -> Option<String> {
    let name = node.text()?;
    match hosts {
        Some(hosts) if !hosts.contains(&name) => {
            node.fail(
                format!("there is no host `{}`", clip(&name)),
                format!("the agents are on {}", hosts.join(", ")),
                "write the name of an agent, as it stands in `agents` of the configuration",
            );
            None
        }
        Some(_) | None => Some(name),
    }
}

fn pod(node: &Node<'_>, hosts: Option<&[String]>) -> Option<PodDefinition> {
    const LABEL: &str = "up to 63 of a-z, 0-9 and -, starting and ending with a letter or digit";
    let fields = node.fields(
        "a pod",
        &["name", "namespace", "labels", "host", "containers", "volumes", "exec", "env", "cwd", "address"],
    )?;
    let name = fields.required("name").and_then(|n| n.name(crate::api::is_dns_subdomain, LABEL));
    let namespace = fields.optional("namespace", |n| n.name(is_dns_label, LABEL));
    let labels = fields.optional("labels", Node::labels);
    let host = fields.required("host").and_then(|n| existing_host(&n, hosts));
    let containers = fields.optional("containers", |n| {
        let names: Vec<_> = n.list()?.iter().map(|n| n.name(is_dns_label, LABEL)).collect();
        names.into_iter().collect::<Option<Vec<_>>>()
    });
    let volumes = fields.optional("volumes", |n| n.texts(1000));
    let exec = fields.optional("exec", |n| n.texts(64));
    let env = fields.optional("env", Node::text_map);
    let cwd = fields.optional("cwd", |n| {
        let path = PathBuf::from(n.text()?);
        if !path.is_absolute() {
            n.fail("a relative path", "it would depend on where the program was started", "write it from /");
            return None;
        }
        Some(path)
    });
    let address = fields.optional("address", |n| {
        let text = n.text()?;
        if text.parse::<std::net::IpAddr>().is_ok() || crate::api::is_dns_subdomain(&text) {
            return Some(text);
        }
        n.fail("no address", "a name or an IP address without a port is expected", "correct it");
        None
    });
    Some(PodDefinition {
        name: name?,
        namespace: namespace?.unwrap_or_else(|| "default".to_owned()),
        labels: labels?.unwrap_or_default().into_iter().collect(),
        host: host?,
        containers: containers?.unwrap_or_else(|| vec!["main".to_owned()]),
        volumes: volumes?.unwrap_or_default(),
        exec: exec?.unwrap_or_default(),
        env: env?.unwrap_or_default().into_iter().collect(),
        cwd: cwd?,
        address: address?,
    })
}
