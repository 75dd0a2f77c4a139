//! What an earlier agent has left: filesystems frozen, raw devices throttled, loop devices without a use. It is undone
//! before anything is served, and tried again for the volumes for which that failed.
//!
//! A volume that resists does not keep the agent from starting: nobody could unmount it then, nor use or snapshot any
//! other volume of the node. It gets the condition [`Condition::ResumeFailed`].

use std::collections::BTreeSet;

use super::health;
use super::local::{LocalHost, kernel};
use super::locks::Purpose;
use super::pool::Pool;
use crate::domain::health::Condition;
use crate::domain::{Code, Fault, VolumeId};

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
        self.recover_these(self.pools().iter().flat_map(|pool| volumes_of(&pool)).collect())
    }

    /// Opens pools that could not be opened until now, and does the same for their volumes.
    pub fn open_closed_pools(&self) -> Recovered {
        let opened = self.pools().open_closed(&self.host);
        self.recover_these(opened.iter().flat_map(|pool| volumes_of(pool)).collect())
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
        let pool = self.pools().get(&volume.pool)?;
        let has_filesystem = match pool.volume(volume) {
            Ok(record) => record.filesystem.is_some(),
            // Deleted or moved meanwhile.
            Err(error) if error.code() == Code::NotFound => return Ok(Left::Nothing),
            // Its record cannot be read, so it may be of either kind. Its image tells what is left of it.
            Err(_) => false,
        };
        let image = pool.image_path(volume);
        if self.node.thaw_leftover(volume, &image)? {
            return Ok(Left::Thawed);
        }
        if has_filesystem {
            return Ok(Left::Nothing);
        }
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

fn volumes_of(pool: &Pool) -> Vec<VolumeId> {
    let readable = pool.volumes().into_iter().map(|record| record.id);
    readable.chain(pool.unreadable_volumes().into_iter().map(|(id, _)| id)).collect()
}

/// What an earlier agent may have left of one volume.
enum Left {
    Nothing,
    Thawed,
    /// Devices whose write limits are to be lifted.
    RawDevices(BTreeSet<u64>),
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::agent::fixtures::{Bench, STAGING, stage};
    use crate::domain::Filesystem;
    use crate::domain::node::{Access, StageRequest};
    use crate::host::fake::When;
    use crate::host::{Files, Freezing, Loops, Throttling};

    fn tear_record(bench: &Bench, volume: &VolumeId) {
        let pool = bench.pools.iter().next().unwrap();
        let record = pool.image_path(volume).with_file_name("volume.json");
        assert!(bench.host.stat(&record).unwrap().is_some(), "{}", record.display());
        bench.host.write_synced(&record, b"{").unwrap();
    }

    #[test]
    fn a_frozen_volume_is_thawed_although_its_record_cannot_be_read() {
        let bench = Bench::new();
        let volume = bench.volume("data", Some(Filesystem::Xfs));
        bench.node.stage(&stage(&volume, Access::mount())).unwrap();
        bench.host.open_mount(Path::new(STAGING)).unwrap().freeze().unwrap();
        tear_record(&bench, &volume);
        let next = bench.restarted();
        assert_eq!(next.local.recover().thawed, std::slice::from_ref(&volume));
        assert!(!next.host.is_frozen(Path::new(STAGING)));
        let told = next.local.ailments().unwrap();
        let object = format!("volume {volume}");
        let found = told.iter().find(|(about, _)| *about == object).expect("people are told of it");
        assert_eq!(found.1.condition, Condition::VolumeFailed);
        assert!(found.1.message.contains("volume.json"), "{}", found.1.message);
    }

    #[test]
    fn one_volume_that_resists_keeps_no_other_from_being_thawed() {
        let bench = Bench::new();
        let names = ["a", "b", "c"];
        let volumes = names.map(|name| bench.volume(name, Some(Filesystem::Xfs)));
        for (name, volume) in names.iter().zip(&volumes) {
            let target = Path::new("/kubelet").join(name);
            let request = StageRequest { target: target.clone(), ..stage(volume, Access::mount()) };
            bench.node.stage(&request).unwrap();
            bench.host.open_mount(&target).unwrap().freeze().unwrap();
        }
        let next = bench.restarted();
        next.host.fail(When::NthOf("FITHAW", 1), libc::EBUSY);
        let found = next.local.recover();
        assert_eq!((found.thawed.len(), found.failed.len()), (2, 1), "{found:?}");
        let resists = found.failed[0].0.clone();
        assert_eq!(next.local.recover_again().thawed, [resists]);
        for name in names {
            assert!(!next.host.is_frozen(&Path::new("/kubelet").join(name)), "{name}");
        }
    }

    #[test]
    fn write_limits_are_lifted_although_the_record_of_the_volume_cannot_be_read() {
        let bench = Bench::new();
        let volume = bench.volume("raw", None);
        bench.node.stage(&stage(&volume, Access::Block)).unwrap();
        let device = bench
            .host
            .attached(&bench.pools.iter().next().unwrap().image(&volume).unwrap())
            .unwrap()
            .remove(0);
        bench.host.open_device(&device, "/pod");
        let users = BTreeSet::from(["/pod".into()]);
        bench.host.open_throttle(&device, &users).unwrap().hold().unwrap();
        tear_record(&bench, &volume);
        let next = bench.restarted();
        assert_eq!(next.local.recover().lifted, 1);
        assert!(!next.host.is_throttled(&device));
    }
}
