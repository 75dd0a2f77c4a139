//! Full pools on a real btrfs: what was promised can be written, what was deleted can be used again.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use stillpoint::agent::pool::{Overcommit, Pool};
use stillpoint::backend::BackendKind;
use stillpoint::domain::record::{CutMember, CutRecord, CutState};
use stillpoint::domain::{Bytes, Code, CutId, CutKind, Incarnation, Level, NewVolume, SnapshotId, VolumeId};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Loops, Subvolumes};
use stillpoint_tests::harness::skip;
use stillpoint_tests::scratch::{Scratch, why_not};

const POOL: Bytes = Bytes::gib(2);
const CHUNK: usize = 1 << 20;

/// A pool of [`POOL`], or why there is none.
fn new_pool(test: &str, scratch: &Scratch) -> Result<Option<Pool>> {
    if let Some(reason) = why_not(BackendKind::Btrfs) {
        skip(test, &reason);
        return Ok(None);
    }
    let dir = scratch.filesystem("pool", BackendKind::Btrfs, POOL)?;
    Pool::make(&LinuxHost, BackendKind::Btrfs, &dir)?;
    Ok(Some(Pool::open(Arc::new(LinuxHost), &dir)?.0))
}

fn create(pool: &Pool, name: &str, capacity: Bytes) -> Result<VolumeId, stillpoint::agent::pool::PoolError> {
    let id = VolumeId::new(pool.id().clone(), name, Incarnation(1));
    let new = NewVolume { id: id.clone(), name: name.into(), capacity, filesystem: None, source: None };
    pool.create_volume(&new).map(|_| id)
}

/// Writes all of a volume, as its user does: through its device, past the page cache.
fn fill(pool: &Pool, id: &VolumeId, capacity: Bytes) -> Result<()> {
    let device = LinuxHost.attach(&pool.image(id)?, false)?;
    let outcome = fill_device(&device.path, capacity);
    LinuxHost.detach(&device.path)?;
    outcome.with_context(|| format!("writing volume {id}"))
}

fn fill_device(device: &Path, capacity: Bytes) -> Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_SYNC).open(device)?;
    let chunk = vec![7_u8; CHUNK];
    for at in 0..capacity.0 / CHUNK as u64 {
        file.write_all_at(&chunk, at * CHUNK as u64)?;
    }
    Ok(file.sync_all()?)
}

/// A snapshot of one volume.
fn snapshot(pool: &Pool, name: &str, volume: &VolumeId, capacity: Bytes) -> Result<CutId> {
    let id = CutId::new(CutKind::Single, name, [volume]).context("it has a member")?;
    let member = CutMember {
        known_as: None,
        snapshot: SnapshotId::of(volume, &id, Incarnation(1)),
        volume: volume.clone(),
        volume_name: "volume".into(),
        host: "node-1".parse()?,
        capacity,
        filesystem: None,
    };
    let mut record = CutRecord {
        name: name.into(),
        state: CutState::Round,
        attempt: Incarnation(1),
        members: vec![member],
        cut_at: jiff::Timestamp::UNIX_EPOCH,
        level: Level::Crash,
        reasons: vec![],
        timeline: None,
        id: id.clone(),
    };
    for paths in pool.prepare_cut(&record)? {
        pool.copy_member(&paths)?;
    }
    record.state = CutState::Sealed;
    pool.seal_cut(&record)?;
    Ok(id)
}

#[test]
fn volumes_that_are_written_within_their_size_never_run_a_pool_full() -> Result<()> {
    let scratch = Scratch::new("headroom-promise")?;
    let Some(pool) = new_pool("volumes_that_are_written_within_their_size_never_run_a_pool_full", &scratch)?
    else {
        return Ok(());
    };
    let size = Bytes::mib(200);
    let mut volumes = Vec::new();
    let refusal = loop {
        match create(&pool, &format!("v{}", volumes.len()), size) {
            Ok(volume) => volumes.push(volume),
            Err(refusal) => break refusal,
        }
        ensure!(volumes.len() < 20, "{} volumes of {size} in a pool of {POOL}", volumes.len());
    };
    ensure!(refusal.code() == Code::Exhausted, "{refusal}");
    ensure!(refusal.to_string().contains("overcommit factor (now 1)"), "{refusal}");
    ensure!(volumes.len() >= 6, "only {} volumes of {size} in a pool of {POOL}", volumes.len());
    // Half of them are filled, the first is snapshotted as often as the pool allows, and everything is written anew.
    let first = volumes[0].clone();
    volumes.drain(3..).try_for_each(|volume| pool.delete_volume(&volume))?;
    for volume in &volumes {
        fill(&pool, volume, size)?;
    }
    let mut taken = 0;
    while snapshot(&pool, &format!("s{taken}"), &first, size).is_ok() {
        taken += 1;
        ensure!(taken < 20, "the pool promised {taken} snapshots of {size}");
        for volume in &volumes {
            fill(&pool, volume, size)?;
        }
    }
    ensure!(taken >= 2, "only {taken} snapshots of {size} in a pool of {POOL}");
    // The same with more promised than there is: it is thin by choice, and can run full.
    pool.set_overcommit(Overcommit::times(20));
    let mut thin = volumes.clone();
    for number in 0..8 {
        thin.push(create(&pool, &format!("thin{number}"), size)?);
    }
    let failed = thin.iter().find_map(|volume| fill(&pool, volume, size).err());
    ensure!(failed.is_some(), "the check can fail: {} volumes of {size} were filled", thin.len());
    Ok(())
}

