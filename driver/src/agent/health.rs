//! What is wrong with the pools and volumes of this host, read from the kernel each time, and told once when it
//! begins and once when it ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::local::LocalHost;
use super::mounts::{Place, PlaceKind, Sight};
use super::pool::{Access, Pool, PoolSpace};
use crate::domain::health::{Ailment, Condition};
use crate::domain::{Bytes, Fault, Filesystem, VolumeId};
use crate::host::{Host, Mounted, Result};
use crate::observe::metrics::health as metrics;

/// What is wrong with a pool; its space where that can be told.
pub fn of_pool(pool: &Pool) -> (Option<PoolSpace>, Vec<Ailment>) {
    let dir = pool.dir().display();
    let mut found = Vec::new();
    let space = match pool.space() {
        Ok(space) => Some(space),
        Err(error) => {
            let what =
                format!("pool {dir} cannot be looked at: {error}; look at its disk and at the kernel's log");
            found.push(Ailment::new(Condition::PoolFailed, what));
            None
        }
    };
    found.extend(space.as_ref().and_then(|space| low_water(&dir, space)));
    if pool.access_now() == Access::ReadOnly {
        let what = format!("pool {dir} is mounted read-only; mount it writable and restart the agent");
        found.push(Ailment::new(Condition::PoolReadOnly, what));
    }
    (space, found)
}

fn low_water(dir: &dyn std::fmt::Display, space: &PoolSpace) -> Option<Ailment> {
    let PoolSpace { total, available, reserve, free, .. } = *space;
    let condition = space.condition()?;
    let risk = if space.shortage() == Bytes(0) {
        "its volumes can go on being written".to_owned()
    } else {
        format!("its volumes may come to need {} more than it has: then writes fail", space.shortage())
    };
    let what = if condition == Condition::PoolFull {
        format!(
            "pool {dir} has {free} of {total} free, and {reserve} is its reserve: nothing new is made; {risk}; delete \
             snapshots or volumes, or enlarge it"
        )
    } else {
        format!(
            "pool {dir} has {available} of {total} left above its reserve of {reserve}: soon nothing new can be made; \
             {risk}; delete snapshots or volumes, or enlarge it"
        )
    };
    Some(Ailment::new(condition, what))
}

/// What is wrong with a volume whose image is there, as far as the kernel shows it.
pub fn of_volume(host: &dyn Host, sight: &Sight) -> Result<Vec<Ailment>> {
    let Some(place) = sight.staged() else { return Ok(vec![]) };
    let mut found = Vec::new();
    if let Some(mounted) = sight.mounted(place).filter(|_| place.kind == PlaceKind::Filesystem) {
        match unusable(host, mounted)? {
            Some(ailment) => found.push(ailment),
            None => found.extend(impaired(host, place, mounted)?),
        }
    }
    if !place.read_only && place.device.read_only {
        let what = format!(
            "{} below {} does not take writes; look at the pool's disk and at the kernel's log",
            place.device.path.display(),
            place.target.display()
        );
        found.push(Ailment::new(Condition::DeviceReadOnly, what));
    }
    Ok(found)
}

/// Why a mounted filesystem can neither be written nor be quiesced, if that is so.
pub fn unusable(host: &dyn Host, mounted: &Mounted) -> Result<Option<Ailment>> {
    let target = mounted.target.display();
    if mounted.shut_down || answers_eio(host, mounted)? {
        let what = format!(
            "the filesystem at {target} has shut itself down after an error, and every access fails; end its users, so \
             that it is unmounted and mounted anew, and look at the pool's disk and at the kernel's log"
        );
        return Ok(Some(Ailment::new(Condition::FilesystemShutDown, what)));
    }
    if mounted.lost_writing {
        let what = format!(
            "the filesystem at {target} was mounted for writing and has become read-only after an error; end its users, \
             so that it is unmounted and checked when it is mounted anew"
        );
        return Ok(Some(Ailment::new(Condition::FilesystemReadOnly, what)));
    }
    Ok(None)
}

