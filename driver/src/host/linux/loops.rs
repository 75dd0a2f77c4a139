//! Loop devices.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::files::is_absent;
use super::ioctls::{self, LO_DIRECT_IO, LO_READ_ONLY, LoopConfig, LoopInfo};
use super::mounts::is_mounted;
use super::{Access, LinuxHost, failed, open_file};
use crate::domain::Bytes;
use crate::host::{HostError, LoopDevice, Loops, Result};

/// How long a detach waits for others to close the device, such as udev that looks at every new one.
const DETACH_WAIT: Duration = Duration::from_millis(500);
const DETACH_POLL: Duration = Duration::from_millis(1);

/// Others take the free number between asking for it and using it; as many times as that may happen.
const TRIES: usize = 64;

impl Loops for LinuxHost {
    fn attach(&self, image: &Path, read_only: bool) -> Result<LoopDevice> {
        let access = if read_only { Access::Read } else { Access::Write };
        let backing = open_file("LOOP_CONFIGURE", image, access)?;
        for _ in 0..TRIES {
            let (path, device) = open_free(access)?;
            match configure(&device, &backing, image, read_only) {
                Ok(()) => return verified(path, &device, image),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(failed("LOOP_CONFIGURE", image)(errno)),
            }
        }
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        Err(HostError::new("LOOP_CONFIGURE", image.display(), busy))
    }

