//! Write limits of the fake host: who has which device open, and which cgroups are limited.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{FakeHost, World};
use crate::host::{LoopDevice, Openers, Result, ThrottleHandle, Throttling};

#[derive(Debug, Clone, Default)]
pub(super) struct Throttles {
    /// This machine has no hierarchy with block limits.
    absent: bool,
    openers: Openers,
    /// Limited cgroups, by device.
    held: BTreeMap<u64, BTreeSet<PathBuf>>,
}

impl Throttles {
    /// Whether everybody who has this device open waits.
    pub(super) fn hold(&self, device: u64) -> bool {
        let held = self.held.get(&device);
        held.is_some_and(|held| self.openers.get(&device).is_none_or(|openers| openers.is_subset(held)))
    }
}

impl FakeHost {
    /// From now on a process of this cgroup has the device open.
    pub fn open_device(&self, device: &LoopDevice, cgroup: &str) {
        let mut world = self.world();
        world.throttles.openers.entry(device.device).or_default().insert(cgroup.into());
    }

    /// Makes it a host without block limits.
    pub fn set_throttling(&self, possible: bool) {
        self.world().throttles.absent = !possible;
    }

    /// Whether writes to this device wait.
    pub fn is_throttled(&self, device: &LoopDevice) -> bool {
        self.world().throttles.hold(device.device)
    }

    /// Lets the writers of a device go on, as the guard does, without a call being counted.
    pub fn lift_behind_our_back(&self, device: u64) {
        self.world().throttles.held.remove(&device);
    }

    /// Devices whose writers are limited.
    pub fn throttled_devices(&self) -> Vec<u64> {
        self.world().throttles.held.keys().copied().collect()
    }

    /// What the kernel writes by itself, for a writer that is throttled, out of its page cache.
    pub fn write_back(&self, device: &LoopDevice) {
        if let Some(used) = self.world().loops.get_mut(&device.device) {
            used.writes += 1;
        }
    }
}

impl World {
    fn can_throttle(&self) -> std::result::Result<(), i32> {
        if self.throttles.absent { Err(libc::ENOTSUP) } else { Ok(()) }
    }
}

impl Throttling for FakeHost {
    fn openers(&self, devices: &BTreeSet<u64>) -> Result<Openers> {
        self.call("openers", Path::new("/proc"), |world| {
            world.can_throttle()?;
            let all = world.throttles.openers.clone();
            Ok(all.into_iter().filter(|(device, _)| devices.contains(device)).collect())
        })
    }

    fn open_throttle(
        &self,
        device: &LoopDevice,
        cgroups: &BTreeSet<PathBuf>,
    ) -> Result<Box<dyn ThrottleHandle>> {
        self.call("open throttle", &device.path, |world| world.can_throttle())?;
        Ok(Box::new(OpenThrottle { host: self.clone(), device: device.clone(), cgroups: cgroups.clone() }))
    }

    fn lift_leftovers(&self, devices: &BTreeSet<u64>) -> Result<usize> {
        self.call("lift leftovers", Path::new("/sys/fs/cgroup"), |world| {
            let before = world.throttles.held.len();
            world.throttles.held.retain(|device, _| !devices.contains(device));
            Ok(before - world.throttles.held.len())
        })
    }
}

struct OpenThrottle {
    host: FakeHost,
    device: LoopDevice,
    cgroups: BTreeSet<PathBuf>,
}

impl ThrottleHandle for OpenThrottle {
    fn device(&self) -> u64 {
        self.device.device
    }

    fn limits(&self) -> Option<stillpoint_guard::client::Throttle<'_>> {
        None
    }

    fn sync(&self) -> Result<()> {
        self.host.call("sync device", &self.device.path, |_| Ok(()))
    }

    fn hold(&self) -> Result<()> {
        self.host.call("throttle", &self.device.path, |world| {
            world.throttles.held.entry(self.device.device).or_default().extend(self.cgroups.iter().cloned());
            Ok(())
        })
    }

    fn lift(&self) -> Result<()> {
        self.host.call("lift throttle", &self.device.path, |world| {
            world.throttles.held.remove(&self.device.device);
            Ok(())
        })
    }
}
