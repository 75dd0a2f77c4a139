//! A host in memory, with a fault plan: any call can fail, hang or be the last one before the host dies.
//!
//! It models what the code above relies on, and what it must not rely on:
//! * **durability**: nothing survives [`FakeHost::crash`] that was not synced, per file and per directory, in three
//!   styles of losing things ([`Crash`]);
//! * **btrfs and XFS**: subvolumes and their rules (a read-only one cannot move to another directory), reflinks that
//!   are not crash-atomic, blocks shared by copies, a disk that gets full;
//! * **loop devices**: detached only at the unmount when they are mounted;
//! * **freezing**: a frozen filesystem has no owner and outlives its unmount; freezing twice is EBUSY, thawing what
//!   is not frozen EINVAL; writes to it block (here: EAGAIN, since a test has nobody to wait for).
//!
//! Not modelled: what is written through a mounted volume's files does not appear in its image; tests write blocks
//! with [`FakeHost::write_block`].

mod blocks;
mod disk;
mod files;
mod images;
mod kernel;
mod plan;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use plan::{Call, Hang, HostDied, When};

use super::{Host, HostError, LoopDevice, Result};
use crate::domain::Bytes;
use disk::{Disk, Errno, Node};
use plan::Plan;

/// Where the root filesystem's device numbers start; loop devices are major 7 as on Linux.
const FIRST_DEVICE: u64 = 0x900;
const LOOP_MAJOR: u64 = 7 << 8;

/// What a power failure leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Only what was synced.
    OnlySynced,
    /// All names, but only synced contents: the journal was faster than the data.
    NamesWithoutContents,
    /// Everything: the process died, the machine did not.
    Nothing,
}

impl Crash {
    /// All styles.
    pub const ALL: [Self; 3] = [Self::OnlySynced, Self::NamesWithoutContents, Self::Nothing];
}

/// Which calls succeed and do not do what they should, for tests that must then fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// `fsync` of files.
    Files,
    /// `fsync` of directories.
    Directories,
    /// `syncfs`.
    Filesystems,
    /// Snapshots: a volume's second one has what its first one had.
    Snapshots,
}

/// A host in memory. Clones are the same host.
#[derive(Debug, Clone)]
pub struct FakeHost {
    world: Arc<Mutex<World>>,
    plan: Arc<Plan>,
}

#[derive(Debug, Clone, Default)]
struct World {
    disks: BTreeMap<u64, Disk>,
    mounts: Vec<FakeMount>,
    loops: BTreeMap<u64, FakeLoop>,
    /// Files of volumes that are not attached, by disk and inode of their image.
    shelved: BTreeMap<(u64, u64), Disk>,
    frozen: BTreeSet<u64>,
    throttles: throttle::Throttles,
    /// Filesystems that have shut themselves down, and those that have become read-only by themselves.
    shut_down: BTreeSet<u64>,
    lost_writing: BTreeSet<u64>,
    /// Loop devices whose requests the kernel does not count.
    uncounted: BTreeSet<u64>,
    /// `queue/iostats` cannot be written.
    counting_is_fixed: bool,
    /// Errors that filesystems have recorded, and those (by disk and inode of their image) that a check does not repair.
    recorded_errors: BTreeMap<u64, u64>,
    damaged: BTreeSet<(u64, u64)>,
    /// ext4 cannot be grown while it is mounted.
    lacks_resource_capability: bool,
    /// Symbolic links, by where they are.
    links: BTreeMap<PathBuf, PathBuf>,
    /// Directories that another process has locked.
    locked: BTreeSet<PathBuf>,
    latency_sensitive: bool,
    clock_us: u64,
    /// The clock runs since then; else only when it is moved.
    runs_since: Option<Instant>,
    lies: BTreeSet<Lie>,
}

#[derive(Debug, Clone)]
struct FakeMount {
    device: u64,
    /// Path within the disk.
    root: PathBuf,
    target: PathBuf,
    read_only: bool,
    /// Mounted again after a crash.
    at_boot: bool,
}

#[derive(Debug, Clone)]
struct FakeLoop {
    /// The disk and the inode of the image.
    image: (u64, u64),
    size: Bytes,
    read_only: bool,
    writes: u64,
    /// Detached while mounted: goes at the unmount.
    leaving: bool,
}

