//! The kernel behind one trait, so that everything above can be tested with a host that fails, hangs or dies at
//! the n-th call. [`linux`] is the real one, [`fake`] a model in memory with a fault plan.
//!
//! All calls block; async code runs them on blocking threads. None of them retries, logs or decides: errors are
//! `std::io::Error` with the kernel's errno, wrapped by [`HostError`] with the operation and the object.

pub mod blocks;
pub mod fake;
pub mod linux;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

pub use blocks::Blocks;

use crate::domain::{Bytes, Filesystem};

/// A failed kernel call: operation, object, errno.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {source}")]
pub struct HostError {
    /// For example `FIFREEZE`.
    pub operation: &'static str,
    /// For example the path.
    pub object: String,
    /// What the kernel said; `raw_os_error` holds the errno.
    pub source: std::io::Error,
}

/// Result of a host call.
pub type Result<T> = std::result::Result<T, HostError>;

impl HostError {
    /// An error of `operation` on `object`.
    pub fn new(
        operation: &'static str,
        object: impl fmt::Display,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self { operation, object: object.to_string(), source: source.into() }
    }

    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Everything that Stillpoint asks of the kernel.
pub trait Host:
    Files + Images + Blocks + Subvolumes + Loops + Mounts + Freezing + Throttling + Send + Sync + 'static
{
    /// Microseconds on the monotonic clock (`CLOCK_BOOTTIME` is not wanted: a suspended machine holds nothing).
    fn monotonic_us(&self) -> u64;
}

/// Kind of a directory entry or path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory (also a subvolume).
    Directory,
    /// Block device node.
    Block,
    /// Anything else.
    Other,
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Kind of object.
    pub kind: FileKind,
    /// `st_dev`: device of the filesystem that the object is on.
    pub device: u64,
    /// `st_rdev`: for a device node, the device it stands for.
    pub stands_for: u64,
    /// Inode number.
    pub inode: u64,
    /// Length.
    pub size: Bytes,
    /// Bytes that are really allocated.
    pub allocated: Bytes,
}

/// Plain files and directories, each call one step that a crash can fall before or after.
pub trait Files {
    /// `stat`, or `None` when there is nothing (also when a parent is missing).
    fn stat(&self, path: &Path) -> Result<Option<Meta>>;
    /// Whole content; refuses files over 16 MiB (a record never is).
    fn read(&self, path: &Path) -> Result<Vec<u8>>;
    /// Creates or truncates, writes and fsyncs the file itself; not its directory.
    fn write_synced(&self, path: &Path, content: &[u8]) -> Result<()>;
    /// Makes one directory, mode 0750; an existing directory is fine.
    fn make_directory(&self, path: &Path) -> Result<()>;
    /// Names in a directory, sorted. A missing directory is an error.
    fn list(&self, path: &Path) -> Result<Vec<(String, FileKind)>>;
    /// Atomic rename within a filesystem, replacing a file.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// fsync of a directory.
    fn sync_directory(&self, path: &Path) -> Result<()>;
    /// Removes a file; a missing one is fine.
    fn remove_file(&self, path: &Path) -> Result<()>;
    /// Removes an empty directory; a missing one is fine.
    fn remove_directory(&self, path: &Path) -> Result<()>;
    /// The path with all symbolic links followed; `None` when there is nothing at it.
    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>>;
    /// Locks a directory against other processes until the lock is dropped or this process is dead; `None` while
    /// another one has it.
    fn lock_directory(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>>;
}

/// A lock that lives as long as this.
pub trait DirectoryLock: fmt::Debug + Send + Sync {}

/// Space of a pool's filesystem as it can be relied on (not what `statfs` says on btrfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of the filesystem.
    pub total: Bytes,
    /// What new data can surely use.
    pub available: Bytes,
}

/// How a check of a filesystem ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Nothing was wrong with it.
    Sound,
    /// Something was, and was repaired.
    Repaired,
    /// Not checked: it is mounted, perhaps where this process does not see it.
    InUse,
    /// It has errors that are not repaired without a person; what the program said.
    Damaged(String),
}

/// Volume images: sparse files.
pub trait Images {
    /// Creates a new sparse file of this length; an existing file is an error (EEXIST).
    fn create_image(&self, path: &Path, size: Bytes) -> Result<()>;
    /// Grows a file to this length; fsyncs it.
    fn grow_image(&self, path: &Path, size: Bytes) -> Result<()>;
    /// `FICLONE`: new file `to` shares all blocks of `from`. Costs about 15 µs per extent on XFS and is not
    /// crash-atomic: publish by rename.
    fn reflink(&self, from: &Path, to: &Path) -> Result<()>;
    /// Number of extents (`FIEMAP` with a zero-sized buffer).
    fn extents(&self, path: &Path) -> Result<u64>;
    /// `mkfs` into an image file that is not attached, without discarding.
    fn make_filesystem(&self, image: &Path, filesystem: Filesystem) -> Result<()>;
    /// Checks the filesystem on a device before it is mounted, and repairs what needs no decision (`e2fsck -p`). Cheap
    /// when the filesystem was unmounted cleanly. XFS recovers from its log when it is mounted: nothing is done here.
    fn check_filesystem(&self, device: &Path, filesystem: Filesystem) -> Result<Check>;
    /// What the pool's filesystem at `path` has (`BTRFS_IOC_SPACE_INFO` on btrfs, `statfs` elsewhere).
    fn space(&self, path: &Path) -> Result<Space>;
    /// `syncfs` (on btrfs also commits) of the filesystem at `path`.
    fn sync_filesystem(&self, path: &Path) -> Result<()>;
}

