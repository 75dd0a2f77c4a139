//! All pools of one host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::health;
use super::pool::{Overcommit, Pool, PoolError, SweepReport};
use super::volumes::{Catalogue, VolumeImage};
use crate::domain::health::{Ailment, Condition};
use crate::domain::{Fault, PoolId, VolumeId};
use crate::host::{DirectoryLock, Host};

/// The pools of this host, by id. Cheap to clone.
///
/// A pool that cannot be opened is no reason for the others to be out of use, nor for their volumes not to be given back:
/// the agent starts without it, tells it as a condition, and tries again. What is in it is UNAVAILABLE meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Pools(Arc<RwLock<State>>);

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<PoolId, Arc<Pool>>,
    /// Why the others are not.
    closed: BTreeMap<PathBuf, OpenError>,
    /// By the directories of pools; 1 where there is none.
    overcommit: BTreeMap<PathBuf, Overcommit>,
    /// Of those that are open; kept as long as anybody here works with the pools.
    locks: Vec<Box<dyn DirectoryLock>>,
}

/// An agent that was killed in the middle of a kernel call keeps its locks until that has ended.
const LOCK_WAIT: Duration = Duration::from_secs(15);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Why a pool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its filesystem or its record.
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
        "{} and {} are both pool {id}; detach one of them (a copied disk must not be used beside its original)",
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
        let open = pools.into_iter().map(|pool| (pool.id().clone(), pool)).collect();
        Self(Arc::new(RwLock::new(State { open, ..State::default() })))
    }

    /// Opens those of these that can be opened.
    pub fn open(host: &Arc<dyn Host>, dirs: &[PathBuf], overcommit: &BTreeMap<PathBuf, Overcommit>) -> Self {
        let pools = Self(Arc::new(RwLock::new(State { overcommit: overcommit.clone(), ..State::default() })));
        pools.open_these(host, dirs, LOCK_WAIT);
        for (_, ailment) in pools.closed() {
            tracing::error!("{}", ailment.message);
        }
        pools
    }

    /// Tries again to open those that could not be opened; gives those that could be now.
    pub fn open_closed(&self, host: &Arc<dyn Host>) -> Vec<Arc<Pool>> {
        let dirs: Vec<PathBuf> = self.read().closed.keys().cloned().collect();
        self.open_these(host, &dirs, Duration::ZERO)
    }

    fn open_these(&self, host: &Arc<dyn Host>, dirs: &[PathBuf], wait: Duration) -> Vec<Arc<Pool>> {
        let (mut candidates, mut closed) = (Vec::new(), BTreeMap::new());
        for dir in dirs {
            // Not under the lock of the state: it takes as long as the disk does.
            match open_one(host, dir, wait) {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => drop(closed.insert(dir.clone(), error)),
            }
        }
        let mut state = self.write();
        let mut places: BTreeMap<PoolId, Vec<PathBuf>> =
            state.open.values().map(|pool| (pool.id().clone(), vec![pool.dir().to_owned()])).collect();
        for Candidate { pool, .. } in &candidates {
            places.entry(pool.id().clone()).or_default().push(pool.dir().to_owned());
        }
        let mut opened = Vec::new();
        for Candidate { lock, pool, report } in candidates {
            let (id, dir) = (pool.id().clone(), pool.dir().to_owned());
            let twin = places.get(&id).into_iter().flatten().find(|place| **place != dir);
            if let Some(twin) = twin {
                // Which of them is the original is for people to say; one that is in use already stays.
                closed.insert(dir.clone(), OpenError::Twice { id, first: twin.clone(), second: dir });
                continue;
            }
            tracing::info!(pool = %id, ?report, "pool opened");
            pool.set_overcommit(state.overcommit.get(&dir).copied().unwrap_or_default());
            let pool = Arc::new(pool);
            state.open.insert(id, Arc::clone(&pool));
            state.locks.push(lock);
            opened.push(pool);
        }
        state.closed.retain(|dir, _| !dirs.contains(dir));
        state.closed.extend(closed);
        opened
    }

    /// One pool; UNAVAILABLE when it is not open here: whoever asks believes that it is, so it has moved, this agent was
    /// started without it, or it cannot be opened.
    pub fn get(&self, id: &PoolId) -> Result<Arc<Pool>, Fault> {
        let state = self.read();
        if let Some(pool) = state.open.get(id) {
            return Ok(Arc::clone(pool));
        }
        let why = match state.closed.values().map(ToString::to_string).collect::<Vec<_>>() {
            none if none.is_empty() => String::new(),
            some => format!("; what cannot be opened here: {}", some.join("; ")),
        };
        Err(Fault::unavailable(format!(
            "pool {id} is not open on this host; if its disk is attached here, add its directory to `pools` and restart the \
             agent{why}"
        )))
    }

    /// All that are open, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Pool>> + use<> {
        self.read().open.values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// Whether this pool is open here.
    pub fn has(&self, id: &PoolId) -> bool {
        self.read().open.contains_key(id)
    }

    /// Those that cannot be opened: their directories, and what is wrong.
    pub fn closed(&self) -> Vec<(PathBuf, Ailment)> {
        let ailment = |error: &OpenError| {
            let what =
                format!("{error}; until it can be opened, which is tried again, nothing in it can be used");
            Ailment::new(Condition::PoolFailed, what)
        };
        self.read().closed.iter().map(|(dir, error)| (dir.clone(), ailment(error))).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // Every change is a single map operation: a panic cannot leave it half changed.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An opened pool that may turn out to be a copy of another one.
struct Candidate {
    lock: Box<dyn DirectoryLock>,
    pool: Pool,
    report: SweepReport,
}

fn open_one(host: &Arc<dyn Host>, dir: &Path, wait: Duration) -> Result<Candidate, OpenError> {
    let lock = lock_within(&**host, dir, wait)?;
    match Pool::open(Arc::clone(host), dir) {
        Ok((pool, report)) => Ok(Candidate { lock, pool, report }),
        Err(source) => Err(OpenError::Pool { dir: dir.to_owned(), source: Box::new(source) }),
    }
}

impl Catalogue for Pools {
    fn image(&self, volume: &VolumeId) -> Result<VolumeImage, Fault> {
        // A pool that is not here, and does not stay away by a fault of its own, has no volume that could be in use here.
        let pool = match self.get(&volume.pool) {
            Err(_) if self.read().closed.is_empty() => {
                return Err(Fault::not_found(format!("volume {volume} is not on this host")));
            }
            outcome => outcome?,
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
        let open = self.iter().flat_map(|pool| health::of_pool(&pool).1);
        open.chain(self.closed().into_iter().map(|(_, ailment)| ailment)).collect()
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
    use crate::domain::{Bytes, Code, Incarnation};
    use crate::host::Files;
    use crate::host::fake::FakeHost;

    const RECORD: &str = "/two/stillpoint.json";

    /// A host with two pools, and their directories.
    fn host() -> (FakeHost, Arc<dyn Host>, [PathBuf; 2]) {
        let dirs = ["/one", "/two"].map(PathBuf::from);
        let fake = FakeHost::with_disk("memory", Bytes::gib(4), &dirs[0]);
        fake.add_disk("memory", Bytes::gib(4), &dirs[1]);
        for dir in &dirs {
            Pool::make(&fake, BackendKind::Memory, dir).unwrap();
        }
        (fake.clone(), Arc::new(fake), dirs)
    }

    fn ids(pools: &Pools) -> Vec<PathBuf> {
        let mut dirs: Vec<_> = pools.iter().map(|pool| pool.dir().to_owned()).collect();
        dirs.sort();
        dirs
    }

    #[test]
    fn a_pool_that_cannot_be_opened_keeps_no_other_from_being_used_and_is_taken_up_when_it_can() {
        let (fake, kernel, dirs) = host();
        let id = Pool::open(Arc::clone(&kernel), &dirs[1]).unwrap().0.id().clone();
        let good = fake.read(Path::new(RECORD)).unwrap();
        fake.write_synced(Path::new(RECORD), b"torn").unwrap();
        let overcommit = BTreeMap::from([(dirs[1].clone(), "3".parse().unwrap())]);
        let pools = Pools::open(&kernel, &dirs, &overcommit);
        assert_eq!(ids(&pools), dirs[..1]);
        let fault = pools.get(&id).unwrap_err();
        assert_eq!(fault.code, Code::Unavailable, "{fault}");
        assert!(fault.message.contains(RECORD), "{fault}");
        let [(dir, ailment)] = &pools.closed()[..] else { panic!("{:?}", pools.closed()) };
        assert_eq!((dir, ailment.condition), (&dirs[1], Condition::PoolFailed));
        let volume = VolumeId::new(id.clone(), "v", Incarnation(1));
        assert_eq!(pools.image(&volume).unwrap_err().code, Code::Unavailable, "nobody knows");

        assert!(pools.open_closed(&kernel).is_empty(), "still torn");
        fake.write_synced(Path::new(RECORD), &good).unwrap();
        assert_eq!(pools.open_closed(&kernel).len(), 1);
        assert_eq!((ids(&pools), pools.closed().len()), (dirs.to_vec(), 0));
        assert_eq!(pools.get(&id).unwrap().overcommit().to_string(), "3");
        assert_eq!(pools.image(&volume).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn of_two_copies_of_a_pool_neither_is_used_until_one_is_gone() {
        let (fake, kernel, dirs) = host();
        let own = fake.read(Path::new(RECORD)).unwrap();
        let copy = fake.read(Path::new("/one/stillpoint.json")).unwrap();
        fake.write_synced(Path::new(RECORD), &copy).unwrap();
        let pools = Pools::open(&kernel, &dirs, &BTreeMap::new());
        assert_eq!((ids(&pools), pools.closed().len()), (vec![], 2));
        assert!(pools.open_closed(&kernel).is_empty());
        fake.write_synced(Path::new(RECORD), &own).unwrap();
        assert_eq!(pools.open_closed(&kernel).len(), 2);
        // A copy that comes later does not disturb who is in use.
        let pools = Pools::open(&kernel, &dirs[..1], &BTreeMap::new());
        fake.write_synced(Path::new(RECORD), &copy).unwrap();
        pools.open_these(&kernel, &dirs[1..], Duration::ZERO);
        assert_eq!((ids(&pools), pools.closed().len()), (dirs[..1].to_vec(), 1));
    }

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