/// An object as the mounts lead to it.
struct Place {
    device: u64,
    path: PathBuf,
    read_only: bool,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// A host with an empty root filesystem and nothing else.
    pub fn new() -> Self {
        let world = World { clock_us: 1_000_000, ..World::default() };
        let host = Self { world: Arc::new(Mutex::new(world)), plan: Arc::default() };
        host.add_disk("rootfs", Bytes::gib(64), Path::new("/"));
        host.make_all(Path::new("/dev"));
        host
    }

    /// A host with one empty disk of this kind (`btrfs`, `xfs`, `memory`) mounted at `dir`.
    pub fn with_disk(kind: &str, size: Bytes, dir: &Path) -> Self {
        let host = Self::new();
        host.add_disk(kind, size, dir);
        host
    }

    /// Adds an empty disk, mounted at `dir` now and after every crash.
    pub fn add_disk(&self, kind: &str, size: Bytes, dir: &Path) {
        if dir != Path::new("/") {
            self.make_all(dir);
        }
        let mut world = self.world();
        let device = FIRST_DEVICE + world.disks.len() as u64;
        world.disks.insert(device, Disk::new(kind, size));
        world.mounts.push(FakeMount {
            device,
            root: "/".into(),
            target: dir.to_owned(),
            read_only: false,
            at_boot: true,
        });
    }

    /// Makes a directory with all its parents, durably, without a call being counted.
    pub fn make_all(&self, dir: &Path) {
        let mut world = self.world();
        let mut path = PathBuf::from("/");
        for part in dir.components().skip(1) {
            path.push(part);
            if let Some(place) = world.locate(&path)
                && let Some(disk) = world.disks.get_mut(&place.device)
                && disk.find(&place.path).is_none()
                && disk.insert(&place.path, Node::directory()).is_ok()
            {
                disk.sync_all();
            }
        }
    }

    /// The host after a power failure: disks as `style` left them, nothing attached, frozen or planned.
    #[must_use]
    pub fn crash(&self, style: Crash) -> Self {
        let mut world = self.world().clone();
        world.lose_power(style);
        Self { world: Arc::new(Mutex::new(world)), plan: Arc::default() }
    }

    /// As [`FakeHost::crash`], of this host itself: everybody who has it sees what is left. Calls that are to fail still
    /// will.
    pub fn lose_power(&self, style: Crash) {
        self.world().lose_power(style);
    }

    /// Mounts the filesystem at `dir` read-only, or writable again.
    pub fn set_read_only(&self, dir: &Path, read_only: bool) {
        let mut world = self.world();
        for mount in world.mounts.iter_mut().filter(|mount| mount.target == dir) {
            mount.read_only = read_only;
        }
    }

    /// Fills the disk at `dir` with something else until only this much is free.
    pub fn leave_free(&self, dir: &Path, free: Bytes) {
        let mut world = self.world();
        if let Some(disk) = world.disk_at(dir) {
            disk.leave_free(free);
        }
    }

    /// Writes one 4 KiB block of a loop device (or of an image file); `content` stands for what is in it.
    pub fn write_block(&self, path: &Path, block: u64, content: u64) -> Result<()> {
        self.put_block(path, block, content).map(drop)
    }

    /// As [`FakeHost::write_block`], and after it the block survives a power failure.
    pub fn write_block_synced(&self, path: &Path, block: u64, content: u64) -> Result<()> {
        let (disk, inode) = self.put_block(path, block, content)?;
        if let Some(disk) = self.world().disks.get_mut(&disk) {
            disk.sync(inode);
        }
        Ok(())
    }

    fn put_block(&self, path: &Path, block: u64, content: u64) -> Result<(u64, u64)> {
        let fail = |errno| HostError::new("write", path.display(), io::Error::from_raw_os_error(errno));
        let mut world = self.world();
        let (number, inode) = world.image_behind(path).ok_or_else(|| fail(libc::ENOENT))?;
        let device = world.loop_number(path);
        if device.is_some_and(|device| world.frozen.contains(&device) || world.throttles.hold(device)) {
            return Err(fail(libc::EAGAIN));
        }
        if let Some(used) = device.and_then(|device| world.loops.get_mut(&device)) {
            if used.read_only {
                return Err(fail(libc::EPERM));
            }
            used.writes += 1;
        }
        let disk = world.disks.get_mut(&number).ok_or_else(|| fail(libc::ENXIO))?;
        disk.write_block(inode, block, content).map_err(fail)?;
        Ok((number, inode))
    }

    /// What is in a block of a loop device (or of an image file); zero where nothing was written.
    pub fn read_block(&self, path: &Path, block: u64) -> Result<u64> {
        let world = self.world();
        world
            .image_behind(path)
            .and_then(|(disk, inode)| Some(world.disks.get(&disk)?.read_block(inode, block)))
            .ok_or_else(|| HostError::new("read", path.display(), io::Error::from_raw_os_error(libc::ENOENT)))
    }

