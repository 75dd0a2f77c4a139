//! What a user without Stillpoint would do on the same disks, step by step as a script does it, in turns with Stillpoint:
//! * **subvolume**: fsfreeze, `btrfs subvolume snapshot`, one volume after another;
//! * **reflink**: fsfreeze, `cp --reflink`, one volume after another;
//! * **tar**: an archive of the live directory, as the reference host-path driver makes it. Nothing is frozen, so nothing
//!   is consistent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stillpoint::domain::Bytes;
use stillpoint_tests::harness::Step;
use stillpoint_tests::harness::csi::{Volume, from_snapshot};
use stillpoint_tests::harness::operator::Barrier;

use super::field::{FILESYSTEM, FIRST_HOST, Field, Group};
use super::measure::CALL_BESIDES;
use super::scripts;
use super::table::Samples;
use super::tables::Comparison;
use super::target::{DeadMan, REST, Target, run, wait_for_cleaner};
use super::windows::GROUP_BESIDES;

/// Payload of the volume that is snapshotted and restored; the volume is a little larger.
const FULL: Bytes = Bytes::gib(1);
const FULL_VOLUME: Bytes = Bytes::mib(1200);
/// tar is very slow.
const TAR_ROUNDS: u32 = 2;

/// Everything side by side.
pub async fn all(field: &Field, rounds: u32) -> Result<Vec<Comparison>> {
    let mut rows = vec![provision(field, rounds).await?];
    rows.extend(full_volume(field, rounds).await?);
    rows.push(group_of_eight(field, rounds).await?);
    Ok(rows)
}

/// Times of everybody.
#[derive(Default)]
struct Times {
    own: Vec<Duration>,
    subvolume: Vec<Duration>,
    reflink: Vec<Duration>,
    tar: Vec<Duration>,
}

impl Times {
    fn comparison(self, title: &str, besides: &'static str) -> Comparison {
        let samples = |times: Vec<Duration>| (!times.is_empty()).then(|| Samples::times(times));
        Comparison {
            title: title.into(),
            own: Samples::times(self.own),
            subvolume: samples(self.subvolume),
            reflink: samples(self.reflink),
            tar: samples(self.tar),
            besides,
        }
    }
}

/// A new volume of 1 GiB with its filesystem. The reference driver makes a directory, which has no size.
async fn provision(field: &Field, rounds: u32) -> Result<Comparison> {
    let step = Step::begin("provisioning, in turns with scripts");
    let mut times = Times::default();
    let image = scratch(field, FIRST_HOST)?.join("new.img");
    for round in 0..rounds {
        ready(field, FIRST_HOST)?;
        let start = Instant::now();
        let name = format!("beside-{round}");
        let volume = field.stack.csi().create(&name, FIRST_HOST, FULL, FILESYSTEM, None).await?;
        times.own.push(start.elapsed());
        field.stack.csi().delete(&volume.volume_id).await?;
        ready(field, FIRST_HOST)?;
        let by_hand = timed(|| {
            File::create(&image)?.set_len(FULL.0)?;
            run("mkfs.xfs", &["-q".as_ref(), "-K".as_ref(), image.as_os_str()])
        })?;
        fs::remove_file(&image)?;
        times.subvolume.push(by_hand);
        times.reflink.push(by_hand);
    }
    step.done();
    Ok(times.comparison("provision 1 GiB, xfs", CALL_BESIDES))
}

/// Snapshot and restore of a volume with 1 GiB in it.
async fn full_volume(field: &Field, rounds: u32) -> Result<Vec<Comparison>> {
    let step = Step::begin("a volume with 1 GiB, in turns with scripts");
    let full = field.stack.provision("beside-full", FIRST_HOST, FULL_VOLUME, FILESYSTEM).await?;
    fill(&full)?;
    let (mut taken, mut restored) = (Times::default(), Times::default());
    for round in 0..rounds {
        by_stillpoint(field, &full, round, &mut taken, &mut restored).await?;
        by_subvolume(field, &full, &mut taken, &mut restored)?;
        by_reflink(field, &full, &mut taken, &mut restored)?;
        if round < TAR_ROUNDS {
            by_tar(field, &full, &mut taken, &mut restored)?;
        }
    }
    field.stack.retire(&full).await?;
    step.done();
    Ok(vec![
        taken.comparison("snapshot of 1 GiB", CALL_BESIDES),
        restored.comparison("restore of 1 GiB", CALL_BESIDES),
    ])
}

