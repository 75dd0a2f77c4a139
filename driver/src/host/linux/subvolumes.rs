//! btrfs subvolumes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::images::btrfs_facts;
use super::ioctls::{
    self, BalanceArgs, BalanceFilter, NOCOW_FL, SUBVOL_RDONLY, SearchArgs, SearchKey, VolArgs, VolArgsV2,
};
use super::{LinuxHost, failed, open_directory};
use crate::host::{BlockGroups, HostError, Result, Subvolumes};

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

    fn dying_subvolumes(&self, path: &Path) -> Result<usize> {
        const OPERATION: &str = "BTRFS_IOC_TREE_SEARCH";
        let root = open_directory(OPERATION, path)?;
        let key = SearchKey {
            tree_id: ioctls::ROOT_TREE,
            min_objectid: ioctls::ORPHAN_OBJECTID,
            max_objectid: ioctls::ORPHAN_OBJECTID,
            max_offset: u64::MAX,
            max_transid: u64::MAX,
            min_type: ioctls::ORPHAN_ITEM,
            max_type: ioctls::ORPHAN_ITEM,
            nr_items: 4096,
            ..SearchKey::default()
        };
        let mut args = Box::new(SearchArgs { key, found: [0; 3992] });
        // SAFETY: the kernel fills a structure of exactly this size (asserted beside its definition).
        unsafe { ioctls::btrfs_tree_search(root.as_raw_fd(), &raw mut *args) }
            .map_err(failed(OPERATION, path))?;
        Ok(usize::try_from(args.key.nr_items).unwrap_or(usize::MAX))
    }

    fn hasten_cleaning(&self, path: &Path) -> Result<()> {
        const OPERATION: &str = "BTRFS_IOC_SYNC";
        let root = open_directory(OPERATION, path)?;
        // SAFETY: the call has no argument.
        unsafe { ioctls::btrfs_sync(root.as_raw_fd()) }.map(drop).map_err(failed(OPERATION, path))
    }

    fn block_groups(&self, path: &Path) -> Result<BlockGroups> {
        const OPERATION: &str = "BTRFS_IOC_SPACE_INFO";
        let root = open_directory(OPERATION, path)?;
        btrfs_facts(&root).map(|facts| facts.block_groups()).map_err(failed(OPERATION, path))
    }

    fn compact_data(&self, path: &Path, usage: u8) -> Result<bool> {
        const OPERATION: &str = "BTRFS_IOC_BALANCE_V2";
        let root = open_directory(OPERATION, path)?;
        let mut args = Box::new(BalanceArgs {
            flags: ioctls::BALANCE_DATA,
            state: 0,
            data: filter(usage),
            metadata: BalanceFilter::default(),
            system: BalanceFilter::default(),
            expected: 0,
            considered: 0,
            completed: 0,
            unused: [0; 72],
        });
        // SAFETY: the kernel reads and fills a structure of exactly this size.
        match unsafe { ioctls::btrfs_balance_v2(root.as_raw_fd(), &raw mut *args) } {
            Ok(_) => Ok(args.completed > 0),
            // Stopped, by us or by somebody; already running for somebody else; no room to move anything to.
            Err(Errno::ECANCELED | Errno::EINPROGRESS | Errno::ENOSPC) => Ok(false),
            Err(errno) => Err(failed(OPERATION, path)(errno)),
        }
    }

    fn stop_compacting(&self, path: &Path) -> Result<()> {
        const OPERATION: &str = "BTRFS_IOC_BALANCE_CTL";
        let root = open_directory(OPERATION, path)?;
        // SAFETY: the call takes an integer.
        match unsafe { ioctls::btrfs_balance_ctl(root.as_raw_fd(), ioctls::BALANCE_CANCEL) } {
            Ok(_) | Err(Errno::ENOTCONN) => Ok(()),
            Err(errno) => Err(failed(OPERATION, path)(errno)),
        }
    }
}

/// How full a block group may be.
fn filter(usage: u8) -> BalanceFilter {
    let usage = u64::from(usage);
    BalanceFilter { usage, limit: 1, flags: ioctls::BALANCE_USAGE_AND_LIMIT, ..BalanceFilter::default() }
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
