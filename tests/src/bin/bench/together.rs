//! The idea of a rival: images of volumes that are snapshotted together are in one subvolume, so that a node takes one
//! snapshot instead of one for each volume. Here for measuring what that gains, and what it costs otherwise.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stillpoint::domain::{Bytes, Filesystem};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Images, Loops, MountRequest, Mounts, Subvolumes};
use stillpoint_tests::harness::Step;

use super::field::{FIRST_HOST, Field, Group, SIZE};
use super::load;
use super::table::{Row, Samples};
use super::target::{REST, Source, Target, run};

/// How long the writers of each arrangement write.
const WRITING: Duration = Duration::from_secs(3);
/// Times that each arrangement has its turn.
const TURNS: usize = 3;
/// Pieces of the image that is restored in both ways.
const PIECES: u64 = 20_000;
const PIECE: u64 = 4096;
const RESTORES: usize = 10;

/// Volumes like those of a group, with the images of each node in one subvolume. Dropping it unmounts them.
#[derive(Debug)]
pub struct Together {
    /// The volumes, and one source per node.
    pub target: Target,
}

impl Together {
    /// Makes and mounts them.
    pub fn new(field: &Field, group: Group) -> Result<Self> {
        let mut by_host: BTreeMap<&str, usize> = BTreeMap::new();
        for volume in field.volumes(group) {
            *by_host.entry(&volume.host).or_default() += 1;
        }
        let mut together = Self { target: Target { mounts: Vec::new(), sources: Vec::new() } };
        for (host, count) in by_host {
            let pool = field.pool(host)?.to_path_buf();
            let name = format!("together-{}-{host}", group.label());
            let subvolume = pool.join(format!(".bench-{name}"));
            LinuxHost.create_subvolume(&subvolume)?;
            together.target.sources.push(Source::new(pool, subvolume.clone(), &name)?);
            let mounts = field.stack.path().join(&name);
            for index in 0..count {
                let mount = mounts.join(index.to_string());
                fs::create_dir_all(&mount)?;
                mount_image(&subvolume.join(format!("{index}.img")), &mount)?;
                together.target.mounts.push(mount);
            }
        }
        Ok(together)
    }

    /// Unmounts and deletes everything.
    pub fn close(self) -> Result<()> {
        self.unmount()?;
        self.target.close()?;
        for source in &self.target.sources {
            LinuxHost.delete_subvolume(&source.subvolume)?;
        }
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        for mount in &self.target.mounts {
            if fs::read_dir(mount).is_ok() {
                LinuxHost.unmount(mount)?;
            }
        }
        Ok(())
    }
}

/// As the product makes and mounts a volume.
fn mount_image(image: &Path, mount: &Path) -> Result<()> {
    LinuxHost.create_image(image, SIZE)?;
    LinuxHost.make_filesystem(image, Filesystem::Xfs)?;
    let device = LinuxHost.attach(image, false)?;
    let options = &[];
    LinuxHost.mount(&MountRequest {
        device: &device.path,
        target: mount,
        filesystem: Filesystem::Xfs,
        read_only: false,
        options,
    })?;
    // From now on the mount alone keeps it.
    Ok(LinuxHost.detach(&device.path)?)
}

/// What the idea costs when no snapshot is taken: synced writes, and the restore of one volume.
pub fn costs(field: &Field) -> Result<Vec<Row>> {
    Ok(vec![synced_writes(field)?, restore_of_one(field)?])
}

/// A synced write of each of sixteen volumes at once; the two arrangements take turns.
fn synced_writes(field: &Field) -> Result<Row> {
    let step = Step::begin("synced writes with images in subvolumes of their own and in one");
    let apart = Target::of(field, Group::Sixteen)?;
    let together = Together::new(field, Group::Sixteen)?;
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for (mounts, times) in [(&apart.mounts, &mut own), (&together.target.mounts, &mut other)] {
            std::thread::sleep(REST);
            times.extend(load::synced_writes(mounts, WRITING)?);
        }
    }
    together.close()?;
    apart.close()?;
    step.done();
    Ok(Row {
        other: Some(Samples::times(other)),
        ..Row::times("a synced write, 16 writers (script: images in one subvolume)", own, vec![])
    })
}

/// One volume back from a snapshot of many: a subvolume of its own is snapshotted, an image among others is reflinked.
fn restore_of_one(field: &Field) -> Result<Row> {
    let step =
        Step::begin("restoring an image in many pieces from a subvolume of its own and from a common one");
    let pool = field.pool(FIRST_HOST)?;
    let subvolume = pool.join(".bench-pieces");
    LinuxHost.create_subvolume(&subvolume)?;
    let image = subvolume.join("disk.img");
    LinuxHost.create_image(&image, Bytes(PIECES * PIECE * 2))?;
    in_pieces(&image)?;
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for round in 0..RESTORES {
        let (copy, reflink) = (pool.join(format!(".bench-piece-{round}")), subvolume.join("copy.img"));
        own.push(timed(|| Ok(LinuxHost.snapshot_subvolume(&subvolume, &copy, false)?))?);
        other.push(timed(|| Ok(LinuxHost.reflink(&image, &reflink)?))?);
        LinuxHost.delete_subvolume(&copy)?;
        fs::remove_file(&reflink)?;
    }
    LinuxHost.delete_subvolume(&subvolume)?;
    step.done();
    let title = format!("restore of an image in {PIECES} pieces (script: reflink out of a common subvolume)");
    Ok(Row { other: Some(Samples::times(other)), ..Row::times(title, own, vec![]) })
}

/// Writes every other block, so that no two written ones are neighbours.
fn in_pieces(image: &PathBuf) -> Result<()> {
    let file = fs::File::options().write(true).open(image).context("cannot open the image")?;
    let block = [0x5a; PIECE as usize];
    for piece in 0..PIECES {
        file.write_all_at(&block, piece * PIECE * 2)?;
    }
    file.sync_all()?;
    run("sync", &["-f".as_ref(), image.as_os_str()])
}

fn timed(deed: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    deed().map(|()| start.elapsed())
}

impl Drop for Together {
    fn drop(&mut self) {
        // Unmounted already after `close`; after an error nothing may stay mounted.
        for mount in &self.target.mounts {
            drop(LinuxHost.unmount(mount));
        }
    }
}
