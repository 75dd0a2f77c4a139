//! What a user without Stillpoint would do on the same disks, step by step as a script does it:
//! * **subvolume**: fsfreeze, `btrfs subvolume snapshot`, one volume after another;
//! * **reflink**: fsfreeze, `cp --reflink`, one volume after another;
//! * **tar**: an archive of the live directory, as the reference host-path driver makes it. Nothing is held, so nothing
//!   is consistent.

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
use super::serial::{self, DeadMan, run};
use super::table::{Comparison, Samples};

/// Payload of the volume that is cut and restored; the volume is a little larger.
const FULL: Bytes = Bytes::gib(1);
const FULL_VOLUME: Bytes = Bytes::mib(1200);
/// The scripts are slow, and tar is very slow.
const ROUNDS: u32 = 5;
const TAR_ROUNDS: u32 = 2;

/// Everything side by side.
pub async fn all(field: &Field, rounds: u32) -> Result<Vec<Comparison>> {
    let mut rows = vec![provision(field, rounds).await?];
    rows.extend(full_volume(field, rounds).await?);
    rows.push(group_of_eight(field, rounds).await?);
    Ok(rows)
}

/// A new volume of 1 GiB with its filesystem. The reference driver makes a directory, which has no size.
async fn provision(field: &Field, rounds: u32) -> Result<Comparison> {
    let step = Step::begin("provisioning, beside scripts");
    let mut own = Vec::new();
    for round in 0..rounds {
        let start = Instant::now();
        let name = format!("beside-{round}");
        let volume = field.stack.csi().create(&name, FIRST_HOST, FULL, FILESYSTEM, None).await?;
        own.push(start.elapsed());
        field.stack.csi().delete(&volume.volume_id).await?;
    }
    let image = scratch(field)?.join("new.img");
    let by_hand = times(ROUNDS, || {
        let start = Instant::now();
        File::create(&image)?.set_len(FULL.0)?;
        run("mkfs.xfs", &["-q".as_ref(), "-K".as_ref(), image.as_os_str()])?;
        let took = start.elapsed();
        fs::remove_file(&image)?;
        Ok(took)
    })?;
    step.done();
    Ok(Comparison {
        title: "provision 1 GiB, xfs".into(),
        own: Samples::times(own),
        subvolume: Some(by_hand.clone()),
        reflink: Some(by_hand),
        tar: None,
    })
}

/// Snapshot and restore of a volume with 1 GiB in it.
async fn full_volume(field: &Field, rounds: u32) -> Result<Vec<Comparison>> {
    let step = Step::begin("a volume with 1 GiB, beside scripts");
    let full = field.stack.provision("beside-full", FIRST_HOST, FULL_VOLUME, FILESYSTEM).await?;
    fill(&full)?;
    let (mut cut, mut restored) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let start = Instant::now();
        let snapshot = field.stack.csi().snapshot(&format!("beside-{round}"), &full.id).await?;
        cut.push(start.elapsed());
        let start = Instant::now();
        let (name, source) = (format!("beside-restored-{round}"), Some(from_snapshot(&snapshot)));
        let copy = field.stack.csi().create(&name, FIRST_HOST, FULL_VOLUME, FILESYSTEM, source).await?;
        restored.push(start.elapsed());
        field.stack.csi().delete(&copy.volume_id).await?;
        field.stack.csi().delete_snapshot(&snapshot).await?;
    }
    let scratch = scratch(field)?;
    let original = volume_directory(field, &full)?;
    let (copy, back) = (scratch.join("copy"), scratch.join("back"));
    let subvolume = |from: &Path, to: &Path| {
        run("btrfs", &["subvolume".as_ref(), "snapshot".as_ref(), from.as_os_str(), to.as_os_str()])
    };
    let remove = |tree: &Path| run("btrfs", &["subvolume".as_ref(), "delete".as_ref(), tree.as_os_str()]);
    let (mut by_subvolume, mut by_reflink, mut by_tar) = (Pair::default(), Pair::default(), Pair::default());
    for _ in 0..ROUNDS {
        by_subvolume.cut.push(held(&full, || subvolume(&original, &copy))?);
        by_subvolume.back.push(timed(|| subvolume(&copy, &back))?);
        remove(&back)?;
        remove(&copy)?;
        let (image, copy, back) =
            (original.join("disk.img"), scratch.join("copy.img"), scratch.join("back.img"));
        by_reflink.cut.push(held(&full, || reflink(&image, &copy))?);
        by_reflink.back.push(timed(|| reflink(&copy, &back))?);
        fs::remove_file(&back)?;
        fs::remove_file(&copy)?;
    }
    let (archive, unpacked) = (scratch.join("live.tar"), scratch.join("unpacked"));
    for _ in 0..TAR_ROUNDS {
        by_tar.cut.push(timed(|| tar(&full.path, &archive))?);
        fs::create_dir(&unpacked)?;
        by_tar.back.push(timed(|| {
            run("tar", &["-xf".as_ref(), archive.as_os_str(), "-C".as_ref(), unpacked.as_os_str()])
        })?);
        fs::remove_dir_all(&unpacked)?;
        fs::remove_file(&archive)?;
    }
    field.stack.retire(&full).await?;
    step.done();
    let row = |title: &str, own, subvolume, reflink, tar| Comparison {
        title: title.into(),
        own: Samples::times(own),
        subvolume: Some(Samples::times(subvolume)),
        reflink: Some(Samples::times(reflink)),
        tar: Some(Samples::times(tar)),
    };
    Ok(vec![
        row("snapshot of 1 GiB", cut, by_subvolume.cut, by_reflink.cut, by_tar.cut),
        row("restore of 1 GiB", restored, by_subvolume.back, by_reflink.back, by_tar.back),
    ])
}

