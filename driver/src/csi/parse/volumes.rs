//! Requests about volumes.

use stillpoint_csi_proto::v1;
use v1::volume_content_source::Type as SourceType;

use super::capability::{Use, capability};
use super::parameters::class_parameters;
use super::{lookup, name, shown, topology};
use crate::controller::orders::{CapacityQuery, Content, SizeRange, VolumeOrder};
use crate::domain::mount_options;
use crate::domain::node::Access;
use crate::domain::record::Source;
use crate::domain::{Bytes, Fault, Filesystem};

/// A volume to be made.
pub fn volume_order(request: &v1::CreateVolumeRequest) -> Result<VolumeOrder, Fault> {
    let name = name("name", &request.name)?.to_owned();
    if request.volume_capabilities.is_empty() {
        return Err(Fault::invalid("volume_capabilities are missing; give at least one"));
    }
    let uses = request.volume_capabilities.iter().map(capability).collect::<Result<Vec<_>, _>>()?;
    let parameters = class_parameters(&request.parameters)?;
    if let Some(key) = request.mutable_parameters.keys().min() {
        return Err(Fault::invalid(format!(
            "mutable parameter {:?} is not known: volumes of this driver have none; use no VolumeAttributesClass",
            shown(key)
        )));
    }
    let source = request.volume_content_source.as_ref().map(source).transpose()?;
    // A copy has the filesystem of its source, which is not known here.
    let default = if source.is_none() { Some(Filesystem::Xfs) } else { None };
    Ok(VolumeOrder {
        name,
        size: size_range(request.capacity_range.as_ref())?,
        content: content(&uses, parameters.filesystem, default)?,
        backend: parameters.backend,
        source,
        places: topology::places(request.accessibility_requirements.as_ref()),
        copies: parameters.copies,
        claim: parameters.claim,
    })
}

/// What all uses together want the volume to carry; `default` is what it gets where nothing is asked for.
fn content(uses: &[Use], class: Option<Filesystem>, default: Option<Filesystem>) -> Result<Content, Fault> {
    let devices = uses.iter().filter(|one| one.access.is_block()).count();
    if devices == uses.len() {
        return Ok(Content::Device);
    }
    if devices > 0 {
        return Err(Fault::invalid(
            "volume_capabilities ask for block and mount at once; a volume is one of the two",
        ));
    }
    let mut asked: Option<Filesystem> = class;
    for wanted in uses.iter().filter_map(|one| wanted(&one.access)) {
        if let Some(other) = asked.replace(wanted).filter(|other| *other != wanted) {
            return Err(Fault::invalid(format!(
                "both {other} and {wanted} are asked for (volume_capabilities, csi.storage.k8s.io/fstype); \
                 a volume carries one filesystem"
            )));
        }
    }
    // What a capability alone could not tell: whose options these must be.
    for given in uses.iter().filter_map(|one| options(&one.access)) {
        mount_options::parse(given, asked.or(default))
            .map_err(|bad| Fault::invalid(format!("volume_capabilities: mount_flags: {bad}")))?;
    }
    Ok(Content::Filesystem(asked))
}

fn options(access: &Access) -> Option<&[String]> {
    match access {
        Access::Mount { options, .. } => Some(options),
        Access::Block => None,
    }
}

fn wanted(access: &Access) -> Option<Filesystem> {
    match access {
        Access::Mount { filesystem, .. } => *filesystem,
        Access::Block => None,
    }
}

fn source(given: &v1::VolumeContentSource) -> Result<Source, Fault> {
    match &given.r#type {
        None => Err(Fault::invalid("volume_content_source is empty; name a snapshot or a volume")),
        Some(SourceType::Snapshot(snapshot)) => {
            lookup("volume_content_source.snapshot", &snapshot.snapshot_id).map(Source::Snapshot)
        }
        Some(SourceType::Volume(volume)) => {
            lookup("volume_content_source.volume", &volume.volume_id).map(Source::Volume)
        }
    }
}

/// A size range that may be left out.
fn size_range(given: Option<&v1::CapacityRange>) -> Result<SizeRange, Fault> {
    let Some(given) = given else { return Ok(SizeRange::ANY) };
    let bytes = |field: &str, number: i64| {
        u64::try_from(number).map(Bytes).map_err(|_| {
            Fault::invalid(format!("capacity_range.{field} is {number}; a size cannot be negative"))
        })
    };
    let required = bytes("required_bytes", given.required_bytes)?;
    let limit = bytes("limit_bytes", given.limit_bytes)?;
    if required.0 == 0 && limit.0 == 0 {
        return Err(Fault::invalid(
            "capacity_range asks for zero bytes; give required_bytes or limit_bytes, or leave the range out",
        ));
    }
    if limit.0 != 0 && limit < required {
        return Err(Fault::invalid(format!(
            "capacity_range.limit_bytes {} is below required_bytes {}; raise the limit",
            limit.0, required.0
        )));
    }
    Ok(SizeRange { required, limit: (limit.0 != 0).then_some(limit) })
}

/// A size range that must be there.
pub fn volume_size(given: Option<&v1::CapacityRange>) -> Result<SizeRange, Fault> {
    if given.is_none() {
        return Err(Fault::invalid("capacity_range is missing; it is required"));
    }
    size_range(given)
}

/// A question for free space.
pub fn capacity_query(request: &v1::GetCapacityRequest) -> Result<CapacityQuery, Fault> {
    for given in &request.volume_capabilities {
        capability(given)?;
    }
    Ok(CapacityQuery {
        backend: class_parameters(&request.parameters)?.backend,
        place: topology::place(request.accessible_topology.as_ref()),
    })
}
