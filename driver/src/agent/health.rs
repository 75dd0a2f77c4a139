//! What is wrong with the pools and volumes of this host, read from the kernel each time, and told once when it
//! begins and once when it ends.

use std::collections::BTreeMap;

use super::local::LocalHost;
use super::mounts::{PlaceKind, Sight};
use super::pool::{Access, Pool, PoolSpace};
use crate::domain::VolumeId;
use crate::domain::health::{Ailment, Condition};
use crate::host::{Host, Result};
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
    let PoolSpace { total, available, reserve, free } = *space;
    let condition = space.condition()?;
    let what = if condition == Condition::PoolFull {
        format!(
            "pool {dir} has {free} of {total} free, and {reserve} is its reserve: nothing new is made; delete \
             snapshots or volumes, or enlarge it"
        )
    } else {
        format!(
            "pool {dir} has {available} left above its reserve of {reserve}; delete snapshots or volumes, or enlarge \
             it before nothing new can be made"
        )
    };
    Some(Ailment::new(condition, what))
}

/// What is wrong with a volume whose image is there.
pub fn of_volume(host: &dyn Host, sight: &Sight) -> Result<Vec<Ailment>> {
    let Some(place) = sight.staged() else { return Ok(vec![]) };
    let target = place.target.display();
    let mut found = Vec::new();
    if place.kind == PlaceKind::Filesystem && is_shut_down(host, place)? {
        let what = format!(
            "the filesystem at {target} has shut itself down after an error of its disk, and every access fails; end its \
             users, so that it is unmounted and mounted anew, and look at the pool's disk"
        );
        found.push(Ailment::new(Condition::FilesystemShutDown, what));
    }
    if sight.lost_writing(place) {
        let what = format!(
            "the filesystem at {target} was mounted for writing and has become read-only after an error; end its users, \
             so that it is unmounted and checked when it is mounted anew"
        );
        found.push(Ailment::new(Condition::FilesystemReadOnly, what));
    }
    if !place.read_only && place.device.read_only {
        let what = format!(
            "{} below {target} does not take writes; look at the pool's disk and at the kernel's log",
            place.device.path.display()
        );
        found.push(Ailment::new(Condition::DeviceReadOnly, what));
    }
    Ok(found)
}

/// Asking XFS about its root fails with EIO once it has shut down, though `statfs` goes on answering.
fn is_shut_down(host: &dyn Host, place: &super::mounts::Place) -> Result<bool> {
    match host.stat(&place.target) {
        Ok(_) => Ok(false),
        Err(error) if error.errno() == Some(libc::EIO) => Ok(true),
        Err(error) => Err(error),
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
    use std::path::Path;

    use super::*;
    use crate::agent::fixtures::{Bench, STAGING, stage};
    use crate::domain::node::Access as Use;
    use crate::domain::{Bytes, Filesystem};
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
            conditions(&of_pool(pool).1)
        };
        // The reserve of 64 GiB is 3.2 GiB.
        assert_eq!(at(Bytes::gib(10)), []);
        assert_eq!(at(Bytes::gib(5)), [Condition::PoolNearlyFull]);
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
        bench.host.lose_writing(Path::new(STAGING));
        assert_eq!(now(), [Condition::FilesystemShutDown, Condition::FilesystemReadOnly]);
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