/// btrfs subvolumes.
pub trait Subvolumes {
    /// New empty subvolume with `chattr +C` on its root, so that images in it are neither checksummed nor CoW.
    fn create_subvolume(&self, path: &Path) -> Result<()>;
    /// Snapshot of a subvolume: crash-atomic, milliseconds at any size.
    fn snapshot_subvolume(&self, from: &Path, to: &Path, read_only: bool) -> Result<()>;
    /// Deletes a subvolume (read-only ones too); returns at once, the space comes back later.
    fn delete_subvolume(&self, path: &Path) -> Result<()>;
    /// How many deleted subvolumes of the filesystem at `path` still have their space; counts to a few thousand.
    fn dying_subvolumes(&self, path: &Path) -> Result<usize>;
    /// Wakes the kernel's cleaner, which would else look after deleted subvolumes every 30 s; commits.
    fn hasten_cleaning(&self, path: &Path) -> Result<()>;
    /// What belongs to which kind of block group.
    fn block_groups(&self, path: &Path) -> Result<BlockGroups>;
    /// Moves the data of one block group that is at most so full (percent) into others, and gives its space back; whether
    /// there was one. Takes seconds; ends early, without an error, when it is stopped or nothing else has room.
    fn compact_data(&self, path: &Path, usage: u8) -> Result<bool>;
    /// Ends [`Subvolumes::compact_data`], and waits until it has ended; none is fine.
    fn stop_compacting(&self, path: &Path) -> Result<()>;
}

/// Space of a btrfs by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGroups {
    /// Size of all devices.
    pub total: Bytes,
    /// Belongs to no block group: data or metadata may have it.
    pub unallocated: Bytes,
    /// Free in block groups of data: nothing but data may have it.
    pub free_in_data: Bytes,
}

/// A loop device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// For example `/dev/loop7`.
    pub path: PathBuf,
    /// `st_rdev` of it (= `st_dev` of a filesystem mounted from it).
    pub device: u64,
    /// Size of the device.
    pub size: Bytes,
    /// Attached read-only.
    pub read_only: bool,
}

/// Loop devices over images.
pub trait Loops {
    /// Attaches an image with direct I/O (verified) and AUTOCLEAR off: a device lives from stage to unstage,
    /// also over an agent's restart. Fails when the filesystem below cannot do direct I/O.
    fn attach(&self, image: &Path, read_only: bool) -> Result<LoopDevice>;
    /// All loop devices whose backing file is this image (by device and inode, not by name).
    fn attached(&self, image: &Path) -> Result<Vec<LoopDevice>>;
    /// Detaches; a device that is gone already is fine.
    fn detach(&self, device: &Path) -> Result<()>;
    /// Makes the device see the image's new length.
    fn refresh_size(&self, device: &Path) -> Result<()>;
    /// Sectors written and discarded so far, and what is in flight, from `/sys/block/loopN`: the lapse detector of a
    /// held raw device. Only equality of two readings means something. ENODATA: the kernel does not count
    /// (`queue/iostats` is not 1), so a reading would prove nothing.
    fn writes(&self, device: &Path) -> Result<u64>;
    /// Makes the kernel count what [`Loops::writes`] reads: sets `queue/iostats` of our own device and reads it back.
    /// ENODATA: it cannot be set.
    fn count_writes(&self, device: &Path) -> Result<()>;
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Device of the filesystem (`major:minor` as `st_dev`).
    pub device: u64,
    /// Path within that filesystem that is mounted (`/` for all of it).
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Filesystem type.
    pub kind: String,
    /// Mounted read-only (per mount or per filesystem).
    pub read_only: bool,
    /// Mounted for writing, but the filesystem has become read-only: it does that after an error. Newer kernels leave
    /// the mount `rw` and show `emergency_ro`.
    pub lost_writing: bool,
    /// The filesystem says that it has shut down (ext4 shows `shutdown`; XFS shows nothing and answers EIO).
    pub shut_down: bool,
}

/// How to mount a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest<'a> {
    /// Block device.
    pub device: &'a Path,
    /// Existing directory.
    pub target: &'a Path,
    /// Its filesystem; XFS is always mounted `nouuid` (restored copies share a UUID), all `nodev` (a device node in a
    /// volume must not lead to another volume's device) and, unless asked otherwise, `noatime`.
    pub filesystem: Filesystem,
    /// Read-only.
    pub read_only: bool,
    /// Further mount options from the request (`ro`, `nosuid`, `discard`, …), as
    /// [`crate::domain::mount_options`] accepts them.
    pub options: &'a [String],
}

