//! The two looks at a descriptor that the guard needs: whose it is, and FITHAW.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

mod ioctl {
    use nix::ioctl_readwrite;
    ioctl_readwrite!(fithaw, b'X', 120, libc::c_int);
}

/// Major number of loop devices.
pub(crate) const LOOP_MAJOR: u64 = 7;

/// How a thaw ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thaw {
    /// It was frozen and is not any more.
    Thawed,
    /// It was not frozen (EINVAL).
    NotFrozen,
    /// The kernel refused for another reason (errno).
    Failed(i32),
}

/// FITHAW on the filesystem that `mount` is open on. Blocks while a FIFREEZE of it is flushing.
pub fn thaw(mount: BorrowedFd<'_>) -> Thaw {
    let mut unused = 0;
    // SAFETY: FITHAW ignores its argument; `unused` outlives the call and the descriptor is open.
    match unsafe { ioctl::fithaw(mount.as_raw_fd(), &raw mut unused) } {
        Ok(_) => Thaw::Thawed,
        Err(nix::Error::EINVAL) => Thaw::NotFrozen,
        Err(errno) => Thaw::Failed(errno as i32),
    }
}

/// Which loop device `mount` is on, if that is a volume of a Stillpoint pool; else why it is not.
///
/// Ours is what lives on a loop device whose backing file is `…/volumes/<volume>/disk.img`. Nothing else may ever
/// be thawed by the guard, as nothing else is ever frozen by an agent.
pub fn check_is_volume(mount: BorrowedFd<'_>) -> Result<OwnDevice, String> {
    let device = nix::sys::stat::fstat(mount).map_err(|errno| format!("fstat: {errno}"))?.st_dev;
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if major != LOOP_MAJOR {
        return Err(format!("device {major}:{minor} is not a loop device, so it is no volume"));
    }
    let minor = u32::try_from(minor).map_err(|_| format!("loop device {minor} is none"))?;
    check_is_image(minor)
}

/// A loop device over the image of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDevice {
    /// Its minor number.
    pub minor: u32,
    /// The image, as the kernel names it.
    pub backing: String,
}

/// As [`check_is_volume`], by the number of the loop device.
pub fn check_is_image(minor: u32) -> Result<OwnDevice, String> {
    let link = format!("/sys/dev/block/{LOOP_MAJOR}:{minor}/loop/backing_file");
    let backing = std::fs::read_to_string(&link).map_err(|error| format!("{link}: {error}"))?;
    let backing = backing.trim_end().to_owned();
    if is_image_path(&backing) {
        Ok(OwnDevice { minor, backing })
    } else {
        Err(format!("loop device {minor} is backed by {backing}, which is no volume image"))
    }
}

fn is_image_path(path: &str) -> bool {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let mut parts = path.rsplit('/');
    parts.next() == Some("disk.img")
        && parts.next().is_some_and(|id| id.contains("-v"))
        && parts.next() == Some("volumes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn only_volume_images_are_ours() {
        assert!(is_image_path("/pool/volumes/3f9a0c11d2e4-vabc/disk.img"));
        for foreign in ["/pool.img", "/pool/volumes/x/disk.img", "/volumes/a-v1/other.img", "", "disk.img"] {
            assert!(!is_image_path(foreign), "{foreign}");
        }
    }

    #[test]
    fn the_root_filesystem_is_refused() {
        let root = std::fs::File::open("/").unwrap();
        assert!(check_is_volume(root.as_fd()).unwrap_err().contains("not a loop device"));
    }
}
