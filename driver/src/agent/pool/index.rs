//! What is in the pool, in memory, so that listing does not read the disk. Timelines stay on disk: they are most
//! of a record, and a pool may have tens of thousands.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use crate::domain::listing::{Slice, SnapshotEntry};
use crate::domain::record::{CutMember, CutRecord, CutState, MoveRecord, Source, VolumeRecord};
use crate::domain::{Bytes, CutId, CutKind, Incarnation, NameHash, PoolId, SnapshotId, VolumeId};

/// Everything below the first two maps is derived from them, and changed together with them.
#[derive(Debug)]
pub(super) struct Index {
    /// Whose index this is.
    pool: PoolId,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    /// Volumes that came from other pools, by the id that they had there first.
    known_as: BTreeMap<VolumeId, VolumeId>,
    moves: BTreeMap<VolumeId, MoveRecord>,
    /// Volumes of which a record cannot be read: where it is, and why.
    unreadable: BTreeMap<VolumeId, (PathBuf, String)>,
    cuts: BTreeMap<CutId, Arc<CutRecord>>,
    /// Cuts whose records are gone, but not all of their trees.
    removed: BTreeMap<CutId, Arc<CutRecord>>,
    /// The same cuts by name; a name has one cut, unless its members changed between two attempts.
    names: BTreeSet<(CutKind, NameHash, PoolId)>,
    /// Those that are not sealed: few, and looked through at every change of a volume.
    rounds: BTreeSet<CutId>,
    /// Members, on whatever pool, of the sealed cuts whose home is this pool: what lists of snapshots show.
    snapshots: BTreeSet<SnapshotId>,
    /// Those of volumes that came from other pools: by the id by which the volume is known, how many there are for each id
    /// that it had here.
    moved: BTreeMap<VolumeId, BTreeMap<VolumeId, usize>>,
    /// How many cuts, sealed or not, have a member of each volume of this pool.
    held: BTreeMap<VolumeId, usize>,
    /// Volumes that arrive: their capacities, and how much of their data is there.
    arriving: BTreeMap<VolumeId, (Bytes, Bytes)>,
    /// Sum of all capacities.
    promised: u128,
}

impl Index {
    /// The index of an empty pool.
    pub(super) fn of(pool: PoolId) -> Self {
        Self {
            pool,
            volumes: BTreeMap::new(),
            known_as: BTreeMap::new(),
            moves: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            cuts: BTreeMap::new(),
            removed: BTreeMap::new(),
            names: BTreeSet::new(),
            rounds: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            moved: BTreeMap::new(),
            held: BTreeMap::new(),
            arriving: BTreeMap::new(),
            promised: 0,
        }
    }

    pub(super) fn volume(&self, id: &VolumeId) -> Option<&VolumeRecord> {
        self.volumes.get(id)
    }

    /// The volume whose name has this hash.
    pub(super) fn volume_named(&self, hash: &NameHash) -> Option<&VolumeRecord> {
        let lowest = VolumeId { pool: self.pool.clone(), hash: hash.clone(), birth: Incarnation(0) };
        let (id, record) = self.volumes.range(lowest..).next()?;
        ((&id.pool, &id.hash) == (&self.pool, hash)).then_some(record)
    }

    /// Why nobody can tell whether this volume is here.
    pub(super) fn unreadable(&self, id: &VolumeId) -> Option<&(PathBuf, String)> {
        self.unreadable.get(id)
    }

    pub(super) fn all_unreadable(&self) -> impl Iterator<Item = (&VolumeId, &(PathBuf, String))> {
        self.unreadable.iter()
    }

    pub(super) fn put_unreadable(&mut self, id: VolumeId, record: PathBuf, why: String) {
        self.unreadable.insert(id, (record, why));
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values()
    }

