//! Which rule a snapshot is taken with: the annotation on the VolumeSnapshot or VolumeGroupSnapshot, else that on the
//! claims of its volumes, else the class. Rules are looked for in the snapshot's own namespace only: whoever may
//! write one there may run commands there anyway. [`changes`] notices when it would be another one.

mod changes;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use stillpoint_rules::api::{Rule, is_dns_subdomain};
use stillpoint_rules::kube::objects::{self, RULE_ANNOTATION};
use stillpoint_rules::kube::{KubeError, KubePods, ObjectRef};
use stillpoint_rules::text;

use crate::csi::ports::{Asked, SnapshotObject};
use crate::domain::{CutKind, Fault};

/// Claims that a message names.
const NAMED: usize = 5;

/// Why it is not clear which rule is meant, or that rule cannot be used. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The API server.
    #[error(transparent)]
    Kube(#[from] KubeError),
    /// The snapshot is gone.
    #[error("{kind} {namespace}/{name} no longer exists, so nothing is cut for it")]
    Gone {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Somebody has deleted it meanwhile.
    #[error("{kind} {namespace}/{name} is being deleted, so nothing is cut for it")]
    Doomed {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The sidecar does not say whose snapshot it is.
    #[error(
        "the class asks for rule {0}, and the sidecar does not tell whose snapshot it is; start csi-snapshotter with \
         --extra-create-metadata"
    )]
    Anonymous(String),
    /// The claims disagree.
    #[error(
        "the claims of this snapshot name different rules: {0}; annotate the snapshot itself with {RULE_ANNOTATION} to \
         say which one is meant, or take them apart"
    )]
    Different(String),
    /// The value is not a name.
    #[error(
        "annotation {RULE_ANNOTATION} of {at} is {value:?}, which is not the name of a Rule; name one that exists in \
         the snapshot's namespace, or remove the annotation"
    )]
    NotAName {
        /// Where it is written.
        at: String,
        /// What is written there.
        value: String,
    },
    /// There is no such rule.
    #[error(
        "rule {namespace}/{name}, named by {by}, does not exist; create it, or name one of `kubectl get rules -n \
         {namespace}`"
    )]
    NoRule {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What names it.
        by: String,
    },
    /// It cannot be read.
    #[error("rule {namespace}/{name} cannot be used: {why}")]
    Unreadable {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why not, and what to write instead.
        why: String,
    },
}

impl LookupError {
    /// The object that is asked about, where it still exists, gets an event of this reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kube(_) => "RuleNotReadable",
            Self::Gone { .. } | Self::Doomed { .. } | Self::Anonymous(_) => "SnapshotUnknown",
            Self::Different(_) | Self::NotAName { .. } => "RuleUnclear",
            Self::NoRule { .. } => "RuleNotFound",
            Self::Unreadable { .. } => "RuleInvalid",
        }
    }
}

impl From<LookupError> for Fault {
    fn from(error: LookupError) -> Self {
        let message = format!("no snapshot was taken: {error}");
        match error {
            LookupError::Kube(
                KubeError::Unavailable { .. } | KubeError::Conflict(_) | KubeError::Deleting(_),
            ) => Self::unavailable(message),
            LookupError::Kube(
                KubeError::NotFound(_) | KubeError::Forbidden(_) | KubeError::Refused { .. },
            )
            | LookupError::Gone { .. }
            | LookupError::Doomed { .. }
            | LookupError::Anonymous(_)
            | LookupError::Different(_)
            | LookupError::NotAName { .. }
            | LookupError::NoRule { .. }
            | LookupError::Unreadable { .. } => Self::precondition(message),
        }
    }
}

/// A claim of one of the snapshot's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `namespace/name`.
    pub name: String,
    /// Its annotation.
    pub rule: Option<String>,
}

/// The rule that is meant, and what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The rule.
    pub rule: String,
    /// What names it, for people.
    pub by: String,
}

/// Which rule is meant. Claims without the annotation have no say. Pure.
pub fn choose(
    snapshot: (&str, Option<&str>),
    claims: &[Claim],
    class: Option<&str>,
) -> Result<Option<Choice>, LookupError> {
    let (what, annotation) = snapshot;
    if let Some(rule) = annotation {
        return named(rule, what).map(Some);
    }
    let mut rules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for claim in claims {
        if let Some(rule) = &claim.rule {
            rules.entry(rule).or_default().push(&claim.name);
        }
    }
    let mut each = rules.iter();
    match (each.next(), each.next()) {
        (Some((rule, by)), None) => named(rule, &format!("claim {}", some(by))).map(Some),
        (Some(_), Some(_)) => {
            let texts: Vec<String> =
                rules.iter().map(|(rule, by)| format!("{rule:?} by {}", some(by))).collect();
            Err(LookupError::Different(texts.join(", ")))
        }
        (None, _) => {
            Ok(class.map(|rule| Choice { rule: rule.to_owned(), by: "the snapshot class".to_owned() }))
        }
    }
}

