//! Long lists in pieces. Every list is sorted by key, and a piece says `after <key>`, not `from number n`: entries that
//! come and go between two pieces neither repeat nor hide others.

use jiff::Timestamp;

use super::record::CutRecord;
use super::{Bytes, CutHandle, CutId, CutKind, SnapshotId, VolumeId, VolumeInfo};

/// Entries in one piece of a host's list, at most.
pub const PIECE_LIMIT: usize = 512;
/// Members of all cuts in one piece together, as long as it has more than one cut: about 3 MiB.
pub const PIECE_MEMBERS: usize = 8192;

/// Which piece of a sorted list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice<K> {
    /// Behind this key; `None`: from the beginning.
    pub after: Option<K>,
    /// At most this many entries.
    pub limit: usize,
}

impl<K> Slice<K> {
    /// The same, cut to what one answer may have; no entries at all are never asked for.
    #[must_use]
    pub fn bounded(self) -> Self {
        let limit = if self.limit == 0 { PIECE_LIMIT } else { self.limit.min(PIECE_LIMIT) };
        Self { limit, ..self }
    }
}

/// A piece of a sorted list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<T> {
    /// Its entries, ascending by key.
    pub entries: Vec<T>,
    /// Whether there are more behind them.
    pub more: bool,
}

impl<T> Piece<T> {
    /// A piece out of entries of which one more than `limit` was asked for.
    pub fn of(mut entries: Vec<T>, limit: usize) -> Self {
        let more = entries.len() > limit;
        entries.truncate(limit);
        Self { entries, more }
    }
}

impl Piece<CutRecord> {
    /// As many of these cuts as have no more members together than an answer may have.
    #[must_use]
    pub fn bounded(mut self, members: usize) -> Self {
        let mut sum = 0;
        let is_over = |cut: &CutRecord| {
            sum += cut.members.len();
            sum > members
        };
        if let Some(at) = self.entries.iter().position(is_over) {
            let kept = at.max(1);
            self.more |= self.entries.len() > kept;
            self.entries.truncate(kept);
        }
        self
    }
}

/// What a list is sorted by.
pub trait Keyed {
    /// Its type.
    type Key: Ord + Clone + Send + Sync + 'static;
    /// The key of this entry.
    fn key(&self) -> Self::Key;
}

/// A snapshot as lists show it: a member of a sealed cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The snapshot, and with it its volume, by its id in the pool that it was in.
    pub id: SnapshotId,
    /// The id by which orchestrators know the volume, where that is another one.
    pub known_as: Option<VolumeId>,
    /// Its cut.
    pub cut: CutHandle,
    /// The name that the cut was asked for by.
    pub cut_name: String,
    /// When it was cut.
    pub cut_at: Timestamp,
    /// Size of the volume then.
    pub capacity: Bytes,
}

/// Which cuts to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutScope {
    /// All of which there is a record.
    All,
    /// Those that exist: sealed on their home pool, asked of the host that has it.
    Existing,
    /// Those about which something may be left to do: all but the sealed ones that have no member on another host.
    Unsettled,
}

/// How much of a record a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All members; no timeline.
    Members,
    /// Only one member, of the home pool: enough to know which cut it is and who decides about it.
    Home,
}

/// Which cuts to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutFilter {
    /// By their state.
    pub scope: CutScope,
    /// Only those whose name begins so; empty: all.
    pub name_prefix: String,
    /// How much of each.
    pub detail: Detail,
}

impl CutFilter {
    /// By state only.
    pub const fn of(scope: CutScope, detail: Detail) -> Self {
        Self { scope, name_prefix: String::new(), detail }
    }
}

impl Keyed for SnapshotEntry {
    type Key = SnapshotId;
    fn key(&self) -> SnapshotId {
        self.id.clone()
    }
}

impl Keyed for VolumeInfo {
    type Key = VolumeId;
    fn key(&self) -> VolumeId {
        self.record.id.clone()
    }
}

impl Keyed for CutRecord {
    type Key = CutId;
    fn key(&self) -> CutId {
        self.id.clone()
    }
}

impl SnapshotEntry {
    /// The id by which orchestrators know the volume.
    pub fn known_as(&self) -> &VolumeId {
        self.known_as.as_ref().unwrap_or(&self.id.volume)
    }

    /// Whether it was cut alone or in a group.
    pub fn kind(&self) -> CutKind {
        self.id.kind
    }
}
