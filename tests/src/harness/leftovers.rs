//! Lets go of everything that the kernel still holds below a directory: frozen filesystems, mounts, loop
//! devices. Uses the system's own tools, not the product, so that a defect of the product cannot spoil the
//! cleaning after it. Every wait is bounded; what needs force is reported, never hidden.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One external command may take this long; `umount` of a busy XFS log is the slowest.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// Volumes are mounted on loop devices on pools on loop devices: a few passes take everything apart.
const PASSES: usize = 8;

/// What was found and how it was let go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Mounts that were frozen and had to be thawed.
    pub thawed: Vec<PathBuf>,
    /// Mounts that were still there.
    pub unmounted: Vec<PathBuf>,
    /// Loop devices that were still there.
    pub detached: Vec<PathBuf>,
    /// Mounts that could only be detached from the tree (`umount -l`).
    pub forced: Vec<PathBuf>,
    /// What is still there.
    pub stuck: Vec<String>,
}

impl Leftovers {
    /// Nothing was left frozen, nothing needed force and nothing is stuck.
    pub fn is_clean(&self) -> bool {
        self.thawed.is_empty() && self.forced.is_empty() && self.stuck.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} mounts and {} loop devices let go",
            self.unmounted.len() + self.forced.len(),
            self.detached.len()
        )?;
        for (what, paths) in
            [("found FROZEN and thawed", &self.thawed), ("unmounted lazily, by force", &self.forced)]
        {
            for path in paths {
                write!(f, "; {what}: {}", path.display())?;
            }
        }
        for stuck in &self.stuck {
            write!(f, "; STUCK: {stuck}")?;
        }
        Ok(())
    }
}

/// Thaws, unmounts and detaches everything below `root`.
pub fn release(root: &Path) -> Leftovers {
    let mut left = Leftovers { thawed: thaw(root), ..Leftovers::default() };
    for _ in 0..PASSES {
        let before = left.unmounted.len() + left.detached.len();
        unmount_all(root, &mut left);
        detach_all(root, &mut left);
        if left.unmounted.len() + left.detached.len() == before {
            break;
        }
    }
    for target in mounts_below(root).unwrap_or_default() {
        if quiet("umount", &["-l".as_ref(), target.as_os_str()]).is_ok() {
            left.forced.push(target);
        }
    }
    detach_all(root, &mut left);
    for (device, backing) in loops_below(root).unwrap_or_default() {
        left.stuck.push(format!("{} over {}", device.display(), backing.display()));
    }
    left
}

/// Mount points below `root`, the newest first.
pub fn mounts_below(root: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let mut targets: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|target| target.starts_with(root))
        .collect();
    targets.reverse();
    Ok(targets)
}

/// Loop devices whose backing file is below `root`.
pub fn loops_below(root: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").context("cannot list /sys/block")? {
        let entry = entry?;
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let backing = backing.trim_end();
        let backing = PathBuf::from(backing.strip_suffix(" (deleted)").unwrap_or(backing));
        if backing.starts_with(root) {
            found.push((Path::new("/dev").join(entry.file_name()), backing));
        }
    }
    Ok(found)
}

/// Thaws every frozen filesystem below `root`; those that were frozen.
///
/// A filesystem that is not frozen refuses `fsfreeze -u`, so success means that it was. Pools are tried too:
/// nobody should ever freeze one.
pub fn thaw(root: &Path) -> Vec<PathBuf> {
    let mut thawed = Vec::new();
    let mut seen = BTreeSet::new();
    for target in mounts_below(root).unwrap_or_default() {
        if !target.is_dir() || !seen.insert(target.clone()) {
            continue;
        }
        if quiet("fsfreeze", &["-u".as_ref(), target.as_os_str()]).is_ok() {
            thawed.push(target);
        }
    }
    thawed
}

fn unmount_all(root: &Path, left: &mut Leftovers) {
    for target in mounts_below(root).unwrap_or_default() {
        if quiet("umount", &[target.as_os_str()]).is_ok() {
            left.unmounted.push(target);
        }
    }
}

fn detach_all(root: &Path, left: &mut Leftovers) {
    for (device, _) in loops_below(root).unwrap_or_default() {
        if mounted_devices().contains(&device) {
            continue;
        }
        let gone = || !device_is_bound(&device);
        if quiet("losetup", &["-d".as_ref(), device.as_os_str()]).is_ok() && soon(gone) {
            left.detached.push(device);
        }
    }
}

fn device_is_bound(device: &Path) -> bool {
    device
        .file_name()
        .is_some_and(|name| Path::new("/sys/block").join(name).join("loop/backing_file").exists())
}

/// Sources in the mount table that are devices.
fn mounted_devices() -> BTreeSet<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(" - ").nth(1)?.split(' ').nth(1))
        .map(|source| PathBuf::from(unescape(source)))
        .filter(|source| source.starts_with("/dev"))
        .collect()
}

/// Whether something becomes true within a second.
fn soon(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(1);
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Runs a command with a limit; its exit status decides, its output is dropped.
fn quiet(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let end = Instant::now() + COMMAND_LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return if status.success() { Ok(()) } else { bail!("{program}: {status}") };
        }
        if Instant::now() > end {
            // Not waited for: a process in an uninterruptible sleep would take us with it.
            drop(child.kill());
            bail!("{program} did not end within {COMMAND_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Undoes the octal escapes of the mount table.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}
