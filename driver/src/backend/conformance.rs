//! What every backend must do, as a list of sentences that can fail. The suite works on a pool through its public
//! calls and writes through loop devices, so it says the same of btrfs and XFS on the real kernel and of the fake.
//!
//! A [`Ground`] is what a backend is tried on. `tests/tests/conformance.rs` runs the suite on real pools in sparse
//! files, the unit tests run it on [`FakeHost`](crate::host::fake::FakeHost).

mod copies;
mod cuts;
mod pools;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use super::{BackendKind, IMAGE};
use crate::agent::pool::{MemberPaths, NewVolume, Pool, PoolError, SweepReport};
use crate::domain::record::{CutMember, CutRecord, CutState, Source};
use crate::domain::{Bytes, Code, CutId, CutKind, Incarnation, Level, SnapshotId, VolumeId};
use crate::host::Host;

/// What the suite is run on.
pub trait Ground {
    /// The host.
    fn host(&self) -> Arc<dyn Host>;
    /// The backend under test.
    fn kind(&self) -> BackendKind;
    /// An empty filesystem of the backend's kind, about 1 GiB, mounted at the answer. The one given before may be
    /// taken away.
    fn fresh(&self) -> Result<PathBuf>;
    /// An empty directory to mount something at.
    fn mount_point(&self) -> Result<PathBuf>;
    /// Writes a 4 KiB block of a device, durably; `content` stands for what is in it.
    fn write_block(&self, device: &Path, block: u64, content: u64) -> Result<()>;
    /// What is in a block; zero where nothing was written.
    fn read_block(&self, device: &Path, block: u64) -> Result<u64>;
    /// Whether what is written through a mounted volume's files reaches its image; the fake keeps the two apart.
    fn files_are_in_the_image(&self) -> bool;
    /// Mounts the pool's filesystem read-only or writable.
    fn set_read_only(&self, dir: &Path, read_only: bool) -> Result<()>;
    /// Fills the pool's filesystem with something else until about this much is free.
    fn leave_free(&self, dir: &Path, free: Bytes) -> Result<()>;
}

/// One sentence of the suite.
#[derive(Clone, Copy)]
pub struct Check {
    /// What must be so.
    pub name: &'static str,
    /// Finds out.
    pub run: fn(&dyn Ground) -> Result<()>,
}

/// Names the functions as their sentences.
macro_rules! checks {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        &[$($(Check { name: stringify!($name), run: $module::$name }),+),+]
    };
}

/// The suite.
pub const CHECKS: &[Check] = checks! {
    pools:
        a_pool_is_made_only_in_an_empty_filesystem_of_its_kind,
        a_pool_that_was_half_made_is_taken_up_again,
        another_format_version_is_refused,
        torn_records_are_reported_and_left_alone,
        a_read_only_pool_can_be_read_but_not_changed,
        a_full_pool_refuses_new_things_and_keeps_its_volumes,
        path_tricks_are_not_ids;
    volumes:
        the_same_request_finds_the_volume_that_is_there,
        other_properties_under_the_same_id_are_refused,
        a_volume_carries_the_filesystem_that_was_asked_for,
        impossible_capacities_are_refused,
        a_volume_grows_with_its_devices_and_never_shrinks,
        an_attached_volume_is_not_deleted,
        deleting_is_idempotent_and_only_for_own_ids,
        a_volume_made_again_under_its_name_is_another_one;
    copies:
        a_clone_and_its_source_do_not_see_each_other,
        a_snapshot_keeps_what_was_there_at_the_cut,
        a_restore_may_be_larger_but_not_smaller,
        a_copy_keeps_its_filesystem,
        a_deleted_volume_leaves_its_snapshots,
        a_volume_whose_snapshots_went_first_leaves_nothing,
        a_copy_of_a_mounted_volume_has_what_was_written_before;
    cuts:
        a_sealed_cut_survives_a_restart,
        an_unsealed_cut_is_void_after_a_restart_of_its_home,
        an_unsealed_cut_of_another_home_is_reported_and_left_alone,
        a_void_cut_leaves_nothing,
        sealing_is_idempotent_and_fenced_by_the_attempt,
        a_cut_that_was_not_copied_is_not_sealed,
        a_volume_in_a_round_is_neither_deleted_nor_expanded,
        the_name_of_a_deleted_cut_can_be_used_again,
        a_snapshot_id_never_means_one_taken_later_under_its_name,
        records_that_contradict_themselves_are_refused,
        the_trash_waits_for_rounds;
};

/// Runs every check on `ground`; the error lists all that failed.
pub fn run(ground: &dyn Ground) -> Result<()> {
    let mut failures = Vec::new();
    for check in CHECKS {
        if let Err(error) = (check.run)(ground) {
            failures.push(format!("{}: {error:#}", check.name));
        }
    }
    ensure!(
        failures.is_empty(),
        "{} of {} checks failed on {}:\n  {}",
        failures.len(),
        CHECKS.len(),
        ground.kind(),
        failures.join("\n  ")
    );
    Ok(())
}

// ---- what the checks are written with -----------------------------------------------------------

/// Small enough for a small pool, large enough for its blocks.
const SMALL: Bytes = Bytes::mib(8);

/// A new pool on a fresh filesystem.
fn new_pool(ground: &dyn Ground) -> Result<Pool> {
    let dir = ground.fresh()?;
    Pool::make(&*ground.host(), ground.kind(), &dir)?;
    Ok(open(ground, &dir)?.0)
}

