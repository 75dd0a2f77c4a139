//! Images and subvolumes of the fake host.

use std::path::Path;

use super::disk::{Content, Directory, Errno, Node, Subvolume};
use super::{Disk, FakeHost, Lie};
use crate::domain::{Bytes, Filesystem};
use crate::host::{BlockGroups, Check, Images, Result, Space, Subvolumes};

/// The first block of a formatted image says which filesystem it has.
pub(super) const fn magic(filesystem: Filesystem) -> u64 {
    match filesystem {
        Filesystem::Xfs => u64::from_be_bytes(*b"XFSB\0\0\0\0"),
        Filesystem::Ext4 => u64::from_be_bytes(*b"EXT4\0\0\0\0"),
    }
}

impl Images for FakeHost {
    fn create_image(&self, path: &Path, size: Bytes) -> Result<()> {
        self.call("create image", path, |world| {
            let (disk, path) = world.writable(path)?;
            let inode = disk.insert(&path, Node::File(Content::sparse(size.0)))?;
            disk.sync(inode);
            Ok(())
        })
    }

    fn grow_image(&self, path: &Path, size: Bytes) -> Result<()> {
        self.call("grow image", path, |world| {
            let (disk, path) = world.writable(path)?;
            let mut content = disk.file(&path)?.clone();
            content.size = content.size.max(size.0);
            let inode = disk.put_file(&path, content)?;
            disk.sync(inode);
            Ok(())
        })
    }

    fn reflink(&self, from: &Path, to: &Path) -> Result<()> {
        self.call("FICLONE", from, |world| {
            let (_, target) = world.writable(to)?;
            let lies = world.lies.contains(&Lie::Snapshots);
            let (disk, source) = world.at(from)?;
            let older = if lies { disk.sibling_of_tree(&target) } else { None };
            let content = disk.file(&older.unwrap_or(source))?.clone();
            disk.insert(&target, Node::File(content)).map(drop)
        })
    }

    fn extents(&self, path: &Path) -> Result<u64> {
        self.call("FIEMAP", path, |world| {
            let (disk, path) = world.at(path)?;
            Ok(disk.file(&path)?.extents())
        })
    }

    fn make_filesystem(&self, image: &Path, filesystem: Filesystem) -> Result<()> {
        self.call("mkfs", image, |world| {
            let (disk, path) = world.writable(image)?;
            if disk.file(&path)?.size < filesystem.minimum().0 {
                return Err(libc::EINVAL);
            }
            let inode = disk.find(&path).ok_or(libc::ENOENT)?;
            disk.write_block(inode, 0, magic(filesystem))?;
            disk.sync(inode);
            Ok(())
        })
    }

    fn check_filesystem(&self, device: &Path, filesystem: Filesystem) -> Result<Check> {
        self.call("check filesystem", device, |world| {
            let number = world.loop_number(device).ok_or(libc::ENXIO)?;
            let image = world.loops.get(&number).ok_or(libc::ENXIO)?.image;
            if world.mounts.iter().any(|mount| mount.device == number) {
                return Ok(Check::InUse);
            }
            let is_damaged = filesystem == Filesystem::Ext4 && world.damaged.contains(&image);
            Ok(if is_damaged {
                Check::Damaged("e2fsck: exit status: 4: errors".into())
            } else {
                Check::Sound
            })
        })
    }

    fn space(&self, path: &Path) -> Result<Space> {
        self.call("statfs", path, |world| {
            let (disk, _) = world.at(path)?;
            Ok(Space { total: disk.capacity(), available: disk.free() })
        })
    }

    fn sync_filesystem(&self, path: &Path) -> Result<()> {
        self.call("syncfs", path, |world| {
            let lies = world.lies.contains(&Lie::Filesystems);
            let (disk, path) = world.at(path)?;
            disk.find(&path).ok_or(libc::ENOENT)?;
            if !lies {
                disk.sync_all();
            }
            Ok(())
        })
    }
}

impl Subvolumes for FakeHost {
    fn create_subvolume(&self, path: &Path) -> Result<()> {
        self.call("subvolume create", path, |world| {
            let (disk, path) = world.writable(path)?;
            only_btrfs(disk)?;
            let subvolume = Directory { subvolume: Some(Subvolume::Writable), ..Directory::default() };
            disk.insert(&path, Node::Directory(subvolume)).map(drop)
        })
    }

    fn snapshot_subvolume(&self, from: &Path, to: &Path, read_only: bool) -> Result<()> {
        self.call("snapshot", from, |world| {
            let (_, target) = world.writable(to)?;
            let lies = world.lies.contains(&Lie::Snapshots);
            let (disk, source) = world.at(from)?;
            only_btrfs(disk)?;
            let mode = if read_only { Subvolume::ReadOnly } else { Subvolume::Writable };
            let older = if lies { disk.sibling(&target) } else { None };
            disk.snapshot(&older.unwrap_or(source), &target, mode)
        })
    }

    fn delete_subvolume(&self, path: &Path) -> Result<()> {
        self.call("subvolume delete", path, |world| {
            let (disk, path) = world.writable(path)?;
            only_btrfs(disk)?;
            disk.directory(&path)?.subvolume.ok_or(libc::EINVAL)?;
            disk.delete_subvolume(&path)
        })
    }

    fn dying_subvolumes(&self, path: &Path) -> Result<usize> {
        self.call("tree search", path, |world| {
            let (disk, _) = world.at(path)?;
            only_btrfs(disk)?;
            Ok(disk.clean_one())
        })
    }

    fn hasten_cleaning(&self, path: &Path) -> Result<()> {
        self.call("btrfs sync", path, |world| {
            let lies = world.lies.contains(&Lie::Filesystems);
            let (disk, _) = world.at(path)?;
            only_btrfs(disk)?;
            if !lies {
                disk.sync_all();
            }
            disk.wake_cleaner();
            Ok(())
        })
    }

    fn block_groups(&self, path: &Path) -> Result<BlockGroups> {
        self.call("space info", path, |world| {
            let (disk, _) = world.at(path)?;
            only_btrfs(disk)?;
            let (total, free) = (disk.capacity(), disk.free());
            Ok(BlockGroups { total, unallocated: free, free_in_data: Bytes(0) })
        })
    }

    fn compact_data(&self, path: &Path, _usage: u8) -> Result<bool> {
        self.call("balance", path, |world| only_btrfs(world.at(path)?.0).map(|()| false))
    }

    fn stop_compacting(&self, path: &Path) -> Result<()> {
        self.call("balance cancel", path, |world| only_btrfs(world.at(path)?.0))
    }
}

fn only_btrfs(disk: &Disk) -> std::result::Result<(), Errno> {
    if disk.kind == "btrfs" { Ok(()) } else { Err(libc::ENOTTY) }
}
