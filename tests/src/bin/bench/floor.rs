//! What the kernel alone takes: FIFREEZE, the btrfs snapshots and FITHAW of the same volumes without Stillpoint, a
//! thread for each, in one process and with nothing between. Nobody can be faster.
//!
//! Nobody guards these freezes but a dead-man thaw in a process of its own.

use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Freezing, MountHandle, Subvolumes};
use stillpoint_guard::expedite::{Expedite, Lease};
use stillpoint_tests::harness::stack::Rcu;

use super::target::{DeadMan, Target};

/// One member's part: a mount to freeze, and what is snapshotted by its thread, if anything.
struct Member {
    mount: Box<dyn MountHandle>,
    snapshot: Option<(PathBuf, PathBuf)>,
}

/// A round that is ready to begin.
pub struct Ready {
    members: Vec<Member>,
    _dead_man: DeadMan,
}

impl Ready {
    /// Opens everything and starts the dead man. `round` names the snapshots.
    pub fn new(target: &Target, round: &str) -> Result<Self> {
        let dead_man = DeadMan::start(&target.mounts)?;
        let mut members = Vec::new();
        for (index, mount) in target.mounts.iter().enumerate() {
            let source = target.sources.get(index);
            members.push(Member {
                mount: LinuxHost.open_mount(mount)?,
                snapshot: source.map(|source| (source.subvolume.clone(), source.copies.join(round))),
            });
        }
        Ok(Self { members, _dead_man: dead_man })
    }

    /// From the first freeze to the last thaw: all freeze, then all are snapshotted, then all thaw. The threads wait
    /// before the clock starts.
    pub fn pause(self, rcu: Rcu) -> Result<Duration> {
        let lease = expedited(rcu)?;
        let members = &self.members;
        let barrier = Barrier::new(members.len() + 1);
        let (time, failures) = thread::scope(|scope| {
            let workers: Vec<_> =
                members.iter().map(|member| scope.spawn(|| work(member, &barrier))).collect();
            barrier.wait();
            let start = Instant::now();
            for _ in 0..3 {
                barrier.wait();
            }
            let failures: Vec<_> =
                workers.into_iter().filter_map(|worker| worker.join().ok()?.err()).collect();
            (start.elapsed(), failures)
        });
        drop(lease);
        match failures.into_iter().next() {
            None => Ok(time),
            Some(failure) => bail!(failure),
        }
    }
}

/// Expedites grace periods as Stillpoint would, or leaves them as they are.
pub fn expedited(rcu: Rcu) -> Result<Option<Lease>> {
    match rcu {
        Rcu::Auto => Ok(Some(Expedite::of_this_kernel().lease().context("rcu_expedited")?)),
        Rcu::Never => Ok(None),
    }
}

/// Goes to every barrier, whatever fails, and thaws what it froze.
fn work(member: &Member, barrier: &Barrier) -> Result<()> {
    // All threads are there; now the clock starts.
    barrier.wait();
    barrier.wait();
    let frozen = member.mount.freeze();
    barrier.wait();
    let taken = member
        .snapshot
        .as_ref()
        .map_or(Ok(()), |(original, copy)| LinuxHost.snapshot_subvolume(original, copy, true));
    barrier.wait();
    let thawed = if frozen.is_ok() { member.mount.thaw() } else { Ok(()) };
    frozen?;
    taken?;
    Ok(thawed?)
}
