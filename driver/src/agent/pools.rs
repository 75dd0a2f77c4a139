//! All pools of one host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health;
use super::pool::{Pool, PoolError, SweepReport};
use super::volumes::{Catalogue, VolumeImage};
use crate::domain::health::Ailment;
use crate::domain::{Fault, PoolId, VolumeId};
use crate::host::{DirectoryLock, Host};

/// The open pools of this host, by id. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pools(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<PoolId, Arc<Pool>>,
    /// Kept as long as anybody here works with the pools.
    _locks: Vec<Box<dyn DirectoryLock>>,
}

/// An agent that was killed in the middle of a kernel call keeps its locks until that has ended.
const LOCK_WAIT: Duration = Duration::from_secs(15);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Why the pools of a host cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// One of them.
    #[error("pool {}: {source}", dir.display())]
    Pool {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: Box<PoolError>,
    },
    /// Another process works with it.
    #[error(
        "pool {} is open in another process (another agent?); each pool has one agent: stop that one, or take the pool out of `pools`",
        dir.display()
    )]
    InUse {
        /// Its directory.
        dir: PathBuf,
    },
    /// The same pool at two places: a copied disk, or a directory that is mounted twice.
    #[error(
        "{} and {} are both pool {id}; remove one of them from `pools` (a copied disk must not be used beside its original)",
        first.display(),
        second.display()
    )]
    Twice {
        /// The id that both have.
        id: PoolId,
        /// One directory.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

impl Pools {
    /// These open pools.
    pub fn of(pools: impl IntoIterator<Item = Arc<Pool>>) -> Self {
        let by_id = pools.into_iter().map(|pool| (pool.id().clone(), pool)).collect();
        Self(Arc::new(Inner { by_id, _locks: vec![] }))
    }

    /// Opens all of these, or none. What the sweeps found is told per pool.
    pub fn open(
        host: &Arc<dyn Host>,
        dirs: &[PathBuf],
    ) -> Result<(Self, Vec<(PoolId, SweepReport)>), OpenError> {
        let mut pools: BTreeMap<PoolId, Arc<Pool>> = BTreeMap::new();
        let mut reports = Vec::new();
        let mut locks = Vec::new();
        for dir in dirs {
            locks.push(lock_within(&**host, dir, LOCK_WAIT)?);
            let (pool, report) = Pool::open(Arc::clone(host), dir)
                .map_err(|source| OpenError::Pool { dir: dir.clone(), source: Box::new(source) })?;
            let id = pool.id().clone();
            if let Some(first) = pools.get(&id) {
                let first = first.dir().to_owned();
                return Err(OpenError::Twice { id, first, second: dir.clone() });
            }
            reports.push((id.clone(), report));
            pools.insert(id, Arc::new(pool));
        }
        Ok((Self(Arc::new(Inner { by_id: pools, _locks: locks })), reports))
    }

    /// One pool; UNAVAILABLE when it is not here: whoever asks believes that it is, so it has moved, or this
    /// agent was started without it.
    pub fn get(&self, id: &PoolId) -> Result<&Arc<Pool>, Fault> {
        self.0.by_id.get(id).ok_or_else(|| {
            Fault::unavailable(format!(
                "pool {id} is not on this host; if its disk is attached here, add its directory to `pools` and restart the agent"
            ))
        })
    }

    /// All of them, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.0.by_id.values()
    }

    /// All of them, by id.
    pub fn by_id(&self) -> &BTreeMap<PoolId, Arc<Pool>> {
        &self.0.by_id
    }
}

impl Catalogue for Pools {
    fn image(&self, volume: &VolumeId) -> Result<VolumeImage, Fault> {
        let Some(pool) = self.0.by_id.get(&volume.pool) else {
            return Err(Fault::not_found(format!("volume {volume} is not on this host")));
        };
        let record = pool.volume(volume)?;
        Ok(VolumeImage {
            path: pool.image(volume)?,
            capacity: record.capacity,
            filesystem: record.filesystem,
        })
    }

    fn own_id(&self, known_as: &VolumeId) -> VolumeId {
        self.iter().find_map(|pool| pool.own_id(known_as)).unwrap_or_else(|| known_as.clone())
    }

    fn before_use(&self, volume: &VolumeId) -> Result<(), Fault> {
        Ok(self.get(&volume.pool)?.stay(volume)?)
    }

    fn ailments(&self) -> Vec<Ailment> {
        self.iter().flat_map(|pool| health::of_pool(pool).1).collect()
    }
}

/// Keeps other agents away from a pool until the lock is dropped, also by death.
fn lock_within(host: &dyn Host, dir: &Path, wait: Duration) -> Result<Box<dyn DirectoryLock>, OpenError> {
    let end = Instant::now() + wait;
    loop {
        match host.lock_directory(dir) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if Instant::now() < end => std::thread::sleep(LOCK_POLL),
            Ok(None) => return Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(error) => {
                return Err(OpenError::Pool { dir: dir.to_owned(), source: Box::new(error.into()) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendKind;
    use crate::domain::Bytes;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_pool_that_another_process_has_open_is_not_opened() {
        let dir = Path::new("/pool");
        let host = FakeHost::with_disk("memory", Bytes::gib(4), dir);
        Pool::make(&host, BackendKind::Memory, dir).unwrap();
        host.lock_elsewhere(dir);
        let before = host.calls_of("write");
        assert!(lock_within(&host, dir, Duration::ZERO).unwrap_err().to_string().contains("another agent"));
        assert_eq!(host.calls_of("write"), before, "nothing was touched");
    }
}
