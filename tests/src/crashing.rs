//! The real kernel, until a chosen fsync: right after it the disk is lost as a power failure would lose it, and every
//! later call fails.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use stillpoint::domain::blocks::ExtentPage;
use stillpoint::domain::{Bytes, Filesystem};
use stillpoint::host::blocks::{BlockAccess, BlockFile};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{
    BlockGroups, Blocks, Check, DirectoryLock, FileKind, Files, Freezing, Host, HostError, Images,
    LoopDevice, Loops, Meta, MountHandle, MountRequest, Mounted, Mounts, Openers, Result, Space, Subvolumes,
    ThrottleHandle, Throttling, Usage,
};

/// Takes the disk away.
type Crash = Box<dyn Fn() + Send + Sync>;

/// See the module.
pub struct CrashingHost {
    syncs: AtomicU64,
    last: u64,
    crash: Crash,
    dead: AtomicBool,
}

impl CrashingHost {
    /// Crashes right after the fsync of this number, counted from 1.
    pub fn after_sync(last: u64, crash: impl Fn() + Send + Sync + 'static) -> Self {
        Self { syncs: AtomicU64::new(0), last, crash: Box::new(crash), dead: AtomicBool::new(false) }
    }

    /// Whether it has come to that.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn alive(&self, operation: &'static str) -> Result<()> {
        if self.is_dead() {
            return Err(HostError::new(
                operation,
                "the crashed host",
                io::Error::from_raw_os_error(nix::libc::EIO),
            ));
        }
        Ok(())
    }

    fn synced<T>(&self, done: Result<T>) -> Result<T> {
        if self.syncs.fetch_add(1, Ordering::SeqCst) + 1 == self.last {
            (self.crash)();
            self.dead.store(true, Ordering::SeqCst);
        }
        done
    }
}

/// Calls that change nothing which has to be durable at once, and calls after which it is.
macro_rules! through {
    ($($how:ident fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $result:ty;)*) => {
        $(fn $name(&self $(, $arg: $type)*) -> Result<$result> {
            self.alive(stringify!($name))?;
            through!(@$how self, LinuxHost.$name($($arg),*))
        })*
    };
    (@plain $self:ident, $call:expr) => { $call };
    (@sync $self:ident, $call:expr) => {{ let done = $call; $self.synced(done) }};
}

impl Host for CrashingHost {
    fn monotonic_us(&self) -> u64 {
        LinuxHost.monotonic_us()
    }
}

impl Files for CrashingHost {
    through! {
        plain fn stat(&self, path: &Path) -> Option<Meta>;
        plain fn read(&self, path: &Path) -> Vec<u8>;
        sync fn write_synced(&self, path: &Path, content: &[u8]) -> ();
        plain fn make_directory(&self, path: &Path) -> ();
        plain fn list(&self, path: &Path) -> Vec<(String, FileKind)>;
        plain fn rename(&self, from: &Path, to: &Path) -> ();
        sync fn sync_directory(&self, path: &Path) -> ();
        plain fn remove_file(&self, path: &Path) -> ();
        plain fn remove_directory(&self, path: &Path) -> ();
        plain fn resolve(&self, path: &Path) -> Option<PathBuf>;
        plain fn lock_directory(&self, path: &Path) -> Option<Box<dyn DirectoryLock>>;
    }
}

impl Images for CrashingHost {
    through! {
        plain fn create_image(&self, path: &Path, size: Bytes) -> ();
        sync fn grow_image(&self, path: &Path, size: Bytes) -> ();
        plain fn reflink(&self, from: &Path, to: &Path) -> ();
        plain fn extents(&self, path: &Path) -> u64;
        plain fn make_filesystem(&self, image: &Path, filesystem: Filesystem) -> ();
        plain fn check_filesystem(&self, device: &Path, filesystem: Filesystem) -> Check;
        plain fn space(&self, path: &Path) -> Space;
        sync fn sync_filesystem(&self, path: &Path) -> ();
    }
}

impl Blocks for CrashingHost {
    through! {
        plain fn map(&self, image: &Path, from: u64, limit: usize) -> ExtentPage;
        plain fn open_blocks(&self, image: &Path, access: BlockAccess) -> Box<dyn BlockFile>;
    }
}

impl Subvolumes for CrashingHost {
    through! {
        plain fn create_subvolume(&self, path: &Path) -> ();
        plain fn snapshot_subvolume(&self, from: &Path, to: &Path, read_only: bool) -> ();
        plain fn delete_subvolume(&self, path: &Path) -> ();
        plain fn dying_subvolumes(&self, path: &Path) -> usize;
        sync fn hasten_cleaning(&self, path: &Path) -> ();
        plain fn block_groups(&self, path: &Path) -> BlockGroups;
        plain fn compact_data(&self, path: &Path, usage: u8) -> bool;
        plain fn stop_compacting(&self, path: &Path) -> ();
    }
}

impl Loops for CrashingHost {
    through! {
        plain fn attach(&self, image: &Path, read_only: bool) -> LoopDevice;
        plain fn attached(&self, image: &Path) -> Vec<LoopDevice>;
        plain fn detach(&self, device: &Path) -> ();
        plain fn refresh_size(&self, device: &Path) -> ();
        plain fn writes(&self, device: &Path) -> u64;
        plain fn count_writes(&self, device: &Path) -> ();
    }
}

impl Mounts for CrashingHost {
    through! {
        plain fn mounts(&self) -> Vec<Mounted>;
        plain fn mount(&self, request: &MountRequest<'_>) -> ();
        plain fn bind(&self, source: &Path, target: &Path, read_only: bool) -> ();
        plain fn unmount(&self, target: &Path) -> ();
        plain fn usage(&self, target: &Path) -> Usage;
        plain fn grow_filesystem(&self, target: &Path, device: &Path, filesystem: Filesystem) -> ();
        plain fn grow_unmounted(&self, device: &Path, filesystem: Filesystem) -> ();
        plain fn filesystem_size(&self, target: &Path, device: &Path, filesystem: Filesystem) -> Bytes;
        plain fn recorded_errors(&self, device: &Path, filesystem: Filesystem) -> u64;
        plain fn make_file(&self, path: &Path) -> ();
    }

    fn grows_mounted(&self, filesystem: Filesystem) -> bool {
        LinuxHost.grows_mounted(filesystem)
    }
}

impl Freezing for CrashingHost {
    through! {
        plain fn open_mount(&self, target: &Path) -> Box<dyn MountHandle>;
    }

    fn is_latency_sensitive(&self) -> bool {
        LinuxHost.is_latency_sensitive()
    }
}

impl Throttling for CrashingHost {
    through! {
        plain fn openers(&self, devices: &BTreeSet<u64>) -> Openers;
        plain fn open_throttle(
            &self,
            device: &LoopDevice,
            cgroups: &BTreeSet<PathBuf>
        ) -> Box<dyn ThrottleHandle>;
        plain fn lift_leftovers(&self, devices: &BTreeSet<u64>) -> usize;
    }
}
