//! Holding filesystems still.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::syncfs;

use super::{LinuxHost, failed, ioctls, open_directory};
use crate::host::{Freezing, MountHandle, Result};

/// Files that say `1` or name CPUs on a kernel or configuration where inter-processor interrupts are unwelcome.
const SENSITIVE: [&str; 3] =
    ["/sys/kernel/realtime", "/sys/devices/system/cpu/isolated", "/sys/devices/system/cpu/nohz_full"];

impl Freezing for LinuxHost {
    fn open_mount(&self, target: &Path) -> Result<Box<dyn MountHandle>> {
        let root = open_directory("open", target)?;
        let device = root.metadata().map_err(failed("fstat", target))?.dev();
        Ok(Box::new(OpenMount { root, device, target: target.to_owned() }))
    }

    fn is_latency_sensitive(&self) -> bool {
        SENSITIVE.iter().any(|path| {
            fs::read_to_string(path).is_ok_and(|text| !matches!(text.trim(), "" | "0" | "(null)"))
        })
    }
}

struct OpenMount {
    root: File,
    device: u64,
    target: PathBuf,
}

impl MountHandle for OpenMount {
    fn device(&self) -> u64 {
        self.device
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.root.as_fd())
    }

    fn sync(&self) -> Result<()> {
        syncfs(&self.root).map_err(failed("syncfs", &self.target))
    }

    fn freeze(&self) -> Result<()> {
        let mut unused = 0;
        // SAFETY: the ioctl ignores its argument; the int lives until it returns.
        unsafe { ioctls::fifreeze(self.root.as_raw_fd(), &raw mut unused) }
            .map(drop)
            .map_err(failed("FIFREEZE", &self.target))
    }

    fn thaw(&self) -> Result<()> {
        let mut unused = 0;
        // SAFETY: as above.
        unsafe { ioctls::fithaw(self.root.as_raw_fd(), &raw mut unused) }
            .map(drop)
            .map_err(failed("FITHAW", &self.target))
    }
}
