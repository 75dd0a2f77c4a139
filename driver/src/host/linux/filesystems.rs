//! What is inside of a volume: its check, its size, its errors, and why the kernel does not mount it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;

use super::commands::{self, Output};
use super::{Access, failed, ioctls, open_directory, open_file, probe};
use crate::domain::{Bytes, Filesystem};
use crate::host::{Check, HostError, Result};

/// e2fsck: some errors were not repaired.
const E2FSCK_UNREPAIRED: i32 = 4;
/// Where the superblock of ext4 is.
const EXT4_SUPERBLOCK: u64 = 1024;
const CAP_SYS_RESOURCE: u32 = 24;

/// Checks an ext4 that is not mounted. From exit status 4 on it must not be mounted.
pub(super) fn check_ext4(device: &Path, options: &[&str]) -> Result<Check> {
    if is_in_use(device)? {
        return Ok(Check::InUse);
    }
    let arguments: Vec<_> = options.iter().map(AsRef::as_ref).chain([device.as_os_str()]).collect();
    let Output { status, said } = commands::output("e2fsck", &arguments, device)?;
    match status.code() {
        Some(0) => Ok(Check::Sound),
        Some(code) if code < E2FSCK_UNREPAIRED => Ok(Check::Repaired),
        // 4: errors are left; 8: for example no superblock.
        Some(_) => Ok(Check::Damaged(format!("e2fsck: {status}: {said}"))),
        None => Err(HostError::new("e2fsck", device.display(), io::Error::other(status.to_string()))),
    }
}

/// A mounted device cannot be opened exclusively.
fn is_in_use(device: &Path) -> Result<bool> {
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(device) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(error) => Err(failed("open", device)(error)),
    }
}

/// resize2fs wants a full check first; nothing is done where the filesystem has the size of its device.
pub(super) fn grow_unmounted_ext4(device: &Path) -> Result<()> {
    let file = open_file("BLKGETSIZE64", device, Access::Read)?;
    let mut size: u64 = 0;
    // SAFETY: the kernel writes one 64-bit number.
    unsafe { ioctls::blkgetsize64(file.as_raw_fd(), &raw mut size) }
        .map_err(failed("BLKGETSIZE64", device))?;
    if size.saturating_sub(ext4_size(device)?.0) < Filesystem::Ext4.growth_slack().0 {
        return Ok(());
    }
    match check_ext4(device, &["-f", "-p"])? {
        Check::Sound | Check::Repaired => commands::run("resize2fs", &[device], device),
        Check::InUse => Err(failed("resize2fs", device)(Errno::EBUSY)),
        Check::Damaged(said) => Err(HostError::new("resize2fs", device.display(), io::Error::other(said))),
    }
}

/// Whether this process has CAP_SYS_RESOURCE.
pub(super) fn may_resize_mounted_ext4() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or_default();
    mask >> CAP_SYS_RESOURCE & 1 == 1
}

/// ext4 keeps its superblock in the page cache of the device, so this is right while it is mounted too.
pub(super) fn ext4_size(device: &Path) -> Result<Bytes> {
    let superblock = ext4_superblock(device)?;
    let number = |at: usize| u64::from(word(&superblock, at));
    // s_blocks_count_lo, s_log_block_size, s_feature_incompat (64bit), s_blocks_count_hi.
    let high = if number(0x60) & 0x80 != 0 { number(0x150) << 32 } else { 0 };
    Ok(Bytes((number(0x4) | high) << (10 + number(0x18).min(16))))
}

