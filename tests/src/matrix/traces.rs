//! What is on the hosts: devices, mounts and the content of the pools, to be compared before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::harness::leftovers;

/// Everything below a run's directory that a crash could leak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    things: BTreeSet<String>,
}

/// Whether what was deleted and is only waiting for the cleaner counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trash {
    /// It does.
    Counts,
    /// It does not.
    Waits,
}

impl Traces {
    /// Looks.
    pub fn of<'a>(run: &Path, pools: impl Iterator<Item = &'a Path>, trash: Trash) -> Result<Self> {
        let mut things = BTreeSet::new();
        for (device, image) in leftovers::loops_below(run)? {
            // The number of a device is the kernel's choice.
            drop(device);
            things.insert(format!("loop device over {}", image.display()));
        }
        for mount in leftovers::mounts_below(run)? {
            things.insert(format!("mount at {}", mount.display()));
        }
        for pool in pools {
            for part in ["volumes", "cuts", "moves"] {
                let directory = pool.join(part);
                // The last one is made when the first volume leaves.
                if part != "moves" || directory.exists() {
                    things.extend(names(&directory, trash)?);
                }
            }
            for volume in directories(&pool.join("snapshots"))? {
                things.extend(names(&volume, trash)?);
            }
        }
        Ok(Self { things })
    }

    /// What is there now and was not before, and the reverse.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let more = now.things.difference(&self.things).map(|thing| format!("left: {thing}"));
        let less = self.things.difference(&now.things).map(|thing| format!("gone: {thing}"));
        more.chain(less).collect()
    }
}

fn names(directory: &Path, trash: Trash) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes).unwrap_or_default();
        // What has arrived of a volume is no trash: somebody must go on with it.
        let is_trash = name.starts_with(b".") && !name.starts_with(b".part-");
        if !is_trash || trash == Trash::Counts {
            names.push(path.display().to_string());
        }
    }
    Ok(names)
}

fn directories(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}