/// Asking XFS about its root fails with EIO once it has shut down, though `statfs` goes on answering.
fn answers_eio(host: &dyn Host, mounted: &Mounted) -> Result<bool> {
    match host.stat(&mounted.target) {
        Ok(_) => Ok(false),
        Err(error) if error.errno() == Some(libc::EIO) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What is wrong with a filesystem that still works.
fn impaired(host: &dyn Host, place: &Place, mounted: &Mounted) -> Result<Vec<Ailment>> {
    let Ok(filesystem) = mounted.kind.parse::<Filesystem>() else { return Ok(vec![]) };
    let (target, device) = (place.target.display(), &place.device);
    let mut found = Vec::new();
    let errors = host.recorded_errors(&device.path, filesystem)?;
    if errors > 0 {
        let what = format!(
            "the {filesystem} at {target} has recorded {errors} errors; end its users, so that it is unmounted and checked \
             when it is mounted anew, and look at the kernel's log"
        );
        found.push(Ailment::new(Condition::FilesystemErrors, what));
    }
    let covered = host.filesystem_size(&place.target, &device.path, filesystem)?;
    if !place.read_only && device.size.saturating_sub(covered) > filesystem.growth_slack() {
        let mut what =
            format!("the {filesystem} at {target} covers {covered} of its volume's {}; ", device.size);
        what.push_str(if host.grows_mounted(filesystem) {
            "expand the claim again, and look at the agent's log for why it could not be grown"
        } else {
            "it grows when it is mounted anew: restart its users (while it is mounted the agent would need \
             CAP_SYS_RESOURCE)"
        });
        found.push(Ailment::new(Condition::FilesystemNotGrown, what));
    }
    Ok(found)
}

/// A filesystem that must not be mounted as it is.
pub fn damaged(volume: &VolumeId, image: &Path, said: &str) -> Ailment {
    let what = format!(
        "volume {volume} is not mounted: its filesystem has errors that are not repaired without a person ({said}); run \
         `e2fsck -f {}` on its host and stage it again, or restore it from a snapshot",
        image.display()
    );
    Ailment::new(Condition::FilesystemDamaged, what)
}

/// A volume of which nobody knows whether an earlier agent has left it quiesced.
pub fn resume_failed(volume: &VolumeId, why: &Fault) -> Ailment {
    let what = format!(
        "an earlier agent may have left volume {volume} quiesced, and it could not be resumed: {why}; this is tried again \
         every 30 s, `fsfreeze --unfreeze` at its mount point ends a freeze by hand"
    );
    Ailment::new(Condition::ResumeFailed, what)
}

/// A volume that cannot be looked at.
pub fn volume_failed(volume: &VolumeId, why: &Fault) -> Ailment {
    let what = format!(
        "volume {volume} cannot be looked at: {why}; look at the disk of its pool and at the kernel's log"
    );
    Ailment::new(Condition::VolumeFailed, what)
}

/// What was found out about volumes and the kernel does not show.
#[derive(Debug, Default)]
pub struct Noted(Mutex<BTreeMap<(VolumeId, Condition), Ailment>>);

impl Noted {
    /// Notes it until it is cleared.
    pub fn note(&self, volume: &VolumeId, ailment: Ailment) {
        self.lock().insert((volume.clone(), ailment.condition), ailment);
    }

    /// It is not so any more.
    pub fn clear(&self, volume: &VolumeId, condition: Condition) {
        self.lock().remove(&(volume.clone(), condition));
    }

    /// What is noted about a volume.
    pub fn of(&self, volume: &VolumeId) -> Vec<Ailment> {
        let all = self.lock();
        all.iter().filter(|((of, _), _)| of == volume).map(|(_, ailment)| ailment.clone()).collect()
    }

    /// The volumes with this condition.
    pub fn with(&self, condition: Condition) -> Vec<VolumeId> {
        let all = self.lock();
        all.keys().filter(|(_, of)| *of == condition).map(|(volume, _)| volume.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(VolumeId, Condition), Ailment>> {
        // The map is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A volume whose image is gone.
pub fn image_missing(volume: &VolumeId) -> Ailment {
    let what = format!(
        "the image of volume {volume} is gone from its pool: somebody removed it; restore the volume from a snapshot"
    );
    Ailment::new(Condition::ImageMissing, what)
}

/// What was wrong at the last look, by object.
#[derive(Debug, Default)]
pub struct Watch {
    known: BTreeMap<(String, Condition), String>,
}

/// What has changed since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Object and what is wrong with it now.
    pub began: Vec<(String, Ailment)>,
    /// Object and what is not wrong with it any more.
    pub ended: Vec<(String, Condition)>,
}

impl Watch {
    /// Compares with the last look.
    pub fn look(&mut self, now: impl IntoIterator<Item = (String, Ailment)>) -> Changes {
        let mut changes = Changes::default();
        let mut seen = BTreeMap::new();
        for (object, ailment) in now {
            let key = (object.clone(), ailment.condition);
            seen.insert(key.clone(), ailment.message.clone());
            if !self.known.contains_key(&key) {
                changes.began.push((object, ailment));
            }
        }
        let ended = self.known.keys().filter(|key| !seen.contains_key(key));
        changes.ended = ended.cloned().collect();
        self.known = seen;
        changes
    }
}

/// Looks at everything once and logs what has changed: one line when a condition begins, one when it ends.
pub fn report(local: &LocalHost, watch: &mut Watch) {
    let now = match local.ailments() {
        Ok(now) => now,
        Err(fault) => {
            tracing::warn!(%fault, "the health of volumes cannot be told");
            return;
        }
    };
    metrics::seen(&now.iter().map(|(_, ailment)| ailment.condition).collect::<Vec<_>>());
    let changes = watch.look(now);
    for (object, ailment) in changes.began {
        let condition = ailment.condition.as_str();
        tracing::warn!(object, condition, "{}", ailment.message);
    }
    for (object, condition) in changes.ended {
        tracing::info!(object, condition = condition.as_str(), "the condition has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fixtures::{Bench, STAGING, stage};
    use crate::domain::node::{Access as Use, StageRequest};
    use crate::host::Files;
    use crate::host::fake::When;

    fn conditions(found: &[Ailment]) -> Vec<Condition> {
        found.iter().map(|ailment| ailment.condition).collect()
    }

    #[test]
    fn a_pool_warns_before_it_is_full_and_when_it_is() {
        let bench = Bench::new();
        let pool = bench.pools.iter().next().unwrap();
        let at = |free: Bytes| {
            bench.host.leave_free(Path::new("/pool"), free);
            conditions(&of_pool(&pool).1)
        };
        // The reserve of 64 GiB is 3.2 GiB; a sixth is 10.7 GiB.
        assert_eq!(at(Bytes::gib(14)), []);
        assert_eq!(at(Bytes::gib(13)), [Condition::PoolNearlyFull]);
        assert_eq!(at(Bytes::gib(4)), [Condition::PoolNearlyFull]);
        assert_eq!(at(Bytes::gib(3)), [Condition::PoolFull]);
        bench.host.fail(When::NthOf("statfs", 1), libc::EIO);
        let info = bench.local.describe().unwrap();
        assert_eq!(conditions(&info.pools[0].conditions), [Condition::PoolFailed], "the host still answers");
        assert_eq!(conditions(&bench.local.describe().unwrap().pools[0].conditions), [Condition::PoolFull]);
    }

    #[test]
    fn a_volume_without_its_image_is_told_and_hides_no_other() {
        let bench = Bench::new();
        let (lost, other) = (bench.volume("lost", None), bench.volume("other", None));
        bench.host.remove_file(&bench.pools.iter().next().unwrap().image(&lost).unwrap()).unwrap();
        let volumes = bench.local.volumes().unwrap();
        let of = |id| volumes.iter().find(|volume| volume.record.id == id).unwrap();
        assert_eq!(conditions(&of(lost).conditions), [Condition::ImageMissing]);
        assert_eq!(of(other).conditions, []);
    }

    #[test]
    fn a_filesystem_that_has_shut_down_or_lost_its_writing_is_told() {
        let bench = Bench::new();
        let volume = bench.volume("data", Some(Filesystem::Xfs));
        let access = Use::Mount { filesystem: Some(Filesystem::Xfs), options: vec![] };
        bench.node.stage(&stage(&volume, access)).unwrap();
        let now = || conditions(&bench.local.volume(&volume).unwrap().conditions);
        assert_eq!(now(), []);
        bench.host.shut_down(Path::new(STAGING));
        assert_eq!(now(), [Condition::FilesystemShutDown]);
        let other = bench.volume("other", Some(Filesystem::Ext4));
        bench.host.make_all(Path::new("/kubelet/other"));
        let access = Use::Mount { filesystem: None, options: vec![] };
        let request = StageRequest { target: "/kubelet/other".into(), ..stage(&other, access) };
        bench.node.stage(&request).unwrap();
        let now = || conditions(&bench.local.volume(&other).unwrap().conditions);
        bench.host.record_errors(Path::new("/kubelet/other"), 3);
        assert_eq!(now(), [Condition::FilesystemErrors]);
        bench.host.lose_writing(Path::new("/kubelet/other"));
        assert_eq!(now(), [Condition::FilesystemReadOnly]);
        bench.host.shut_down(Path::new("/kubelet/other"));
        assert_eq!(now(), [Condition::FilesystemShutDown], "ext4 answers, and the mount table says so");
    }

    #[test]
    fn a_condition_is_told_when_it_begins_and_when_it_ends() {
        let mut watch = Watch::default();
        let full = |text: &str| ("pool a".to_owned(), Ailment::new(Condition::PoolFull, text));
        assert_eq!(watch.look([full("1")]).began, [full("1")]);
        assert_eq!(watch.look([full("2")]), Changes::default(), "it goes on");
        let changes = watch.look([]);
        assert_eq!(changes.ended, [("pool a".to_owned(), Condition::PoolFull)]);
        assert_eq!(watch.look([]), Changes::default());
    }
}