async fn by_stillpoint(
    field: &Field,
    full: &Volume,
    round: u32,
    taken: &mut Times,
    restored: &mut Times,
) -> Result<()> {
    ready(field, FIRST_HOST)?;
    let start = Instant::now();
    let snapshot = field.stack.csi().snapshot(&format!("beside-{round}"), &full.id).await?;
    taken.own.push(start.elapsed());
    let start = Instant::now();
    let (name, source) = (format!("beside-restored-{round}"), Some(from_snapshot(&snapshot)));
    let copy = field.stack.csi().create(&name, FIRST_HOST, FULL_VOLUME, FILESYSTEM, source).await?;
    restored.own.push(start.elapsed());
    field.stack.csi().delete(&copy.volume_id).await?;
    field.stack.csi().delete_snapshot(&snapshot).await
}

fn by_subvolume(field: &Field, full: &Volume, taken: &mut Times, restored: &mut Times) -> Result<()> {
    let scratch = scratch(field, FIRST_HOST)?;
    let (original, copy, back) = (volume_directory(field, full)?, scratch.join("copy"), scratch.join("back"));
    let snapshot = |from: &Path, to: &Path| {
        run("btrfs", &["subvolume".as_ref(), "snapshot".as_ref(), from.as_os_str(), to.as_os_str()])
    };
    ready(field, FIRST_HOST)?;
    taken.subvolume.push(scripts::around(&full.path, || snapshot(&original, &copy))?);
    restored.subvolume.push(timed(|| snapshot(&copy, &back))?);
    for tree in [&back, &copy] {
        run("btrfs", &["subvolume".as_ref(), "delete".as_ref(), tree.as_os_str()])?;
    }
    Ok(())
}

fn by_reflink(field: &Field, full: &Volume, taken: &mut Times, restored: &mut Times) -> Result<()> {
    let scratch = scratch(field, FIRST_HOST)?;
    let image = volume_directory(field, full)?.join("disk.img");
    let (copy, back) = (scratch.join("copy.img"), scratch.join("back.img"));
    ready(field, FIRST_HOST)?;
    taken.reflink.push(scripts::around(&full.path, || reflink(&image, &copy))?);
    restored.reflink.push(timed(|| reflink(&copy, &back))?);
    fs::remove_file(&back)?;
    fs::remove_file(&copy)?;
    Ok(())
}

