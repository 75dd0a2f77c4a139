//! Mounts.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Access, LinuxHost, commands, failed, filesystems, open_file};
use crate::domain::mount_options::{self, AccessTimes, BadOption, Flag};
use crate::domain::{Bytes, Filesystem};
use crate::host::{HostError, MountRequest, Mounted, Mounts, Result, Usage};

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// How long an unmount waits for a mount that is busy.
const BUSY_WAIT: Duration = Duration::from_secs(1);
const BUSY_POLL: Duration = Duration::from_millis(5);

impl Mounts for LinuxHost {
    fn mounts(&self) -> Result<Vec<Mounted>> {
        let path = Path::new(MOUNTINFO);
        let text = fs::read(path).map_err(failed("read", path))?;
        text.split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                parse_line(line).ok_or_else(|| {
                    let line = String::from_utf8_lossy(line).into_owned();
                    HostError::new("read", MOUNTINFO, io::Error::new(io::ErrorKind::InvalidData, line))
                })
            })
            .collect()
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<()> {
        let (flags, text) = options(request, device_is_read_only(request.device)?).map_err(|bad| {
            HostError::new(
                "mount",
                request.target.display(),
                io::Error::new(io::ErrorKind::InvalidInput, bad),
            )
        })?;
        let kind = request.filesystem.as_str();
        mount(Some(request.device), request.target, Some(kind), flags, Some(text.as_str())).map_err(|errno| {
            let why = filesystems::explain(errno, request.device, request.filesystem, &text);
            HostError::new("mount", request.target.display(), why)
        })
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<()> {
        let none: Option<&str> = None;
        mount(Some(source), target, none, MsFlags::MS_BIND, none).map_err(failed("bind mount", target))?;
        if !read_only {
            return Ok(());
        }
        // A read-only bind mount takes two steps, and the second one replaces all flags of the mount.
        let kept = statvfs(target).map_or(MsFlags::empty(), |stat| carried(stat.flags()));
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept;
        mount(none, target, none, flags, none).map_err(|errno| {
            // Half of it would be a writable mount where a read-only one was asked for.
            let _ = umount2(target, MntFlags::UMOUNT_NOFOLLOW);
            failed("bind mount read-only", target)(errno)
        })
    }

    /// Busy for a moment is usual: a child between fork and exec has a copy of every descriptor of its parent.
    fn unmount(&self, target: &Path) -> Result<()> {
        let start = Instant::now();
        loop {
            match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
                Err(Errno::EBUSY) if start.elapsed() < BUSY_WAIT => std::thread::sleep(BUSY_POLL),
                // EINVAL: not a mount point.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
                Err(errno) => return Err(failed("umount", target)(errno)),
            }
        }
    }

    fn usage(&self, target: &Path) -> Result<Usage> {
        let stat = statfs(target).map_err(failed("statfs", target))?;
        let block = u64::try_from(stat.block_size()).unwrap_or_default();
        Ok(Usage {
            total: Bytes(stat.blocks() * block),
            available: Bytes(stat.blocks_available() * block),
            inodes: stat.files(),
            inodes_free: stat.files_free(),
        })
    }

    fn grow_filesystem(&self, target: &Path, device: &Path, filesystem: Filesystem) -> Result<()> {
        match filesystem {
            Filesystem::Xfs => commands::run("xfs_growfs", &[target], target),
            Filesystem::Ext4 => commands::run("resize2fs", &[device], target),
        }
    }

    fn grows_mounted(&self, filesystem: Filesystem) -> bool {
        match filesystem {
            Filesystem::Xfs => true,
            Filesystem::Ext4 => filesystems::may_resize_mounted_ext4(),
        }
    }

    fn grow_unmounted(&self, device: &Path, filesystem: Filesystem) -> Result<()> {
        match filesystem {
            Filesystem::Xfs => Err(failed("xfs_growfs", device)(Errno::ENOTSUP)),
            Filesystem::Ext4 => filesystems::grow_unmounted_ext4(device),
        }
    }

    fn filesystem_size(&self, target: &Path, device: &Path, filesystem: Filesystem) -> Result<Bytes> {
        match filesystem {
            Filesystem::Xfs => filesystems::xfs_size(target),
            Filesystem::Ext4 => filesystems::ext4_size(device),
        }
    }

    fn recorded_errors(&self, device: &Path, filesystem: Filesystem) -> Result<u64> {
        match filesystem {
            Filesystem::Xfs => Ok(0),
            Filesystem::Ext4 => filesystems::ext4_errors(device),
        }
    }

    fn make_file(&self, path: &Path) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path)
            .map(drop)
            .map_err(failed("create", path))
    }
}

