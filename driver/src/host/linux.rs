//! The real kernel, through nix. One file per trait; the ioctls that nix does not know are declared in `ioctls`.
//!
//! What one has to know about the kernel to read this is beside each call: a frozen filesystem has no owner, a
//! detach of a mounted loop device only happens at its unmount, `statfs` lies on btrfs.
#![allow(unsafe_code, reason = "ioctls and the allocator; every unsafe block says why it is sound")]

mod blocks;
mod commands;
mod files;
mod filesystems;
mod freezing;
mod images;
mod ioctls;
mod loops;
pub mod memory;
mod mounts;
mod probe;
mod subvolumes;
mod throttle;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::time::{ClockId, clock_gettime};

use super::{Host, HostError, Result};

/// The machine that this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxHost;

impl Host for LinuxHost {
    fn monotonic_us(&self) -> u64 {
        // The clock exists on every Linux; an error here would mean that libc is broken, and zero shows it.
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
        let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
        seconds * 1_000_000 + u64::try_from(now.tv_nsec()).unwrap_or_default() / 1_000
    }
}

/// Turns an error of any kind into a [`HostError`] of `operation` on `path`.
fn failed<E: Into<std::io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> HostError {
    move |source| HostError::new(operation, path.display(), source)
}

/// Opens a directory for an ioctl, fsync or statfs on its filesystem.
fn open_directory(operation: &'static str, path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(path)
        .map_err(failed(operation, path))
}

/// Opens a file or device.
fn open_file(operation: &'static str, path: &Path, access: Access) -> Result<File> {
    OpenOptions::new().read(true).write(access == Access::Write).open(path).map_err(failed(operation, path))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}
