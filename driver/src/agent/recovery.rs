//! What an earlier agent has left: filesystems frozen, raw devices throttled, loop devices without a use. It is undone
//! before anything is served, and tried again for the volumes for which that failed.
//!
//! A volume that resists does not keep the agent from starting: nobody could unmount it then, nor use or snapshot any
//! other volume of the node. It gets the condition [`Condition::ResumeFailed`].

use std::collections::BTreeSet;

use super::health;
use super::local::{LocalHost, kernel};
use super::locks::Purpose;
use crate::domain::health::Condition;
use crate::domain::{Fault, VolumeId};

/// What was undone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Volumes whose filesystem was frozen and is not any more.
    pub thawed: Vec<VolumeId>,
    /// On how many raw devices write limits were lifted.
    pub lifted: usize,
    /// Volumes that may still be quiesced, and why.
    pub failed: Vec<(VolumeId, Fault)>,
}

impl LocalHost {
    /// Undoes what an earlier agent has left. Called before anything is served, so no round is under way.
    pub fn recover(&self) -> Recovered {
        let volumes = self.pools().iter().flat_map(|pool| pool.volumes());
        self.recover_these(volumes.map(|record| record.id).collect())
    }

    /// As [`LocalHost::recover`], for those volumes for which it has failed until now. Volumes that are busy are left
    /// out.
    pub fn recover_again(&self) -> Recovered {
        self.recover_these(self.node.noted.with(Condition::ResumeFailed))
    }

    fn recover_these(&self, volumes: Vec<VolumeId>) -> Recovered {
        let mut found = Recovered::default();
        let mut throttled = Vec::new();
        for volume in volumes {
            match self.thaw_or_find_devices(&volume) {
                Ok(Left::Thawed) => found.thawed.push(volume),
                Ok(Left::Nothing) => self.node.noted.clear(&volume, Condition::ResumeFailed),
                Ok(Left::RawDevices(devices)) => throttled.push((volume, devices)),
                Err(fault) => found.failed.push((volume, fault)),
            }
        }
        self.lift_limits(throttled, &mut found);
        for volume in &found.thawed {
            self.node.noted.clear(volume, Condition::ResumeFailed);
        }
        for (volume, fault) in &found.failed {
            self.node.noted.note(volume, health::resume_failed(volume, fault));
        }
        found
    }

    fn thaw_or_find_devices(&self, volume: &VolumeId) -> Result<Left, Fault> {
        // Deleted or moved meanwhile.
        let Ok(record) = self.pools().get(&volume.pool)?.volume(volume) else { return Ok(Left::Nothing) };
        if self.node.thaw_leftover(volume)? {
            return Ok(Left::Thawed);
        }
        if record.filesystem.is_some() {
            return Ok(Left::Nothing);
        }
        let image = self.pools().get(&volume.pool)?.image(volume)?;
        if self.host.stat(&image).map_err(kernel)?.is_none() {
            return Ok(Left::Nothing);
        }
        let devices = self.host.attached(&image).map_err(kernel)?;
        Ok(Left::RawDevices(devices.iter().map(|device| device.device).collect()))
    }

    /// One walk over all cgroups for all devices. Rounds are kept away by the volumes' locks.
    fn lift_limits(&self, volumes: Vec<(VolumeId, BTreeSet<u64>)>, found: &mut Recovered) {
        let mut kept = Vec::new();
        let mut devices = BTreeSet::new();
        for (volume, own) in volumes {
            match self.locks.try_lock(&volume, Purpose::Use) {
                Ok(guard) => {
                    devices.extend(own);
                    kept.push((volume, guard));
                }
                Err(fault) => found.failed.push((volume, fault)),
            }
        }
        let lifted = if devices.is_empty() { Ok(0) } else { self.host.lift_leftovers(&devices) };
        match lifted.map_err(kernel) {
            Ok(lifted) => {
                found.lifted = lifted;
                for (volume, _) in kept {
                    self.node.noted.clear(&volume, Condition::ResumeFailed);
                }
            }
            Err(fault) => found.failed.extend(kept.into_iter().map(|(volume, _)| (volume, fault.clone()))),
        }
    }
}

/// What an earlier agent may have left of one volume.
enum Left {
    Nothing,
    Thawed,
    /// Devices whose write limits are to be lifted.
    RawDevices(BTreeSet<u64>),
}