/// Whether a filesystem on this device is mounted. btrfs is mounted under a device number of its own, so the name
/// of the source is compared too.
pub(super) fn is_mounted(device: &Path, number: u64) -> Result<bool> {
    let text = fs::read(MOUNTINFO).map_err(failed("read", Path::new(MOUNTINFO)))?;
    Ok(text.split(|b| *b == b'\n').any(|line| {
        parse_line(line).is_some_and(|mounted| mounted.device == number)
            || source(line).is_some_and(|source| source == device)
    }))
}

fn source(line: &[u8]) -> Option<PathBuf> {
    let mut words = line.split(|b| *b == b' ').skip_while(|word| *word != b"-");
    words.nth(2).map(unescape)
}

fn device_is_read_only(device: &Path) -> Result<bool> {
    nix::ioctl_read_bad!(blkroget, 0x125E, libc::c_int);
    let file = open_file("BLKROGET", device, Access::Read)?;
    let mut read_only: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    unsafe { blkroget(file.as_raw_fd(), &raw mut read_only) }.map_err(failed("BLKROGET", device))?;
    Ok(read_only != 0)
}

/// Flags and text for `mount(2)`. Device nodes in a volume must not lead anywhere: always `nodev`.
fn options(
    request: &MountRequest<'_>,
    device_read_only: bool,
) -> std::result::Result<(MsFlags, String), BadOption> {
    let asked = mount_options::parse(request.options, Some(request.filesystem))?;
    let mut flags = asked.flags.iter().fold(MsFlags::MS_NODEV, |all, flag| all | flag_bits(*flag));
    flags |= match asked.access_times {
        AccessTimes::Never => MsFlags::MS_NOATIME,
        AccessTimes::Relative => MsFlags::MS_RELATIME,
        AccessTimes::Always => MsFlags::MS_STRICTATIME,
    };
    if request.read_only || device_read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    let mut text: Vec<&str> = Vec::new();
    // Restored copies share their UUID with the original.
    if request.filesystem == Filesystem::Xfs {
        text.push("nouuid");
    }
    // A cut filesystem has a log to replay, which a read-only device cannot.
    if device_read_only {
        text.push(match request.filesystem {
            Filesystem::Xfs => "norecovery",
            Filesystem::Ext4 => "noload",
        });
    }
    text.extend(asked.filesystem.iter().map(String::as_str).filter(|option| *option != "nouuid"));
    Ok((flags, text.join(",")))
}

const fn flag_bits(flag: Flag) -> MsFlags {
    match flag {
        Flag::ReadOnly => MsFlags::MS_RDONLY,
        Flag::NoSuid => MsFlags::MS_NOSUID,
        Flag::NoExec => MsFlags::MS_NOEXEC,
        // MS_NOSYMFOLLOW, which nix does not know.
        Flag::NoSymFollow => MsFlags::from_bits_retain(256),
        Flag::Sync => MsFlags::MS_SYNCHRONOUS,
        Flag::DirSync => MsFlags::MS_DIRSYNC,
        Flag::NoDirAtime => MsFlags::MS_NODIRATIME,
        Flag::LazyTime => MsFlags::MS_LAZYTIME,
    }
}

/// Flags of a mount that a remount would lose.
fn carried(flags: FsFlags) -> MsFlags {
    [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(have, _)| flags.contains(*have))
    .fold(MsFlags::empty(), |all, (_, flag)| all | flag)
}

/// `36 35 98:0 /root /target rw,noatime shared:1 - xfs /dev/loop0 rw,nouuid` (proc(5)).
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = words.iter().position(|word| *word == b"-")?;
    let (major, minor) = std::str::from_utf8(words.get(2)?).ok()?.split_once(':')?;
    let has = |options: &[u8], wanted: &[u8]| options.split(|b| *b == b',').any(|option| option == wanted);
    let (of_mount, of_filesystem) = (words.get(5)?, words.get(dash + 3)?);
    // Since Linux 6.15 or so an ext4 that has aborted its journal stays `rw` and shows `emergency_ro`.
    let went_read_only = has(of_filesystem, b"ro") || has(of_filesystem, b"emergency_ro");
    Some(Mounted {
        device: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
        root: unescape(words.get(3)?),
        target: unescape(words.get(4)?),
        kind: String::from_utf8_lossy(words.get(dash + 1)?).into_owned(),
        read_only: has(of_mount, b"ro") || went_read_only,
        lost_writing: !has(of_mount, b"ro") && went_read_only,
        shut_down: has(of_filesystem, b"shutdown"),
    })
}

