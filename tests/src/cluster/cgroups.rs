//! One directory `sp-<name>/<place>` in every cgroup hierarchy. Programs of the cluster are in its `host`, pods
//! beside it in what the kubelet makes: whatever is in one of these directories is ours, also after a crash.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Layout, Place};

/// Killed processes are gone at once, unless they sleep in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// The mounted hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The cgroups of one cluster.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    name: String,
}

impl Cgroups {
    /// Those of this cluster, whether they exist or not.
    pub fn of(layout: &Layout) -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
        let hierarchies = parse(&table);
        ensure!(!hierarchies.is_empty(), "no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup");
        Ok(Self { hierarchies, name: layout.cgroup() })
    }

    /// Makes a directory in every hierarchy and removes it again: in a container they may be read-only.
    pub fn probe(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let path = hierarchy.mount.join(format!("{}-probe-{}", self.name, std::process::id()));
            fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
            removed(&path)?;
        }
        Ok(())
    }

    /// Makes a place's directories; the files that a process joins them by.
    pub fn make(&self, place: Place) -> Result<Vec<PathBuf>> {
        let mut joins = Vec::new();
        for hierarchy in &self.hierarchies {
            let mut path = hierarchy.mount.clone();
            for part in [self.name.as_str(), &place.to_string(), "host"] {
                let parent = path.clone();
                path.push(part);
                if !path.is_dir() {
                    fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
                }
                inherit(hierarchy.version, &parent, &path)?;
            }
            joins.push(path.join("cgroup.procs"));
        }
        Ok(joins)
    }

    /// The kubelet's `cgroupRoot`.
    pub fn root(&self, place: Place) -> String {
        format!("/{}/{place}", self.name)
    }

    /// Processes of a place, its pods included.
    pub fn processes(&self, place: Place) -> BTreeSet<i32> {
        self.collect(&place.to_string())
    }

    /// Kills a place's processes except one, again and again until no other is left.
    pub fn kill(&self, place: Place, except: Option<i32>) -> Result<()> {
        let end = Instant::now() + KILL_LIMIT;
        loop {
            let mut left = self.processes(place);
            except.map(|pid| left.remove(&pid));
            if left.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "processes of {place} sleep in the kernel and do not die: {left:?}"
            );
            for pid in left {
                // Gone meanwhile is what we want.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes all directories; they must be empty.
    pub fn remove(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let top = hierarchy.mount.join(&self.name);
            for path in tree(&top).iter().rev() {
                removed(path)?;
            }
        }
        Ok(())
    }

    fn collect(&self, below: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            for path in tree(&hierarchy.mount.join(&self.name).join(below)) {
                let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1));
            }
        }
        found
    }
}

/// A new directory cannot be used before it has what its parent has.
fn inherit(version: Version, parent: &Path, path: &Path) -> Result<()> {
    match version {
        Version::V1 => {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let Ok(value) = fs::read_to_string(parent.join(file)) else { continue };
                fs::write(path.join(file), value)
                    .with_context(|| format!("cannot fill {}", path.join(file).display()))?;
            }
        }
        Version::V2 => {
            let offered = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
            for controller in offered.split_whitespace() {
                // A controller that cannot be passed on is missed by the kubelet, which says so by name.
                let _refused = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
    Ok(())
}

/// A directory and everything below it, parents first; nothing when it does not exist.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![top.to_path_buf()];
    while let Some(path) = open.pop() {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        open.extend(entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.path()));
        found.push(path);
    }
    found
}

/// The kernel needs a moment between the last process's end and an empty directory.
fn removed(path: &Path) -> Result<()> {
    let end = Instant::now() + KILL_LIMIT;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let version = match right.split(' ').next() {
            Some("cgroup") => Version::V1,
            Some("cgroup2") => Version::V2,
            Some(_) | None => continue,
        };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let hierarchy = Hierarchy { mount: mount.into(), version };
        if mount.starts_with("/sys/fs/cgroup") && !found.contains(&hierarchy) {
            found.push(hierarchy);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found_once() {
        let table = "29 20 0:26 / /sys/fs/cgroup rw - tmpfs cgroup rw\n\
                     30 29 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     30 29 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     31 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n\
                     32 29 0:27 / /elsewhere/cpu rw - cgroup cgroup rw,cpu\n";
        let found = parse(table);
        let expected = [("/sys/fs/cgroup/cpu", Version::V1), ("/sys/fs/cgroup/unified", Version::V2)];
        assert_eq!(found, expected.map(|(mount, version)| Hierarchy { mount: mount.into(), version }));
    }
}
