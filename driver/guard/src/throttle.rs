//! Write limits of loop devices in cgroups: what an agent sets to hold a raw device, and the guard lifts.
//!
//! A limit is one line in a file of a cgroup: `7:3 4096` in `blkio.throttle.write_bps_device` (version 1), `7:3
//! wbps=4096` in `io.max` (version 2). A limit of one byte per second lets no write through; requests wait in the
//! kernel before they reach the device.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, fstatfs};

use crate::thaw::LOOP_MAJOR;

/// Bytes per second that hold a device.
pub const HELD: u64 = 1;
/// No limit, in messages.
pub const NO_LIMIT: u64 = u64::MAX;

/// The two kinds of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hierarchy {
    /// cgroup v1: a limit is for the processes of one directory only.
    V1,
    /// cgroup v2: a limit is for everything below a directory too.
    V2,
}

impl Hierarchy {
    /// The file that limits are written to.
    pub const fn file(self) -> &'static str {
        match self {
            Self::V1 => "blkio.throttle.write_bps_device",
            Self::V2 => "io.max",
        }
    }

    /// The line that sets a limit ([`NO_LIMIT`]: takes it away).
    pub fn line(self, minor: u32, bytes_per_second: u64) -> String {
        match (self, bytes_per_second) {
            (Self::V1, NO_LIMIT) => format!("{LOOP_MAJOR}:{minor} 0"),
            (Self::V1, limit) => format!("{LOOP_MAJOR}:{minor} {limit}"),
            (Self::V2, NO_LIMIT) => format!("{LOOP_MAJOR}:{minor} wbps=max"),
            (Self::V2, limit) => format!("{LOOP_MAJOR}:{minor} wbps={limit}"),
        }
    }

    /// The limit that a file's text has for a device; [`NO_LIMIT`] where it has none.
    pub fn limit_in(self, text: &str, minor: u32) -> u64 {
        let name = format!("{LOOP_MAJOR}:{minor}");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        let word = line.and_then(|rest| match self {
            Self::V1 => Some(rest.trim()),
            Self::V2 => rest.split_ascii_whitespace().find_map(|word| word.strip_prefix("wbps=")),
        });
        word.and_then(|word| word.parse().ok()).unwrap_or(NO_LIMIT)
    }

    fn magic(self) -> FsType {
        match self {
            Self::V1 => FsType(libc::CGROUP_SUPER_MAGIC),
            Self::V2 => FsType(libc::CGROUP2_SUPER_MAGIC),
        }
    }
}

/// One limit that the guard lifts: the open file, and what to write.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) line: String,
}

/// Sets a limit. A cgroup that is gone has nobody in it any more.
pub fn set(file: &File, line: &str) -> std::io::Result<()> {
    match file.write_at(line.as_bytes(), 0) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Why `file` is not the limits of a cgroup, or its path.
pub(crate) fn check_file(file: BorrowedFd<'_>, hierarchy: Hierarchy) -> Result<PathBuf, String> {
    let kind = fstatfs(file).map_err(|errno| format!("fstatfs: {errno}"))?.filesystem_type();
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = std::fs::read_link(&link).map_err(|error| format!("{link}: {error}"))?;
    if kind != hierarchy.magic() || !has_name(&path, hierarchy) {
        return Err(format!("{} is no {} of a cgroup", path.display(), hierarchy.file()));
    }
    Ok(path)
}

fn has_name(path: &Path, hierarchy: Hierarchy) -> bool {
    path.file_name().is_some_and(|name| name == hierarchy.file())
}

/// Opens a file of limits that was written down, checked as one that was sent.
pub(crate) fn open(path: &Path, line: &str) -> Result<(File, Hierarchy), String> {
    let hierarchy = [Hierarchy::V1, Hierarchy::V2].into_iter().find(|kind| has_name(path, *kind));
    let hierarchy = hierarchy.ok_or_else(|| format!("{} is no file of limits", path.display()))?;
    let own = line.strip_prefix(&format!("{LOOP_MAJOR}:")).is_some();
    if !own {
        return Err(format!("{line:?} is no limit of a loop device"));
    }
    let file =
        File::options().write(true).open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    check_file(file.as_fd(), hierarchy)?;
    Ok((file, hierarchy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_each_version_wants_them() {
        assert_eq!(Hierarchy::V1.line(3, HELD), "7:3 1");
        assert_eq!(Hierarchy::V1.line(3, NO_LIMIT), "7:3 0");
        assert_eq!(Hierarchy::V2.line(3, HELD), "7:3 wbps=1");
        assert_eq!(Hierarchy::V2.line(3, NO_LIMIT), "7:3 wbps=max");
    }

    #[test]
    fn the_limit_of_one_device_is_found_among_others() {
        let v1 = "7:31 5\n7:3 4096\n8:0 1\n";
        let v2 = "7:31 rbps=max wbps=5 riops=max wiops=max\n7:3 rbps=1 wbps=4096 riops=max wiops=max\n";
        for (hierarchy, text) in [(Hierarchy::V1, v1), (Hierarchy::V2, v2)] {
            assert_eq!(hierarchy.limit_in(text, 3), 4096);
            assert_eq!(hierarchy.limit_in(text, 31), 5);
            assert_eq!(hierarchy.limit_in(text, 1), NO_LIMIT);
        }
        assert_eq!(Hierarchy::V2.limit_in("7:3 rbps=1 wbps=max riops=max wiops=max", 3), NO_LIMIT);
    }

    #[test]
    fn a_file_that_is_no_limit_of_a_cgroup_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(check_file(null.as_fd(), Hierarchy::V1).unwrap_err().contains("of a cgroup"));
        assert!(open(Path::new("/etc/passwd"), "7:3 0").unwrap_err().contains("no file of limits"));
        assert!(open(Path::new("/x/io.max"), "8:0 wbps=max").unwrap_err().contains("no limit"));
    }
}
