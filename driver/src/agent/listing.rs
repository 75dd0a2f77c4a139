//! Lists of one host, in pieces: each costs what is in it, not what is on the host.
//!
//! A host may have several pools. Each is asked for as many entries as the piece may have, so the lowest of all of them
//! are the piece. No lock is kept from one piece to the next: the next one begins behind a key, whatever was made or
//! removed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::health;
use super::local::{LocalHost, Standing};
use super::pool::Pool;
use crate::domain::listing::{CutFilter, CutScope, Detail, PIECE_MEMBERS, Piece, Slice, SnapshotEntry};
use crate::domain::record::{CutRecord, CutState, VolumeRecord};
use crate::domain::{Bytes, Code, CutId, Fault, PoolId, SnapshotId, VolumeId, VolumeInfo};

impl LocalHost {
    /// Volumes, sorted by id. One that is deleted meanwhile is left out.
    pub fn volumes_in(&self, slice: Slice<VolumeId>) -> Result<Piece<VolumeInfo>, Fault> {
        let slice = slice.bounded();
        let ask = one_more(&slice);
        let mut records = BTreeMap::new();
        for pool in self.pools().iter() {
            records.extend(
                pool.volumes_in(&ask)
                    .into_iter()
                    .map(|record| (record.id.clone(), (Arc::clone(&pool), record))),
            );
        }
        let records = Piece::of(records.into_values().collect(), slice.limit);
        Ok(Piece { entries: self.infos(records.entries)?, more: records.more })
    }

    /// All volumes, sorted by id.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>, Fault> {
        let pools = self.pools().iter();
        self.infos(
            pools.flat_map(|pool| pool.volumes().into_iter().map(move |record| (Arc::clone(&pool), record))),
        )
    }

    fn infos(
        &self,
        records: impl IntoIterator<Item = (Arc<Pool>, VolumeRecord)>,
    ) -> Result<Vec<VolumeInfo>, Fault> {
        let mounts = self.mounts()?;
        let mut volumes = Vec::new();
        for (pool, record) in records {
            match self.info(&pool, record.clone(), &mounts) {
                Ok(volume) => volumes.push(volume),
                // Deleted while the list was made.
                Err(fault) if fault.code == Code::NotFound => {}
                // One sick volume must not hide the others.
                Err(fault) => volumes.push(failed(&pool, record, &fault)),
            }
        }
        Ok(volumes)
    }

    /// Snapshots of the sealed cuts whose home pool is on this host, of one volume or of all, sorted by id.
    pub fn snapshots_in(&self, slice: Slice<SnapshotId>, of: Option<&VolumeId>) -> Piece<SnapshotEntry> {
        let slice = slice.bounded();
        let ask = one_more(&slice);
        let mut entries = BTreeMap::new();
        for pool in self.pools().iter() {
            entries.extend(pool.snapshots_in(&ask, of).into_iter().map(|entry| (entry.id.clone(), entry)));
        }
        Piece::of(entries.into_values().collect(), slice.limit)
    }

    /// Cuts, one record each, without their timelines, sorted by id.
    pub fn cuts_in(&self, slice: Slice<CutId>, filter: &CutFilter) -> Piece<CutRecord> {
        let slice = slice.bounded();
        let mut ask = one_more(&slice);
        let mut found = Vec::new();
        loop {
            // Among these is every cut that is wanted: no pool knows less of a cut than its own record says.
            let mut ids = BTreeSet::new();
            for pool in self.pools().iter() {
                let may_be = |record: &CutRecord| self.may_be_wanted(pool.id(), record, filter);
                ids.extend(pool.cuts_in(&ask, may_be).into_iter().map(|record| record.id.clone()));
            }
            let ids: Vec<CutId> = ids.into_iter().take(ask.limit).collect();
            found.extend(ids.iter().filter_map(|id| self.wanted(id, filter)));
            if ids.len() < ask.limit || found.len() > slice.limit {
                return Piece::of(found, slice.limit).bounded(PIECE_MEMBERS);
            }
            ask.after = ids.last().cloned();
        }
    }

    /// All cuts, one record each, without their timelines, sorted by id.
    pub fn cuts(&self) -> Vec<CutRecord> {
        let ids: BTreeSet<CutId> =
            self.pools().iter().flat_map(|pool| pool.cuts()).map(|record| record.id.clone()).collect();
        ids.iter().filter_map(|id| self.best_known(id)).map(|(_, record)| record).collect()
    }

    fn may_be_wanted(&self, pool: &PoolId, record: &CutRecord, filter: &CutFilter) -> bool {
        let is_named = record.name.starts_with(&filter.name_prefix);
        is_named
            && match filter.scope {
                CutScope::All => true,
                CutScope::Existing => record.state == CutState::Sealed && record.id.home == *pool,
                CutScope::Unsettled => record.state == CutState::Round || self.is_spread(record),
            }
    }

    /// The record of a cut that counts on this host, if the filter wants it.
    fn wanted(&self, id: &CutId, filter: &CutFilter) -> Option<CutRecord> {
        let (standing, record) = self.best_known(id)?;
        let is_sealed = record.state == CutState::Sealed;
        let is_wanted = match filter.scope {
            CutScope::All => true,
            CutScope::Existing => is_sealed && standing == Standing::Home,
            CutScope::Unsettled => !is_sealed || self.is_spread(&record),
        };
        is_wanted.then(|| shown(record, filter.detail))
    }

    fn best_known(&self, id: &CutId) -> Option<(Standing, CutRecord)> {
        let known = self.pools().iter().filter_map(|pool| {
            let record = pool.known_cut(id)?;
            Some((Standing::of(&pool, &record), record))
        });
        let (standing, record) = known.max_by_key(|(standing, _)| *standing)?;
        Some((standing, CutRecord::clone(&record)))
    }

    /// Whether a cut has a member that is not on this host.
    fn is_spread(&self, record: &CutRecord) -> bool {
        record.members.iter().any(|member| !self.pools().has(&member.volume.pool))
    }
}

/// All that is known of a volume that cannot be looked at.
fn failed(pool: &Pool, record: VolumeRecord, fault: &Fault) -> VolumeInfo {
    VolumeInfo {
        moved: None,
        allocated: Bytes(0),
        backend: pool.kind().to_string(),
        published_at: None,
        conditions: vec![health::volume_failed(&record.id, fault)],
        record,
    }
}

fn shown(mut record: CutRecord, detail: Detail) -> CutRecord {
    if detail == Detail::Home {
        let home = &record.id.home;
        let decides = record.members.iter().position(|member| member.volume.pool == *home);
        record.members = decides.map(|at| record.members.swap_remove(at)).into_iter().collect();
    }
    record
}

/// The same slice with one entry more, which tells whether there are any behind it.
fn one_more<K: Clone>(slice: &Slice<K>) -> Slice<K> {
    Slice { after: slice.after.clone(), limit: slice.limit + 1 }
}

#[cfg(test)]
mod tests;
