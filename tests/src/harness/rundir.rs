//! One directory per run, and the sweep of what dead runs left behind.
//!
//! Whether a run is alive is told by a lock that the kernel drops with its process (`<run>.lock`, `flock`), not
//! by a pid that may have been given to somebody else. The lock file is made before the directory, and a
//! directory without one is not a run's and is left alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::binaries;
use super::leftovers::{self, Leftovers};
use super::process;

/// Everything that tests and the demo make outside of `target/` is below this directory.
pub const BASE: &str = "/var/tmp/stillpoint-tests";

const LOCK: &str = "lock";
/// Attempts to find a name that nobody else takes at the same moment.
const NAMES: u32 = 100;

/// A directory of our own. Dropping it releases everything below it (thaw, unmount, detach) and removes it; the
/// logs are kept in `target/logs/<label>`, because whoever does not [`close`](Self::close) it has failed.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    label: String,
    lock: Option<Flock<File>>,
}

impl RunDir {
    /// Sweeps dead runs, then makes `<BASE>/<label>-<pid>[-n]`.
    pub fn new(label: &str) -> Result<Self> {
        let base = Path::new(BASE);
        fs::create_dir_all(base).with_context(|| format!("cannot make {BASE}"))?;
        for swept in sweep(base)? {
            eprintln!("swept what a dead run left behind: {swept}");
        }
        for attempt in 0..NAMES {
            let name = format!("{label}-{}-{attempt}", std::process::id());
            if let Some(run) = Self::claim(base, label, &name)? {
                return Ok(run);
            }
        }
        bail!("no free name for a run in {BASE}; remove what is in there")
    }

    fn claim(base: &Path, label: &str, name: &str) -> Result<Option<Self>> {
        let path = base.join(name);
        let Some(lock) = try_lock(&lock_path(&path))? else { return Ok(None) };
        match fs::create_dir(&path) {
            Ok(()) => Ok(Some(Self { path, label: label.into(), lock: Some(lock) })),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory (and its parents) below this one.
    pub fn directory(&self, relative: &str) -> Result<PathBuf> {
        let path = self.path.join(relative);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Where logs go.
    pub fn logs(&self) -> Result<PathBuf> {
        self.directory("log")
    }

    /// Releases and removes everything now, and says what needed force. Processes must have ended.
    pub fn close(mut self) -> Leftovers {
        self.release()
    }

    fn keep_logs(&self) {
        let Ok(target) = binaries::target_directory() else { return };
        let kept = target.join("logs").join(&self.label);
        let Ok(logs) = fs::read_dir(self.path.join("log")) else { return };
        drop(fs::remove_dir_all(&kept));
        drop(fs::create_dir_all(&kept));
        for log in logs.flatten() {
            drop(fs::copy(log.path(), kept.join(log.file_name())));
        }
        eprintln!("logs are kept in {}", kept.display());
    }

    fn release(&mut self) -> Leftovers {
        if self.lock.is_none() {
            return Leftovers::default();
        }
        let left = leftovers::release(&self.path);
        remove(&self.path);
        self.lock = None;
        left
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.lock.is_some() {
            self.keep_logs();
        }
        let left = self.release();
        if !left.is_clean() {
            eprintln!("cleaning {}: {left}", self.path.display());
        }
    }
}

/// Removes everything that runs which are no longer alive left below `base`; their names.
pub fn sweep(base: &Path) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for entry in fs::read_dir(base).with_context(|| format!("cannot list {}", base.display()))? {
        let found = entry?.path();
        if found.extension() != Some(LOCK.as_ref()) {
            continue;
        }
        let path = found.with_extension("");
        let Some(lock) = try_lock(&found)? else { continue };
        // Whoever held the lock may have ended properly between our listing and our lock.
        if path.exists() {
            // Thaw first: what sleeps on a frozen filesystem cannot be killed.
            let thawed = leftovers::thaw(&path);
            process::end_recorded(&path);
            let mut left = leftovers::release(&path);
            left.thawed.extend(thawed);
            swept.push(format!("{} ({left})", path.display()));
        }
        remove(&path);
        drop(lock);
    }
    Ok(swept)
}

fn lock_path(run: &Path) -> PathBuf {
    let mut path = run.as_os_str().to_owned();
    path.push(".");
    path.push(LOCK);
    path.into()
}

/// The lock of a run, or `None` while its process lives.
fn try_lock(path: &Path) -> Result<Option<Flock<File>>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Removes a run's directory unless something is still mounted in it, then its lock file.
fn remove(run: &Path) {
    if leftovers::mounts_below(run).is_ok_and(|mounts| mounts.is_empty()) {
        drop(fs::remove_dir_all(run));
        drop(fs::remove_file(lock_path(run)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_run_is_swept_and_a_living_one_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let alive = RunDir::claim(base.path(), "test", "alive-1").unwrap().unwrap();
        fs::write(alive.path().join("file"), "x").unwrap();
        fs::create_dir_all(base.path().join("dead-1/deep")).unwrap();
        File::create(base.path().join("dead-1.lock")).unwrap();
        fs::create_dir_all(base.path().join("somebody-elses")).unwrap();

        let swept = sweep(base.path()).unwrap();

        assert_eq!(swept.len(), 1, "{swept:?}");
        assert!(alive.path().join("file").exists());
        assert!(!base.path().join("dead-1").exists());
        assert!(!base.path().join("dead-1.lock").exists());
        assert!(base.path().join("somebody-elses").exists());
    }

    #[test]
    fn a_name_in_use_is_not_claimed_twice() {
        let base = tempfile::tempdir().unwrap();
        let first = RunDir::claim(base.path(), "test", "run").unwrap().unwrap();
        assert!(RunDir::claim(base.path(), "test", "run").unwrap().is_none());
        first.close();
        assert!(!base.path().join("run").exists());
        assert!(RunDir::claim(base.path(), "test", "run").unwrap().is_some());
    }
}
