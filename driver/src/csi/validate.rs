//! Whether a volume that exists can be used as somebody wants to.

use stillpoint_csi_proto::v1;
use v1::validate_volume_capabilities_response::Confirmed;

use super::parse::{self, CapabilityError};
use crate::backend::BackendKind;
use crate::controller::volumes::Placed;
use crate::domain::node::Access;
use crate::domain::{Fault, Filesystem};

/// Confirms all of it, or says what is not possible. Only what makes no sense by itself is an error.
pub fn capabilities(
    request: &v1::ValidateVolumeCapabilitiesRequest,
    placed: &Placed,
) -> Result<v1::ValidateVolumeCapabilitiesResponse, Fault> {
    let mut objections = Vec::new();
    for given in &request.volume_capabilities {
        match parse::capability(given) {
            Ok(used) => objections.extend(objection(&used.access, placed.info.record.filesystem)),
            Err(CapabilityError::Unsupported(why)) => objections.push(why),
            Err(error @ CapabilityError::Malformed(_)) => return Err(error.into()),
        }
    }
    match parse::class_parameters(&request.parameters) {
        Ok(parameters) => {
            let asked = parameters.backend.map(BackendKind::as_str);
            if asked.is_some_and(|asked| asked != placed.info.backend) {
                objections.push(format!("the volume is on a {} pool", placed.info.backend));
            }
        }
        Err(fault) => objections.push(fault.message),
    }
    if !request.mutable_parameters.is_empty() {
        objections.push("volumes of this driver have no mutable parameters".into());
    }
    let confirmed = objections.is_empty().then(|| Confirmed {
        volume_context: request.volume_context.clone(),
        volume_capabilities: request.volume_capabilities.clone(),
        parameters: request.parameters.clone(),
        mutable_parameters: request.mutable_parameters.clone(),
    });
    Ok(v1::ValidateVolumeCapabilitiesResponse { confirmed, message: objections.join("; ") })
}

fn objection(access: &Access, has: Option<Filesystem>) -> Option<String> {
    match (access, has) {
        (Access::Block, None) => None,
        (Access::Block, Some(has)) => Some(format!("the volume carries {has} and is not a block volume")),
        (Access::Mount { .. }, None) => Some("the volume is a block volume".into()),
        (Access::Mount { filesystem, .. }, Some(has)) => filesystem
            .filter(|asked| *asked != has)
            .map(|asked| format!("the volume carries {has}, not {asked}")),
    }
}
