//! All pools of one host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::pool::{Pool, PoolError, SweepReport};
use super::volumes::{Catalogue, VolumeImage};
use crate::domain::{Fault, PoolId, VolumeId};
use crate::host::Host;

/// The open pools of this host, by id. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pools(Arc<BTreeMap<PoolId, Arc<Pool>>>);

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
        Self(Arc::new(pools.into_iter().map(|pool| (pool.id().clone(), pool)).collect()))
    }

    /// Opens all of these, or none. What the sweeps found is told per pool.
    pub fn open(
        host: &Arc<dyn Host>,
        dirs: &[PathBuf],
    ) -> Result<(Self, Vec<(PoolId, SweepReport)>), OpenError> {
        let mut pools: BTreeMap<PoolId, Arc<Pool>> = BTreeMap::new();
        let mut reports = Vec::new();
        for dir in dirs {
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
        Ok((Self(Arc::new(pools)), reports))
    }

    /// One pool; UNAVAILABLE when it is not here: whoever asks believes that it is, so it has moved, or this
    /// agent was started without it.
    pub fn get(&self, id: &PoolId) -> Result<&Arc<Pool>, Fault> {
        self.0.get(id).ok_or_else(|| {
            Fault::unavailable(format!(
                "pool {id} is not on this host; if its disk is attached here, add its directory to `pools` and restart the agent"
            ))
        })
    }

    /// All of them, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.0.values()
    }

    /// All of them, by id.
    pub fn by_id(&self) -> &BTreeMap<PoolId, Arc<Pool>> {
        &self.0
    }
}

impl Catalogue for Pools {
    fn image(&self, volume: &VolumeId) -> Result<VolumeImage, Fault> {
        let Some(pool) = self.0.get(&volume.pool) else {
            return Err(Fault::not_found(format!("volume {volume} is not on this host")));
        };
        let record = pool.volume(volume)?;
        Ok(VolumeImage {
            path: pool.image(volume)?,
            capacity: record.capacity,
            filesystem: record.filesystem,
        })
    }
}
