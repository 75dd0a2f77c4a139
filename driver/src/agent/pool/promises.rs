//! What a pool has promised to its volumes, and what it may still promise ([`super::headroom`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::headroom::Overcommit;
use super::{Pool, PoolError, PoolSpace, Result};
use crate::domain::{Bytes, VolumeId};

/// Figures that are only shown may be so old: what all volumes have written is read from each image.
const SHOWN_FOR: Duration = Duration::from_secs(2);

/// Promises that are not in the index yet, and what was read last of all images.
#[derive(Debug, Clone, Default)]
pub(super) struct Promises(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pending: u64,
    /// How many promises were ever made: another number means that what was read before is old.
    made: u64,
    factor: Overcommit,
    written: Option<(Instant, Bytes)>,
}

/// Something promised to a volume that is being made; taken back when this is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    promises: Promises,
    bytes: u64,
}

impl Promises {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut state = self.promises.lock();
        state.pending = state.pending.saturating_sub(self.bytes);
    }
}

impl Pool {
    /// How many times its size the pool may promise from now on; what is promised already stays.
    pub fn set_overcommit(&self, factor: Overcommit) {
        self.promises.lock().factor = factor;
    }

    /// How many times its size the pool may promise.
    pub fn overcommit(&self) -> Overcommit {
        self.promises.lock().factor
    }

    /// Size, and what new volumes and snapshots may use. What is promised may be two seconds old.
    pub fn space(&self) -> Result<PoolSpace> {
        let (known, factor, pending) = {
            let state = self.promises.lock();
            (state.written.filter(|(at, _)| at.elapsed() < SHOWN_FOR), state.factor, state.pending)
        };
        let written = match known {
            Some((_, written)) => written,
            None => self.written_alone()?,
        };
        self.space_with(written, factor, pending)
    }

    /// As [`Pool::space`], as it would be once what was deleted is free. More than there will be where deleted volumes
    /// shared blocks with what stays; whoever makes something waits and looks again.
    pub fn space_to_come(&self) -> Result<PoolSpace> {
        let space = self.space()?;
        let coming = self.being_freed()?.min(space.total.saturating_sub(space.free));
        let free = Bytes(space.free.0.saturating_add(coming.0));
        Ok(PoolSpace {
            free,
            available: free.saturating_sub(space.reserve),
            promised: space.promised.saturating_sub(coming),
            ..space
        })
    }

    fn space_with(&self, written: Bytes, factor: Overcommit, pending: u64) -> Result<PoolSpace> {
        let space = self.backend.space(&*self.host, self.dir())?;
        let capacities = {
            let index = self.index();
            index.promised().0.saturating_add(index.arriving().0)
        };
        let growth = capacities.saturating_sub(written.0).saturating_add(pending);
        Ok(PoolSpace::of(space, Bytes(growth), factor))
    }

    /// What volumes have written that share no block with anything: so much less they may still come to need.
    pub(super) fn written_alone(&self) -> Result<Bytes> {
        let (alone, arriving) = {
            let index = self.index();
            (index.volumes_that_share_nothing(), index.arrived())
        };
        let mut written = arriving.0;
        for (volume, capacity) in alone {
            let allocated = self.backend.allocated(&*self.host, &self.layout.volume(&volume))?;
            // An image may have a little more than its capacity: its last block, and what the filesystem rounds up.
            written = written.saturating_add(allocated.min(capacity).0);
        }
        let written = Bytes(written);
        self.promises.lock().written = Some((Instant::now(), written));
        Ok(written)
    }

    /// Promises `more` bytes to a volume of `one` byte, or refuses. Waits for what is being freed.
    pub(super) fn promise(&self, more: Bytes, one: Bytes) -> Result<Promise> {
        let total = self.backend.space(&*self.host, self.dir())?.total;
        if one > total {
            let why = "the size of the pool";
            return Err(PoolError::TooLarge { pool: self.id().clone(), want: one, limit: total, why });
        }
        if more == Bytes(0) {
            return Ok(Promise { promises: self.promises.clone(), bytes: 0 });
        }
        self.grant(more)
    }

    /// Promises what snapshots of these volumes may make them need: from then on they share all that they have written.
    pub(super) fn promise_snapshots(&self, volumes: &[&VolumeId]) -> Result<Promise> {
        let alone = self.index().volumes_that_share_nothing();
        let mut more = 0_u64;
        for (volume, capacity) in alone.iter().filter(|(volume, _)| volumes.contains(&volume)) {
            let allocated = self.backend.allocated(&*self.host, &self.layout.volume(volume))?;
            more = more.saturating_add(allocated.min(*capacity).0);
        }
        self.grant(Bytes(more))
    }

    fn grant(&self, more: Bytes) -> Result<Promise> {
        self.with_room(|freeing| {
            let (factor, pending, made) = {
                let state = self.promises.lock();
                (state.factor, state.pending, state.made)
            };
            let fits = |written| {
                let space = self.space_with(written, factor, pending)?;
                space.check_promise(self.id(), more, factor, freeing)
            };
            // Nothing that was written counts in favour of it: the quick answer.
            if fits(Bytes(0)).is_err() {
                fits(self.written_alone()?)?;
            }
            let mut state = self.promises.lock();
            if state.made != made {
                return Ok(None);
            }
            state.made += 1;
            state.pending = state.pending.saturating_add(more.0);
            Ok(Some(Promise { promises: self.promises.clone(), bytes: more.0 }))
        })
    }

    /// Refuses when `need` would touch the reserve. Waits for what is being freed.
    pub(super) fn check_free(&self, need: Bytes) -> Result<()> {
        self.with_room(|freeing| {
            let space = self.backend.space(&*self.host, self.dir())?;
            PoolSpace::of(space, Bytes(0), Overcommit::NONE).check(self.id(), need, freeing).map(Some)
        })
    }
}
