//! Loop devices, mounts and freezing of the fake host.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::disk::{Content, Node};
use super::images::magic;
use super::{FakeHost, FakeLoop, FakeMount, LOOP_MAJOR, World};
use crate::domain::{Bytes, Filesystem};
use crate::host::{Freezing, LoopDevice, Loops, MountHandle, MountRequest, Mounted, Mounts, Result, Usage};

const MOST_LOOPS: u64 = 256;

fn node_path(device: u64) -> PathBuf {
    PathBuf::from(format!("/dev/loop{}", device - LOOP_MAJOR))
}

impl FakeLoop {
    fn describe(&self, device: u64) -> LoopDevice {
        LoopDevice { path: node_path(device), device, size: self.size, read_only: self.read_only }
    }
}

impl Loops for FakeHost {
    fn attach(&self, image: &Path, read_only: bool) -> Result<LoopDevice> {
        self.call("attach", image, |world| {
            let (disk, path) = if read_only { world.at(image)? } else { world.writable(image)? };
            let size = Bytes(disk.file(&path)?.size);
            let inode = disk.find(&path).ok_or(libc::ENOENT)?;
            let on = world.locate(image).ok_or(libc::ENOENT)?.device;
            let mut numbers = LOOP_MAJOR..LOOP_MAJOR + MOST_LOOPS;
            let device = numbers.find(|device| !world.loops.contains_key(device)).ok_or(libc::ENODEV)?;
            let (root, node) = world.at(&node_path(device))?;
            root.insert(&node, Node::Device(device))?;
            let made = FakeLoop { image: (on, inode), size, read_only, writes: 0, leaving: false };
            let described = made.describe(device);
            world.loops.insert(device, made);
            Ok(described)
        })
    }

    fn attached(&self, image: &Path) -> Result<Vec<LoopDevice>> {
        self.call("attached", image, |world| {
            let wanted = world.image_behind(image).ok_or(libc::ENOENT)?;
            let found = world.loops.iter().filter(|(_, used)| used.image == wanted);
            Ok(found.map(|(device, used)| used.describe(*device)).collect())
        })
    }

    fn detach(&self, device: &Path) -> Result<()> {
        self.call("detach", device, |world| {
            let Some(number) = world.loop_number(device) else { return Ok(()) };
            if let Some(used) = world.loops.get_mut(&number) {
                used.leaving = true;
            }
            world.drop_loop_if_unused(number);
            Ok(())
        })
    }

    fn refresh_size(&self, device: &Path) -> Result<()> {
        self.call("refresh size", device, |world| {
            let number = world.loop_number(device).ok_or(libc::ENXIO)?;
            let (disk, inode) = world.loops.get(&number).ok_or(libc::ENXIO)?.image;
            let size = match world.disks.get(&disk).and_then(|disk| disk.kind_of(inode)) {
                Some(Node::File(content)) => Bytes(content.size),
                _ => return Err(libc::ENXIO),
            };
            if let Some(used) = world.loops.get_mut(&number) {
                used.size = size;
            }
            Ok(())
        })
    }

    fn writes(&self, device: &Path) -> Result<u64> {
        self.call("writes", device, |world| {
            let number = world.loop_number(device).ok_or(libc::ENXIO)?;
            let writes = world.loops.get(&number).ok_or(libc::ENXIO)?.writes;
            if world.uncounted.contains(&number) { Err(libc::ENODATA) } else { Ok(writes) }
        })
    }

    fn count_writes(&self, device: &Path) -> Result<()> {
        self.call("count writes", device, |world| {
            let number = world.loop_number(device).ok_or(libc::ENXIO)?;
            if !world.counting_is_fixed {
                world.uncounted.remove(&number);
            }
            if world.uncounted.contains(&number) { Err(libc::ENODATA) } else { Ok(()) }
        })
    }
}

