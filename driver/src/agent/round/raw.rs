//! Raw devices in a round: they have no filesystem to freeze, so the processes that write to them are held.
//!
//! 1. While preparing, everybody who has the device open is found, and a limit is opened on each one's cgroup.
//! 2. At the hold they are looked for once more (rules may have run for minutes in between), the guard gets the
//!    limits, and each is set to one byte per second. Writes that had got through are waited for.
//! 3. At the release the device's count of written sectors must be what it was at the hold.
//!
//! The count is the proof, not the list of processes: whoever was missed (opened it later, has it mapped, is the
//! kernel itself that writes out a page cache) makes the hold a lapse as soon as it writes anything. The count stands
//! still when `queue/iostats` is off, so it is switched on while preparing, and every reading fails where it is not on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RoundContext;
use crate::domain::{Fault, VolumeId};
use crate::host::{HostError, LoopDevice, Openers, ThrottleHandle};

/// A raw device that is in use, and the limits of its users.
pub struct RawDevice {
    volume: VolumeId,
    device: LoopDevice,
    users: Mutex<Users>,
}

struct Users {
    cgroups: BTreeSet<PathBuf>,
    throttle: Arc<dyn ThrottleHandle>,
}

impl RawDevice {
    /// The device.
    pub fn device(&self) -> &LoopDevice {
        &self.device
    }

    /// The limits as they are now known.
    pub fn throttle(&self) -> Arc<dyn ThrottleHandle> {
        Arc::clone(&self.users().throttle)
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // Replaced as a whole, so a panic elsewhere leaves it whole.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the users of these devices.
pub fn look_up(
    context: &RoundContext,
    devices: Vec<(VolumeId, LoopDevice)>,
) -> Result<BTreeMap<VolumeId, Arc<RawDevice>>, Fault> {
    let openers = openers(context, devices.iter().map(|(volume, device)| (volume, device)))?;
    let open = |(volume, device): (VolumeId, LoopDevice)| {
        let users = users(context, &volume, &device, &openers)?;
        Ok((volume.clone(), Arc::new(RawDevice { volume, device, users: Mutex::new(users) })))
    };
    devices.into_iter().map(open).collect()
}

/// Finds those who have opened the devices since.
pub fn refresh(context: &RoundContext, devices: &[&Arc<RawDevice>]) -> Result<(), Fault> {
    let openers = openers(context, devices.iter().map(|raw| (&raw.volume, &raw.device)))?;
    for raw in devices {
        let now = openers.get(&raw.device.device).cloned().unwrap_or_default();
        if now.is_subset(&raw.users().cgroups) {
            continue;
        }
        let users = users(context, &raw.volume, &raw.device, &openers)?;
        *raw.users() = users;
    }
    Ok(())
}

fn openers<'a>(
    context: &RoundContext,
    devices: impl Iterator<Item = (&'a VolumeId, &'a LoopDevice)>,
) -> Result<Openers, Fault> {
    let (volumes, numbers): (Vec<_>, BTreeSet<_>) =
        devices.map(|(volume, device)| (volume, device.device)).unzip();
    let Some(first) = volumes.first() else { return Ok(Openers::new()) };
    context.host.openers(&numbers).map_err(|error| cannot_hold(first, &error))
}

fn users(
    context: &RoundContext,
    volume: &VolumeId,
    device: &LoopDevice,
    openers: &Openers,
) -> Result<Users, Fault> {
    // Before anything is proven by it: people switch the counting off to save a little time per request.
    context.host.count_writes(&device.path).map_err(|error| cannot_count(volume, &error))?;
    let cgroups = openers.get(&device.device).cloned().unwrap_or_default();
    let throttle =
        context.host.open_throttle(device, &cgroups).map_err(|error| cannot_hold(volume, &error))?;
    Ok(Users { cgroups, throttle: throttle.into() })
}

fn cannot_hold(volume: &VolumeId, error: &HostError) -> Fault {
    Fault::precondition(format!(
        "volume {volume} is a raw block device in use and its writes cannot be held on this host ({error}), so it \
         cannot be part of a consistent group; the agent must see all processes and their cgroups with the blkio or \
         io controller; else unpublish the volume, use a filesystem volume, or snapshot it alone"
    ))
}

fn cannot_count(volume: &VolumeId, error: &HostError) -> Fault {
    Fault::precondition(format!(
        "raw volume {volume} cannot be part of a consistent group: whether it is written to cannot be told ({error}); let \
         the agent write /sys, or set queue/iostats of its loop device to 1"
    ))
}

/// Nobody can tell whether something was written to a device that was held.
pub fn unproven(raw: &RawDevice, error: &HostError) -> Fault {
    Fault::aborted(format!(
        "the quiesce of raw volume {} counts as lost: whether it was written to cannot be told ({error}); look for what \
         sets queue/iostats of {} to another value than 1 (a udev rule, a tuning profile) and take loop devices out of it",
        raw.volume,
        raw.device.path.display()
    ))
}

/// Something was written to a device that was held.
pub fn slipped(raw: &RawDevice, before: u64, after: u64) -> Fault {
    // Sectors are above the count of what is in flight.
    let sectors = (after >> 16).saturating_sub(before >> 16);
    let (volume, device) = (&raw.volume, raw.device.path.display());
    if raw.users().cgroups.is_empty() {
        return Fault::aborted(format!(
            "the hold of raw volume {volume} had lapsed: {sectors} sectors were written to {device}, and no process \
             is seen that has it open; the agent must see all processes of its host (hostPID in Kubernetes)"
        ));
    }
    Fault::aborted(format!(
        "the hold of raw volume {volume} had lapsed: {sectors} sectors were written to {device} while every process \
         that had it open was held. The kernel writes out by itself what a program has written without O_DIRECT; write with \
         O_DIRECT, or use a filesystem volume, which is frozen as a whole"
    ))
}
