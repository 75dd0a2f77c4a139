//! The script that an administrator would write: freeze all, snapshot all, thaw all, one after the other.
//!
//! It is consistent too; it only takes its time. As such a script can die in the middle, a dead-man thaw is
//! started before the first freeze.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_tests::harness::csi::Volume;

use super::field::Field;

/// Seconds: longer than any round of the script, short enough to wait for.
const DEAD_MAN: &str = "20";

/// One round of the script over these volumes: from the first freeze to the last thaw.
pub fn round(field: &Field, volumes: &[&Volume]) -> Result<Duration> {
    let copies = volumes.iter().map(|volume| subvolumes(field, volume)).collect::<Result<Vec<_>>>()?;
    let _dead_man = DeadMan::start(volumes)?;
    let start = Instant::now();
    let held = hold_and_snapshot(volumes, &copies);
    for volume in volumes {
        // Also after a failure; what was not frozen refuses, which is fine then.
        let thawed = run("fsfreeze", &["-u".as_ref(), volume.path.as_os_str()]);
        ensure!(held.is_err() || thawed.is_ok(), "{} did not thaw", volume.path.display());
    }
    let window = start.elapsed();
    for (_, copy) in copies.iter().filter(|(_, copy)| copy.exists()) {
        run("btrfs", &["subvolume".as_ref(), "delete".as_ref(), copy.as_os_str()])?;
    }
    held.map(|()| window)
}

fn hold_and_snapshot(volumes: &[&Volume], copies: &[(PathBuf, PathBuf)]) -> Result<()> {
    for volume in volumes {
        run("fsfreeze", &["-f".as_ref(), volume.path.as_os_str()])?;
    }
    for (original, copy) in copies {
        let [original, copy] = [original.as_os_str(), copy.as_os_str()];
        run("btrfs", &["subvolume".as_ref(), "snapshot".as_ref(), "-r".as_ref(), original, copy])?;
    }
    Ok(())
}

/// The volume's subvolume in its pool, and where the script puts its snapshot.
pub fn subvolumes(field: &Field, volume: &Volume) -> Result<(PathBuf, PathBuf)> {
    let host = field.stack.hosts().iter().find(|host| host.name == volume.host);
    let pool = &host.with_context(|| format!("no host {}", volume.host))?.pool;
    let original = pool.join("volumes").join(&volume.id);
    ensure!(original.is_dir(), "{} is not where volumes are", original.display());
    Ok((original, pool.join(format!(".serial-{}", volume.name))))
}

/// Runs a tool to its end.
pub fn run(program: &str, args: &[&OsStr]) -> Result<()> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}

/// A process of its own that thaws after a while, unless it is ended before.
pub struct DeadMan(Child);

impl DeadMan {
    /// Starts it over these volumes.
    pub fn start(volumes: &[&Volume]) -> Result<Self> {
        const SCRIPT: &str = r#"sleep "$0"; for mount; do fsfreeze -u "$mount"; done"#;
        let child = Command::new("sh")
            .args(["-c", SCRIPT, DEAD_MAN])
            .args(volumes.iter().map(|volume| &volume.path))
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