impl World {
    /// A detached device goes when it is not mounted. A frozen filesystem keeps it although nobody sees it any more.
    fn drop_loop_if_unused(&mut self, number: u64) {
        let mounted = self.mounts.iter().any(|mount| mount.device == number);
        let leaving = self.loops.get(&number).is_some_and(|used| used.leaving);
        if mounted || !leaving || self.frozen.contains(&number) {
            return;
        }
        // The next filesystem on a device of this number is another one, or is checked and mounted anew.
        for state in [&mut self.shut_down, &mut self.lost_writing, &mut self.uncounted] {
            state.remove(&number);
        }
        self.recorded_errors.remove(&number);
        if let (Some(used), Some(disk)) = (self.loops.remove(&number), self.disks.remove(&number)) {
            self.shelved.insert(used.image, disk);
        }
        if let Ok((root, node)) = self.at(&node_path(number)) {
            // Gone already is as good.
            let _ = root.unlink(&node);
        }
    }

    /// An XFS that has shut down answers EIO to whoever opens or looks at anything in it; ext4 only to writers.
    pub(super) fn check_answers(&self, device: u64) -> std::result::Result<(), i32> {
        let is_silent = self.shut_down.contains(&device) && self.kind_of(device) != "ext4";
        if is_silent { Err(libc::EIO) } else { Ok(()) }
    }

    /// What a mounted loop device or disk is called in `/proc/self/mountinfo`.
    fn kind_of(&self, device: u64) -> String {
        self.disks.get(&device).map(|disk| disk.kind.clone()).unwrap_or_default()
    }
}