/// Figures of a mounted filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Total.
    pub total: Bytes,
    /// Available to unprivileged users.
    pub available: Bytes,
    /// Total inodes.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// Mounts.
pub trait Mounts {
    /// All mounts that this process sees.
    fn mounts(&self) -> Result<Vec<Mounted>>;
    /// Mounts a filesystem.
    fn mount(&self, request: &MountRequest<'_>) -> Result<()>;
    /// Bind mount of a directory or file (device node), then read-only remount where asked.
    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<()>;
    /// Unmounts the topmost mount at `target`; not mounted is fine.
    fn unmount(&self, target: &Path) -> Result<()>;
    /// `statfs` of a mounted filesystem.
    fn usage(&self, target: &Path) -> Result<Usage>;
    /// Grows a mounted filesystem to its device (`xfs_growfs`, `resize2fs`).
    fn grow_filesystem(&self, target: &Path, device: &Path, filesystem: Filesystem) -> Result<()>;
    /// Whether this process may grow this filesystem while it is mounted: ext4 wants CAP_SYS_RESOURCE for that.
    fn grows_mounted(&self, filesystem: Filesystem) -> bool;
    /// Grows a filesystem that is not mounted to its device; nothing where it has that size. XFS cannot: ENOTSUP.
    fn grow_unmounted(&self, device: &Path, filesystem: Filesystem) -> Result<()>;
    /// How much of its device a mounted filesystem covers.
    fn filesystem_size(&self, target: &Path, device: &Path, filesystem: Filesystem) -> Result<Bytes>;
    /// How many errors a mounted filesystem has recorded in itself since its last full check. Only ext4 counts them.
    fn recorded_errors(&self, device: &Path, filesystem: Filesystem) -> Result<u64>;
    /// Creates an empty regular file (target of a block device's bind mount); existing is fine.
    fn make_file(&self, path: &Path) -> Result<()>;
}

/// An open mount: the file descriptor pins the filesystem, so that a mount that vanishes between look-up and
/// ioctl cannot make us freeze something else.
pub trait MountHandle: Send + Sync {
    /// `st_dev` of the open file.
    fn device(&self) -> u64;
    /// The descriptor, to be passed to the guard; `None` on a fake host.
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>>;
    /// `syncfs`.
    fn sync(&self) -> Result<()>;
    /// `FIFREEZE`. Cannot be interrupted. EBUSY: somebody else holds it; that one is never thawed by us.
    fn freeze(&self) -> Result<()>;
    /// `FITHAW`. EINVAL: it was not frozen any more, so the hold had lapsed.
    fn thaw(&self) -> Result<()>;
}

/// Holding filesystems still.
pub trait Freezing {
    /// Opens the root of a mounted filesystem.
    fn open_mount(&self, target: &Path) -> Result<Box<dyn MountHandle>>;
    /// Whether expediting grace periods would hurt: a real-time kernel or isolated CPUs.
    fn is_latency_sensitive(&self) -> bool;
}

/// Cgroups of the processes that have a device open, by device.
pub type Openers = BTreeMap<u64, BTreeSet<PathBuf>>;

/// Holding raw devices still: a write limit of one byte per second on each cgroup that writes to one. A limit has no
/// owner, as a freeze has none: who sets it must see to it that it is lifted.
pub trait Throttling {
    /// In which cgroups there are processes that have these devices (`st_rdev`) open. One walk over all processes
    /// that this one sees. A device that nobody has open is not listed. ENOTSUP: this machine cannot throttle.
    fn openers(&self, devices: &BTreeSet<u64>) -> Result<Openers>;
    /// Opens the limits of these cgroups for a device. The first use of a limit on a device takes 25 ms and is made
    /// here, without holding anything. ENOTSUP: a cgroup has no limits of its own.
    fn open_throttle(
        &self,
        device: &LoopDevice,
        cgroups: &BTreeSet<PathBuf>,
    ) -> Result<Box<dyn ThrottleHandle>>;
    /// Lifts what an agent that died has left on these devices, in all cgroups; says on how many of them.
    fn lift_leftovers(&self, devices: &BTreeSet<u64>) -> Result<usize>;
}

/// The limits of one device in the cgroups of its users, as open files.
pub trait ThrottleHandle: Send + Sync {
    /// The device.
    fn device(&self) -> u64;
    /// The limits as the guard takes them; `None` on a fake host.
    fn limits(&self) -> Option<stillpoint_guard::client::Throttle<'_>>;
    /// Writes out what is dirty in the device's page cache, so that the kernel has little reason to do it later.
    fn sync(&self) -> Result<()>;
    /// Sets all limits, then waits until writes that had got through have ended. After an error, [`Self::lift`].
    fn hold(&self) -> Result<()>;
    /// Puts the limits back to what they were.
    fn lift(&self) -> Result<()>;
}
