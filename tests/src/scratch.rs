//! Real filesystems in sparse files, for tests that need a kernel.
//!
//! Everything of a run is below `/var/tmp/stillpoint-tests/<pid>-<start time>`. Dropping a [`Scratch`] removes what
//! is its own; [`sweep_dead_runs`] removes what runs left whose process is dead, and only that: it thaws, unmounts and
//! detaches what lies below such a directory, and nothing else on the machine.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use stillpoint::backend::BackendKind;
use stillpoint::domain::Bytes;
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Freezing, Loops, Mounts};

/// Where runs keep their files.
const ROOT: &str = "/var/tmp/stillpoint-tests";
/// Names the file that collects the lines of skipped tests.
const SKIPS: &str = "STILLPOINT_SKIPS";

/// Says that a test was skipped and why, in a form that can be counted.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}");
    println!("{line}");
    if let Some(path) = std::env::var_os(SKIPS) {
        let append = fs::OpenOptions::new().append(true).create(true).open(path);
        // A skip list that cannot be written is said, not hidden; the test itself is fine.
        if let Err(error) = append.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("cannot note the skipped test in {SKIPS}: {error}");
        }
    }
}

/// Why pools of this kind cannot be made here; `None` when they can.
pub fn why_not(kind: BackendKind) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root for loop devices and mounts".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("the kernel has no loop devices".to_owned());
    }
    let (name, tool) = match kind {
        BackendKind::Btrfs => ("btrfs", "mkfs.btrfs"),
        BackendKind::Xfs => ("xfs", "mkfs.xfs"),
        BackendKind::Memory => return None,
    };
    if Command::new(tool).arg("-V").output().is_err() {
        return Some(format!("{tool} is not installed"));
    }
    let known = || fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |text: String| text.split_whitespace().any(|word| word == name);
    // Built as a module, it appears once it is loaded.
    let loaded = has(known())
        || Command::new("modprobe").arg(name).output().is_ok_and(|out| out.status.success()) && has(known());
    (!loaded).then(|| format!("the kernel has no {name}"))
}

/// A directory of this run with filesystems in it; gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// A new directory for `test`; removes what dead runs have left.
    pub fn new(test: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep_dead_runs()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = run_dir()?.join(format!("{number}-{test}"));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An empty directory of this name.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Makes a filesystem in a sparse file and mounts it at the directory `name`.
    pub fn filesystem(&self, name: &str, kind: BackendKind, size: Bytes) -> Result<PathBuf> {
        let image = self.dir.join(format!("{name}.img"));
        fs::File::create_new(&image)?.set_len(size.0)?;
        let device = LinuxHost.attach(&image, false)?.path;
        match kind {
            BackendKind::Btrfs => {
                let options = ["-q", "-K", "-d", "single", "-m", "single"];
                command(Command::new("mkfs.btrfs").args(options).arg(&device))?;
            }
            BackendKind::Xfs => {
                command(Command::new("mkfs.xfs").args(["-q", "-K", "-m", "reflink=1"]).arg(&device))?;
            }
            BackendKind::Memory => anyhow::bail!("a memory pool has no filesystem"),
        }
        let target = self.directory(name)?;
        command(Command::new("mount").args(["-o", "noatime"]).arg(&device).arg(&target))?;
        Ok(target)
    }

    /// Unmounts and removes a filesystem that [`Scratch::filesystem`] made, with what was mounted from it.
    pub fn remove_filesystem(&self, target: &Path) -> Result<()> {
        release_below(target)?;
        LinuxHost.unmount(target)?;
        let image = target.with_extension("img");
        detach_all(&image)?;
        fs::remove_file(&image)?;
        fs::remove_dir(target)?;
        Ok(())
    }

    /// Mounts a filesystem anew, read-only or writable.
    pub fn remount(&self, target: &Path, read_only: bool) -> Result<()> {
        let option = if read_only { "remount,ro" } else { "remount,rw" };
        command(Command::new("mount").args(["-o", option]).arg(target))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_run(&self.dir) {
            eprintln!("cannot clean up {}: {error:#}; the next run tries again", self.dir.display());
        }
        // The last one of the run removes the run's directory; others find it not empty.
        let _ = self.dir.parent().map(fs::remove_dir);
    }
}

/// Runs a command to its end; its error output becomes the error.
pub fn command(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    Ok(())
}

/// Removes what runs have left whose process is dead.
pub fn sweep_dead_runs() -> Result<()> {
    let runs = match fs::read_dir(ROOT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for run in runs.flatten() {
        let name = run.file_name().to_string_lossy().into_owned();
        if is_dead(&name) {
            remove_run(&run.path())?;
        }
    }
    Ok(())
}

/// Whether the process that a run's directory is named after is gone. What is not named so is not ours.
fn is_dead(name: &str) -> bool {
    let Some((pid, start)) = name.split_once('-') else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { return false };
    start_time(pid) != Some(start)
}

fn run_dir() -> Result<PathBuf> {
    let pid = std::process::id();
    let start = start_time(pid).context("reading the start time of this process")?;
    Ok(Path::new(ROOT).join(format!("{pid}-{start}")))
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may have spaces, so count from its closing bracket.
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Thaws, unmounts, detaches and deletes everything below a directory of ours.
fn remove_run(dir: &Path) -> Result<()> {
    ensure!(dir.starts_with(ROOT) && dir != Path::new(ROOT), "{} is not a run", dir.display());
    release_below(dir)?;
    detach_below(dir)?;
    fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

/// Thaws and unmounts, last mount first, what is mounted below `dir` (not at it).
fn release_below(dir: &Path) -> Result<()> {
    let mounts: Vec<_> = LinuxHost
        .mounts()?
        .into_iter()
        .filter(|mount| mount.target.starts_with(dir) && mount.target != dir)
        .collect();
    for mount in mounts.iter().filter(|mount| mount.target.is_dir()) {
        // Not frozen is the usual answer.
        if let Ok(handle) = LinuxHost.open_mount(&mount.target) {
            let _ = handle.thaw();
        }
    }
    for mount in mounts.iter().rev() {
        LinuxHost.unmount(&mount.target)?;
    }
    Ok(())
}

/// Detaches every loop device whose file lies below `dir`.
fn detach_below(dir: &Path) -> Result<()> {
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end().trim_end_matches(" (deleted)")).starts_with(dir) {
            LinuxHost.detach(&Path::new("/dev").join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn detach_all(image: &Path) -> Result<()> {
    for device in LinuxHost.attached(image)? {
        LinuxHost.detach(&device.path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_of_dead_processes_are_dead() {
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        assert!(!is_dead(&format!("{pid}-{start}")), "this process lives");
        assert!(is_dead(&format!("{pid}-{}", start + 1)), "its number was used by another one before");
        assert!(is_dead("4194999-1"), "no such process");
        for not_ours in ["", "x", "1", "-", "a-b", "lost+found", "12-"] {
            assert!(!is_dead(not_ours), "{not_ours:?} is not ours to judge");
        }
    }

    #[test]
    fn nothing_outside_of_a_run_is_removed() {
        for path in ["/", "/var/tmp", ROOT, "/var/tmp/stillpoint-testsX/1-1"] {
            assert!(remove_run(Path::new(path)).is_err(), "{path}");
        }
    }
}