/// Space, tab, newline and backslash are written as `\040` and so on.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && let Some(value) = tail.get(..3).and_then(octal)
        {
            out.push(value);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes() {
        let line = br"36 35 7:3 /vol\040ume /mnt/a\134b\011c rw,noatime shared:1 master:2 - xfs /dev/loop3 ro,nouuid";
        let mounted = parse_line(line).unwrap();
        assert_eq!(mounted.device, libc::makedev(7, 3));
        assert_eq!(mounted.root, Path::new("/vol ume"));
        assert_eq!(mounted.target, Path::new("/mnt/a\\b\tc"));
        assert_eq!(mounted.kind, "xfs");
        assert!(mounted.read_only, "read-only by its filesystem");
        assert_eq!(source(line).unwrap(), Path::new("/dev/loop3"));
    }

    #[test]
    fn lines_without_optional_fields_and_torn_lines_are_told_apart() {
        assert!(parse_line(b"1 1 0:5 / / rw - tmpfs none rw").is_some_and(|m| !m.read_only));
        assert_eq!(parse_line(b"1 1 0:5 / / rw tmpfs none rw"), None);
        assert_eq!(parse_line(b"garbage"), None);
    }

    #[test]
    fn a_filesystem_that_has_lost_its_writing_is_told_from_a_read_only_mount() {
        let lost = |line: &[u8]| parse_line(line).is_some_and(|mounted| mounted.lost_writing);
        assert!(lost(b"1 1 7:5 / /m rw,noatime shared:1 - ext4 /dev/loop5 ro"));
        assert!(!lost(b"1 1 7:5 / /m ro,noatime shared:1 - ext4 /dev/loop5 ro"));
        assert!(!lost(b"1 1 7:5 / /m ro,noatime shared:1 - ext4 /dev/loop5 rw"));
        assert!(lost(
            b"1 1 7:5 / /m rw,noatime shared:1 - ext4 /dev/loop5 rw,errors=remount-ro,emergency_ro"
        ));
        let shut_down =
            parse_line(b"1 1 7:5 / /m rw,noatime shared:1 - ext4 /dev/loop5 rw,shutdown").unwrap();
        assert!(shut_down.shut_down && !shut_down.lost_writing);
    }

    #[test]
    fn the_mounts_of_this_process_can_be_read() {
        let mounts = LinuxHost.mounts().unwrap();
        assert!(mounts.iter().any(|m| m.target == Path::new("/")), "{mounts:?}");
    }

    fn request(options: &[String]) -> MountRequest<'_> {
        MountRequest {
            device: Path::new("/dev/loop0"),
            target: Path::new("/mnt"),
            filesystem: Filesystem::Xfs,
            read_only: false,
            options,
        }
    }

    #[test]
    fn volumes_are_always_nodev_and_noatime_unless_asked_otherwise() {
        let given = ["nosuid,discard".to_owned(), "nouuid".to_owned(), "nofail".to_owned()];
        let (flags, text) = options(&request(&given), false).unwrap();
        assert_eq!(text, "nouuid,discard");
        assert_eq!(flags, MsFlags::MS_NODEV | MsFlags::MS_NOATIME | MsFlags::MS_NOSUID);
        let (flags, _) = options(&request(&["relatime".to_owned()]), false).unwrap();
        assert_eq!(flags, MsFlags::MS_NODEV | MsFlags::MS_RELATIME);
        assert!(options(&request(&["dev".to_owned()]), false).unwrap_err().to_string().contains("nodev"));
    }

    /// The second step of a read-only bind replaces all flags: a device node could be opened through it otherwise.
    #[test]
    fn a_read_only_bind_keeps_every_flag_of_its_mount() {
        let table = [
            (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
            (FsFlags::ST_NOSUID | FsFlags::ST_NODEV, MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
            (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
            (FsFlags::ST_NOATIME | FsFlags::ST_NODIRATIME, MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME),
            (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
        ];
        for (have, kept) in table {
            assert_eq!(carried(have), kept, "{have:?}");
        }
    }

    /// CSIDriver says `seLinuxMount: true`: the kubelet gives the label as a mount option, with a comma in it.
    #[test]
    fn an_selinux_context_is_passed_on_whole() {
        let context = "context=\"system_u:object_r:container_file_t:s0:c0,c1\"".to_owned();
        let (_, text) = options(&request(&["nosuid".to_owned(), context.clone()]), false).unwrap();
        assert_eq!(text, format!("nouuid,{context}"));
    }

    #[test]
    fn a_read_only_device_is_mounted_without_replaying_the_log() {
        let (flags, text) = options(&request(&[]), true).unwrap();
        assert_eq!(text, "nouuid,norecovery");
        assert!(flags.contains(MsFlags::MS_RDONLY));
    }
}
