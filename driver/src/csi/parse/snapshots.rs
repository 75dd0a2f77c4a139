//! Requests about snapshots and groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use stillpoint_csi_proto::v1;

use super::parameters::snapshot_parameters;
use super::{lookup, name, required, shown};
use crate::controller::cuts::MEMBERS_MAX;
use crate::csi::ports::Asked;
use crate::domain::{CutKind, Fault, SnapshotId, VolumeId};

/// A snapshot to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// Its name: its identity.
    pub name: String,
    /// Of this volume.
    pub volume: VolumeId,
    /// What else the sidecar tells.
    pub asked: Asked,
}

/// A group to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOrder {
    /// Its name: its identity.
    pub name: String,
    /// Of these volumes.
    pub volumes: BTreeSet<VolumeId>,
    /// What else the sidecar tells.
    pub asked: Asked,
}

/// Which snapshots to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotFilter {
    /// All.
    All,
    /// This one, if the volume matches too where one is given.
    One(SnapshotId, Option<VolumeId>),
    /// Those of this volume.
    Of(VolumeId),
    /// None: what was asked for is no id of ours.
    Nothing,
}

/// All that a caller can change in a request for a snapshot, in an order of its own.
pub fn fingerprint_of_snapshot(request: &v1::CreateSnapshotRequest) -> impl Hash {
    (request.source_volume_id.clone(), ordered(&request.parameters))
}

/// All that a caller can change in a request for a group, in an order of its own.
pub fn fingerprint_of_group(request: &v1::CreateVolumeGroupSnapshotRequest) -> impl Hash {
    let mut volumes = request.source_volume_ids.clone();
    volumes.sort_unstable();
    (volumes, ordered(&request.parameters))
}

fn ordered(map: &HashMap<String, String>) -> BTreeMap<String, String> {
    map.clone().into_iter().collect()
}

/// A snapshot to be taken.
pub fn snapshot_order(request: &v1::CreateSnapshotRequest) -> Result<SnapshotOrder, Fault> {
    let name = name("name", &request.name)?.to_owned();
    required("source_volume_id", &request.source_volume_id)?;
    let asked = snapshot_parameters(&request.parameters, CutKind::Single)?;
    Ok(SnapshotOrder { name, volume: lookup("source_volume_id", &request.source_volume_id)?, asked })
}

/// A group to be taken.
pub fn group_order(request: &v1::CreateVolumeGroupSnapshotRequest) -> Result<GroupOrder, Fault> {
    let name = name("name", &request.name)?.to_owned();
    let ids = &request.source_volume_ids;
    if ids.is_empty() {
        return Err(Fault::invalid("source_volume_ids are missing; name at least one volume"));
    }
    if ids.len() > MEMBERS_MAX {
        return Err(Fault::invalid(format!(
            "source_volume_ids names {} volumes; a group has at most {MEMBERS_MAX}",
            ids.len()
        )));
    }
    let asked = snapshot_parameters(&request.parameters, CutKind::Group)?;
    let mut volumes = BTreeSet::new();
    for id in ids {
        if !volumes.insert(lookup("source_volume_ids", id)?) {
            return Err(Fault::invalid(format!(
                "source_volume_ids names {:?} twice; name each volume once",
                shown(id)
            )));
        }
    }
    Ok(GroupOrder { name, volumes, asked })
}

/// Which snapshots to list. What is no id of ours matches nothing.
pub fn snapshot_filter(request: &v1::ListSnapshotsRequest) -> SnapshotFilter {
    let volume = match request.source_volume_id.as_str() {
        "" => None,
        text => match text.parse() {
            Ok(volume) => Some(volume),
            Err(_) => return SnapshotFilter::Nothing,
        },
    };
    match (request.snapshot_id.as_str(), volume) {
        ("", None) => SnapshotFilter::All,
        ("", Some(volume)) => SnapshotFilter::Of(volume),
        (text, volume) => match text.parse() {
            Ok(id) => SnapshotFilter::One(id, volume),
            Err(_) => SnapshotFilter::Nothing,
        },
    }
}
