//! Records that pools store as JSON. They are the only state that survives: a pool disk moved to another host
//! is found again with everything on it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::listing::SnapshotEntry;
use super::timeline::Timeline;
use super::{
    Bytes, CutHandle, CutId, Fault, Filesystem, HostName, Incarnation, Level, PoolId, SnapshotId, VolumeId,
};

/// Version of the layout and of these records; a pool of another version is refused.
pub const FORMAT: u32 = 2;

/// `<pool>/stillpoint.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolRecord {
    /// [`FORMAT`] of whoever made the pool.
    pub format: u32,
    /// The pool's id.
    pub id: PoolId,
    /// `btrfs`, `xfs` or `memory`.
    pub backend: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// `<pool>/volumes/<volume>/volume.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// The volume's id in its pool.
    pub id: VolumeId,
    /// The id by which orchestrators know it, where that is another one: it was made in that id's pool and has moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<VolumeId>,
    /// The orchestrator's name for it.
    pub name: String,
    /// Size of the image.
    pub capacity: Bytes,
    /// Filesystem inside; `None` for a raw block volume.
    pub filesystem: Option<Filesystem>,
    /// What it was made from.
    pub source: Option<Source>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl VolumeRecord {
    /// The id by which orchestrators know the volume: the first that it had.
    pub fn known_as(&self) -> &VolumeId {
        self.known_as.as_ref().unwrap_or(&self.id)
    }
}

/// `<pool>/moves/<volume>.json`: a volume that goes to another pool, or has gone there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRecord {
    /// The volume as it was when the move began.
    pub volume: VolumeRecord,
    /// Its id in the pool to which it goes.
    pub to: VolumeId,
    /// Names what is copied: another one for each beginning.
    pub content: String,
    /// How far it is.
    pub state: MoveState,
    /// When it began.
    pub began_at: Timestamp,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveState {
    /// The volume is here, and nobody has used it since the move began. Whoever does ends the move.
    Leaving,
    /// The volume is the other pool's, whatever is left of it here.
    Left,
    /// As [`MoveState::Left`], and nothing is left here but the way there.
    Gone,
}

/// What a volume was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Restored from a snapshot.
    Snapshot(SnapshotId),
    /// Cloned from a volume.
    Volume(VolumeId),
}

/// Whether a cut exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutState {
    /// A round is or was under way; nothing exists yet.
    Round,
    /// The cut exists.
    Sealed,
}

/// `<pool>/cuts/<cut>.json`, the same text on every pool that has a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutRecord {
    /// The cut's id; its home pool is the one whose sealed record counts.
    pub id: CutId,
    /// The name it was asked for by.
    pub name: String,
    /// Round or sealed.
    pub state: CutState,
    /// Fences one attempt at this cut from another.
    pub attempt: Incarnation,
    /// All members on all hosts, sorted by volume id.
    pub members: Vec<CutMember>,
    /// Wall-clock time of the cut, for people; taken by the controller when the last host had cut.
    pub cut_at: Timestamp,
    /// Level reached.
    pub level: Level,
    /// Why the level is not higher; empty when it is what was asked for.
    pub reasons: Vec<String>,
    /// What happened when; `None` until sealed.
    pub timeline: Option<Timeline>,
}

impl CutRecord {
    /// What users know the cut by.
    pub fn handle(&self) -> CutHandle {
        CutHandle { cut: self.id.clone(), attempt: self.attempt }
    }

    /// ALREADY_EXISTS where the members, by the ids by which orchestrators know their volumes, are others than these.
    pub fn check_members(&self, wanted: &BTreeSet<VolumeId>) -> Result<(), Fault> {
        let is_wanted = |member: &&CutMember| wanted.contains(member.known_as());
        if self.members.len() == wanted.len() && self.members.iter().all(|member| is_wanted(&member)) {
            return Ok(());
        }
        let (name, at) = (&self.name, self.cut_at);
        let is_remade = |member: &&CutMember| {
            !is_wanted(member) && wanted.iter().any(|volume| volume.hash == member.known_as().hash)
        };
        Err(Fault::already_exists(match self.members.iter().find(is_remade) {
            Some(member) => format!(
                "a cut called {name:?} exists, taken {at} of an earlier volume {} that was deleted; the one of that name now is \
                 another volume: choose another name for the cut, or delete the old one",
                member.volume_name
            ),
            None => format!(
                "a cut called {name:?} exists with other volumes ({}, taken {at}); choose another name, or delete it first",
                self.members.iter().map(|member| member.volume_name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        }))
    }

    /// A member as lists show it.
    pub fn entry_of(&self, member: &CutMember) -> SnapshotEntry {
        SnapshotEntry {
            id: member.snapshot.clone(),
            known_as: member.known_as.clone(),
            cut: self.handle(),
            cut_name: self.name.clone(),
            cut_at: self.cut_at,
            capacity: member.capacity,
        }
    }
}

/// One volume in a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutMember {
    /// The volume, by its id in the pool that it was in.
    pub volume: VolumeId,
    /// The id by which orchestrators know it, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<VolumeId>,
    /// The volume's name, for people.
    pub volume_name: String,
    /// The snapshot taken of it.
    pub snapshot: SnapshotId,
    /// The host it was on when it was cut, for people. Where it is now is looked up from its pool.
    pub host: HostName,
    /// Size of the volume when it was cut.
    pub capacity: Bytes,
    /// Its filesystem.
    pub filesystem: Option<Filesystem>,
}

impl CutMember {
    /// The id by which orchestrators know the volume.
    pub fn known_as(&self) -> &VolumeId {
        self.known_as.as_ref().unwrap_or(&self.volume)
    }
}