fn some(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let shown = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn named(rule: &str, at: &str) -> Result<Choice, LookupError> {
    if is_dns_subdomain(rule) {
        return Ok(Choice { rule: rule.to_owned(), by: at.to_owned() });
    }
    Err(LookupError::NotAName { at: at.to_owned(), value: rule.chars().take(253).collect() })
}

/// A snapshot as the API server has it, with what is needed to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The snapshot.
    pub object: ObjectRef,
    /// The rule that is meant.
    pub choice: Option<Choice>,
    /// `namespace/name` of the claim of each volume, by volume id.
    pub claims: BTreeMap<String, String>,
}

/// Asks the API server.
#[derive(Clone)]
pub struct Lookup {
    client: Client,
    pods: KubePods,
}

impl Lookup {
    /// In this cluster.
    pub fn new(client: Client, pods: KubePods) -> Self {
        Self { client, pods }
    }

    /// The snapshot itself; `None` when the sidecar does not tell which one it is and no rule is asked for.
    pub async fn object(&self, kind: CutKind, asked: &Asked) -> Result<Option<DynamicObject>, LookupError> {
        let Some(SnapshotObject { namespace, name }) = &asked.object else {
            return match &asked.rule {
                Some(rule) => Err(LookupError::Anonymous(rule.clone())),
                None => Ok(None),
            };
        };
        let resource = resource(kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let what = || format!("{} {namespace}/{name}", kind_word(kind));
        let found = api.get_opt(name).await.map_err(|error| KubeError::of(what(), error))?;
        let (kind, namespace, name) = (kind_word(kind), namespace.clone(), name.clone());
        match found {
            Some(object) if object.metadata.deletion_timestamp.is_some() => {
                Err(LookupError::Doomed { kind, namespace, name })
            }
            Some(object) => Ok(Some(object)),
            None => Err(LookupError::Gone { kind, namespace, name }),
        }
    }

    /// Which rule is meant for this snapshot of these volumes, each by its id and, where it is known, its name.
    pub async fn choice(
        &self,
        object: &ObjectRef,
        annotation: Option<&str>,
        volumes: &[(String, Option<String>)],
        class: Option<&str>,
    ) -> Result<Seen, LookupError> {
        let names = self.pods.claims_of(volumes).await?;
        let mut claims = Vec::new();
        if annotation.is_none() {
            for (namespace, name) in names.values() {
                claims.push(self.claim(namespace, name).await?);
            }
        }
        let what = format!("{} {}/{}", object.kind, object.namespace, object.name);
        let choice = choose((&what, annotation), &claims, class)?;
        let claims =
            names.into_iter().map(|(volume, (namespace, name))| (volume, format!("{namespace}/{name}")));
        Ok(Seen { object: object.clone(), choice, claims: claims.collect() })
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Claim, LookupError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let full = format!("{namespace}/{name}");
        let found = api.get_opt(name).await.map_err(|error| KubeError::of(format!("claim {full}"), error))?;
        // A claim that is gone has no say; its volume still exists.
        let annotations = found.and_then(|claim| claim.metadata.annotations).unwrap_or_default();
        Ok(Claim { name: full, rule: annotations.get(RULE_ANNOTATION).cloned() })
    }

    /// The rule itself, read by the same reader as everywhere else: what it refuses, it explains.
    pub async fn rule(&self, namespace: &str, choice: &Choice) -> Result<Rule, LookupError> {
        let resource = ApiResource::erase::<objects::Rule>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let name = &choice.rule;
        let found = api
            .get_opt(name)
            .await
            .map_err(|error| KubeError::of(format!("rule {namespace}/{name}"), error))?;
        let Some(found) = found else {
            return Err(LookupError::NoRule {
                namespace: namespace.to_owned(),
                name: name.clone(),
                by: choice.by.clone(),
            });
        };
        let text = objects::canonical_text(namespace, name, &found.data["spec"]);
        text::parse(&text).map_err(|error| LookupError::Unreadable {
            namespace: namespace.to_owned(),
            name: name.clone(),
            why: error.to_string(),
        })
    }
}

/// The snapshot as an owner and as what events are about.
pub fn object_ref(kind: CutKind, object: &DynamicObject) -> ObjectRef {
    let resource = resource(kind);
    ObjectRef {
        api_version: resource.api_version,
        kind: resource.kind,
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
    }
}

fn kind_word(kind: CutKind) -> &'static str {
    match kind {
        CutKind::Single => "VolumeSnapshot",
        CutKind::Group => "VolumeGroupSnapshot",
    }
}

fn resource(kind: CutKind) -> ApiResource {
    let (group, plural) = match kind {
        CutKind::Single => ("snapshot.storage.k8s.io", "volumesnapshots"),
        CutKind::Group => ("groupsnapshot.storage.k8s.io", "volumegroupsnapshots"),
    };
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{group}/v1"),
        kind: kind_word(kind).to_owned(),
        plural: plural.to_owned(),
    }
}

#[cfg(test)]
mod tests;
