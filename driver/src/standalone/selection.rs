//! From what people write (names, selectors) to volumes. Pure; every refusal says what is there instead.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use async_trait::async_trait;
use stillpoint_rules::ports::{Pod, PodState};
use stillpoint_rules::select::{matches, parse_selector};
use stillpoint_rules::standalone::VolumeNames;

use crate::domain::{Code, Fault, VolumeId};
use crate::observe::plain::shortened;

use super::storage::{PlacedVolume, Storage, Volumes};

/// Longest name of a cut, and of a volume: the CSI limit.
pub const NAME_LIMIT: usize = 128;
/// Characters of somebody else's text in a message.
const QUOTE_LIMIT: usize = 64;
/// Names listed in a message.
const LISTED: usize = 12;

/// What shall be cut.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Pods whose volumes are cut.
    pub selectors: Vec<String>,
    /// Further volumes, by name or id.
    pub volumes: Vec<String>,
}

/// The volumes that are meant, sorted by id.
pub fn choose<'a>(
    wanted: &Wanted,
    pods: &[Pod],
    volumes: &'a Volumes,
) -> Result<Vec<&'a PlacedVolume>, Fault> {
    if wanted.selectors.is_empty() && wanted.volumes.is_empty() {
        return Err(Fault::invalid("nothing to cut: no volume was named; give a selector or a volume"));
    }
    let mut chosen: BTreeMap<&VolumeId, &PlacedVolume> = BTreeMap::new();
    for selector in &wanted.selectors {
        for text in volumes_of_selector(selector, pods, volumes)? {
            let volume = find(&text, volumes)?;
            chosen.insert(volume.id(), volume);
        }
    }
    for text in &wanted.volumes {
        let volume = find(text, volumes)?;
        chosen.insert(volume.id(), volume);
    }
    Ok(chosen.into_values().collect())
}

fn volumes_of_selector(text: &str, pods: &[Pod], known: &Volumes) -> Result<BTreeSet<String>, Fault> {
    let selector = parse_selector(text).map_err(|error| Fault::invalid(error.to_string()))?;
    let shown = shortened(text, QUOTE_LIMIT);
    let meant: Vec<_> = pods
        .iter()
        .filter(|pod| pod.state != PodState::Finished && matches(&selector, &pod.labels))
        .collect();
    if meant.is_empty() {
        let names = listed(pods.iter().map(|pod| pod.name.as_str()));
        return Err(Fault::not_found(format!(
            "no pod matches the selector {shown}; the inventory has {names}; correct the selector, or the labels in `pods:`"
        )));
    }
    // A pod whose volumes are not all known would make a cut that looks whole and is not.
    for pod in &meant {
        if let PodState::NotReady(why) = &pod.state {
            let message = format!("pod {} matches {shown} and cannot be cut: {why}", pod.name);
            return Err(match known.silent.first() {
                None => Fault::precondition(format!(
                    "{message}; correct `volumes:` of the pod, or narrow the selector"
                )),
                Some(fault) => Fault::unavailable(format!(
                    "{message}, as far as is known while not every host answers ({fault}); try again when it does"
                )),
            });
        }
    }
    let volumes: BTreeSet<_> = meant.iter().flat_map(|pod| pod.volumes.iter().cloned()).collect();
    if volumes.is_empty() {
        let names = listed(meant.iter().map(|pod| pod.name.as_str()));
        return Err(Fault::precondition(format!(
            "the pods that match {shown} ({names}) have no volumes; list them under `volumes:` of the pod, or name them with --volume"
        )));
    }
    Ok(volumes)
}

/// The volume of this name or id.
pub fn find<'a>(text: &str, volumes: &'a Volumes) -> Result<&'a PlacedVolume, Fault> {
    let shown = shortened(text, QUOTE_LIMIT);
    let found: Vec<_> = volumes
        .all
        .iter()
        .filter(|volume| volume.name() == text || volume.id().to_string() == text)
        .collect();
    match (found.as_slice(), volumes.silent.first()) {
        ([one], _) => Ok(one),
        ([], None) => Err(Fault::not_found(format!(
            "there is no volume {shown}; there are {}",
            listed(volumes.all.iter().map(PlacedVolume::name))
        ))),
        ([], Some(why)) => Err(Fault::unavailable(format!(
            "cannot tell whether there is a volume {shown}, because not every host answers: {why}; try again when it does"
        ))),
        ([one, two, ..], _) => Err(Fault::invalid(format!(
            "volume {shown} is on {} and on {}; give the id of the one that is meant: {} or {}",
            one.host,
            two.host,
            one.id(),
            two.id()
        ))),
    }
}

/// Names of volumes for the inventory. A name that is not found stays unknown, and the pod that has it is not ready.
pub struct VolumeNamesOf {
    /// Knows the volumes.
    pub storage: Arc<dyn Storage>,
}

#[async_trait]
impl VolumeNames for VolumeNamesOf {
    async fn ids(&self, names: &[String]) -> Result<BTreeMap<String, String>, String> {
        let volumes = self.storage.volumes().await;
        let mut ids = BTreeMap::new();
        for name in names {
            match find(name, &volumes) {
                Ok(volume) => {
                    ids.insert(name.clone(), volume.id().to_string());
                }
                Err(fault) if matches!(fault.code, Code::NotFound | Code::Unavailable) => {}
                Err(fault) => return Err(fault.message),
            }
        }
        Ok(ids)
    }
}

/// Refuses names that could not be typed, printed or stored again.
pub fn check_name(what: &str, name: &str) -> Result<(), Fault> {
    let shown = shortened(name, QUOTE_LIMIT);
    if name.is_empty() || name.len() > NAME_LIMIT {
        return Err(Fault::invalid(format!(
            "{what} {shown:?} has {} bytes; give it 1 to {NAME_LIMIT}",
            name.len()
        )));
    }
    if name.starts_with('-') || !name.chars().all(|c| c.is_ascii_graphic() && c != '/') {
        return Err(Fault::invalid(format!(
            "{what} {shown:?} has a character that cannot be in a name; use letters, digits, `.`, `-`, `_` and the like, no space, no `/`, no `-` in front"
        )));
    }
    Ok(())
}

/// `a, b, c and 4 more`, or `none`.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<_> = names.collect();
    let shown: Vec<_> = names.iter().take(LISTED).map(|name| shortened(name, QUOTE_LIMIT)).collect();
    match (shown.as_slice(), names.len().saturating_sub(LISTED)) {
        ([], _) => "none".to_owned(),
        (shown, 0) => shown.join(", "),
        (shown, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
