//! Cuts: prepare, copy, seal or void; later delete.
//!
//! | call | does | undone by |
//! |---|---|---|
//! | [`Pool::prepare_cut`] | checks, writes the record with state round, makes directories | [`Pool::void_cut`] |
//! | [`Pool::copy_member`] | the copy and nothing else, between hold and release | [`Pool::void_cut`] |
//! | [`Pool::seal_cut`] | makes copies durable, publishes the record with state sealed | [`Pool::delete_cut`] |
//!
//! Void removes the trees first and the record last; delete removes the record first and the trees last. So at any
//! moment a record of state round covers everything that may be garbage, and a sealed record has all its trees.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stillpoint_guard::fault::point;

use super::layout::cut_file;
use super::{Pool, PoolError, Result, headroom, records};
use crate::domain::listing::{Slice, SnapshotEntry};
use crate::domain::record::{CutMember, CutRecord, CutState};
use crate::domain::{Bytes, CutId, CutKind, Incarnation, NameHash, SnapshotId, VolumeId};

/// Longest predicted copy of one member: writers are held at least that long.
pub const CUT_BUDGET: Duration = Duration::from_millis(500);

/// What to copy where: everything that the hot path needs, ready made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPaths {
    /// The volume.
    pub volume: VolumeId,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// The volume's tree.
    pub from: PathBuf,
    /// The snapshot's tree; it does not exist yet.
    pub to: PathBuf,
}

/// Which attempt at a cut is to be removed. Who decided that one is over must not remove what a later one under the
/// same name has made meanwhile: that one may be sealed already on its home pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// Whatever is there: the pool itself decides, or a person.
    Any,
    /// Only this one.
    Attempt(Incarnation),
}

impl Fence {
    /// Whether this record is of an attempt that is meant.
    pub fn admits(&self, record: &CutRecord) -> bool {
        match self {
            Self::Any => true,
            Self::Attempt(attempt) => record.attempt == *attempt,
        }
    }
}

impl Pool {
    /// Checks that a cut can be made of the members that this pool has, and records that an attempt is under way.
    /// Nothing is held yet. The answer is in the order of the record's members.
    pub fn prepare_cut(&self, record: &CutRecord) -> Result<Vec<MemberPaths>> {
        self.check_writable()?;
        check_record(record, CutState::Round)?;
        let own = self.own_members(record)?;
        let _claim = self.claims.exclusive(&record.id)?;
        match self.stored_cut(&record.id)? {
            Some(known) if known.state == CutState::Sealed => {
                return Err(PoolError::Sealed(record.id.clone()));
            }
            Some(known) => {
                return Err(PoolError::Unfinished { id: record.id.clone(), attempt: known.attempt });
            }
            None => {}
        }
        let need = Bytes(headroom::COPY_NEEDS.0 * own.len() as u64);
        self.check_free(need)?;
        let volumes: Vec<_> = own.iter().map(|member| &member.volume).collect();
        let _promise = self.promise_snapshots(&volumes)?;
        let mut claims = Vec::with_capacity(own.len());
        for member in &own {
            claims.push(self.claims.shared(&member.volume)?);
            self.check_member(member)?;
        }
        if self.index().has_anything_of(&record.id) {
            // An earlier cut of this name: its record is gone, its removal broke off.
            self.finish_removal(&record.id)?;
        }
        for member in &own {
            self.host.make_directory(&self.layout.snapshots_of(&member.volume))?;
        }
        self.host.sync_directory(&self.layout.snapshots())?;
        self.publish_cut(record)?;
        Ok(own.into_iter().map(|member| self.member_paths(member)).collect())
    }

    /// Copies one member. Between hold and release: no look-up, no record, no lock, only the backend's copy.
    pub fn copy_member(&self, paths: &MemberPaths) -> Result<()> {
        Ok(self.backend.copy(&*self.host, &paths.from, &paths.to, true)?)
    }

    /// Quiets the pool before the hold, so that copies are fast.
    pub fn calm(&self) -> Result<()> {
        Ok(self.backend.calm(&*self.host, self.dir())?)
    }

    /// Makes copies durable, after the release. [`Pool::seal_cut`] does it too; calling it before spreads the cost.
    pub fn settle(&self) -> Result<()> {
        Ok(self.backend.settle(&*self.host, self.dir())?)
    }

