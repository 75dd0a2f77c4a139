//! Parameters of storage classes and snapshot classes. Unknown ones are refused by name: a misspelt parameter
//! that is silently ignored is found when the data is needed.

use std::collections::HashMap;

use stillpoint_rules::api::is_dns_subdomain;

use super::{MAP_LIMIT, shown};
use crate::backend::BackendKind;
use crate::controller::consumers::ClaimRef;
use crate::controller::orders::Copies;
use crate::csi::ports::{Asked, SnapshotObject};
use crate::domain::{CutKind, Fault, Filesystem};

const BACKEND: &str = "stillpoint.dev/backend";
const COPIES: &str = "stillpoint.dev/copies";
const RULE: &str = "stillpoint.dev/rule";
/// Group snapshot classes of Kubernetes' own test suite repeat their field `deletionPolicy` as a parameter. The field is
/// what counts; the parameter has no effect.
const DELETION_POLICY: &str = "deletionPolicy";
const FSTYPE: &str = "csi.storage.k8s.io/fstype";
/// The sidecars' own keys: of those only the names of snapshots and claims are looked at.
const SIDECARS: &str = "csi.storage.k8s.io/";
/// Unknown keys that a message names.
const NAMED: usize = 5;

/// Parameters of a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// `stillpoint.dev/backend`.
    pub backend: Option<BackendKind>,
    /// `csi.storage.k8s.io/fstype`, where a sidecar leaves it in.
    pub filesystem: Option<Filesystem>,
    /// `stillpoint.dev/copies`.
    pub copies: Copies,
    /// The claim that the volume is for (`--extra-create-metadata`).
    pub claim: Option<ClaimRef>,
}

/// Parameters of a StorageClass.
pub fn class_parameters(given: &HashMap<String, String>) -> Result<Parameters, Fault> {
    check(given, &[BACKEND, FSTYPE, COPIES])?;
    let wrong = |key: &str, why: String| Fault::invalid(format!("parameter {key}: {why}"));
    let backend = given.get(BACKEND).map(|value| value.parse::<BackendKind>());
    let filesystem =
        given.get(FSTYPE).filter(|value| !value.is_empty()).map(|value| value.parse::<Filesystem>());
    let copies = match given.get(COPIES).map(String::as_str) {
        None | Some("auto") => Copies::Auto,
        Some("beside-source") => Copies::BesideSource,
        Some("where-preferred") => Copies::WherePreferred,
        Some(other) => {
            let why = format!("{:?} is not auto, beside-source or where-preferred", shown(other));
            return Err(wrong(COPIES, why));
        }
    };
    let text = |key: &str| given.get(&format!("{SIDECARS}{key}")).filter(|value| !value.is_empty()).cloned();
    let claim = match (text("pvc/namespace"), text("pvc/name")) {
        (Some(namespace), Some(name)) => Some(ClaimRef { namespace, name }),
        (Some(_) | None, None) | (None, Some(_)) => None,
    };
    Ok(Parameters {
        copies,
        claim,
        backend: backend.transpose().map_err(|why| wrong(BACKEND, why.to_string()))?,
        filesystem: filesystem.transpose().map_err(|why| wrong(FSTYPE, why.to_string()))?,
    })
}

/// Parameters of a VolumeSnapshotClass or VolumeGroupSnapshotClass, with what the sidecar adds about the object of
/// this `kind`.
pub fn snapshot_parameters(given: &HashMap<String, String>, kind: CutKind) -> Result<Asked, Fault> {
    let known: &[&str] = match kind {
        CutKind::Single => &[RULE],
        CutKind::Group => &[RULE, DELETION_POLICY],
    };
    check(given, known)?;
    let object = snapshot_object(given, kind);
    let rule = given.get(RULE).cloned();
    if let Some(rule) = rule.as_ref().filter(|rule| !is_dns_subdomain(rule)) {
        return Err(Fault::invalid(format!(
            "parameter {RULE}: {:?} is not the name of a Rule; name one that exists in the namespaces of the snapshots",
            shown(rule)
        )));
    }
    Ok(Asked { object, rule })
}

/// The object that the sidecar says a snapshot is for, also where the rest of the parameters makes no sense.
pub fn snapshot_object(given: &HashMap<String, String>, kind: CutKind) -> Option<SnapshotObject> {
    let text = |key: &str| {
        let key = format!("{SIDECARS}{}/{key}", word(kind));
        given.get(&key).filter(|value| !value.is_empty() && value.len() <= MAP_LIMIT).cloned()
    };
    Some(SnapshotObject { namespace: text("namespace")?, name: text("name")? })
}

/// What the sidecar calls the kind in its keys.
fn word(kind: CutKind) -> &'static str {
    match kind {
        CutKind::Single => "volumesnapshot",
        CutKind::Group => "volumegroupsnapshot",
    }
}

fn check(given: &HashMap<String, String>, known: &[&str]) -> Result<(), Fault> {
    let size: usize = given.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MAP_LIMIT {
        return Err(Fault::invalid(format!(
            "parameters have {size} bytes together; at most {MAP_LIMIT} are allowed"
        )));
    }
    let mut unknown: Vec<&str> = given
        .keys()
        .map(String::as_str)
        .filter(|key| !known.contains(key) && !key.starts_with(SIDECARS))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    let named: Vec<String> = unknown.iter().take(NAMED).map(|key| format!("{:?}", shown(key))).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(Fault::invalid(format!(
        "unknown parameter {}; known here: {known}. Correct the class",
        named.join(", ")
    )))
}
