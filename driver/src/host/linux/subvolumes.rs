//! btrfs subvolumes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::ioctls::{self, NOCOW_FL, SUBVOL_RDONLY, VolArgs, VolArgsV2};
use super::{LinuxHost, failed, open_directory};
use crate::host::{HostError, Result, Subvolumes};

impl Subvolumes for LinuxHost {
    fn create_subvolume(&self, path: &Path) -> Result<()> {
        const OPERATION: &str = "BTRFS_IOC_SUBVOL_CREATE_V2";
        let (parent, name) = parent_and_name(OPERATION, path)?;
        let args = VolArgsV2::named(name, 0).ok_or_else(|| too_long(OPERATION, path))?;
        // SAFETY: the kernel reads a structure of exactly this size; the name in it ends with a NUL.
        unsafe { ioctls::btrfs_subvol_create_v2(parent.as_raw_fd(), &raw const *args) }
            .map_err(failed(OPERATION, path))?;
        set_nocow(path)
    }

    fn snapshot_subvolume(&self, from: &Path, to: &Path, read_only: bool) -> Result<()> {
        const OPERATION: &str = "BTRFS_IOC_SNAP_CREATE_V2";
        let source = open_directory(OPERATION, from)?;
        let (parent, name) = parent_and_name(OPERATION, to)?;
        let flags = if read_only { SUBVOL_RDONLY } else { 0 };
        let mut args = VolArgsV2::named(name, flags).ok_or_else(|| too_long(OPERATION, to))?;
        args.fd = i64::from(source.as_raw_fd());
        // SAFETY: as above; `source` stays open until after the call.
        unsafe { ioctls::btrfs_snap_create_v2(parent.as_raw_fd(), &raw const *args) }
            .map(drop)
            .map_err(failed(OPERATION, from))
    }

    fn delete_subvolume(&self, path: &Path) -> Result<()> {
        const OPERATION: &str = "BTRFS_IOC_SNAP_DESTROY";
        let (parent, name) = parent_and_name(OPERATION, path)?;
        let args = VolArgs::named(name).ok_or_else(|| too_long(OPERATION, path))?;
        // SAFETY: the kernel reads a structure of exactly this size; the name in it ends with a NUL.
        unsafe { ioctls::btrfs_snap_destroy(parent.as_raw_fd(), &raw const *args) }
            .map(drop)
            .map_err(failed(OPERATION, path))
    }
}

/// `chattr +C`, inherited by every file that is created inside afterwards. It only works while they are empty.
fn set_nocow(path: &Path) -> Result<()> {
    let root = open_directory("FS_IOC_SETFLAGS", path)?;
    let mut flags: libc::c_long = 0;
    // SAFETY: both calls pass a long that lives on this stack frame.
    unsafe { ioctls::get_flags(root.as_raw_fd(), &raw mut flags) }
        .map_err(failed("FS_IOC_GETFLAGS", path))?;
    flags |= NOCOW_FL;
    // SAFETY: as above.
    unsafe { ioctls::set_flags(root.as_raw_fd(), &raw const flags) }
        .map(drop)
        .map_err(failed("FS_IOC_SETFLAGS", path))
}

fn parent_and_name<'a>(operation: &'static str, path: &'a Path) -> Result<(File, &'a [u8])> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((open_directory(operation, parent)?, name.as_bytes())),
        _ => Err(HostError::new(operation, path.display(), io::Error::from_raw_os_error(libc::EINVAL))),
    }
}

fn too_long(operation: &'static str, path: &Path) -> HostError {
    HostError::new(operation, path.display(), io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}