    /// Makes the cut exist on this pool. Idempotent; refused for another attempt than the one that was prepared and
    /// when a copy is missing.
    pub fn seal_cut(&self, record: &CutRecord) -> Result<()> {
        self.check_writable()?;
        check_record(record, CutState::Sealed)?;
        let own = self.own_members(record)?;
        let _claim = match self.claims.exclusive(&record.id) {
            Ok(claim) => claim,
            // Somebody reads what is sealed already, perhaps for a controller that has died.
            Err(_) if self.is_sealed_as(record) => return Ok(()),
            Err(busy) => return Err(busy),
        };
        let known = self.stored_cut(&record.id)?.ok_or_else(|| PoolError::NoCut(record.id.clone()))?;
        if known.attempt != record.attempt {
            return Err(PoolError::Fenced {
                id: record.id.clone(),
                attempt: record.attempt,
                known: known.attempt,
            });
        }
        if known.members != record.members {
            return Err(malformed(&record.id, "its members are not those that were prepared"));
        }
        if known.state == CutState::Sealed {
            // It may have been published by a call that failed afterwards.
            self.host.sync_directory(&self.layout.cuts())?;
            self.index_mut().put_cut(&known);
            return Ok(());
        }
        for member in own {
            if self.host.stat(&self.layout.snapshot(&member.snapshot))?.is_none() {
                return Err(PoolError::NotCopied(member.snapshot.clone()));
            }
        }
        point("agent.seal.checked");
        self.settle()?;
        point("agent.seal.settled");
        self.publish_cut(record)?;
        point("agent.seal.sealed");
        Ok(())
    }

    /// Removes everything of an unsealed cut, trees first and the record last. A cut that does not exist is fine, a
    /// sealed one is refused.
    pub fn void_cut(&self, id: &CutId) -> Result<()> {
        self.void_of(id, &Fence::Any)
    }

    /// As [`Pool::void_cut`], but only of this attempt: what a later one under the same name has made stays.
    pub fn void_of(&self, id: &CutId, fence: &Fence) -> Result<()> {
        self.check_writable()?;
        let _claim = self.claims.exclusive(id)?;
        if let Some(known) = self.stored_cut(id)? {
            if !fence.admits(&known) {
                return Ok(());
            }
            if known.state == CutState::Sealed {
                return Err(PoolError::Sealed(id.clone()));
            }
            point("agent.void.begun");
            self.discard_trees(&known)?;
            point("agent.void.trees-gone");
            self.host.remove_file(&self.layout.cut(id))?;
            point("agent.void.record-gone");
        }
        self.finish_removal(id)
    }

    /// Deletes a sealed cut: from the first step on it does not exist. A cut that does not exist is fine, one in a
    /// round is refused.
    pub fn delete_cut(&self, id: &CutId) -> Result<()> {
        self.delete_of(id, &Fence::Any)
    }

    /// As [`Pool::delete_cut`], but only of this attempt.
    pub fn delete_of(&self, id: &CutId, fence: &Fence) -> Result<()> {
        self.check_writable()?;
        let _claim = self.claims.exclusive(id)?;
        if let Some(known) = self.stored_cut(id)? {
            if !fence.admits(&known) {
                return Ok(());
            }
            if known.state == CutState::Round {
                return Err(PoolError::Unfinished { id: id.clone(), attempt: known.attempt });
            }
            point("agent.uncut.begun");
            self.host.remove_file(&self.layout.cut(id))?;
            point("agent.uncut.record-gone");
        }
        // A crash from here on leaves trees without a record, which the sweep removes.
        self.finish_removal(id)?;
        point("agent.uncut.trees-gone");
        Ok(())
    }

    /// The record of a cut, with its timeline, from disk.
    pub fn cut(&self, id: &CutId) -> Result<CutRecord> {
        self.stored_cut(id)?.ok_or_else(|| PoolError::NoCut(id.clone()))
    }

    /// All cuts, sealed or not, sorted by id, without their timelines.
    pub fn cuts(&self) -> Vec<Arc<CutRecord>> {
        self.index().cuts().cloned().collect()
    }

    /// The cuts of a slice that are wanted, ascending by id, without their timelines.
    pub fn cuts_in(
        &self,
        slice: &Slice<CutId>,
        is_wanted: impl Fn(&CutRecord) -> bool,
    ) -> Vec<Arc<CutRecord>> {
        self.index().cuts_in(slice, is_wanted).cloned().collect()
    }

    /// What is known of a cut, without its timeline and without a look at the disk.
    pub fn known_cut(&self, id: &CutId) -> Option<Arc<CutRecord>> {
        self.index().cut(id).cloned()
    }

    /// Members, on whatever pool, of the sealed cuts whose home is this pool: those of a slice, ascending by id.
    pub fn snapshots_in(&self, slice: &Slice<SnapshotId>, of: Option<&VolumeId>) -> Vec<SnapshotEntry> {
        self.index().snapshots_in(slice, of).collect()
    }

    /// The cut of this kind whose name has this hash, without its timeline. Where there are several (the members of
    /// a name changed between attempts), a sealed one is preferred.
    pub fn find_cut_by_hash(&self, kind: CutKind, hash: &NameHash) -> Option<Arc<CutRecord>> {
        self.index().cuts_named(kind, hash).first().map(|cut| Arc::clone(cut))
    }

    /// The tree of a snapshot that exists: one that a sealed cut lists.
    pub fn snapshot_tree(&self, id: &SnapshotId) -> Result<PathBuf> {
        self.check_own(id, &id.volume.pool)?;
        self.sealed_member(id)?;
        Ok(self.layout.snapshot(id))
    }

