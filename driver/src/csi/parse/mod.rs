//! CSI requests to domain requests. Everything that can be wrong with a request by itself is found here and named;
//! secrets stop here: no domain request has any.

mod blocks;
mod capability;
mod node;
mod parameters;
mod snapshots;
mod topology;
mod volumes;

pub use blocks::{BlocksOrder, allocated_order, delta_order};
pub use capability::{CapabilityError, capability};
pub use node::{NodePath, expand_node, publish, stage, stats, unpublish, unstage};
pub use parameters::{class_parameters, snapshot_object};
pub use snapshots::{
    GroupOrder, SnapshotFilter, SnapshotOrder, fingerprint_of_group, fingerprint_of_snapshot, group_order,
    snapshot_filter, snapshot_order,
};
pub use topology::TOPOLOGY_KEY;
pub use volumes::{capacity_query, volume_order, volume_size};

use std::fmt::Display;
use std::str::FromStr;

use crate::domain::{CutHandle, Fault, SnapshotId, VolumeId};

/// Longest name and id, in bytes (the specification's limit for texts).
const NAME_LIMIT: usize = 128;
/// Longest map, keys and values together, in bytes (the specification's limit for maps).
const MAP_LIMIT: usize = 4096;
/// How much of what was given is shown in a message.
const SHOWN: usize = 64;

/// The first characters of what was given, for messages.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// A field that must be there.
fn required<'a>(field: &str, text: &'a str) -> Result<&'a str, Fault> {
    if text.is_empty() {
        Err(Fault::invalid(format!("{field} is missing; it is required")))
    } else {
        Ok(text)
    }
}

/// A name given by the orchestrator: there, at most 128 bytes, no control characters but white space.
fn name<'a>(field: &str, text: &'a str) -> Result<&'a str, Fault> {
    let text = required(field, text)?;
    if text.len() > NAME_LIMIT {
        return Err(Fault::invalid(format!(
            "{field} has {} bytes; at most {NAME_LIMIT} are allowed",
            text.len()
        )));
    }
    let banned = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    match text.chars().find(|c| banned(*c)) {
        Some(c) => {
            Err(Fault::invalid(format!("{field} {:?} holds the control character {c:?}", shown(text))))
        }
        None => Ok(text),
    }
}

/// An id that must be ours and is looked up: what is no id of ours names nothing that exists.
fn lookup<T>(field: &str, text: &str) -> Result<T, Fault>
where
    T: FromStr,
    T::Err: Display,
{
    required(field, text)?.parse().map_err(|why| Fault::not_found(format!("{field}: {why}")))
}

/// A volume that must exist.
pub fn volume(text: &str) -> Result<VolumeId, Fault> {
    lookup("volume_id", text)
}

/// A snapshot that must exist.
pub fn snapshot(text: &str) -> Result<SnapshotId, Fault> {
    lookup("snapshot_id", text)
}

/// A group that must exist.
pub fn group(text: &str) -> Result<CutHandle, Fault> {
    lookup("group_snapshot_id", text)
}

/// Something to be deleted: `None` for what is no id of ours, which means that it does not exist, which is fine.
pub fn doomed<T: FromStr>(field: &str, text: &str) -> Result<Option<T>, Fault> {
    Ok(required(field, text)?.parse().ok())
}

#[cfg(test)]
mod tests;
