//! Real filesystems in sparse files, for tests that need a kernel, below a [`RunDir`] that takes them apart again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use stillpoint::backend::BackendKind;
use stillpoint::domain::Bytes;
use stillpoint::host::Loops;
use stillpoint::host::linux::LinuxHost;

use crate::harness::{Lack, RunDir, leftovers};

/// Why pools of this kind cannot be made here; `None` when they can.
pub fn why_not(kind: BackendKind) -> Option<Lack> {
    if let Some(lack) = Lack::of_root() {
        return Some(lack);
    }
    if !has_loop_devices() {
        return Some("the kernel has no loop devices".into());
    }
    let (name, tool) = match kind {
        BackendKind::Btrfs => ("btrfs", "mkfs.btrfs"),
        BackendKind::Xfs => ("xfs", "mkfs.xfs"),
        BackendKind::Memory => return None,
    };
    if Command::new(tool).arg("-V").output().is_err() {
        return Some(Lack::Tool(format!("{tool} is not installed")));
    }
    let known = || fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |text: String| text.split_whitespace().any(|word| word == name);
    // Built as a module, it appears once it is loaded.
    let loaded = has(known())
        || Command::new("modprobe").arg(name).output().is_ok_and(|out| out.status.success()) && has(known());
    (!loaded).then(|| Lack::Machine(format!("the kernel has no {name}")))
}

/// Loads the module of loop devices where the kernel has it as one.
fn has_loop_devices() -> bool {
    let control = Path::new("/dev/loop-control");
    control.exists() || {
        let _loaded = Command::new("modprobe").arg("loop").output();
        control.exists()
    }
}

/// A directory with filesystems in it; gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    run: RunDir,
}

impl Scratch {
    /// A new directory for `test`; removes what dead runs have left.
    pub fn new(test: &str) -> Result<Self> {
        Ok(Self { run: RunDir::new(test)? })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.run.path()
    }

    /// An empty directory of this name.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        self.run.directory(name)
    }

    /// Makes a filesystem in a sparse file and mounts it at the directory `name`.
    pub fn filesystem(&self, name: &str, kind: BackendKind, size: Bytes) -> Result<PathBuf> {
        let image = self.dir().join(format!("{name}.img"));
        fs::File::create_new(&image)?.set_len(size.0)?;
        let device = LinuxHost.attach(&image, false)?.path;
        match kind {
            BackendKind::Btrfs => {
                let options = ["-q", "-K", "-d", "single", "-m", "dup"];
                command(Command::new("mkfs.btrfs").args(options).arg(&device))?;
            }
            BackendKind::Xfs => {
                command(Command::new("mkfs.xfs").args(["-q", "-K", "-m", "reflink=1"]).arg(&device))?;
            }
            BackendKind::Memory => bail!("a memory pool has no filesystem"),
        }
        let target = self.directory(name)?;
        command(Command::new("mount").args(["-o", "noatime"]).arg(&device).arg(&target))?;
        Ok(target)
    }

    /// Unmounts and removes a filesystem that [`Scratch::filesystem`] made, with what was mounted from it.
    pub fn remove_filesystem(&self, target: &Path) -> Result<()> {
        let left = leftovers::release(target);
        ensure!(left.is_clean(), "{}: {left}", target.display());
        let image = target.with_extension("img");
        for device in LinuxHost.attached(&image)? {
            LinuxHost.detach(&device.path)?;
        }
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
/// Runs a command to its end; its error output becomes the error.
pub fn command(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    Ok(())
}