#[test]
fn the_space_of_deleted_volumes_is_there_when_it_is_needed() -> Result<()> {
    let scratch = Scratch::new("headroom-reclaim")?;
    let Some(pool) = new_pool("the_space_of_deleted_volumes_is_there_when_it_is_needed", &scratch)? else {
        return Ok(());
    };
    let size = Bytes::mib(1200);
    let begun = Instant::now();
    for round in 0..6 {
        let volume = create(&pool, &format!("round-{round}"), size)?;
        fill(&pool, &volume, Bytes::mib(1000))?;
        pool.delete_volume(&volume)?;
        ensure!(
            pool.space_to_come()?.room() >= size,
            "what is being freed counts: {:?}",
            pool.space_to_come()?
        );
    }
    println!("6 volumes of {size}, one after the other: {:?}", begun.elapsed());
    for round in 0..36 {
        let volume = create(&pool, &format!("quick-{round}"), size)?;
        pool.delete_volume(&volume)?;
    }
    Ok(())
}

#[test]
fn a_full_pool_has_room_again_when_volumes_are_deleted() -> Result<()> {
    let scratch = Scratch::new("headroom-full")?;
    let Some(pool) = new_pool("a_full_pool_has_room_again_when_volumes_are_deleted", &scratch)? else {
        return Ok(());
    };
    pool.set_overcommit(Overcommit::times(20));
    // Many small volumes, written in turn until nothing goes any more: each block group of data has a bit of all of them.
    let size = Bytes::mib(256);
    let volumes: Vec<_> =
        (0..12).map(|number| create(&pool, &format!("v{number}"), size)).collect::<Result<_, _>>()?;
    let images = volumes.iter().map(|volume| pool.image(volume)).collect::<Result<Vec<_>, _>>()?;
    let files: Vec<_> =
        images.iter().map(|image| OpenOptions::new().write(true).open(image)).collect::<Result<_, _>>()?;
    let chunk = vec![7_u8; CHUNK];
    'full: for at in 0..size.0 / CHUNK as u64 {
        for file in &files {
            let written = file.write_all_at(&chunk, at * CHUNK as u64).and_then(|()| file.sync_data());
            match written {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => break 'full,
                Err(error) => return Err(error.into()),
            }
        }
    }
    drop(files);
    ensure!(create(&pool, "refused", size).is_err(), "the pool is full");
    for volume in volumes.iter().skip(1).step_by(2) {
        pool.delete_volume(volume)?;
    }
    // The agent does this every few seconds.
    let begun = Instant::now();
    let mut moved = 0;
    while pool.trash_len() > 0 || LinuxHost.dying_subvolumes(pool.dir())? > 0 {
        pool.empty_trash(16)?;
        LinuxHost.hasten_cleaning(pool.dir())?;
        ensure!(begun.elapsed().as_secs() < 120, "deleted volumes are not freed");
    }
    // What was freed counts from the next commit of the filesystem on.
    let least = Bytes(POOL.0 / 10);
    let mut groups = LinuxHost.block_groups(pool.dir())?;
    while groups.unallocated < least && begun.elapsed().as_secs() < 120 {
        LinuxHost.hasten_cleaning(pool.dir())?;
        while pool.compact()? {
            moved += 1;
            ensure!(moved < 64, "compacting does not come to an end");
        }
        groups = LinuxHost.block_groups(pool.dir())?;
    }
    println!("{moved} block groups moved in {:?}: {groups:?}", begun.elapsed());
    ensure!(groups.unallocated >= least, "data still has all the space: {groups:?}");
    ensure!(pool.space()?.available >= Bytes::mib(600), "half of it was deleted: {:?}", pool.space()?);
    let again = create(&pool, "again", size)?;
    fill(&pool, &again, size)
}
