//! What the kernel alone takes: FIFREEZE, the btrfs snapshot and FITHAW of the same volumes without Stillpoint, a
//! thread for each volume, after the same flush. Deletions wait until the end.
//!
//! Nobody guards these holds but a dead-man thaw in a process of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Freezing, Images, MountHandle, Subvolumes};
use stillpoint_guard::expedite::Expedite;
use stillpoint_tests::harness::csi::Volume;
use stillpoint_tests::harness::stack::Rcu;

use super::field::{Field, Group};
use super::serial::{DeadMan, subvolumes};

/// Between two windows. A freeze soon after another one of the same filesystem waits for fewer grace periods (the kernel's
/// `rcu_sync` goes back to its fast state only after some), which cuts that are not in a loop do not have either.
const PAUSE: Duration = Duration::from_millis(250);

/// Windows of a group by the kernel alone: from the first freeze to the last thaw.
pub fn windows(field: &Field, group: Group, rcu: Rcu, rounds: u32) -> Result<Vec<Duration>> {
    let volumes: Vec<&Volume> = field.volumes(group).collect();
    let mut copies = Vec::new();
    let times = (0..rounds).map(|round| window(field, &volumes, rcu, round, &mut copies)).collect();
    // At the end, as removing subvolumes makes the next snapshots slow.
    for copy in copies.iter().filter(|copy| copy.exists()) {
        LinuxHost.delete_subvolume(copy)?;
    }
    for directory in copies.iter().filter_map(|copy| copy.parent()).collect::<BTreeSet<_>>() {
        fs::remove_dir(directory)?;
    }
    times
}

struct Member {
    mount: Box<dyn MountHandle>,
    original: PathBuf,
    copy: PathBuf,
}

fn window(
    field: &Field,
    volumes: &[&Volume],
    rcu: Rcu,
    round: u32,
    copies: &mut Vec<PathBuf>,
) -> Result<Duration> {
    thread::sleep(PAUSE);
    let member = |volume: &&Volume| -> Result<Member> {
        let (original, copy) = subvolumes(field, volume)?;
        let mount = LinuxHost.open_mount(&volume.path)?;
        mount.sync()?;
        // A directory for each volume, as in Stillpoint: snapshots into the same one wait for each other.
        let directory = copy.with_extension("floor");
        fs::create_dir_all(&directory)?;
        Ok(Member { mount, original, copy: directory.join(round.to_string()) })
    };
    let members = volumes.iter().map(member).collect::<Result<Vec<_>>>()?;
    // As before every round: then there is little to commit during the hold.
    for pool in members.iter().filter_map(|member| member.copy.parent()).collect::<BTreeSet<_>>() {
        LinuxHost.sync_filesystem(pool)?;
    }
    copies.extend(members.iter().map(|member| member.copy.clone()));
    let _dead_man = DeadMan::start(volumes)?;
    let lease = match rcu {
        Rcu::Auto => Some(Expedite::of_this_kernel().lease().context("rcu_expedited")?),
        Rcu::Never => None,
    };
    let outcome = held(&members);
    drop(lease);
    outcome
}

/// All freeze, then all are cut, then all thaw. The threads wait before the clock starts.
fn held(members: &[Member]) -> Result<Duration> {
    let barrier = Barrier::new(members.len() + 1);
    let (time, failures) = thread::scope(|scope| {
        let workers: Vec<_> = members.iter().map(|member| scope.spawn(|| work(member, &barrier))).collect();
        barrier.wait();
        let start = Instant::now();
        for _ in 0..3 {
            barrier.wait();
        }
        let failures: Vec<_> = workers.into_iter().filter_map(|worker| worker.join().ok()?.err()).collect();
        (start.elapsed(), failures)
    });
    match failures.into_iter().next() {
        None => Ok(time),
        Some(failure) => bail!(failure),
    }
}

/// Goes to every barrier, whatever fails, and thaws what it froze.
fn work(member: &Member, barrier: &Barrier) -> Result<()> {
    // All threads are there; now the clock starts.
    barrier.wait();
    barrier.wait();
    let frozen = member.mount.freeze();
    barrier.wait();
    let cut = LinuxHost.snapshot_subvolume(&member.original, &member.copy, true);
    barrier.wait();
    let thawed = if frozen.is_ok() { member.mount.thaw() } else { Ok(()) };
    frozen?;
    cut?;
    Ok(thawed?)
}