#[derive(Default)]
struct Pair {
    cut: Vec<Duration>,
    back: Vec<Duration>,
}

/// A group of eight: how long the applications stand still; for tar, how long the copies are apart.
async fn group_of_eight(field: &Field, rounds: u32) -> Result<Comparison> {
    let step = Step::begin("a group of eight, beside scripts");
    let mut own = Vec::new();
    for round in 0..rounds {
        let name = format!("beside-eight-{round}");
        let record = field.stack.operator().snapshot(&name, "group=eight", None, Barrier::Together).await?;
        own.extend(record.timeline.as_ref().map(|timeline| Duration::from_micros(timeline.window_us)));
        field.stack.operator().delete(&record.id.to_string()).await?;
    }
    let volumes: Vec<&Volume> = field.volumes(Group::Eight).collect();
    let subvolume = times(ROUNDS, || serial::round(field, &volumes))?;
    let scratch = scratch_on(field, &volumes[0].host)?;
    let reflinks = times(ROUNDS, || reflink_all(field, &volumes, &scratch))?;
    let archive = scratch.join("live.tar");
    let tars = times(TAR_ROUNDS, || {
        timed(|| {
            for volume in &volumes {
                tar(&volume.path, &archive)?;
            }
            Ok(())
        })
    })?;
    fs::remove_file(&archive)?;
    step.done();
    Ok(Comparison {
        title: "group of 8 idle volumes: first hold to last release".into(),
        own: Samples::times(own),
        subvolume: Some(subvolume),
        reflink: Some(reflinks),
        tar: Some(tars),
    })
}

/// Freeze all, copy all, thaw all, one after the other.
fn reflink_all(field: &Field, volumes: &[&Volume], scratch: &Path) -> Result<Duration> {
    let images = volumes
        .iter()
        .map(|volume| Ok((volume_directory(field, volume)?.join("disk.img"), scratch.join(&volume.name))))
        .collect::<Result<Vec<_>>>()?;
    let _dead_man = DeadMan::start(volumes)?;
    let start = Instant::now();
    let held = volumes
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
    held.map(|()| took)
}

fn reflink(from: &Path, to: &Path) -> Result<()> {
    run("cp", &["--reflink=always".as_ref(), from.as_os_str(), to.as_os_str()])
}

fn tar(from: &Path, to: &Path) -> Result<()> {
    run("tar", &["-cf".as_ref(), to.as_os_str(), "-C".as_ref(), from.as_os_str(), ".".as_ref()])
}

/// Freezes one volume around a deed; the whole of it is what the script takes.
fn held(volume: &Volume, deed: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let _dead_man = DeadMan::start(&[volume])?;
    let start = Instant::now();
    run("fsfreeze", &["-f".as_ref(), volume.path.as_os_str()])?;
    let done = deed();
    run("fsfreeze", &["-u".as_ref(), volume.path.as_os_str()])?;
    done.map(|()| start.elapsed())
}

fn timed(deed: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    deed().map(|()| start.elapsed())
}

fn times(rounds: u32, mut deed: impl FnMut() -> Result<Duration>) -> Result<Samples> {
    Ok(Samples::times((0..rounds).map(|_| deed()).collect::<Result<_>>()?))
}

/// A directory on the pool of the first host, whose files are written in place as images are (a reflink needs it).
fn scratch(field: &Field) -> Result<PathBuf> {
    scratch_on(field, FIRST_HOST)
}

fn scratch_on(field: &Field, host: &str) -> Result<PathBuf> {
    let pool = &field.stack.hosts().iter().find(|found| found.name == host).context("no such host")?.pool;
    let directory = pool.join(".beside");
    if !directory.exists() {
        fs::create_dir(&directory)?;
        run("chattr", &["+C".as_ref(), directory.as_os_str()])?;
    }
    Ok(directory)
}

fn volume_directory(field: &Field, volume: &Volume) -> Result<PathBuf> {
    let host = field.stack.hosts().iter().find(|host| host.name == volume.host).context("no such host")?;
    Ok(host.pool.join("volumes").join(&volume.id))
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