    /// From now on these syncs succeed without effect, as on a disk that lies.
    pub fn lie_about(&self, syncs: Lie) {
        self.world().lies.insert(syncs);
    }

    /// Moves the monotonic clock.
    pub fn advance_us(&self, us: u64) {
        self.world().clock_us += us;
    }

    /// Lets the monotonic clock run with the machine's, for measuring what is around the kernel.
    pub fn let_the_clock_run(&self) {
        self.world().runs_since.get_or_insert_with(Instant::now);
    }

    /// Whether the filesystem mounted at `target` is frozen.
    pub fn is_frozen(&self, target: &Path) -> bool {
        let world = self.world();
        world.locate(target).is_some_and(|place| world.frozen.contains(&place.device))
    }

    /// Lets go of a filesystem, as any process may, without a call being counted.
    pub fn thaw_behind_our_back(&self, target: &Path) {
        let mut world = self.world();
        if let Some(place) = world.locate(target) {
            world.frozen.remove(&place.device);
        }
    }

    /// As [`FakeHost::thaw_behind_our_back`], by the filesystem's device; whether it was frozen.
    pub fn thaw_device(&self, device: u64) -> bool {
        self.world().frozen.remove(&device)
    }

    /// Devices of all frozen filesystems.
    pub fn frozen_devices(&self) -> Vec<u64> {
        self.world().frozen.iter().copied().collect()
    }

    /// The filesystem mounted at `target` shuts itself down, as after an error of its disk.
    pub fn shut_down(&self, target: &Path) {
        let mut world = self.world();
        if let Some(place) = world.locate(target) {
            world.shut_down.insert(place.device);
        }
    }

    /// The kernel counts the requests of a loop device, or does not (`queue/iostats`), as any process may say.
    pub fn set_counting(&self, device: &LoopDevice, counts: bool) {
        let mut world = self.world();
        if counts {
            world.uncounted.remove(&device.device);
        } else {
            world.uncounted.insert(device.device);
        }
    }

    /// From now on nobody can switch the counting of requests on.
    pub fn fix_counting(&self) {
        self.world().counting_is_fixed = true;
    }

    /// The filesystem mounted at `target` has recorded so many errors.
    pub fn record_errors(&self, target: &Path, count: u64) {
        let mut world = self.world();
        if let Some(place) = world.locate(target) {
            world.recorded_errors.insert(place.device, count);
        }
    }

    /// The filesystem in this image has errors that no check repairs, or has them no more.
    pub fn set_damaged(&self, image: &Path, damaged: bool) {
        let mut world = self.world();
        if let Some(image) = world.image_behind(image) {
            if damaged {
                world.damaged.insert(image);
            } else {
                world.damaged.remove(&image);
            }
        }
    }

    /// Makes it a host on which ext4 can be grown while it is mounted, or not.
    pub fn set_resource_capability(&self, has: bool) {
        self.world().lacks_resource_capability = !has;
    }

    /// Makes a block device node for a loop device, as who has CAP_MKNOD can anywhere.
    pub fn make_node(&self, path: &Path, device: u64) -> Result<()> {
        self.call("mknod", path, |world| {
            let (disk, path) = world.at(path)?;
            disk.insert(&path, Node::Device(device)).map(drop)
        })
    }

    /// Makes a symbolic link: whatever is done at `link` happens at `target`.
    pub fn make_link(&self, link: &Path, target: &Path) {
        self.world().links.insert(link.to_owned(), target.to_owned());
    }

    /// The filesystem mounted at `target` becomes read-only by itself.
    pub fn lose_writing(&self, target: &Path) {
        let mut world = self.world();
        if let Some(place) = world.locate(target) {
            world.lost_writing.insert(place.device);
        }
    }

    /// Another process has locked this directory.
    pub fn lock_elsewhere(&self, dir: &Path) {
        self.world().locked.insert(dir.to_owned());
    }

