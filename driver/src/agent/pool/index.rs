//! What is in the pool, in memory, so that listing does not read the disk. Timelines stay on disk: they are most
//! of a record, and a pool may have tens of thousands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::record::{CutMember, CutRecord, CutState, MoveRecord, VolumeRecord};
use crate::domain::{Bytes, CutId, CutKind, NameHash, PoolId, SnapshotId, VolumeId};

#[derive(Debug, Default)]
pub(super) struct Index {
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    /// Volumes that came from other pools, by the id that they had there first.
    known_as: BTreeMap<VolumeId, VolumeId>,
    moves: BTreeMap<VolumeId, MoveRecord>,
    cuts: BTreeMap<CutId, Arc<CutRecord>>,
    /// Cuts whose records are gone, but not all of their trees.
    removed: BTreeMap<CutId, Arc<CutRecord>>,
    /// The same cuts by name; a name has one cut, unless its members changed between two attempts.
    names: BTreeSet<(CutKind, NameHash, PoolId)>,
}

impl Index {
    pub(super) fn volume(&self, id: &VolumeId) -> Option<&VolumeRecord> {
        self.volumes.get(id)
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values()
    }

    pub(super) fn put_volume(&mut self, record: VolumeRecord) {
        if let Some(known_as) = &record.known_as {
            self.known_as.insert(known_as.clone(), record.id.clone());
        }
        self.volumes.insert(record.id.clone(), record);
    }

    pub(super) fn drop_volume(&mut self, id: &VolumeId) {
        if let Some(known_as) = self.volumes.remove(id).and_then(|record| record.known_as) {
            self.known_as.remove(&known_as);
        }
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

    /// Sum of all capacities.
    pub(super) fn promised(&self) -> Bytes {
        self.volumes.values().fold(Bytes(0), |sum, volume| Bytes(sum.0.saturating_add(volume.capacity.0)))
    }

    pub(super) fn cuts(&self) -> impl Iterator<Item = &Arc<CutRecord>> {
        self.cuts.values()
    }

    pub(super) fn put_cut(&mut self, record: &CutRecord) {
        let id = record.id.clone();
        self.names.insert((id.kind, id.hash.clone(), id.home.clone()));
        self.removed.remove(&id);
        self.cuts.insert(id, Arc::new(CutRecord { timeline: None, ..record.clone() }));
    }

    /// From now on the cut does not exist. The answer is what is known of it, until its trees are removed too
    /// ([`Index::forget_removed`]), also when it is asked again.
    pub(super) fn drop_cut(&mut self, id: &CutId) -> Option<Arc<CutRecord>> {
        self.names.remove(&(id.kind, id.hash.clone(), id.home.clone()));
        if let Some(record) = self.cuts.remove(id) {
            self.removed.insert(id.clone(), record);
        }
        self.removed.get(id).cloned()
    }

    pub(super) fn forget_removed(&mut self, id: &CutId) {
        self.removed.remove(id);
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

    /// Which attempt at a cut this is.
    pub(super) fn attempt_of(&self, id: &CutId) -> Option<String> {
        self.cuts.get(id).map(|cut| cut.attempt.clone())
    }

    /// An unsealed cut that has this volume as a member.
    pub(super) fn round_of(&self, volume: &VolumeId) -> Option<&CutId> {
        self.cuts
            .values()
            .find(|cut| cut.state == CutState::Round && cut.members.iter().any(|m| m.volume == *volume))
            .map(|cut| &cut.id)
    }
}