fn open(ground: &dyn Ground, dir: &Path) -> Result<(Pool, SweepReport)> {
    Ok(Pool::open(ground.host(), dir)?)
}

/// Closes the pool and opens it again, as a restart of the agent does.
fn reopen(ground: &dyn Ground, pool: Pool) -> Result<(Pool, SweepReport)> {
    let dir = pool.dir().to_owned();
    drop(pool);
    open(ground, &dir)
}

fn raw(pool: &Pool, name: &str) -> NewVolume {
    NewVolume {
        id: VolumeId::new(pool.id().clone(), name, Incarnation(1)),
        name: name.to_owned(),
        capacity: SMALL,
        filesystem: None,
        source: None,
    }
}

fn copy_of(pool: &Pool, name: &str, source: Source) -> NewVolume {
    NewVolume { source: Some(source), ..raw(pool, name) }
}

/// A raw volume with `content` in block 1.
fn volume_with(ground: &dyn Ground, pool: &Pool, name: &str, content: u64) -> Result<VolumeId> {
    let id = pool.create_volume(&raw(pool, name))?.id;
    write(ground, &pool.image(&id)?, content)?;
    Ok(id)
}

/// Writes block 1 of an image through a loop device.
fn write(ground: &dyn Ground, image: &Path, content: u64) -> Result<()> {
    let host = ground.host();
    let device = host.attach(image, false)?;
    let written = ground.write_block(&device.path, 1, content);
    host.detach(&device.path)?;
    written
}

/// Reads block 1 of an image through a loop device.
fn read(ground: &dyn Ground, image: &Path) -> Result<u64> {
    let host = ground.host();
    let device = host.attach(image, true)?;
    let content = ground.read_block(&device.path, 1);
    host.detach(&device.path)?;
    content
}

fn expect_content(ground: &dyn Ground, image: &Path, want: u64) -> Result<()> {
    let have = read(ground, image)?;
    ensure!(have == want, "{} has {have} where {want} was expected", image.display());
    Ok(())
}

fn expect_snapshot(ground: &dyn Ground, pool: &Pool, id: &SnapshotId, want: u64) -> Result<()> {
    expect_content(ground, &pool.snapshot_tree(id)?.join(IMAGE), want)
}

/// The error must have this code and these words.
fn refused<T>(result: std::result::Result<T, PoolError>, code: Code, words: &str) -> Result<()> {
    let Err(error) = result else { bail!("was not refused, expected {code:?} with {words:?}") };
    let text = error.to_string();
    ensure!(error.code() == code, "{:?} instead of {code:?}: {text}", error.code());
    ensure!(text.contains(words), "{words:?} is not said in: {text}");
    Ok(())
}

fn cut_record(name: &str, state: CutState, members: impl IntoIterator<Item = VolumeId>) -> Result<CutRecord> {
    let mut volumes: Vec<_> = members.into_iter().collect();
    volumes.sort();
    let id = CutId::new(CutKind::Group, name, &volumes).context("a cut has members")?;
    let host: crate::domain::HostName = "node-1".parse()?;
    let member = |volume: VolumeId| CutMember {
        known_as: None,
        volume_name: volume.hash.to_string(),
        snapshot: SnapshotId::of(&volume, &id, Incarnation(1)),
        volume,
        host: host.clone(),
        capacity: SMALL,
        filesystem: None,
    };
    let members = volumes.into_iter().map(member).collect();
    Ok(CutRecord {
        name: name.to_owned(),
        state,
        attempt: Incarnation(1),
        members,
        cut_at: Timestamp::UNIX_EPOCH,
        level: Level::Group,
        reasons: Vec::new(),
        timeline: None,
        id,
    })
}

/// The same cut, taken by another attempt.
fn by_attempt(attempt: Incarnation, record: &CutRecord) -> CutRecord {
    let mut record = CutRecord { attempt, ..record.clone() };
    for member in &mut record.members {
        member.snapshot.attempt = attempt;
    }
    record
}

fn sealed(record: &CutRecord) -> CutRecord {
    CutRecord { state: CutState::Sealed, ..record.clone() }
}

/// Everything of a cut up to the seal.
fn copy_all(pool: &Pool, record: &CutRecord) -> Result<Vec<MemberPaths>> {
    let members = pool.prepare_cut(record)?;
    pool.calm()?;
    for member in &members {
        pool.copy_member(member)?;
    }
    pool.settle()?;
    Ok(members)
}

/// A sealed cut of these volumes; the answer is the id of its first member's snapshot.
fn cut(
    pool: &Pool,
    name: &str,
    volumes: impl IntoIterator<Item = VolumeId>,
) -> Result<(CutRecord, SnapshotId)> {
    let record = cut_record(name, CutState::Round, volumes)?;
    copy_all(pool, &record)?;
    let record = sealed(&record);
    pool.seal_cut(&record)?;
    let snapshot = record.members.first().context("a cut has members")?.snapshot.clone();
    Ok((record, snapshot))
}

/// Every path below `dir`, for finding what was left behind.
pub fn tree(host: &dyn Host, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(directory) = waiting.pop() {
        for (name, kind) in host.list(&directory)? {
            let path = directory.join(name);
            if kind == crate::host::FileKind::Directory {
                waiting.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Empties the trash and returns what is left in the pool.
fn left(ground: &dyn Ground, pool: &Pool) -> Result<Vec<PathBuf>> {
    pool.empty_trash(usize::MAX)?;
    tree(&*ground.host(), pool.dir())
}

#[cfg(test)]
mod tests;
