//! One host inside this process, on the real kernel: a btrfs pool in a sparse file, a guard process, and mounted
//! volumes. For tests of one part of the driver; [`super::stack`] starts the product's own processes instead.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint::agent::locks::VolumeLocks;
use stillpoint::agent::pool::{Overcommit, Pool};
use stillpoint::agent::pools::Pools;
use stillpoint::agent::round::RoundContext;
use stillpoint::agent::round::crew::Threads;
use stillpoint::agent::round::watchdog::GuardProcess;
use stillpoint::backend::BackendKind;
use stillpoint::domain::{Bytes, Filesystem, Incarnation, NewVolume, VolumeId};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Loops, MountRequest, Mounts};

use super::RunDir;
use super::binaries::binary;

/// A safety deadline for everything that must happen at all.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough to see that a write is blocked.
pub const BLINK: Duration = Duration::from_millis(300);
/// Size of the volumes; XFS wants 300 MiB.
pub const VOLUME: Bytes = Bytes::mib(400);

/// Says why a test cannot run here, if it cannot: printed, and counted by `make test`.
pub fn needs_root(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    super::skip(test, "needs root to mount and freeze");
    false
}

/// One host. Dropping it thaws and ends what it started; the [`RunDir`] takes apart the rest.
pub struct Bench {
    /// The guard process.
    pub guard: Child,
    /// What a round needs.
    pub context: Arc<RoundContext>,
    /// The pool.
    pub pool: Arc<Pool>,
    /// Where volumes are mounted, in the order in which they were added.
    pub mounts: Vec<PathBuf>,
    /// The raw devices, in the order in which they were added.
    pub devices: Vec<PathBuf>,
    /// The ids of all volumes, in the order in which they were added.
    pub volumes: Vec<VolumeId>,
    directory: PathBuf,
}

impl Bench {
    /// A host below `run`, with volumes `<name>-0`, `<name>-1`, …
    pub fn new(run: &RunDir, name: &str, volumes: usize) -> Result<Self> {
        let directory = run.directory(name)?;
        let pool_dir = run.directory(&format!("{name}/pool"))?;
        let disk = directory.join("pool.img");
        File::create(&disk)?.set_len(6 << 30)?;
        command("mkfs.btrfs", &["-q".as_ref(), "-K".as_ref(), disk.as_os_str()])?;
        command("mount", &["-o".as_ref(), "loop,noatime".as_ref(), disk.as_os_str(), pool_dir.as_os_str()])?;
        let host = Arc::new(LinuxHost);
        Pool::make(&*host, BackendKind::Btrfs, &pool_dir)?;
        let pool = Arc::new(Pool::open(host.clone(), &pool_dir)?.0);
        // A small pool with volumes that are hardly written.
        pool.set_overcommit(Overcommit::times(20));
        let socket = directory.join("guard.sock");
        let guard = spawn_guard(&socket)?;
        let context = RoundContext {
            host,
            pools: Pools::of([Arc::clone(&pool)]),
            locks: VolumeLocks::default(),
            watchdog: Arc::new(GuardProcess { socket: socket.clone() }),
            expedite: None,
            never_hold: vec![],
            crew: Arc::new(Threads),
        };
        let context = Arc::new(context);
        let mut bench =
            Self { guard, context, pool, mounts: vec![], devices: vec![], volumes: vec![], directory };
        until("the guard's socket", || socket.exists())?;
        for index in 0..volumes {
            bench.add_volume(&format!("{name}-{index}"))?;
        }
        Ok(bench)
    }

    /// Starts another guard in the place of one that has ended; returns when it serves.
    pub fn start_guard(&mut self) -> Result<()> {
        let socket = self.directory.join("guard.sock");
        std::fs::remove_file(&socket)?;
        self.guard = spawn_guard(&socket)?;
        until("the guard's socket", || socket.exists())
    }

    /// Makes and mounts one more volume.
    pub fn add_volume(&mut self, name: &str) -> Result<()> {
        let id = VolumeId::new(self.pool.id().clone(), name, Incarnation(1));
        self.pool.create_volume(&NewVolume {
            id: id.clone(),
            name: name.into(),
            capacity: VOLUME,
            filesystem: Some(Filesystem::Xfs),
            source: None,
        })?;
        let device = LinuxHost.attach(&self.pool.image(&id)?, false)?;
        let target = self.directory.join(name);
        std::fs::create_dir(&target)?;
        LinuxHost.mount(&MountRequest {
            device: &device.path,
            target: &target,
            filesystem: Filesystem::Xfs,
            read_only: false,
            options: &[],
        })?;
        LinuxHost.detach(&device.path)?;
        self.mounts.push(target);
        self.volumes.push(id);
        Ok(())
    }

    /// Makes and attaches one more raw volume, as if it were published.
    pub fn add_raw(&mut self, name: &str) -> Result<()> {
        let id = VolumeId::new(self.pool.id().clone(), name, Incarnation(1));
        self.pool.create_volume(&NewVolume {
            id: id.clone(),
            name: name.into(),
            capacity: Bytes::mib(64),
            filesystem: None,
            source: None,
        })?;
        self.devices.push(LinuxHost.attach(&self.pool.image(&id)?, false)?.path);
        self.volumes.push(id);
        Ok(())
    }

    /// Whether every mounted volume can be written, from another process each.
    pub fn all_writable(&self) -> Result<bool> {
        self.mounts.iter().try_fold(true, |so_far, mount| Ok(so_far && writable(mount, PATIENCE)?))
    }

    /// What a void or abandoned round must leave: everything writable, no record, no snapshot, no lock.
    pub fn check_nothing_left(&self) -> Result<()> {
        ensure!(self.all_writable()?, "a volume is not writable");
        ensure!(self.pool.cuts().is_empty(), "a record is left: {:?}", self.pool.cuts());
        for volume in &self.volumes {
            let directory = self.pool.dir().join("snapshots").join(volume.to_string());
            let left: Vec<_> = std::fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| !name.starts_with('.'))
                .collect();
            ensure!(left.is_empty(), "snapshots are left: {left:?}");
            ensure!(self.context.locks.purpose(volume).is_none(), "a lock is left on {volume}");
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Thaw first: a writer that sleeps on a frozen filesystem cannot be ended.
        for mount in &self.mounts {
            let _ = Command::new("fsfreeze").arg("-u").arg(mount).stderr(Stdio::null()).status();
        }
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

fn spawn_guard(socket: &Path) -> Result<Child> {
    let mut guard = Command::new(binary("stillpoint-guard")?);
    guard.args([OsStr::new("--socket"), socket.as_os_str()]).stderr(Stdio::null());
    Ok(guard.spawn()?)
}

/// Writes from another process, which blocks while the filesystem is frozen.
pub fn writable(mount: &Path, limit: Duration) -> Result<bool> {
    let mut writer = Command::new("touch").arg(mount.join("written")).spawn()?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = writer.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// Runs a tool to its end.
pub fn command(program: &str, arguments: &[&OsStr]) -> Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Waits for something that must come.
pub fn until(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        ensure!(Instant::now() < end, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