fn ext4_superblock(device: &Path) -> Result<[u8; 1024]> {
    let mut superblock = [0; 1024];
    let file = open_file("read", device, Access::Read)?;
    file.read_exact_at(&mut superblock, EXT4_SUPERBLOCK).map_err(failed("read", device))?;
    if superblock[0x38..0x3a] != [0x53, 0xef] {
        let error = io::Error::new(io::ErrorKind::InvalidData, "it carries no ext4");
        return Err(HostError::new("read", device.display(), error));
    }
    Ok(superblock)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Size of a mounted XFS.
pub(super) fn xfs_size(target: &Path) -> Result<Bytes> {
    let root = open_directory("XFS_IOC_FSGEOMETRY", target)?;
    let mut geometry = ioctls::XfsGeometry::default();
    // SAFETY: the kernel fills a structure of exactly this size (asserted beside its definition).
    unsafe { ioctls::xfs_geometry(root.as_raw_fd(), &raw mut geometry) }
        .map_err(failed("XFS_IOC_FSGEOMETRY", target))?;
    Ok(Bytes(geometry.data_blocks * u64::from(geometry.block_size)))
}

/// Errors that a mounted ext4 has written into its superblock.
pub(super) fn ext4_errors(device: &Path) -> Result<u64> {
    let path = Path::new("/sys/fs/ext4").join(device.file_name().unwrap_or_default()).join("errors_count");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().unwrap_or_default()),
        // Unmounted meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// A failed mount in words: which option this kernel does not take, or which features of the filesystem.
pub(super) fn explain(errno: Errno, device: &Path, filesystem: Filesystem, options: &str) -> io::Error {
    if errno != Errno::EINVAL {
        return errno.into();
    }
    if let Some(option) = probe::refused_option(filesystem, options) {
        let text = format!("this kernel does not take the option {option:?} for {filesystem}; remove it");
        return io::Error::new(io::ErrorKind::InvalidInput, text);
    }
    let features = match filesystem {
        Filesystem::Xfs => xfs_features(device),
        Filesystem::Ext4 => ext4_features(device),
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match features {
        Ok(found) if !found.is_empty() => {
            let text = format!(
                "{filesystem} on {} has features that Linux {} may not know ({}); use a node with a newer kernel, or \
                 copy the files into a new volume",
                device.display(),
                release.trim(),
                found.join(", ")
            );
            io::Error::new(io::ErrorKind::Unsupported, text)
        }
        Ok(_) | Err(_) => {
            let text = format!(
                "{errno} (options: {}); the kernel's log says why",
                if options.is_empty() { "none" } else { options }
            );
            io::Error::new(io::ErrorKind::InvalidInput, text)
        }
    }
}

/// Features of ext4 that are not among those that volumes are made with: offset of the mask, bit, name.
const EXT4_NEWER: &[(usize, u32, &str)] = &[
    (0x60, 0x10, "meta_bg"),
    (0x60, 0x100, "mmp"),
    (0x60, 0x400, "ea_inode"),
    (0x60, 0x1000, "dirdata"),
    (0x60, 0x2000, "metadata_csum_seed"),
    (0x60, 0x4000, "large_dir"),
    (0x60, 0x8000, "inline_data"),
    (0x60, 0x1_0000, "encrypt"),
    (0x60, 0x2_0000, "casefold"),
    (0x64, 0x100, "quota"),
    (0x64, 0x200, "bigalloc"),
    (0x64, 0x1000, "read-only"),
    (0x64, 0x2000, "project"),
    (0x64, 0x8000, "verity"),
    (0x64, 0x1_0000, "orphan_file"),
];

fn ext4_features(device: &Path) -> Result<Vec<String>> {
    let superblock = ext4_superblock(device)?;
    let named = EXT4_NEWER.iter().filter(|(at, bit, _)| word(&superblock, *at) & bit != 0);
    let mut found: Vec<String> = named.map(|(.., name)| (*name).to_owned()).collect();
    // What even this table does not know.
    for (at, known) in [(0x60, 0x0003_f7df), (0x64, 0x0001_ffff)] {
        let unknown = word(&superblock, at) & !known;
        if unknown != 0 {
            found.push(format!("{unknown:#x}"));
        }
    }
    Ok(found)
}

/// Features of XFS that are not among those that volumes are made with: offset of the mask, bit, name.
const XFS_NEWER: &[(usize, u32, &str)] = &[
    (212, 0x2, "rmapbt"),
    (216, 0x10, "needsrepair"),
    (216, 0x20, "nrext64"),
    (216, 0x40, "exchange"),
    (216, 0x80, "parent"),
    (216, 0x100, "metadir"),
    (216, 0x200, "zoned"),
];

fn xfs_features(device: &Path) -> Result<Vec<String>> {
    let mut superblock = [0; 512];
    let file = open_file("read", device, Access::Read)?;
    file.read_exact_at(&mut superblock, 0).map_err(failed("read", device))?;
    let mask = |at: usize| word(&superblock, at).swap_bytes();
    if mask(0).to_be_bytes() != *b"XFSB" {
        return Ok(vec![]);
    }
    let named = XFS_NEWER.iter().filter(|(at, bit, _)| mask(*at) & bit != 0);
    let mut found: Vec<String> = named.map(|(.., name)| (*name).to_owned()).collect();
    for (at, known) in [(212, 0xf), (216, 0x3ff)] {
        let unknown = mask(at) & !known;
        if unknown != 0 {
            found.push(format!("{unknown:#x}"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Images;
    use crate::host::linux::LinuxHost;

    #[test]
    fn new_filesystems_have_only_features_that_the_oldest_supported_kernel_mounts() {
        let directory = tempfile::tempdir().unwrap();
        for filesystem in Filesystem::ALL {
            let image = directory.path().join(filesystem.as_str());
            LinuxHost.create_image(&image, Bytes::mib(400)).unwrap();
            LinuxHost.make_filesystem(&image, filesystem).unwrap();
            let newer = match filesystem {
                Filesystem::Xfs => xfs_features(&image),
                Filesystem::Ext4 => ext4_features(&image),
            };
            assert_eq!(newer.unwrap(), Vec::<String>::new(), "{filesystem}");
        }
    }

    #[test]
    fn features_that_an_older_kernel_may_not_know_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("ext4");
        LinuxHost.create_image(&image, Bytes::mib(64)).unwrap();
        let features = ["-q", "-F", "-O", "metadata_csum_seed,inline_data"].map(std::ffi::OsStr::new);
        commands::run("mkfs.ext4", &[&features[..], &[image.as_os_str()]].concat(), &image).unwrap();
        let found = ext4_features(&image).unwrap();
        for feature in ["metadata_csum_seed", "inline_data"] {
            assert!(found.iter().any(|name| name == feature), "{found:?}");
        }
    }
}
