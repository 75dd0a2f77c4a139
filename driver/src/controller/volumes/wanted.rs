//! What a volume must be: of which size, with which filesystem; and whether one that exists is what is asked for.

use super::{Placed, SourceFacts};
use crate::backend::BackendKind;
use crate::controller::orders::{Content, DEFAULT_SIZE, SMALLEST_DEVICE, VolumeOrder};
use crate::domain::record::{Source, VolumeRecord};
use crate::domain::{Bytes, Fault, Filesystem};

/// What the volume will carry. A copy carries what its source carries; as a raw device anything can be read.
pub(super) fn filesystem(
    order: &VolumeOrder,
    source: Option<&SourceFacts>,
) -> Result<Option<Filesystem>, Fault> {
    match (order.content, source.map(|source| source.filesystem)) {
        (Content::Device, _) => Ok(None),
        (Content::Filesystem(asked), None) => Ok(Some(asked.unwrap_or(Filesystem::Xfs))),
        (Content::Filesystem(asked), Some(Some(has))) => match asked.filter(|asked| *asked != has) {
            None => Ok(Some(has)),
            Some(asked) => Err(Fault::invalid(format!(
                "the source carries {has} and a copy keeps it, but the request asks for {asked}; \
                 use a StorageClass with csi.storage.k8s.io/fstype {has}"
            ))),
        },
        (Content::Filesystem(_), Some(None)) => Err(Fault::invalid(
            "the source is a raw block volume, so nobody knows what is on it; ask for a block volume",
        )),
    }
}

pub(super) fn size(
    order: &VolumeOrder,
    filesystem: Option<Filesystem>,
    source: Option<&SourceFacts>,
) -> Result<Bytes, Fault> {
    let smallest = filesystem.map_or(SMALLEST_DEVICE, Filesystem::minimum);
    let (smallest, otherwise) = match source {
        Some(source) => (smallest.max(source.capacity), source.capacity),
        None => (smallest, DEFAULT_SIZE),
    };
    Ok(order.size.choose(smallest, otherwise)?)
}

/// Refuses when a volume of the same name is not what is asked for.
pub(super) fn differences(order: &VolumeOrder, found: &Placed) -> Result<(), Fault> {
    let record = &found.info.record;
    let difference = if !order.size.admits(record.capacity) {
        format!("it is {} bytes large", record.capacity.0)
    } else if order.source != record.source {
        match &record.source {
            None => "it was made empty, not from the source that is asked for".to_owned(),
            Some(Source::Snapshot(id)) => format!("it was made from something else: snapshot {id}"),
            Some(Source::Volume(id)) => format!("it was made from something else: volume {id}"),
        }
    } else if !carries(order, record) {
        format!("it carries {}", record.filesystem.map_or("no filesystem", Filesystem::as_str))
    } else if order.backend.map(BackendKind::as_str).is_some_and(|asked| asked != found.info.backend) {
        format!("it is on a {} pool", found.info.backend)
    } else if !order.places.allow(&found.host) {
        format!("it is on host {}, which the request does not allow", found.host)
    } else {
        return Ok(());
    };
    Err(Fault::already_exists(format!(
        "a volume called {:?} exists, and {difference}; choose another name, or delete {}",
        order.name, record.id
    )))
}

fn carries(order: &VolumeOrder, record: &VolumeRecord) -> bool {
    match order.content {
        Content::Device => record.filesystem.is_none(),
        Content::Filesystem(Some(asked)) => record.filesystem == Some(asked),
        Content::Filesystem(None) => match record.source {
            Some(_) => record.filesystem.is_some(),
            None => record.filesystem == Some(Filesystem::Xfs),
        },
    }
}
