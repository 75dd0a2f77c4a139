//! Image files, and the space of the pool that they are on.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};
use nix::unistd::syncfs;

use super::ioctls::{self, DevInfo, Fiemap, FsInfo, SPACE_SLOTS, SpaceArgs, SpaceInfo};
use super::{Access, LinuxHost, commands, failed, filesystems, open_directory, open_file};
use crate::domain::{Bytes, Filesystem};
use crate::host::{BlockGroups, Check, Images, Result, Space};

/// What Linux 5.15, the oldest kernel on which volumes are to be mounted, knows of XFS. (The configuration files of
/// xfsprogs say the same, but that of 6.1 cannot be read by its own mkfs.)
const XFS_FEATURES: [&str; 4] =
    ["-m", "crc=1,finobt=1,rmapbt=0,reflink=1,bigtime=1,inobtcount=1", "-i", "sparse=1"];
/// What newer kernels know; switched off where this mkfs.xfs could make it. Its usage says what it can make.
const XFS_NEWER: [(&str, &str); 4] =
    [("-i", "nrext64"), ("-i", "exchange"), ("-n", "parent"), ("-m", "metadir")];
/// The same for ext4: what is not named is not made, above all not `orphan_file` (a default since e2fsprogs 1.47.1)
/// and `metadata_csum_seed`, which older e2fsck does not read.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                             large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

fn xfs_features(image: &Path) -> Result<Vec<String>> {
    let usage = commands::output::<&str>("mkfs.xfs", &[], image)?.said;
    let newer = XFS_NEWER.iter().filter(|(_, name)| usage.contains(&format!("{name}=0|1")));
    let off = newer.flat_map(|(option, name)| [(*option).to_owned(), format!("{name}=0")]);
    Ok(XFS_FEATURES.iter().map(|option| (*option).to_owned()).chain(off).collect())
}

fn with_path<'a>(options: &'a [&'a str], path: &'a OsStr) -> Vec<&'a OsStr> {
    options.iter().map(OsStr::new).chain([path]).collect()
}

impl Images for LinuxHost {
    fn create_image(&self, path: &Path, size: Bytes) -> Result<()> {
        let create = || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(path)?;
            file.set_len(size.0)?;
            file.sync_all()
        };
        create().map_err(failed("create image", path))
    }

    fn grow_image(&self, path: &Path, size: Bytes) -> Result<()> {
        let file = open_file("grow image", path, Access::Write)?;
        let grow = || {
            if file.metadata()?.len() < size.0 {
                file.set_len(size.0)?;
            }
            file.sync_all()
        };
        grow().map_err(failed("grow image", path))
    }

    fn reflink(&self, from: &Path, to: &Path) -> Result<()> {
        let source = open_file("FICLONE", from, Access::Read)?;
        let target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(to)
            .map_err(failed("FICLONE", to))?;
        // SAFETY: FICLONE takes a descriptor by value; both files are open.
        unsafe { ioctls::ficlone(target.as_raw_fd(), source.as_raw_fd()) }
            .map(drop)
            .map_err(failed("FICLONE", from))
    }

    fn extents(&self, path: &Path) -> Result<u64> {
        let file = open_file("FIEMAP", path, Access::Read)?;
        let mut map =
            Fiemap { start: 0, length: u64::MAX, flags: 0, mapped_extents: 0, extent_count: 0, reserved: 0 };
        // SAFETY: with extent_count 0 the kernel writes nothing behind the structure.
        unsafe { ioctls::fiemap(file.as_raw_fd(), &raw mut map) }.map_err(failed("FIEMAP", path))?;
        Ok(u64::from(map.mapped_extents))
    }

    fn make_filesystem(&self, image: &Path, filesystem: Filesystem) -> Result<()> {
        let path = image.as_os_str();
        // Sectors and blocks of 4 KiB: the volume then also mounts when its pool is moved to a disk with 4 KiB
        // sectors. No discard: the image is sparse already. The XFS log is mkfs's default, its minimum of
        // 64 MiB for every volume below 128 GiB. Features are pinned: the defaults of a newer mkfs may be more than
        // this kernel, or the one of the node to which the volume is restored, can mount.
        match filesystem {
            Filesystem::Xfs => {
                let features = xfs_features(image)?;
                let mut options = vec!["-q", "-K", "-s", "size=4096"];
                options.extend(features.iter().map(String::as_str));
                commands::run("mkfs.xfs", &with_path(&options, path), image)?;
            }
            Filesystem::Ext4 => {
                let lazy = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
                let options = ["-q", "-F", "-b", "4096", "-m", "0", "-E", lazy, "-O", EXT4_FEATURES];
                commands::run("mkfs.ext4", &with_path(&options, path), image)?;
            }
        }
        open_file("fsync", image, Access::Write)?.sync_all().map_err(failed("fsync", image))
    }

    fn check_filesystem(&self, device: &Path, filesystem: Filesystem) -> Result<Check> {
        match filesystem {
            Filesystem::Xfs => Ok(Check::Sound),
            Filesystem::Ext4 => filesystems::check_ext4(device, &["-p"]),
        }
    }

    fn space(&self, path: &Path) -> Result<Space> {
        let root = open_directory("statfs", path)?;
        let stat = fstatfs(&root).map_err(failed("statfs", path))?;
        if stat.filesystem_type() == BTRFS_SUPER_MAGIC {
            let facts = btrfs_facts(&root).map_err(failed("BTRFS_IOC_SPACE_INFO", path))?;
            return Ok(btrfs_space(&facts));
        }
        let block = u64::try_from(stat.block_size()).unwrap_or_default();
        Ok(Space { total: Bytes(stat.blocks() * block), available: Bytes(stat.blocks_available() * block) })
    }

    fn sync_filesystem(&self, path: &Path) -> Result<()> {
        let root = open_file("syncfs", path, Access::Read)?;
        syncfs(&root).map_err(failed("syncfs", path))
    }
}

