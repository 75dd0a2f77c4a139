//! Preparing, sealing, voiding and deleting cuts.

use anyhow::{Result, ensure};

use super::{
    Ground, by_attempt, copy_all, copy_of, cut, cut_record, expect_content, expect_snapshot, left, new_pool,
    raw, refused, reopen, sealed, volume_with, write,
};
use crate::agent::pool::Fence;
use crate::domain::record::{CutMember, CutRecord, CutState, Source};
use crate::domain::timeline::Timeline;
use crate::domain::{Bytes, Code, CutId, CutKind, Incarnation, NameHash, PoolId, SnapshotId, VolumeId};

pub(super) fn a_sealed_cut_survives_a_restart(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let volumes = [volume_with(ground, &pool, "a", 1)?, volume_with(ground, &pool, "b", 2)?];
    let round = cut_record("cut", CutState::Round, volumes.clone())?;
    copy_all(&pool, &round)?;
    let timeline = Timeline { window_us: 4200, ..Timeline::default() };
    let record = CutRecord { timeline: Some(timeline), ..sealed(&round) };
    pool.seal_cut(&record)?;

    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.voided.is_empty() && report.broken.is_empty(), "{report:?}");
    ensure!(pool.cut(&record.id)? == record, "the record on disk has its timeline");
    let listed = pool.cuts();
    ensure!(listed.len() == 1 && listed.iter().all(|c| c.state == CutState::Sealed && c.timeline.is_none()));
    let found = pool.find_cut_by_hash(CutKind::Group, &NameHash::of("cut"));
    ensure!(found.is_some_and(|found| found.id == record.id));
    ensure!(pool.find_cut_by_hash(CutKind::Single, &NameHash::of("cut")).is_none());
    for (volume, content) in volumes.iter().zip([1, 2]) {
        let snapshot = SnapshotId::of(volume, &record.id, Incarnation(1));
        expect_snapshot(ground, &pool, &snapshot, content)?;
        let (of, member) = pool.sealed_member(&snapshot)?;
        ensure!(of == record.id && member.volume == *volume);
    }
    Ok(())
}

pub(super) fn an_unsealed_cut_is_void_after_a_restart_of_its_home(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let before = left(ground, &pool)?;
    let record = cut_record("cut", CutState::Round, [id.clone()])?;
    let snapshot = SnapshotId::of(&id, &record.id, Incarnation(1));
    copy_all(&pool, &record)?;
    refused(pool.snapshot_tree(&snapshot), Code::NotFound, "not completed")?;
    let restore = copy_of(&pool, "restored", Source::Snapshot(snapshot.clone()));
    refused(pool.create_volume(&restore), Code::NotFound, "not completed")?;

    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.voided == [record.id.clone()] && report.undecided.is_empty(), "{report:?}");
    refused(pool.cut(&record.id), Code::NotFound, "does not exist")?;
    let mut after = left(ground, &pool)?;
    after.retain(|path| *path != pool.dir().join("snapshots").join(id.to_string()));
    ensure!(after == before, "something was left: {after:?}");
    expect_content(ground, &pool.image(&id)?, 1)?;
    // A retry starts from nothing.
    cut(&pool, "cut", [id])?;
    expect_snapshot(ground, &pool, &snapshot, 1)
}

pub(super) fn an_unsealed_cut_of_another_home_is_reported_and_left_alone(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let lower = VolumeId::new(PoolId::from_random([0; 6]), "elsewhere", Incarnation(1));
    let record = cut_record("cut", CutState::Round, [id.clone(), lower])?;
    let own = copy_all(&pool, &record)?;
    ensure!(own.len() == 1, "only this pool's member is copied here");

    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.voided.is_empty() && report.undecided == [record.id.clone()], "{report:?}");
    ensure!(pool.cut(&record.id)?.state == CutState::Round);
    // The home says that it is sealed: roll forward.
    pool.seal_cut(&sealed(&record))?;
    expect_snapshot(ground, &pool, &SnapshotId::of(&id, &record.id, Incarnation(1)), 1)
}

