//! The scripts that an administrator would write, with the usual tools: fsfreeze and `btrfs subvolume snapshot`.
//!
//! * [`serial`]: freeze all, snapshot all, thaw all, one after the other.
//! * [`parallel`]: the same with all volumes of all nodes at once and expedited grace periods; a skilled administrator's.
//!   Over a target whose images are in one subvolume per node it takes one snapshot per node.
//!
//! Both are as consistent as a group of ours while nothing goes wrong. Nothing proves that no volume was thawed in
//! between, nothing thaws when the script dies (here a dead man does, which scripts do not have), and what was
//! made is known to nobody.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_tests::harness::stack::Rcu;

use super::floor::expedited;
use super::target::{DeadMan, REST, Target, run};

/// Commands that run one after the other, or all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    OneByOne,
    AtOnce,
}

/// One round of the serial script: from the first freeze to the last thaw.
pub fn serial(target: &Target, round: &str) -> Result<Duration> {
    let _dead_man = DeadMan::start(&target.mounts)?;
    std::thread::sleep(REST);
    pause(target, round, How::OneByOne)
}

/// One round of the parallel script, after the flush that a skilled administrator does before.
pub fn parallel(target: &Target, round: &str) -> Result<Duration> {
    let _dead_man = DeadMan::start(&target.mounts)?;
    std::thread::sleep(REST);
    target.flush()?;
    let lease = expedited(Rcu::Auto)?;
    let time = pause(target, round, How::AtOnce);
    drop(lease);
    time
}

fn pause(target: &Target, round: &str, how: How) -> Result<Duration> {
    let freeze = |flag: &str| {
        let commands = target.mounts.iter().map(|mount| {
            let mut command = Command::new("fsfreeze");
            command.arg(flag).arg(mount);
            command
        });
        all(commands.collect(), how)
    };
    let start = Instant::now();
    let frozen = freeze("-f");
    let taken = match &frozen {
        Ok(()) => snapshots(target, round, how),
        Err(_) => Ok(()),
    };
    // Also after a failure; what was not frozen refuses, which is fine then.
    let thawed = freeze("-u");
    let time = start.elapsed();
    frozen.and(taken).and(thawed).map(|()| time)
}

fn snapshots(target: &Target, round: &str, how: How) -> Result<()> {
    let commands = target.sources.iter().map(|source| {
        let mut command = Command::new("btrfs");
        command.args(["subvolume", "snapshot", "-r"]).arg(&source.subvolume).arg(source.copies.join(round));
        command
    });
    all(commands.collect(), how)
}

/// Runs all of them to their ends, whatever fails; the first failure.
fn all(commands: Vec<Command>, how: How) -> Result<()> {
    let mut first = Ok(());
    let mut running = Vec::new();
    for mut command in commands {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let name = command.get_program().to_string_lossy().into_owned();
        let started = command.spawn().with_context(|| format!("cannot run {name}"));
        match (started, how) {
            (Err(error), _) => first = first.and(Err(error)),
            (Ok(child), How::AtOnce) => running.push((name, child)),
            (Ok(child), How::OneByOne) => first = first.and(end(&name, child)),
        }
    }
    for (name, child) in running {
        first = first.and(end(&name, child));
    }
    first
}

fn end(name: &str, mut child: Child) -> Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// Freezes one volume around a deed; the whole of it is what the script takes.
pub fn around(mount: &Path, deed: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let _dead_man = DeadMan::start(&[mount.to_path_buf()])?;
    std::thread::sleep(REST);
    let start = Instant::now();
    run("fsfreeze", &["-f".as_ref(), mount.as_os_str()])?;
    let done = deed();
    run("fsfreeze", &["-u".as_ref(), mount.as_os_str()])?;
    done.map(|()| start.elapsed())
}
