//! What goes wrong in an episode, and when it is put right.

use std::path::Path;
use std::time::Duration;

use stillpoint::domain::Bytes;
use stillpoint::host::fake::{Crash, When};

use super::cluster::{CONTROLLERS, Cluster, HOSTS};
use super::machine::{Access, POOL};

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    AgentDies(usize),
    GuardDies(usize),
    BothDie(usize),
    ControllerDies(usize),
    Parted(usize, usize),
    Delayed(usize, usize),
    Slow(usize),
    CallFails(usize, &'static str, u64, i32),
    PoolFull(usize),
    Thief(usize, usize),
    PowerFails(usize, Crash),
    /// The kernel writes out what somebody has written to a raw device through the page cache.
    WrittenBack(usize),
}

/// Kernel calls of a cut, a void and a seal, and what they may fail with.
const CALLS: [(&str, i32); 8] = [
    ("FIFREEZE", libc::EIO),
    ("FITHAW", libc::EIO),
    ("FICLONE", libc::ENOSPC),
    ("mkdir", libc::EIO),
    ("write", libc::ENOSPC),
    ("rename", libc::EIO),
    ("fsync", libc::EIO),
    ("mountinfo", libc::EIO),
];

impl Fault {
    /// One at random, at a host that is up.
    pub fn any(cluster: &mut Cluster) -> Self {
        let dice = &mut cluster.dice;
        let (host, controller) = (dice.below(HOSTS.len()), dice.below(CONTROLLERS.len()));
        match dice.below(19) {
            0..=2 => Self::AgentDies(host),
            3 => Self::GuardDies(host),
            4 => Self::BothDie(host),
            5..=7 => Self::ControllerDies(controller),
            8 => Self::Parted(controller, host),
            9 | 10 => Self::Delayed(controller, host),
            11 => Self::Slow(host),
            12 | 13 => {
                let (call, errno) = *dice.among(&CALLS);
                Self::CallFails(host, call, 1 + dice.next() % 3, errno)
            }
            14 => Self::PoolFull(host),
            15 | 16 => {
                let style = *dice.among(&[Crash::OnlySynced, Crash::NamesWithoutContents]);
                Self::PowerFails(host, style)
            }
            17 => Self::WrittenBack(host),
            _ => Self::Thief(host, dice.below(2)),
        }
    }

    pub fn strikes(self, cluster: &mut Cluster) {
        match self {
            Self::AgentDies(host) => cluster.kill(HOSTS[host]),
            Self::ControllerDies(controller) => cluster.kill(CONTROLLERS[controller]),
            Self::Parted(controller, host) => cluster.part(controller, host),
            Self::Delayed(controller, host) => cluster.delay(controller, host),
            Self::GuardDies(host) => {
                cluster.note(&format!("the guard of {} dies", HOSTS[host]));
                cluster.machines[host].guard.kill();
            }
            Self::BothDie(host) => {
                Self::GuardDies(host).strikes(cluster);
                Self::AgentDies(host).strikes(cluster);
            }
            Self::Slow(host) => {
                cluster.note(&format!("kernel calls on {} take long", HOSTS[host]));
                cluster.machines[host].pace().longest_ms = 1500;
            }
            Self::CallFails(host, call, nth, errno) => {
                cluster.note(&format!("{call} number {nth} from now fails on {}", HOSTS[host]));
                cluster.machines[host].host.fail(When::NthOf(call, nth), errno);
            }
            Self::PoolFull(host) => {
                cluster.note(&format!("the pool of {} is full", HOSTS[host]));
                cluster.machines[host].host.leave_free(Path::new(POOL), Bytes::mib(1));
            }
            Self::Thief(host, volume) => {
                cluster.note(&format!("somebody thaws volume {volume} of {}", HOSTS[host]));
                let machine = &cluster.machines[host];
                match &machine.volumes[volume].access {
                    Access::Mounted(target) => machine.host.thaw_behind_our_back(target),
                    Access::Raw => machine.host.lift_behind_our_back(machine.volumes[volume].device.device),
                }
            }
            Self::PowerFails(host, style) => {
                cluster.note(&format!("{} loses power, {style:?} is left", HOSTS[host]));
                cluster.kill(HOSTS[host]);
                cluster.machines[host].lose_power(style);
            }
            Self::WrittenBack(host) => {
                cluster.note(&format!("the kernel of {} writes to its raw devices", HOSTS[host]));
                let machine = &cluster.machines[host];
                for used in machine.volumes.iter().filter(|used| matches!(used.access, Access::Raw)) {
                    machine.host.write_back(&used.device);
                }
            }
        }
    }

    /// After so long it is put right again.
    pub fn lasts(self, cluster: &mut Cluster) -> Duration {
        let between = matches!(self, Self::Parted(..) | Self::Delayed(..));
        // Long enough for connections to be given up, sometimes.
        let long = between && cluster.dice.percent(20);
        cluster.dice.ms(if long { 2000..12_000 } else { 10..700 })
    }

    pub fn is_put_right(self, cluster: &mut Cluster) {
        match self {
            Self::AgentDies(host) => cluster.start(HOSTS[host]),
            Self::GuardDies(host) => cluster.machines[host].guard.start(),
            Self::BothDie(host) => {
                cluster.machines[host].guard.start();
                cluster.start(HOSTS[host]);
            }
            Self::ControllerDies(controller) => cluster.start(CONTROLLERS[controller]),
            Self::Parted(controller, host) | Self::Delayed(controller, host) => {
                cluster.join(controller, host);
            }
            Self::Slow(host) => cluster.machines[host].pace().longest_ms = 8,
            Self::CallFails(host, ..) => cluster.machines[host].host.forgive(),
            Self::PoolFull(host) => cluster.machines[host].host.leave_free(Path::new(POOL), Bytes::gib(60)),
            Self::PowerFails(host, _) => {
                cluster.note(&format!("{} has power again", HOSTS[host]));
                cluster.machines[host].boot();
                cluster.machines[host].guard.start();
                cluster.start(HOSTS[host]);
            }
            Self::Thief(..) | Self::WrittenBack(_) => {}
        }
    }
}
