//! What rivals freeze and snapshot without Stillpoint, and the waiting between rounds, which is the same for all.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Freezing, Images, Subvolumes};
use stillpoint_tests::harness::bench::command;

use super::field::{Field, Group};

/// Before every measured pause, ours too. A freeze soon after another one of the same filesystem waits for fewer grace
/// periods (the kernel's `rcu_sync` goes back to its fast state only after some), which snapshots that are not in a loop
/// do not have either.
pub const REST: Duration = Duration::from_millis(250);
/// Longer than any round of a rival, short enough to wait for.
const DEAD_MAN_SECONDS: &str = "20";
const CLEANER_LIMIT: Duration = Duration::from_mins(2);
const CLEANER_LOOK: Duration = Duration::from_millis(10);

/// A subvolume with images, which is snapshotted as a whole.
#[derive(Debug, Clone)]
pub struct Source {
    /// The subvolume.
    pub subvolume: PathBuf,
    /// A directory for its snapshots alone: snapshots into the same one wait for each other.
    pub copies: PathBuf,
    /// The pool that both are in.
    pub pool: PathBuf,
}

/// Volumes that are frozen at once, and what is snapshotted meanwhile.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where the volumes are mounted.
    pub mounts: Vec<PathBuf>,
    /// What is snapshotted: one for each volume, or one for each node.
    pub sources: Vec<Source>,
}

impl Target {
    /// The volumes of a group as Stillpoint has them: a subvolume for each.
    pub fn of(field: &Field, group: Group) -> Result<Self> {
        let mut target = Self { mounts: Vec::new(), sources: Vec::new() };
        for volume in field.volumes(group) {
            let pool = field.pool(&volume.host)?.to_path_buf();
            let subvolume = pool.join("volumes").join(&volume.id);
            ensure!(subvolume.is_dir(), "{} is not where volumes are", subvolume.display());
            target.mounts.push(volume.path.clone());
            target.sources.push(Source::new(pool, subvolume, &volume.name)?);
        }
        Ok(target)
    }

    /// Writes out what is dirty while writers go on: the volumes first, then the pools.
    pub fn flush(&self) -> Result<()> {
        for mount in &self.mounts {
            LinuxHost.open_mount(mount)?.sync()?;
        }
        for pool in self.pools() {
            LinuxHost.sync_filesystem(&pool)?;
        }
        Ok(())
    }

    /// The pools that it is on.
    pub fn pools(&self) -> BTreeSet<PathBuf> {
        self.sources.iter().map(|source| source.pool.clone()).collect()
    }

    /// Deletes every snapshot that rivals have made.
    pub fn delete_copies(&self) -> Result<()> {
        for source in &self.sources {
            for copy in fs::read_dir(&source.copies)? {
                LinuxHost.delete_subvolume(&copy?.path())?;
            }
        }
        Ok(())
    }

    /// Removes the directories of the snapshots.
    pub fn close(&self) -> Result<()> {
        self.delete_copies()?;
        for source in &self.sources {
            fs::remove_dir(&source.copies)?;
        }
        Ok(())
    }
}

impl Source {
    /// With an empty directory for its snapshots.
    pub fn new(pool: PathBuf, subvolume: PathBuf, name: &str) -> Result<Self> {
        let copies = pool.join(format!(".bench-copies-{name}"));
        fs::create_dir_all(&copies).with_context(|| format!("cannot make {}", copies.display()))?;
        Ok(Self { subvolume, copies, pool })
    }
}

/// Waits until nothing that was deleted in these pools is still being cleaned: a snapshot beside the cleaner is slow.
pub fn wait_for_cleaner(pools: &BTreeSet<PathBuf>) -> Result<()> {
    let end = Instant::now() + CLEANER_LIMIT;
    for pool in pools {
        // A commit wakes the cleaner, which else sleeps for up to half a minute.
        LinuxHost.sync_filesystem(pool)?;
        while !deleted_subvolumes(pool)?.is_empty() {
            ensure!(Instant::now() < end, "the cleaner of {} takes too long", pool.display());
            std::thread::sleep(CLEANER_LOOK);
        }
    }
    Ok(())
}

fn deleted_subvolumes(pool: &Path) -> Result<String> {
    let output = Command::new("btrfs").args(["subvolume", "list", "-d"]).arg(pool).output()?;
    ensure!(output.status.success(), "btrfs subvolume list: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A process of its own that thaws after a while, unless it is ended before. Whoever freezes without the guard starts
/// it well before the first freeze, so that its start is in nobody's measurement.
#[derive(Debug)]
pub struct DeadMan(Child);

impl DeadMan {
    /// Starts it over these mounts.
    pub fn start(mounts: &[PathBuf]) -> Result<Self> {
        const SCRIPT: &str = r#"sleep "$0"; for mount; do fsfreeze -u "$mount"; done"#;
        let child = Command::new("sh")
            .args(["-c", SCRIPT, DEAD_MAN_SECONDS])
            .args(mounts)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the dead-man thaw")?;
        Ok(Self(child))
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        // Its `sleep` ends by itself a little later: it does nothing when its shell is gone.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a tool to its end.
pub fn run(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    command(program, args)
}
