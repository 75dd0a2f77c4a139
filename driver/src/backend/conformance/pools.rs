//! Making, opening and filling pools.

use anyhow::{Context, Result, ensure};

use super::{
    Ground, copy_all, cut, cut_record, expect_content, expect_snapshot, left, new_pool, open, raw, refused,
    reopen, volume_with, write,
};
use crate::agent::pool::{Access, NewVolume, Pool, inspect};
use crate::backend::{BackendKind, IMAGE};
use crate::domain::record::{CutState, Source};
use crate::domain::{Bytes, Code, CutId, SnapshotId, VolumeId};
use crate::host::Host;

pub(super) fn a_pool_is_made_only_in_an_empty_filesystem_of_its_kind(ground: &dyn Ground) -> Result<()> {
    let (host, kind) = (ground.host(), ground.kind());
    let dir = ground.fresh()?;
    let make = |kind| Pool::make(&*host, kind, &dir);
    let other = if kind == BackendKind::Xfs { BackendKind::Btrfs } else { BackendKind::Xfs };
    refused(make(other), Code::Precondition, "choose the backend that fits")?;
    refused(Pool::open(host.clone(), &dir), Code::Precondition, "stillpoint.json is missing")?;

    host.write_synced(&dir.join("somebody's"), b"data")?;
    refused(make(kind), Code::Precondition, "somebody's")?;
    host.remove_file(&dir.join("somebody's"))?;

    let record = make(kind)?;
    refused(make(kind), Code::AlreadyExists, record.id.as_str())?;
    let not_mounted = ground.mount_point()?;
    refused(Pool::make(&*host, kind, &not_mounted), Code::Precondition, "nothing is mounted there")?;
    refused(Pool::open(host.clone(), &not_mounted), Code::Precondition, "nothing is mounted there")?;

    let (pool, report) = open(ground, &dir)?;
    ensure!(*pool.id() == record.id && pool.kind() == kind && pool.access() == Access::Writable);
    ensure!(report.broken.is_empty() && report.removed.is_empty(), "{report:?}");
    let space = pool.space()?;
    ensure!(space.available.0 > 0 && space.available < space.total, "{space:?}");
    Ok(())
}

pub(super) fn a_pool_that_was_half_made_is_taken_up_again(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let dir = ground.fresh()?;
    host.make_directory(&dir.join("volumes"))?;
    host.write_synced(&dir.join(".new-stillpoint.json"), b"{")?;
    Pool::make(&*host, ground.kind(), &dir)?;
    open(ground, &dir)?;
    Ok(())
}

pub(super) fn another_format_version_is_refused(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let pool = new_pool(ground)?;
    let dir = pool.dir().to_owned();
    drop(pool);
    let path = dir.join("stillpoint.json");
    let good = host.read(&path)?;

    host.write_synced(&path, br#"{"format": 7, "a field of the future": true}"#)?;
    refused(Pool::open(ground.host(), &dir), Code::Precondition, "format 7")?;
    refused(inspect(&*host, &dir), Code::Precondition, "format 7")?;
    for torn in [&good[..good.len() / 2], b"", b"[]", b"{\"format\": 2}"] {
        host.write_synced(&path, torn)?;
        refused(Pool::open(ground.host(), &dir), Code::Internal, "stillpoint.json")?;
    }
    host.write_synced(&path, &good)?;
    open(ground, &dir)?;
    Ok(())
}

pub(super) fn torn_records_are_reported_and_left_alone(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let pool = new_pool(ground)?;
    let (good, torn) = (volume_with(ground, &pool, "good", 1)?, volume_with(ground, &pool, "torn", 2)?);
    let (record, snapshot) = cut(&pool, "cut", [good.clone()])?;
    let snapshot_tree = pool.snapshot_tree(&snapshot)?;
    let cut_path = pool.dir().join("cuts").join(format!("{}.json", record.id));
    let volume_path = pool.dir().join("volumes").join(torn.to_string()).join("volume.json");
    let intact = host.read(&cut_path)?;
    host.write_synced(&cut_path, &intact[..intact.len() / 2])?;
    host.write_synced(&volume_path, b"{")?;
    host.make_directory(&pool.dir().join("volumes/not-ours"))?;

    let (pool, report) = reopen(ground, pool)?;
    let paths: Vec<_> = report.broken.iter().map(|broken| broken.path.clone()).collect();
    let volume_tree = volume_path.parent().context("a record is in a tree")?;
    for path in [&*cut_path, volume_tree, &snapshot_tree, &pool.dir().join("volumes/not-ours")] {
        ensure!(paths.iter().any(|p| p == path), "{} is not reported: {paths:?}", path.display());
    }
    ensure!(host.stat(&snapshot_tree)?.is_some(), "a snapshot was removed for a damaged record");
    ensure!(pool.volumes().len() == 1 && pool.cuts().is_empty());
    refused(pool.create_volume(&raw(&pool, "torn")), Code::Internal, "volume.json")?;
    refused(pool.delete_cut(&record.id), Code::Internal, "cannot be read")?;
    refused(pool.void_cut(&record.id), Code::Internal, "cannot be read")?;
    expect_content(ground, &pool.image(&good)?, 1)?;

    host.write_synced(&cut_path, &intact)?;
    let (pool, _) = reopen(ground, pool)?;
    expect_snapshot(ground, &pool, &snapshot, 1)
}

pub(super) fn a_read_only_pool_can_be_read_but_not_changed(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 5)?;
    let (record, snapshot) = cut(&pool, "cut", [id.clone()])?;
    let half_done = cut_record("half-done", CutState::Round, [id.clone()])?;
    copy_all(&pool, &half_done)?;
    let dir = pool.dir().to_owned();
    drop(pool);
    ground.set_read_only(&dir, true)?;

    let (pool, report) = open(ground, &dir)?;
    ensure!(pool.access() == Access::ReadOnly && report.voided.is_empty());
    ensure!(pool.volume(&id)?.name == "volume" && pool.cut(&record.id)?.state == CutState::Sealed);
    expect_snapshot(ground, &pool, &snapshot, 5)?;
    let writes = [
        pool.create_volume(&raw(&pool, "other")).map(drop),
        pool.delete_volume(&id),
        pool.expand_volume(&id, Bytes::mib(16)).map(drop),
        pool.prepare_cut(&cut_record("next", CutState::Round, [id.clone()])?).map(drop),
        pool.seal_cut(&super::sealed(&half_done)),
        pool.void_cut(&half_done.id),
        pool.delete_cut(&record.id),
        pool.empty_trash(1).map(drop),
    ];
    for write in writes {
        refused(write, Code::Precondition, "read-only")?;
    }
    drop(pool);
    ground.set_read_only(&dir, false)?;
    let (pool, report) = open(ground, &dir)?;
    ensure!(report.voided == [half_done.id], "{report:?}");
    expect_content(ground, &pool.image(&id)?, 5)
}