/// What btrfs says about its space.
#[derive(Debug, Default)]
pub(super) struct BtrfsFacts {
    /// Sum over all devices.
    device_total: u64,
    /// Not yet given to any block group, sum over all devices.
    unallocated: u64,
    /// One entry per kind and profile.
    spaces: Vec<SpaceInfo>,
}

impl BtrfsFacts {
    fn of(&self, kind: u64) -> impl Iterator<Item = &SpaceInfo> {
        self.spaces.iter().filter(move |s| s.flags & kind != 0 && s.flags & KIND_GLOBAL_RESERVE == 0)
    }

    /// What is free in the block groups of a kind.
    fn free(&self, kind: u64) -> u64 {
        self.of(kind).map(|s| s.total_bytes.saturating_sub(s.used_bytes)).sum()
    }

    /// What belongs to which kind of block group.
    pub(super) fn block_groups(&self) -> BlockGroups {
        BlockGroups {
            total: Bytes(self.device_total),
            unallocated: Bytes(self.unallocated),
            free_in_data: Bytes(self.free(KIND_DATA)),
        }
    }
}

pub(super) fn btrfs_facts(root: &std::fs::File) -> std::result::Result<BtrfsFacts, Errno> {
    let fd = root.as_raw_fd();
    let mut facts = BtrfsFacts::default();
    let mut filesystem = FsInfo { max_id: 0, num_devices: 0, rest: [0; 1008] };
    // SAFETY: the kernel fills a structure of exactly this size (asserted beside its definition).
    unsafe { ioctls::btrfs_fs_info(fd, &raw mut filesystem) }?;
    for devid in 1..=filesystem.max_id {
        let mut device =
            Box::new(DevInfo { devid, uuid: [0; 16], bytes_used: 0, total_bytes: 0, rest: [0; 4056] });
        // SAFETY: as above. Ids have gaps where devices were removed: ENODEV.
        match unsafe { ioctls::btrfs_dev_info(fd, &raw mut *device) } {
            Ok(_) => {
                facts.device_total += device.total_bytes;
                facts.unallocated += device.total_bytes.saturating_sub(device.bytes_used);
            }
            Err(Errno::ENODEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    let mut args = Box::new(SpaceArgs {
        slots: SPACE_SLOTS as u64,
        total: 0,
        spaces: [SpaceInfo::default(); SPACE_SLOTS],
    });
    // SAFETY: `slots` says how many entries there is room for behind the head, and there is.
    unsafe { ioctls::btrfs_space_info(fd, &raw mut *args) }?;
    let found = usize::try_from(args.total).unwrap_or(SPACE_SLOTS).min(SPACE_SLOTS);
    facts.spaces = args.spaces[..found].to_vec();
    Ok(facts)
}

const KIND_DATA: u64 = 1;
const KIND_METADATA: u64 = 1 << 2;
const KIND_GLOBAL_RESERVE: u64 = 1 << 49;
/// RAID1, DUP, RAID10, RAID5 and RAID6: at least every second byte is not for data (conservative for RAID5/6).
const PROFILE_TWO: u64 = (1 << 4) | (1 << 5) | (1 << 6) | (1 << 7) | (1 << 8);
/// RAID1C3 and RAID1C4.
const PROFILE_FOUR: u64 = (1 << 9) | (1 << 10);
/// Free metadata that must remain for snapshots and overwrites, as a share of the filesystem and at most.
const METADATA_SHARE: u64 = 64;
const METADATA_MOST: u64 = 256 << 20;

/// Raw bytes that one byte of this profile takes.
fn copies(flags: u64) -> u64 {
    if flags & PROFILE_FOUR != 0 {
        4
    } else if flags & PROFILE_TWO != 0 {
        2
    } else {
        1
    }
}

/// Space that can be relied on: free room in data block groups and unallocated device space, less what the
/// metadata will still take of it. Where metadata has run out, nothing is available, whatever data groups say.
fn btrfs_space(facts: &BtrfsFacts) -> Space {
    let free = |kind| facts.free(kind);
    let dearest = |kind: u64| facts.of(kind).map(|s| copies(s.flags)).max().unwrap_or(1);
    let global_reserve: u64 =
        facts.spaces.iter().filter(|s| s.flags & KIND_GLOBAL_RESERVE != 0).map(|s| s.total_bytes).sum();

    let wanted = (facts.device_total / METADATA_SHARE).min(METADATA_MOST) + global_reserve;
    let missing = wanted.saturating_sub(free(KIND_METADATA)) * dearest(KIND_METADATA);
    let available = match facts.unallocated.checked_sub(missing) {
        Some(left) => free(KIND_DATA) + left / dearest(KIND_DATA),
        None => 0,
    };
    Space { total: Bytes(facts.device_total / dearest(KIND_DATA)), available: Bytes(available) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn facts(unallocated: u64, data: (u64, u64), metadata: (u64, u64)) -> BtrfsFacts {
        let space = |flags, (total_bytes, used_bytes)| SpaceInfo { flags, total_bytes, used_bytes };
        BtrfsFacts {
            device_total: 100 * GIB,
            unallocated,
            spaces: vec![
                space(KIND_DATA, data),
                space(KIND_METADATA, metadata),
                space(KIND_METADATA | KIND_GLOBAL_RESERVE, (64 << 20, 0)),
            ],
        }
    }

    #[test]
    fn free_data_and_unallocated_space_are_available() {
        let space = btrfs_space(&facts(50 * GIB, (40 * GIB, 30 * GIB), (GIB, 0)));
        assert_eq!(space, Space { total: Bytes(100 * GIB), available: Bytes(60 * GIB) });
    }

    #[test]
    fn what_metadata_will_take_is_not_available() {
        let space = btrfs_space(&facts(GIB, (GIB, GIB), (GIB, GIB)));
        assert_eq!(space.available, Bytes(GIB - (256 << 20) - (64 << 20)));
    }

    #[test]
    fn without_metadata_nothing_is_available_though_data_groups_are_empty() {
        assert_eq!(btrfs_space(&facts(0, (50 * GIB, 0), (GIB, GIB))).available, Bytes(0));
    }

    #[test]
    fn mirrored_data_halves_what_is_unallocated() {
        let mut mirrored = facts(10 * GIB, (GIB, 0), (GIB, 0));
        mirrored.spaces[0].flags |= 1 << 4;
        assert_eq!(btrfs_space(&mirrored).available, Bytes(6 * GIB));
    }
}