pub(super) fn a_void_cut_leaves_nothing(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let volumes = [volume_with(ground, &pool, "a", 1)?, volume_with(ground, &pool, "b", 2)?];
    // The empty snapshot directory of a living volume may stay.
    let directories: Vec<_> =
        volumes.iter().map(|v| pool.dir().join("snapshots").join(v.to_string())).collect();
    let rest = |pool| -> Result<Vec<_>> {
        let mut left = left(ground, pool)?;
        left.retain(|path| !directories.contains(path));
        Ok(left)
    };
    let before = rest(&pool)?;
    let record = cut_record("cut", CutState::Round, volumes.clone())?;
    let members = pool.prepare_cut(&record)?;
    pool.void_cut(&record.id)?;
    ensure!(rest(&pool)? == before, "prepared and void");

    pool.prepare_cut(&record)?;
    if let Some(first) = members.first() {
        pool.copy_member(first)?;
    }
    pool.void_cut(&record.id)?;
    pool.void_cut(&record.id)?;
    ensure!(rest(&pool)? == before, "half copied and void");
    ensure!(pool.cuts().is_empty() && pool.find_cut_by_hash(CutKind::Group, &record.id.hash).is_none());

    for id in &volumes {
        pool.delete_volume(id)?;
    }
    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.broken.is_empty());
    let all = left(ground, &pool)?;
    ensure!(all.len() == 4, "only stillpoint.json and three directories: {all:?}");
    Ok(())
}

pub(super) fn sealing_is_idempotent_and_fenced_by_the_attempt(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let round = cut_record("cut", CutState::Round, [id.clone()])?;
    refused(pool.seal_cut(&sealed(&round)), Code::NotFound, "does not exist")?;
    copy_all(&pool, &round)?;
    refused(pool.prepare_cut(&round), Code::Aborted, "unfinished attempt 00000001")?;
    refused(pool.delete_cut(&round.id), Code::Aborted, "unfinished attempt 00000001")?;
    let late = by_attempt(Incarnation(0), &sealed(&round));
    let mixed = CutRecord { attempt: Incarnation(0), ..sealed(&round) };
    refused(pool.seal_cut(&mixed), Code::Invalid, "wrong")?;
    refused(pool.seal_cut(&late), Code::Aborted, "attempt 0")?;
    let fewer = CutRecord { members: Vec::new(), ..sealed(&round) };
    refused(pool.seal_cut(&fewer), Code::Invalid, "wrong")?;

    pool.seal_cut(&sealed(&round))?;
    pool.seal_cut(&sealed(&round))?;
    refused(pool.seal_cut(&late), Code::Aborted, "attempt 0")?;
    refused(pool.prepare_cut(&round), Code::Precondition, "sealed")?;
    refused(pool.void_cut(&round.id), Code::Precondition, "delete it instead")?;
    expect_snapshot(ground, &pool, &SnapshotId::of(&id, &round.id, Incarnation(1)), 1)
}

pub(super) fn a_cut_that_was_not_copied_is_not_sealed(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let volumes = [volume_with(ground, &pool, "a", 1)?, volume_with(ground, &pool, "b", 2)?];
    let record = cut_record("cut", CutState::Round, volumes)?;
    let members = pool.prepare_cut(&record)?;
    if let Some(first) = members.first() {
        pool.copy_member(first)?;
    }
    refused(pool.seal_cut(&sealed(&record)), Code::Precondition, "is missing")?;
    pool.void_cut(&record.id)?;
    Ok(())
}

pub(super) fn a_volume_in_a_round_is_neither_deleted_nor_expanded(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let record = cut_record("cut", CutState::Round, [id.clone()])?;
    pool.prepare_cut(&record)?;
    refused(pool.delete_volume(&id), Code::Aborted, "under way")?;
    refused(pool.expand_volume(&id, Bytes::mib(16)), Code::Aborted, "under way")?;
    let second = cut_record("second", CutState::Round, [id.clone()])?;
    refused(pool.prepare_cut(&second), Code::Aborted, "under way")?;
    refused(pool.cut(&second.id), Code::NotFound, "does not exist")?;
    pool.void_cut(&record.id)?;
    pool.prepare_cut(&second)?;
    pool.void_cut(&second.id)?;
    pool.delete_volume(&id)?;
    refused(pool.prepare_cut(&record), Code::NotFound, "does not exist")
}