pub(super) fn a_full_pool_refuses_new_things_and_keeps_its_volumes(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let (record, snapshot) = cut(&pool, "cut", [id.clone()])?;
    ground.leave_free(pool.dir(), Bytes::mib(40))?;

    let space = pool.space()?;
    ensure!(space.available == Bytes(0), "nothing is available below the reserve: {space:?}");
    let before = left(ground, &pool)?;
    refused(pool.create_volume(&raw(&pool, "new")), Code::Exhausted, "too full")?;
    let clone = NewVolume { source: Some(Source::Volume(id.clone())), ..raw(&pool, "clone") };
    refused(pool.create_volume(&clone), Code::Exhausted, "too full")?;
    let next = cut_record("next", CutState::Round, [id.clone()])?;
    refused(pool.prepare_cut(&next), Code::Exhausted, "too full")?;
    refused(pool.expand_volume(&id, Bytes::mib(16)), Code::Exhausted, "too full")?;
    ensure!(left(ground, &pool)? == before, "a refusal left something behind");

    // The reserve is what the volume is overwritten from, although its block is shared with the snapshot.
    write(ground, &pool.image(&id)?, 2)?;
    expect_content(ground, &pool.image(&id)?, 2)?;
    expect_snapshot(ground, &pool, &snapshot, 1)?;
    pool.delete_cut(&record.id)?;
    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.broken.is_empty(), "{report:?}");
    expect_content(ground, &pool.image(&id)?, 2)
}

pub(super) fn path_tricks_are_not_ids(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = pool.id();
    let tricks = ["../x", "/etc/passwd", ".new-x", ".gone-1", "..", "", "x\0y"];
    for trick in tricks.iter().map(|t| (*t).to_owned()).chain([
        format!("{id}-v../../../{}", "0".repeat(20)),
        format!("{id}-v{}-00000001/", "0".repeat(32)),
        format!("{id}-v{}-00000001\n", "0".repeat(32)),
    ]) {
        ensure!(trick.parse::<VolumeId>().is_err(), "{trick:?} is a volume id");
        ensure!(trick.parse::<SnapshotId>().is_err(), "{trick:?} is a snapshot id");
        ensure!(trick.parse::<CutId>().is_err(), "{trick:?} is a cut id");
    }
    // A hostile name is only hashed.
    let hostile = NewVolume { name: "../../etc".into(), ..raw(&pool, "../../etc") };
    let made = pool.create_volume(&hostile)?;
    let tree = pool.image(&made.id)?;
    ensure!(tree.starts_with(pool.dir().join("volumes")) && tree.ends_with(IMAGE));
    ensure!(tree.components().count() == pool.dir().components().count() + 3);
    let (_, report) = reopen(ground, pool)?;
    ensure!(report.broken.is_empty());
    let host: &dyn Host = &*ground.host();
    ensure!(host.stat(&tree)?.is_some());
    Ok(())
}
