//! Requests to one host.

use std::path::{Component, PathBuf};

use stillpoint_csi_proto::v1;

use super::capability::{Use, capability};
use super::volumes::volume_size;
use super::{required, shown, volume};
use crate::domain::node::{GrowRequest, PublishRequest, StageRequest};
use crate::domain::{Fault, VolumeId};

/// Longest path that the kernel takes.
const PATH_LIMIT: usize = 4095;

/// A volume and the path of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePath {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is staged or published.
    pub path: PathBuf,
}

fn used(given: Option<&v1::VolumeCapability>) -> Result<Use, Fault> {
    let given = given.ok_or_else(|| Fault::invalid("volume_capability is missing; it is required"))?;
    Ok(capability(given)?)
}

/// A path that something is made or removed at: absolute, without `..`, so that it means what it says.
fn target(field: &str, text: &str) -> Result<PathBuf, Fault> {
    let text = required(field, text)?;
    let wrong = |why: &str| Err(Fault::invalid(format!("{field} {:?} {why}", shown(text))));
    if text.len() > PATH_LIMIT {
        return wrong("is longer than a path may be");
    }
    if text.contains('\0') {
        return wrong("holds a NUL character");
    }
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return wrong("is not absolute");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong("holds `..`; give the path itself");
    }
    if path.parent().is_none() {
        return wrong("is the root of everything");
    }
    Ok(path)
}

/// A path that something is looked up at. No volume is at a path that is not absolute.
fn looked_up(text: &str) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Fault::not_found(format!("volume_path {:?} is not absolute, so no volume is there", shown(text))))
}

/// NodeStageVolume.
pub fn stage(request: &v1::NodeStageVolumeRequest) -> Result<StageRequest, Fault> {
    required("volume_id", &request.volume_id)?;
    let target = target("staging_target_path", &request.staging_target_path)?;
    let used = used(request.volume_capability.as_ref())?;
    let volume = volume(&request.volume_id)?;
    Ok(StageRequest { volume, target, access: used.access, read_only: used.read_only })
}

/// NodeUnstageVolume.
pub fn unstage(request: &v1::NodeUnstageVolumeRequest) -> Result<NodePath, Fault> {
    required("volume_id", &request.volume_id)?;
    let path = target("staging_target_path", &request.staging_target_path)?;
    Ok(NodePath { volume: volume(&request.volume_id)?, path })
}

/// NodePublishVolume.
pub fn publish(request: &v1::NodePublishVolumeRequest) -> Result<PublishRequest, Fault> {
    required("volume_id", &request.volume_id)?;
    let goal = target("target_path", &request.target_path)?;
    let used = used(request.volume_capability.as_ref())?;
    if request.staging_target_path.is_empty() {
        return Err(Fault::precondition(
            "staging_target_path is missing; call NodeStageVolume first and give its path",
        ));
    }
    let staging = target("staging_target_path", &request.staging_target_path)?;
    if goal == staging {
        return Err(Fault::invalid("target_path is the staging path; a consumer gets a path of its own"));
    }
    Ok(PublishRequest {
        volume: volume(&request.volume_id)?,
        staging,
        target: goal,
        access: used.access,
        read_only: used.read_only || request.readonly,
        single_writer: used.single_target,
    })
}

/// NodeUnpublishVolume.
pub fn unpublish(request: &v1::NodeUnpublishVolumeRequest) -> Result<NodePath, Fault> {
    required("volume_id", &request.volume_id)?;
    let path = target("target_path", &request.target_path)?;
    Ok(NodePath { volume: volume(&request.volume_id)?, path })
}

/// NodeGetVolumeStats.
pub fn stats(request: &v1::NodeGetVolumeStatsRequest) -> Result<NodePath, Fault> {
    required("volume_id", &request.volume_id)?;
    required("volume_path", &request.volume_path)?;
    Ok(NodePath { volume: volume(&request.volume_id)?, path: looked_up(&request.volume_path)? })
}

/// NodeExpandVolume.
pub fn expand_node(request: &v1::NodeExpandVolumeRequest) -> Result<GrowRequest, Fault> {
    required("volume_id", &request.volume_id)?;
    required("volume_path", &request.volume_path)?;
    let access = request.volume_capability.as_ref().map(capability).transpose()?.map(|used| used.access);
    let range = request.capacity_range.as_ref();
    let capacity = range.map(|range| volume_size(Some(range))).transpose()?;
    Ok(GrowRequest {
        volume: volume(&request.volume_id)?,
        path: looked_up(&request.volume_path)?,
        capacity: capacity.map(|range| range.required).filter(|bytes| bytes.0 > 0),
        access,
    })
}