    fn attached(&self, image: &Path) -> Result<Vec<LoopDevice>> {
        let wanted = fs::metadata(image).map_err(failed("stat", image))?;
        let sys = Path::new("/sys/block");
        let mut found = Vec::new();
        for entry in fs::read_dir(sys).map_err(failed("list", sys))?.flatten() {
            // Opening a device that is just being detached by its owner delays that, so others' are not opened.
            if !backing_file(&entry.path()).is_some_and(|backing| may_be(&backing, image)) {
                continue;
            }
            let path = Path::new("/dev").join(entry.file_name());
            if let Some((info, device)) = describe(&path)?
                && (info.device, info.inode) == (wanted.dev(), wanted.ino())
            {
                found.push(device);
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The kernel detaches at the last close. Where somebody else looks at the device just now, this waits for a
    /// moment; where it is mounted, it goes at the unmount. A frozen filesystem on it stays frozen and leaked: thaw
    /// before this.
    fn detach(&self, device: &Path) -> Result<()> {
        let name = device.file_name().unwrap_or_default();
        let sys = Path::new("/sys/block").join(name);
        let backing = backing_file(&sys);
        let Some(number) = clear(device)? else { return Ok(()) };
        let mounted = is_mounted(device, number)?;
        let start = Instant::now();
        while !mounted && backing.is_some() && backing_file(&sys) == backing && start.elapsed() < DETACH_WAIT
        {
            std::thread::sleep(DETACH_POLL);
        }
        Ok(())
    }

    fn refresh_size(&self, device: &Path) -> Result<()> {
        let file = open_file("LOOP_SET_CAPACITY", device, Access::Read)?;
        // SAFETY: the ioctl has no argument.
        unsafe { ioctls::loop_set_capacity(file.as_raw_fd()) }
            .map(drop)
            .map_err(failed("LOOP_SET_CAPACITY", device))
    }

    /// Sectors in the upper 48 bits, writes in flight in the lower 16: only equality of two readings means
    /// something. A write that was in flight at the first reading and done at the second shows.
    fn writes(&self, device: &Path) -> Result<u64> {
        check_counting(device)?;
        let stat = directory(device).join("stat");
        let done = field(&stat, 6)?.wrapping_add(field(&stat, 13)?);
        Ok((done << 16) | writes_in_flight(device)?.min(0xffff))
    }

    fn count_writes(&self, device: &Path) -> Result<()> {
        let switch = directory(device).join(COUNTING);
        // Where /sys cannot be written it may be on all the same, as it is by default.
        let set = fs::write(&switch, "1");
        check_counting(device).map_err(|error| match set {
            Ok(()) => error,
            Err(refused) => failed("write", &switch)(refused),
        })
    }
}

/// The kernel's switch for counting the requests of a device. People turn it off to save a little time per request.
const COUNTING: &str = "queue/iostats";

/// Without it the counts stand still, whatever is written.
fn check_counting(device: &Path) -> Result<()> {
    let switch = directory(device).join(COUNTING);
    if field(&switch, 0)? == 1 {
        return Ok(());
    }
    Err(HostError::new("read", switch.display(), Errno::ENODATA))
}

/// Writes and discards that the device has been given and has not done yet.
pub(super) fn writes_in_flight(device: &Path) -> Result<u64> {
    check_counting(device)?;
    field(&directory(device).join("inflight"), 1)
}

fn directory(device: &Path) -> PathBuf {
    Path::new("/sys/block").join(device.file_name().unwrap_or_default())
}

/// `LOOP_CLR_FD`; the answer is the device's number, `None` when there was nothing to detach.
fn clear(device: &Path) -> Result<Option<u64>> {
    let file = match open_file("LOOP_CLR_FD", device, Access::Read) {
        Err(error) if is_absent(&error.source) => return Ok(None),
        other => other?,
    };
    let number = file.metadata().map_err(failed("stat", device))?.rdev();
    // SAFETY: the ioctl has no argument.
    match unsafe { ioctls::loop_clr_fd(file.as_raw_fd()) } {
        Ok(_) => Ok(Some(number)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(failed("LOOP_CLR_FD", device)(errno)),
    }
}

/// The file behind a bound loop device, as the kernel names it now; `None` for every other device.
fn backing_file(sys: &Path) -> Option<PathBuf> {
    let mut name = fs::read(sys.join("loop/backing_file")).ok()?;
    name.truncate(name.trim_ascii_end().len());
    Some(PathBuf::from(OsString::from_vec(name)))
}

/// Whether a backing file can be this image. Only the last two names are compared, or the last one where the other has no
/// more: where a file lies looks different from another mount namespace, and from one that is gone only the part within
/// its mount is left (`/pool.img`). What is the same is then told by inode.
fn may_be(backing: &Path, image: &Path) -> bool {
    let names = |path: &Path| {
        let names = path.components().rev().filter(|name| matches!(name, Component::Normal(_)));
        names.take(2).map(|name| name.as_os_str().to_owned()).collect::<Vec<_>>()
    };
    let (backing, image) = (names(backing), names(image));
    let known = backing.len().min(image.len());
    known > 0 && backing[..known] == image[..known]
}

/// Takes a free device, opened.
fn open_free(access: Access) -> Result<(PathBuf, File)> {
    let control = open_file("LOOP_CTL_GET_FREE", Path::new("/dev/loop-control"), Access::Write)?;
    // SAFETY: the ioctl has no argument.
    let number = unsafe { ioctls::loop_ctl_get_free(control.as_raw_fd()) }
        .map_err(failed("LOOP_CTL_GET_FREE", Path::new("/dev/loop-control")))?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let file = open_file("LOOP_CONFIGURE", &path, access)?;
    Ok((path, file))
}

fn configure(device: &File, backing: &File, image: &Path, read_only: bool) -> std::result::Result<(), Errno> {
    let mut info = LoopInfo::empty();
    info.flags = LO_DIRECT_IO | if read_only { LO_READ_ONLY } else { 0 };
    // Shown by `losetup`, else without meaning; the end of a long path says more than its start.
    let name = image.as_os_str().as_bytes();
    let shown = &name[name.len().saturating_sub(63)..];
    info.file_name[..shown.len()].copy_from_slice(shown);
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let config = LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the kernel reads a structure of exactly this size; `backing` is open during the call, and the
    // kernel takes its own reference.
    unsafe { ioctls::loop_configure(device.as_raw_fd(), &raw const config) }.map(drop)
}

/// The kernel takes direct I/O as a wish, so it is read back.
fn verified(path: PathBuf, device: &File, image: &Path) -> Result<LoopDevice> {
    let (info, described) = match describe_open(&path, device) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(failed("LOOP_GET_STATUS64", &path)(Errno::ENXIO)),
        Err(errno) => return Err(failed("LOOP_GET_STATUS64", &path)(errno)),
    };
    if info.flags & LO_DIRECT_IO != 0 {
        return Ok(described);
    }
    // SAFETY: the ioctl has no argument. Nobody else can use the device yet; an error leaves it to be seen
    // by `losetup`, and the error below is the one to tell.
    let _ = unsafe { ioctls::loop_clr_fd(device.as_raw_fd()) };
    let text = "the filesystem below refuses direct I/O, without which a write would be acknowledged before it \
                is on disk; put the pool on a disk, or on a file of a filesystem that has O_DIRECT";
    let error = io::Error::new(io::ErrorKind::Unsupported, text);
    Err(HostError::new("LOOP_CONFIGURE", image.display(), error))
}

/// A bound device, or `None` when it is free (or gone meanwhile).
fn describe(path: &Path) -> Result<Option<(LoopInfo, LoopDevice)>> {
    let file = match open_file("LOOP_GET_STATUS64", path, Access::Read) {
        Err(error) if is_absent(&error.source) || error.errno() == Some(libc::ENXIO) => return Ok(None),
        other => other?,
    };
    describe_open(path, &file).map_err(failed("LOOP_GET_STATUS64", path))
}

fn describe_open(path: &Path, file: &File) -> std::result::Result<Option<(LoopInfo, LoopDevice)>, Errno> {
    let mut info = LoopInfo::empty();
    // SAFETY: the kernel fills a structure of exactly this size.
    match unsafe { ioctls::loop_get_status64(file.as_raw_fd(), &raw mut info) } {
        Ok(_) => {}
        Err(Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let mut size: u64 = 0;
    // SAFETY: the kernel writes one 64-bit number.
    unsafe { ioctls::blkgetsize64(file.as_raw_fd(), &raw mut size) }?;
    let device = file.metadata().map_err(|_| Errno::EIO)?.rdev();
    let read_only = info.flags & LO_READ_ONLY != 0;
    Ok(Some((info, LoopDevice { path: path.to_owned(), device, size: Bytes(size), read_only })))
}

/// One number of a line of numbers.
fn field(path: &Path, index: usize) -> Result<u64> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    text.split_ascii_whitespace().nth(index).and_then(|word| word.parse().ok()).ok_or_else(|| {
        let error = io::Error::new(io::ErrorKind::InvalidData, format!("no number at {index} in {text:?}"));
        HostError::new("read", path.display(), error)
    })
}