    /// Makes it a host on which expediting would hurt.
    pub fn set_latency_sensitive(&self, sensitive: bool) {
        self.world().latency_sensitive = sensitive;
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and does what the plan has for it, then runs it.
    fn call<T>(
        &self,
        name: &'static str,
        object: &Path,
        run: impl FnOnce(&mut World) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        let fail = |error: io::Error| HostError::new(name, object.display(), error);
        self.plan.enter(name, object).map_err(fail)?;
        let mut world = self.world();
        let outcome = run(&mut world);
        world.forget_unused(object);
        outcome.map_err(|errno| fail(io::Error::from_raw_os_error(errno)))
    }
}

impl Host for FakeHost {
    fn monotonic_us(&self) -> u64 {
        let world = self.world();
        match world.runs_since {
            None => world.clock_us,
            Some(since) => {
                let running = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                world.clock_us.saturating_add(running)
            }
        }
    }
}

impl World {
    fn lose_power(&mut self, style: Crash) {
        self.mounts.retain(|mount| mount.at_boot);
        self.loops.clear();
        self.shelved.clear();
        self.frozen.clear();
        self.throttles = throttle::Throttles::default();
        self.shut_down.clear();
        self.lost_writing.clear();
        self.uncounted.clear();
        self.recorded_errors.clear();
        self.locked.clear();
        self.lies.clear();
        let kept: BTreeSet<u64> = self.mounts.iter().map(|mount| mount.device).collect();
        self.disks.retain(|device, _| kept.contains(device));
        for disk in self.disks.values_mut() {
            disk.crash(style);
        }
    }

    /// The path with all symbolic links followed.
    fn followed(&self, path: &Path) -> PathBuf {
        let mut followed = path.to_owned();
        while let Some((link, target)) = self.links.iter().find(|(link, _)| followed.starts_with(link)) {
            followed = match followed.strip_prefix(link) {
                Ok(rest) if !rest.as_os_str().is_empty() => target.join(rest),
                Ok(_) | Err(_) => target.clone(),
            };
        }
        followed
    }

    /// Follows links and mounts: the last mount made with the longest target wins.
    fn locate(&self, path: &Path) -> Option<Place> {
        let path = &self.followed(path);
        let mut best: Option<&FakeMount> = None;
        for mount in self.mounts.iter().filter(|mount| path.starts_with(&mount.target)) {
            let length = |mount: &FakeMount| mount.target.components().count();
            if best.is_none_or(|best| length(mount) >= length(best)) {
                best = Some(mount);
            }
        }
        let mount = best?;
        let rest = path.strip_prefix(&mount.target).ok()?;
        // Joining an empty rest would add a slash, which is no matter for components.
        Some(Place { device: mount.device, path: mount.root.join(rest), read_only: mount.read_only })
    }

    /// The disk that `path` is on, and the path on it.
    fn at(&mut self, path: &Path) -> std::result::Result<(&mut Disk, PathBuf), Errno> {
        let place = self.locate(path).ok_or(libc::ENOENT)?;
        Ok((self.disks.get_mut(&place.device).ok_or(libc::ENXIO)?, place.path))
    }

    /// As [`World::at`], for a change.
    fn writable(&mut self, path: &Path) -> std::result::Result<(&mut Disk, PathBuf), Errno> {
        let place = self.locate(path).ok_or(libc::ENOENT)?;
        let disk = self.disks.get_mut(&place.device).ok_or(libc::ENXIO)?;
        if place.read_only || disk.is_below_read_only(&place.path) {
            return Err(libc::EROFS);
        }
        Ok((disk, place.path))
    }

    /// Room for names that were removed: their nodes are forgotten once no loop device uses them.
    fn forget_unused(&mut self, path: &Path) {
        let Some(device) = self.locate(path).map(|place| place.device) else { return };
        let used = self.loops.values().filter(|used| used.image.0 == device).map(|used| used.image.1);
        if let Some(disk) = self.disks.get_mut(&device) {
            disk.collect(used);
        }
    }

    fn disk_at(&mut self, path: &Path) -> Option<&mut Disk> {
        let place = self.locate(path)?;
        self.disks.get_mut(&place.device)
    }

    /// The device that a path of a block device node stands for.
    fn loop_number(&self, path: &Path) -> Option<u64> {
        let place = self.locate(path)?;
        match self.disks.get(&place.device)?.node(&place.path)? {
            Node::Device(device) => Some(*device),
            Node::Directory(_) | Node::File(_) => None,
        }
    }

    /// Disk and inode of the image that a loop device or a file is.
    fn image_behind(&self, path: &Path) -> Option<(u64, u64)> {
        if let Some(device) = self.loop_number(path) {
            return Some(self.loops.get(&device)?.image);
        }
        let place = self.locate(path)?;
        Some((place.device, self.disks.get(&place.device)?.find(&place.path)?))
    }
}

#[cfg(test)]
mod tests;