fn by_tar(field: &Field, full: &Volume, taken: &mut Times, restored: &mut Times) -> Result<()> {
    let scratch = scratch(field, FIRST_HOST)?;
    let (archive, unpacked) = (scratch.join("live.tar"), scratch.join("unpacked"));
    ready(field, FIRST_HOST)?;
    taken.tar.push(timed(|| tar(&full.path, &archive))?);
    fs::create_dir(&unpacked)?;
    restored.tar.push(timed(|| {
        run("tar", &["-xf".as_ref(), archive.as_os_str(), "-C".as_ref(), unpacked.as_os_str()])
    })?);
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// A group of eight: how long the applications stand still; for tar, how long the copies are apart.
async fn group_of_eight(field: &Field, rounds: u32) -> Result<Comparison> {
    let step = Step::begin("a group of eight, in turns with scripts");
    let target = Target::of(field, Group::Eight)?;
    let volumes: Vec<&Volume> = field.volumes(Group::Eight).collect();
    let host = &volumes.first().context("the group has no volumes")?.host;
    let scratch = scratch(field, host)?;
    let mut times = Times::default();
    for round in 0..rounds {
        let name = format!("beside-eight-{round}");
        ready(field, host)?;
        let record = field.stack.operator().snapshot(&name, "group=eight", None, Barrier::Together).await?;
        times.own.extend(record.timeline.as_ref().map(|timeline| Duration::from_micros(timeline.window_us)));
        field.stack.operator().delete(&record.handle().to_string()).await?;
        ready(field, host)?;
        times.subvolume.push(scripts::serial(&target, &name)?);
        target.delete_copies()?;
        ready(field, host)?;
        times.reflink.push(reflink_all(field, &volumes, &scratch)?);
        if round < TAR_ROUNDS {
            let archive = scratch.join("live.tar");
            ready(field, host)?;
            times.tar.push(timed(|| volumes.iter().try_for_each(|volume| tar(&volume.path, &archive)))?);
            fs::remove_file(&archive)?;
        }
    }
    target.close()?;
    step.done();
    Ok(times.comparison("group of 8 idle volumes: first quiesce to last resume", GROUP_BESIDES))
}

/// Freeze all, copy all, thaw all, one after the other.
fn reflink_all(field: &Field, volumes: &[&Volume], scratch: &Path) -> Result<Duration> {
    let images = volumes
        .iter()
        .map(|volume| Ok((volume_directory(field, volume)?.join("disk.img"), scratch.join(&volume.name))))
        .collect::<Result<Vec<_>>>()?;
    let mounts: Vec<PathBuf> = volumes.iter().map(|volume| volume.path.clone()).collect();
    let _dead_man = DeadMan::start(&mounts)?;
    std::thread::sleep(REST);
    let start = Instant::now();
    let copied = volumes
        .iter()
        .try_for_each(|volume| run("fsfreeze", &["-f".as_ref(), volume.path.as_os_str()]))
        .and_then(|()| images.iter().try_for_each(|(image, copy)| reflink(image, copy)));
    for volume in volumes {
        // Also after a failure; what was not frozen refuses, which is fine then.
        drop(run("fsfreeze", &["-u".as_ref(), volume.path.as_os_str()]));
    }
    let took = start.elapsed();
    for (_, copy) in &images {
        drop(fs::remove_file(copy));
    }
    copied.map(|()| took)
}

/// Nothing is being cleaned on the host's pool, and everybody has rested.
fn ready(field: &Field, host: &str) -> Result<()> {
    wait_for_cleaner(&BTreeSet::from([field.pool(host)?.to_path_buf()]))?;
    std::thread::sleep(REST);
    Ok(())
}

fn reflink(from: &Path, to: &Path) -> Result<()> {
    run("cp", &["--reflink=always".as_ref(), from.as_os_str(), to.as_os_str()])
}

fn tar(from: &Path, to: &Path) -> Result<()> {
    run("tar", &["-cf".as_ref(), to.as_os_str(), "-C".as_ref(), from.as_os_str(), ".".as_ref()])
}

fn timed(deed: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    deed().map(|()| start.elapsed())
}

/// A directory on the pool of a host, whose files are written in place as images are (a reflink needs it).
fn scratch(field: &Field, host: &str) -> Result<PathBuf> {
    let directory = field.pool(host)?.join(".beside");
    if !directory.exists() {
        fs::create_dir(&directory)?;
        run("chattr", &["+C".as_ref(), directory.as_os_str()])?;
    }
    Ok(directory)
}

fn volume_directory(field: &Field, volume: &Volume) -> Result<PathBuf> {
    Ok(field.pool(&volume.host)?.join("volumes").join(&volume.id))
}

/// Writes data that cannot be compressed; how long that took.
pub fn fill(volume: &Volume) -> Result<Duration> {
    let mut block = vec![0; 1 << 20];
    File::open("/dev/urandom")?.read_exact(&mut block)?;
    let path = volume.path.join("payload");
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let start = Instant::now();
    for _ in 0..FULL.0 >> 20 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(start.elapsed())
}