    /// The volumes of a slice, ascending by id.
    pub(super) fn volumes_in(&self, slice: &Slice<VolumeId>) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.range(behind(slice.after.as_ref())).take(slice.limit).map(|(_, record)| record)
    }

    pub(super) fn put_volume(&mut self, record: VolumeRecord) {
        self.promised += u128::from(record.capacity.0);
        if let Some(known_as) = &record.known_as {
            self.known_as.insert(known_as.clone(), record.id.clone());
        }
        let before = self.volumes.insert(record.id.clone(), record);
        self.no_longer_promised(before);
    }

    pub(super) fn drop_volume(&mut self, id: &VolumeId) {
        let before = self.volumes.remove(id);
        if let Some(known_as) = before.as_ref().and_then(|record| record.known_as.as_ref()) {
            self.known_as.remove(known_as);
        }
        self.no_longer_promised(before);
    }

    fn no_longer_promised(&mut self, volume: Option<VolumeRecord>) {
        self.promised -= volume.map_or(0, |volume| u128::from(volume.capacity.0));
    }

    /// The id here of the volume that orchestrators know by this id.
    pub(super) fn own_id(&self, known_as: &VolumeId) -> Option<&VolumeId> {
        match self.volumes.get(known_as) {
            Some(record) if record.known_as.is_none() => Some(&record.id),
            Some(_) | None => self.known_as.get(known_as),
        }
    }

    pub(super) fn a_move(&self, id: &VolumeId) -> Option<&MoveRecord> {
        self.moves.get(id)
    }

    pub(super) fn moves(&self) -> impl Iterator<Item = &MoveRecord> {
        self.moves.values()
    }

    pub(super) fn put_move(&mut self, record: MoveRecord) {
        self.moves.insert(record.volume.id.clone(), record);
    }

    pub(super) fn drop_move(&mut self, id: &VolumeId) {
        self.moves.remove(id);
    }

    /// A volume of this capacity arrives, and so much of its data is there.
    pub(super) fn put_part(&mut self, id: &VolumeId, capacity: Bytes, data: Bytes) {
        self.arriving.insert(id.clone(), (capacity, data));
    }

    pub(super) fn drop_part(&mut self, id: &VolumeId) {
        self.arriving.remove(id);
    }

    /// Sum of the capacities of volumes that arrive.
    pub(super) fn arriving(&self) -> Bytes {
        Bytes(self.arriving.values().fold(0, |sum, (capacity, _)| sum.saturating_add(capacity.0)))
    }

    /// How much of that is there.
    pub(super) fn arrived(&self) -> Bytes {
        let data = |(capacity, data): &(Bytes, Bytes)| capacity.0.min(data.0);
        Bytes(self.arriving.values().fold(0, |sum, part| sum.saturating_add(data(part))))
    }

    /// Volumes of which no block can be shared with a snapshot or another volume, with their capacities.
    pub(super) fn volumes_that_share_nothing(&self) -> Vec<(VolumeId, Bytes)> {
        let (mut of_volumes, mut of_snapshots) = (BTreeMap::new(), BTreeMap::new());
        for record in self.volumes.values() {
            match &record.source {
                Some(Source::Volume(id)) => *of_volumes.entry(id).or_insert(0_usize) += 1,
                Some(Source::Snapshot(id)) => *of_snapshots.entry(id).or_insert(0_usize) += 1,
                None => {}
            }
        }
        let shares = |record: &VolumeRecord| {
            let (id, known_as) = (&record.id, record.known_as());
            let is_source = of_volumes.contains_key(id) || of_volumes.contains_key(known_as);
            let shares_source = match &record.source {
                None => false,
                Some(Source::Volume(source)) => {
                    self.own_id(source).is_some() || of_volumes.get(source).is_some_and(|count| *count > 1)
                }
                Some(Source::Snapshot(source)) => {
                    let is_here = source.volume.pool == self.pool && self.snapshot(source).is_some();
                    is_here || of_snapshots.get(source).is_some_and(|count| *count > 1)
                }
            };
            self.held.contains_key(id) || is_source || shares_source
        };
        let alone = self.volumes.values().filter(|record| !shares(record));
        alone.map(|record| (record.id.clone(), record.capacity)).collect()
    }

    /// Whether a tree of this volume, its own or that of a snapshot of it, is the only one that can have its blocks.
    pub(super) fn is_last_tree_of(&self, volume: &VolumeId) -> bool {
        if !self.volumes.contains_key(volume) {
            return !self.held.contains_key(volume);
        }
        self.volumes_that_share_nothing().iter().any(|(id, _)| id == volume)
    }

    /// Sum of all capacities.
    pub(super) fn promised(&self) -> Bytes {
        Bytes(u64::try_from(self.promised).unwrap_or(u64::MAX))
    }

    pub(super) fn cuts(&self) -> impl Iterator<Item = &Arc<CutRecord>> {
        self.cuts.values()
    }

    /// The cuts of a slice that are wanted, ascending by id.
    pub(super) fn cuts_in(
        &self,
        slice: &Slice<CutId>,
        is_wanted: impl Fn(&CutRecord) -> bool,
    ) -> impl Iterator<Item = &Arc<CutRecord>> {
        let behind = self.cuts.range(behind(slice.after.as_ref())).map(|(_, cut)| cut);
        behind.filter(move |cut| is_wanted(cut)).take(slice.limit)
    }

    pub(super) fn cut(&self, id: &CutId) -> Option<&Arc<CutRecord>> {
        self.cuts.get(id)
    }

    /// Number of cuts that are not sealed.
    pub(super) fn round_count(&self) -> usize {
        self.rounds.len()
    }

    pub(super) fn put_cut(&mut self, record: &CutRecord) {
        let id = record.id.clone();
        // The same cut may have had other members, or have been a round until now.
        self.unlist(&id);
        self.names.insert((id.kind, id.hash.clone(), id.home.clone()));
        self.removed.remove(&id);
        for member in record.members.iter().filter(|member| member.volume.pool == self.pool) {
            *self.held.entry(member.volume.clone()).or_default() += 1;
        }
        match record.state {
            CutState::Round => drop(self.rounds.insert(id.clone())),
            CutState::Sealed if id.home == self.pool => {
                self.snapshots.extend(record.members.iter().map(|member| member.snapshot.clone()));
                for (known_as, member) in moved_members(record) {
                    *self.moved.entry(known_as).or_default().entry(member.volume.clone()).or_default() += 1;
                }
            }
            CutState::Sealed => {}
        }
        self.cuts.insert(id, Arc::new(CutRecord { timeline: None, ..record.clone() }));
    }

    /// Takes a cut out of everything that is derived.
    fn unlist(&mut self, id: &CutId) {
        self.names.remove(&(id.kind, id.hash.clone(), id.home.clone()));
        self.rounds.remove(id);
        if let Some(known) = self.cuts.get(id) {
            for member in known.members.iter().filter(|member| member.volume.pool == self.pool) {
                match self.held.get_mut(&member.volume) {
                    Some(count) if *count > 1 => *count -= 1,
                    Some(_) | None => drop(self.held.remove(&member.volume)),
                }
            }
        }
        if let Some(known) = self.cuts.get(id).filter(|known| known.state == CutState::Sealed) {
            for member in known.members.iter().filter(|_| id.home == self.pool) {
                self.snapshots.remove(&member.snapshot);
            }
            for (known_as, member) in moved_members(known).filter(|_| id.home == self.pool) {
                let Some(ids) = self.moved.get_mut(&known_as) else { continue };
                match ids.get_mut(&member.volume) {
                    Some(count) if *count > 1 => *count -= 1,
                    Some(_) | None => drop(ids.remove(&member.volume)),
                }
                if ids.is_empty() {
                    self.moved.remove(&known_as);
                }
            }
        }
    }

    /// From now on the cut does not exist. The answer is what is known of it, until its trees are removed too
    /// ([`Index::forget_removed`]), also when it is asked again.
    pub(super) fn drop_cut(&mut self, id: &CutId) -> Option<Arc<CutRecord>> {
        self.unlist(id);
        if let Some(record) = self.cuts.remove(id) {
            self.removed.insert(id.clone(), record);
        }
        self.removed.get(id).cloned()
    }

    /// Whether there is such a cut, or something is left of one that was removed.
    pub(super) fn has_anything_of(&self, id: &CutId) -> bool {
        self.cuts.contains_key(id) || self.removed.contains_key(id)
    }

    pub(super) fn forget_removed(&mut self, id: &CutId) {
        self.removed.remove(id);
    }

    /// The snapshots of a slice, of one volume by the id by which it is known, or of all; ascending by id.
    pub(super) fn snapshots_in(
        &self,
        slice: &Slice<SnapshotId>,
        of: Option<&VolumeId>,
    ) -> impl Iterator<Item = SnapshotEntry> {
        // A volume that has moved has an id in each pool that it was in.
        let ids: Vec<Option<VolumeId>> = match of {
            None => vec![None],
            Some(known_as) => {
                let mut ids: BTreeSet<_> =
                    self.moved.get(known_as).into_iter().flat_map(BTreeMap::keys).collect();
                ids.insert(known_as);
                ids.into_iter().cloned().map(Some).collect()
            }
        };
        let (after, known_as) = (slice.after.clone(), of.cloned());
        ids.into_iter()
            .flat_map(move |volume| self.snapshots_of(volume, after.clone()))
            .filter(move |entry| known_as.as_ref().is_none_or(|known_as| known_as == entry.known_as()))
            .take(slice.limit)
    }

    /// The snapshots behind one, of the volume of this id or of all.
    fn snapshots_of(
        &self,
        volume: Option<VolumeId>,
        after: Option<SnapshotId>,
    ) -> impl Iterator<Item = SnapshotEntry> {
        let from = match (after, volume.as_ref().map(first_of)) {
            (Some(after), Some(first)) if after < first => Bound::Included(first),
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(first)) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        self.snapshots
            .range((from, Bound::Unbounded))
            .take_while(move |id| volume.as_ref().is_none_or(|volume| id.volume == *volume))
            .filter_map(|id| self.entry(id))
    }

    fn entry(&self, id: &SnapshotId) -> Option<SnapshotEntry> {
        let cut = CutId { home: self.pool.clone(), kind: id.kind, hash: id.hash.clone() };
        let record = self.cuts.get(&cut).filter(|record| record.attempt == id.attempt)?;
        Some(record.entry_of(member_of(record, &id.volume)?))
    }

    /// Cuts of this name: one, unless its members changed between two attempts. Sealed ones first.
    pub(super) fn cuts_named(&self, kind: CutKind, hash: &NameHash) -> Vec<&Arc<CutRecord>> {
        let mut found: Vec<_> = self
            .names
            .range((kind, hash.clone(), PoolId::from_random([0; 6]))..)
            .take_while(|(k, h, _)| (*k, h) == (kind, hash))
            .filter_map(|(kind, hash, home)| {
                self.cuts.get(&CutId { home: home.clone(), kind: *kind, hash: hash.clone() })
            })
            .collect();
        found.sort_by_key(|cut| cut.state != CutState::Sealed);
        found
    }

    /// The sealed member that is this snapshot, with the id of its cut.
    pub(super) fn snapshot(&self, id: &SnapshotId) -> Option<(&CutId, &CutMember)> {
        self.cuts_named(id.kind, &id.hash)
            .into_iter()
            .filter(|cut| cut.state == CutState::Sealed)
            .find_map(|cut| Some((&cut.id, cut.members.iter().find(|member| member.snapshot == *id)?)))
    }

    /// An unsealed cut that has this volume as a member.
    pub(super) fn round_of(&self, volume: &VolumeId) -> Option<&CutId> {
        self.rounds.iter().find(|id| {
            self.cuts.get(id).is_some_and(|cut| cut.members.iter().any(|member| member.volume == *volume))
        })
    }
}

/// Members of a cut whose volume has moved, each with the id by which it is known.
fn moved_members(record: &CutRecord) -> impl Iterator<Item = (VolumeId, &CutMember)> {
    record.members.iter().filter_map(|member| Some((member.known_as.clone()?, member)))
}

/// What is behind a key.
fn behind<K>(after: Option<&K>) -> (Bound<&K>, Bound<&K>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// Records are written with their members sorted; one that people have edited is still found.
fn member_of<'a>(record: &'a CutRecord, volume: &VolumeId) -> Option<&'a CutMember> {
    let members = &record.members;
    match members.binary_search_by(|member| member.volume.cmp(volume)) {
        Ok(at) => members.get(at),
        Err(_) => members.iter().find(|member| member.volume == *volume),
    }
}

/// No snapshot of the volume has a lower id.
fn first_of(volume: &VolumeId) -> SnapshotId {
    let (kind, hash, attempt) = (CutKind::Single, NameHash::lowest(), Incarnation(0));
    SnapshotId { volume: volume.clone(), kind, hash, attempt }
}

#[cfg(test)]
mod tests;