impl Mounts for FakeHost {
    fn mounts(&self) -> Result<Vec<Mounted>> {
        self.call("mountinfo", Path::new("/proc/self/mountinfo"), |world| {
            let describe = |mount: &FakeMount| Mounted {
                device: mount.device,
                root: mount.root.clone(),
                target: mount.target.clone(),
                kind: world.kind_of(mount.device),
                read_only: mount.read_only || world.lost_writing.contains(&mount.device),
                lost_writing: !mount.read_only && world.lost_writing.contains(&mount.device),
                shut_down: world.shut_down.contains(&mount.device) && world.kind_of(mount.device) == "ext4",
            };
            Ok(world.mounts.iter().map(describe).collect())
        })
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<()> {
        self.call("mount", request.target, |world| {
            let number = world.loop_number(request.device).ok_or(libc::ENOTBLK)?;
            let used = world.loops.get(&number).ok_or(libc::ENXIO)?;
            let (size, read_only) = (used.size, used.read_only || request.read_only);
            let (on, inode) = used.image;
            if request.filesystem == Filesystem::Ext4 && world.damaged.contains(&used.image) {
                return Err(libc::EUCLEAN);
            }
            let first = world.disks.get(&on).map(|disk| disk.read_block(inode, 0)).unwrap_or_default();
            if first != magic(request.filesystem) {
                return Err(libc::EINVAL);
            }
            let at = world.followed(request.target);
            let (disk, target) = world.at(&at)?;
            disk.directory(&target)?;
            let name = request.filesystem.as_str();
            let shelved = world.shelved.remove(&(on, inode));
            world.disks.entry(number).or_insert_with(|| shelved.unwrap_or_else(|| Disk::new(name, size)));
            world.mounts.push(FakeMount {
                device: number,
                root: "/".into(),
                target: at,
                read_only,
                at_boot: false,
            });
            Ok(())
        })
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<()> {
        self.call("bind mount", target, |world| {
            let place = world.locate(source).ok_or(libc::ENOENT)?;
            let disk = world.disks.get(&place.device).ok_or(libc::ENXIO)?;
            disk.find(&place.path).ok_or(libc::ENOENT)?;
            let at = world.followed(target);
            let (disk, on) = world.at(&at)?;
            disk.find(&on).ok_or(libc::ENOENT)?;
            world.mounts.push(FakeMount {
                device: place.device,
                root: place.path,
                target: at,
                read_only: read_only || place.read_only,
                at_boot: false,
            });
            Ok(())
        })
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        self.call("umount", target, |world| {
            let Some(last) = world.mounts.iter().rposition(|mount| mount.target == target) else {
                return Ok(());
            };
            let gone = world.mounts.remove(last);
            world.drop_loop_if_unused(gone.device);
            Ok(())
        })
    }

    fn usage(&self, target: &Path) -> Result<Usage> {
        self.call("statfs", target, |world| {
            let (disk, path) = world.at(target)?;
            disk.find(&path).ok_or(libc::ENOENT)?;
            Ok(Usage {
                total: disk.capacity(),
                available: disk.free(),
                inodes: 1 << 20,
                inodes_free: 1 << 19,
            })
        })
    }

    fn grows_mounted(&self, filesystem: Filesystem) -> bool {
        filesystem == Filesystem::Xfs || !self.world().lacks_resource_capability
    }

    fn grow_unmounted(&self, device: &Path, filesystem: Filesystem) -> Result<()> {
        self.call("grow unmounted", device, |world| {
            let number = world.loop_number(device).ok_or(libc::ENXIO)?;
            let used = world.loops.get(&number).ok_or(libc::ENXIO)?;
            let (size, image) = (used.size, used.image);
            if filesystem == Filesystem::Xfs {
                return Err(libc::ENOTSUP);
            }
            if world.mounts.iter().any(|mount| mount.device == number) {
                return Err(libc::EBUSY);
            }
            // One that was never mounted gets the size of its device when it is.
            if let Some(disk) = world.shelved.get_mut(&image) {
                disk.grow(size);
            }
            Ok(())
        })
    }

    fn filesystem_size(&self, target: &Path, _device: &Path, _filesystem: Filesystem) -> Result<Bytes> {
        self.call("filesystem size", target, |world| {
            let (disk, _) = world.at(target)?;
            Ok(disk.capacity())
        })
    }

    fn recorded_errors(&self, device: &Path, filesystem: Filesystem) -> Result<u64> {
        self.call("recorded errors", device, |world| {
            let number = world.loop_number(device).ok_or(libc::ENXIO)?;
            let errors = world.recorded_errors.get(&number).copied().unwrap_or_default();
            Ok(if filesystem == Filesystem::Ext4 { errors } else { 0 })
        })
    }

    fn grow_filesystem(&self, target: &Path, device: &Path, filesystem: Filesystem) -> Result<()> {
        self.call("grow filesystem", target, |world| {
            if filesystem == Filesystem::Ext4 && world.lacks_resource_capability {
                return Err(libc::EPERM);
            }
            world.check_answers(world.locate(target).ok_or(libc::ENOENT)?.device)?;
            let number = world.loop_number(device).ok_or(libc::ENXIO)?;
            let size = world.loops.get(&number).ok_or(libc::ENXIO)?.size;
            let (disk, _) = world.at(target)?;
            disk.grow(size);
            Ok(())
        })
    }

    fn make_file(&self, path: &Path) -> Result<()> {
        self.call("create", path, |world| {
            let (disk, path) = world.writable(path)?;
            match disk.node(&path) {
                Some(Node::File(_)) => Ok(()),
                _ => disk.insert(&path, Node::File(Content::default())).map(drop),
            }
        })
    }
}

impl Freezing for FakeHost {
    fn open_mount(&self, target: &Path) -> Result<Box<dyn MountHandle>> {
        self.call("open", target, |world| {
            let place = world.locate(target).ok_or(libc::ENOENT)?;
            world.check_answers(place.device)?;
            let disk = world.disks.get(&place.device).ok_or(libc::ENXIO)?;
            disk.directory(&place.path)?;
            Ok(place.device)
        })
        .map(|device| -> Box<dyn MountHandle> {
            Box::new(OpenMount { host: self.clone(), device, target: target.to_owned() })
        })
    }

    fn is_latency_sensitive(&self) -> bool {
        self.world().latency_sensitive
    }
}

struct OpenMount {
    host: FakeHost,
    device: u64,
    target: PathBuf,
}

impl MountHandle for OpenMount {
    fn device(&self) -> u64 {
        self.device
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn sync(&self) -> Result<()> {
        self.host.call("sync", &self.target, |world| {
            world.disks.get_mut(&self.device).map(Disk::sync_all).ok_or(libc::EIO)
        })
    }

    fn freeze(&self) -> Result<()> {
        self.host.call("FIFREEZE", &self.target, |world| {
            if world.lost_writing.contains(&self.device) {
                return Err(libc::EROFS);
            }
            if world.frozen.insert(self.device) { Ok(()) } else { Err(libc::EBUSY) }
        })
    }

    fn thaw(&self) -> Result<()> {
        self.host.call("FITHAW", &self.target, |world| {
            if !world.frozen.remove(&self.device) {
                return Err(libc::EINVAL);
            }
            world.drop_loop_if_unused(self.device);
            Ok(())
        })
    }
}
