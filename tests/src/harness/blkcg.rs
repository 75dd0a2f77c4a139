//! A cgroup with block limits, for a writer to a raw device: so that what holds the writer does not hold the test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Directories are called this, the test's process and a number.
const PREFIX: &str = "stillpoint-test";

/// A directory in the hierarchy with block limits. Dropping it removes it; its processes must have ended.
#[derive(Debug)]
pub struct BlockGroup {
    directory: PathBuf,
}

impl BlockGroup {
    /// A new one, or `None` where the kernel has no hierarchy that can limit writes.
    pub fn new(name: &str) -> Result<Option<Self>> {
        let Some(mount) = hierarchy()? else { return Ok(None) };
        sweep(&mount);
        let directory = mount.join(format!("{PREFIX}-{}-{name}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Some(Self { directory }))
    }

    /// Moves a process here.
    pub fn take(&self, pid: u32) -> Result<()> {
        let path = self.directory.join("cgroup.procs");
        fs::write(&path, pid.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What the limits say now.
    pub fn limits(&self) -> Result<String> {
        let version_1 = self.directory.join("blkio.throttle.write_bps_device");
        let path = if version_1.exists() { version_1 } else { self.directory.join("io.max") };
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

impl Drop for BlockGroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.directory).is_ok() || !self.directory.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("{} could not be removed; a process is left in it", self.directory.display());
    }
}

/// Directories of test processes that are gone.
fn sweep(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Not empty: somebody lives in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn hierarchy() -> Result<Option<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
        let version_1 = right.starts_with("cgroup ") && right.contains("blkio");
        let has_io = || {
            let offered = fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap_or_default();
            offered.split_whitespace().any(|name| name == "io")
        };
        if version_1 || right.starts_with("cgroup2 ") && has_io() {
            return Ok(Some(mount));
        }
    }
    Ok(None)
}