pub(super) fn the_name_of_a_deleted_cut_can_be_used_again(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let (record, snapshot) = cut(&pool, "cut", [id.clone()])?;
    pool.delete_cut(&record.id)?;
    refused(pool.snapshot_tree(&snapshot), Code::NotFound, "does not exist")?;
    write(ground, &pool.image(&id)?, 2)?;
    cut(&pool, "cut", [id.clone()])?;
    // The trash of the first one must not take the second one with it.
    pool.empty_trash(usize::MAX)?;
    expect_snapshot(ground, &pool, &snapshot, 2)?;
    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.broken.is_empty() && report.trash == 0, "{report:?}");
    expect_snapshot(ground, &pool, &snapshot, 2)
}

pub(super) fn a_snapshot_id_never_means_one_taken_later_under_its_name(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let (first, _) = cut(&pool, "cut", [id.clone()])?;
    pool.delete_cut(&first.id)?;
    write(ground, &pool.image(&id)?, 2)?;
    let second = by_attempt(Incarnation(2), &cut_record("cut", CutState::Round, [id.clone()])?);
    copy_all(&pool, &second)?;
    pool.seal_cut(&sealed(&second))?;

    let [old, new] = [1, 2].map(|attempt| SnapshotId::of(&id, &first.id, Incarnation(attempt)));
    refused(pool.snapshot_tree(&old), Code::NotFound, "does not exist")?;
    let restored = copy_of(&pool, "restored", Source::Snapshot(old));
    refused(pool.create_volume(&restored), Code::NotFound, "does not exist")?;
    pool.delete_of(&first.id, &Fence::Attempt(Incarnation(1)))?;
    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.broken.is_empty(), "{report:?}");
    expect_snapshot(ground, &pool, &new, 2)
}

pub(super) fn records_that_contradict_themselves_are_refused(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let good = cut_record("cut", CutState::Round, [id.clone()])?;
    let foreign = VolumeId::new(PoolId::from_random([0xff; 6]), "elsewhere", Incarnation(1));
    let twice: Vec<CutMember> = good.members.iter().chain(&good.members).cloned().collect();
    let mut swapped = good.clone();
    for member in &mut swapped.members {
        member.snapshot.hash = NameHash::of("another cut");
    }
    let home = CutId { home: foreign.pool.clone(), ..good.id.clone() };
    let wrong = [
        (sealed(&good), "its state"),
        (CutRecord { members: Vec::new(), ..good.clone() }, "home"),
        (CutRecord { members: twice, ..good.clone() }, "twice"),
        (CutRecord { id: home, ..good.clone() }, "home"),
        (swapped, "is not its snapshot"),
        (cut_record("cut", CutState::Round, [foreign])?, "no member on pool"),
    ];
    let before = left(ground, &pool)?;
    for (record, words) in wrong {
        refused(pool.prepare_cut(&record), Code::Invalid, words)?;
    }
    ensure!(left(ground, &pool)? == before && pool.cuts().is_empty());
    Ok(())
}

pub(super) fn the_trash_waits_for_rounds(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    for name in ["a", "b", "c"] {
        let id = pool.create_volume(&raw(&pool, name))?.id;
        pool.delete_volume(&id)?;
    }
    let (first, second) = (pool.pause_trash(), pool.pause_trash());
    ensure!(pool.empty_trash(usize::MAX)? == 0);
    drop(first);
    ensure!(pool.empty_trash(usize::MAX)? == 0, "one round is still under way");
    drop(second);
    ensure!(pool.empty_trash(2)? == 2 && pool.trash_len() == 1);

    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.trash == 1 && report.removed.is_empty(), "{report:?}");
    // New garbage must not take the name of old.
    let id = pool.create_volume(&raw(&pool, "d"))?.id;
    pool.delete_volume(&id)?;
    ensure!(pool.empty_trash(usize::MAX)? == 2 && pool.trash_len() == 0);
    Ok(())
}