    /// What is known of a snapshot that exists, and its cut.
    pub fn sealed_member(&self, id: &SnapshotId) -> Result<(CutId, CutMember)> {
        let index = self.index();
        let (cut, member) = index.snapshot(id).ok_or_else(|| PoolError::NoSnapshot(id.clone()))?;
        Ok((cut.clone(), member.clone()))
    }

    fn own_members<'a>(&self, record: &'a CutRecord) -> Result<Vec<&'a CutMember>> {
        let own: Vec<_> = record.members.iter().filter(|m| m.volume.pool == *self.id()).collect();
        if own.is_empty() {
            return Err(malformed(&record.id, format!("it has no member on pool {}", self.id())));
        }
        Ok(own)
    }

    fn check_member(&self, member: &CutMember) -> Result<()> {
        let volume = self.volume(&member.volume)?;
        if let Some(cut) = self.index().round_of(&member.volume) {
            return Err(PoolError::Busy(format!("volume {} (cut {cut})", volume.id)));
        }
        self.check_copy_time(&volume.id)
    }

    /// Refuses a copy that would take too long as the image is now: it gets more extents while it is written.
    pub fn check_copy_time(&self, volume: &VolumeId) -> Result<()> {
        let predicted = self.backend.predict_copy(&*self.host, &self.layout.volume(volume))?;
        if predicted > CUT_BUDGET {
            return Err(PoolError::SlowCut { volume: volume.clone(), predicted, budget: CUT_BUDGET });
        }
        Ok(())
    }

    fn member_paths(&self, member: &CutMember) -> MemberPaths {
        MemberPaths {
            volume: member.volume.clone(),
            snapshot: member.snapshot.clone(),
            from: self.layout.volume(&member.volume),
            to: self.layout.snapshot(&member.snapshot),
        }
    }

    /// What the disk says: whoever decides what to remove asks it, not the index.
    fn stored_cut(&self, id: &CutId) -> Result<Option<CutRecord>> {
        records::read(&*self.host, &self.layout.cut(id))
    }

    /// Whether this very attempt is sealed here, durably: the index is changed after the disk.
    fn is_sealed_as(&self, record: &CutRecord) -> bool {
        self.index().cut(&record.id).is_some_and(|known| {
            known.state == CutState::Sealed
                && (&known.attempt, &known.members) == (&record.attempt, &record.members)
        })
    }

    fn publish_cut(&self, record: &CutRecord) -> Result<()> {
        records::publish(&*self.host, &self.layout.cuts(), &cut_file(&record.id), record)?;
        self.index_mut().put_cut(record);
        Ok(())
    }

    /// Finishes a removal whose record went from the disk and whose call failed after that: lists may still have the cut,
    /// or its trees may be left. Nothing for any other cut, or while somebody works on it.
    pub fn finish_broken_removal(&self, id: &CutId) -> Result<()> {
        if !self.index().has_anything_of(id) {
            return Ok(());
        }
        let Ok(_claim) = self.claims.exclusive(id) else { return Ok(()) };
        if self.stored_cut(id)?.is_some() {
            return Ok(());
        }
        self.check_writable()?;
        self.finish_removal(id)
    }

    /// Makes the removal of a record durable and removes its trees; also what an earlier call left undone.
    fn finish_removal(&self, id: &CutId) -> Result<()> {
        self.host.sync_directory(&self.layout.cuts())?;
        let removed = self.index_mut().drop_cut(id);
        if let Some(record) = removed {
            for member in record.members.iter().filter(|member| member.volume.pool == *self.id()) {
                self.count_as_coming(&member.volume, &self.layout.snapshot(&member.snapshot))?;
            }
            self.discard_trees(&record)?;
            self.index_mut().forget_removed(id);
        }
        Ok(())
    }

    fn discard_trees(&self, record: &CutRecord) -> Result<()> {
        for member in record.members.iter().filter(|m| m.volume.pool == *self.id()) {
            let tree = self.layout.snapshot(&member.snapshot);
            if self.host.stat(&tree)?.is_some() {
                self.discard(&tree)?;
            }
        }
        Ok(())
    }
}

fn malformed(id: &CutId, why: impl Into<String>) -> PoolError {
    PoolError::Malformed { id: id.clone(), why: why.into() }
}

/// Refuses a record that contradicts itself, before anything is done in its name.
fn check_record(record: &CutRecord, state: CutState) -> Result<()> {
    let id = &record.id;
    if record.state != state {
        return Err(malformed(id, format!("its state is {:?}, not {state:?}", record.state)));
    }
    if record.members.iter().map(|m| &m.volume.pool).min() != Some(&id.home) {
        return Err(malformed(id, "its home is not the lowest pool of its members"));
    }
    if !record.members.is_sorted_by(|a, b| a.volume < b.volume) {
        return Err(malformed(id, "its members are not sorted, or one is listed twice"));
    }
    match record.members.iter().find(|m| m.snapshot != SnapshotId::of(&m.volume, id, record.attempt)) {
        Some(member) => {
            Err(malformed(id, format!("{} is not its snapshot of {}", member.snapshot, member.volume)))
        }
        None => Ok(()),
    }
}
