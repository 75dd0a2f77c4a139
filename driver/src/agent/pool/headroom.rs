//! Headroom: an overfull pool must never turn into corrupted volumes.
//!
//! Everything here is thin, so a write into a volume can need new space at any time: on its first touch, and again
//! after each snapshot, which makes old blocks shared. When the pool has none left, the volume's filesystem sees
//! ENOSPC from its own disk and may go read-only for good. Therefore:
//! * a **reserve** stays free: no volume and no snapshot is made when it would be touched;
//! * one volume's capacity never exceeds the pool's size, and all capacities together never exceed
//!   [`MAX_OVERCOMMIT`] times the pool's size. Below that factor thin provisioning is the administrator's trust in
//!   volumes that are not full; the reserve is what warns early.

use crate::domain::health::Condition;
use crate::domain::{Bytes, Filesystem, PoolId};
use crate::host::Space;

use super::{PoolError, Result};

/// The reserve is at least this on a pool that is large enough…
pub const RESERVE_LEAST: Bytes = Bytes::gib(1);
/// …or this share of the pool, if that is more (one part in …)…
pub const RESERVE_SHARE: u64 = 20;
/// …but on a small pool never more than this share (one part in …).
pub const RESERVE_MOST_SHARE: u64 = 10;
/// All capacities together never exceed this many times the pool's size.
pub const MAX_OVERCOMMIT: u64 = 20;

/// What a new snapshot, or a volume that is a copy, takes at once: metadata.
pub const COPY_NEEDS: Bytes = Bytes::mib(1);

/// What a new volume takes at once: mkfs.xfs allocates its log of 64 MiB.
pub const fn new_volume_needs(filesystem: Option<Filesystem>) -> Bytes {
    match filesystem {
        Some(Filesystem::Xfs) => Bytes::mib(72),
        Some(Filesystem::Ext4) => Bytes::mib(16),
        None => Bytes::mib(1),
    }
}

/// Space of a pool as it can be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSpace {
    /// Size of the pool's filesystem.
    pub total: Bytes,
    /// What new volumes and snapshots may use: free space without the reserve.
    pub available: Bytes,
    /// What stays free so that existing volumes can be overwritten.
    pub reserve: Bytes,
    /// What is free, the reserve included.
    pub free: Bytes,
}

impl PoolSpace {
    /// The figures of a pool on a filesystem with this space.
    pub fn of(space: Space) -> Self {
        let share = space.total.0 / RESERVE_SHARE;
        let most = space.total.0 / RESERVE_MOST_SHARE;
        let reserve = Bytes(share.max(RESERVE_LEAST.0).min(most));
        Self {
            total: space.total,
            available: space.available.saturating_sub(reserve),
            reserve,
            free: space.available,
        }
    }

    /// What is low, if something is.
    pub fn condition(&self) -> Option<Condition> {
        if self.available.0 == 0 {
            return Some(Condition::PoolFull);
        }
        (self.available < self.reserve).then_some(Condition::PoolNearlyFull)
    }

    /// Refuses when `need` would touch the reserve.
    pub(super) fn check(&self, pool: &PoolId, need: Bytes) -> Result<()> {
        if self.available >= need {
            return Ok(());
        }
        Err(PoolError::Full {
            pool: pool.clone(),
            free: self.free,
            total: self.total,
            reserve: self.reserve,
            need,
        })
    }
}

/// Refuses a capacity that the pool could never honour: `one` volume would be this large, and `more` bytes are
/// promised on top of `promised`.
pub(super) fn check_promise(
    pool: &PoolId,
    total: Bytes,
    promised: Bytes,
    more: Bytes,
    one: Bytes,
) -> Result<()> {
    let refuse = |limit, why| Err(PoolError::TooLarge { pool: pool.clone(), want: one, limit, why });
    if one > total {
        return refuse(total, "the size of the pool");
    }
    let most = Bytes(total.0.saturating_mul(MAX_OVERCOMMIT));
    if promised.0.saturating_add(more.0) > most.0 {
        return refuse(
            most.saturating_sub(promised),
            "20 times the size of the pool, less what is promised already",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(total: Bytes) -> Bytes {
        PoolSpace::of(Space { total, available: total }).reserve
    }

    #[test]
    fn the_reserve_is_a_gigabyte_or_five_percent_and_at_most_ten() {
        assert_eq!(reserve(Bytes::gib(100)), Bytes::gib(5));
        assert_eq!(reserve(Bytes::gib(12)), Bytes::gib(1));
        assert_eq!(reserve(Bytes::gib(2)), Bytes(Bytes::gib(2).0 / 10));
        assert_eq!(reserve(Bytes(0)), Bytes(0));
    }

    #[test]
    fn nothing_is_available_below_the_reserve() {
        let pool: PoolId = "3f9a0c11d2e4".parse().unwrap();
        let space = PoolSpace::of(Space { total: Bytes::gib(20), available: Bytes::mib(1025) });
        assert_eq!(space.available, Bytes::mib(1));
        assert!(space.check(&pool, Bytes::mib(1)).is_ok());
        let error = space.check(&pool, Bytes::mib(2)).unwrap_err().to_string();
        assert!(error.contains("too full") && error.contains("1 GiB"), "{error}");
    }

    #[test]
    fn promises_end_at_the_size_of_the_pool_and_at_the_factor() {
        let pool: PoolId = "3f9a0c11d2e4".parse().unwrap();
        let check = |promised, one| check_promise(&pool, Bytes::gib(10), promised, one, one);
        assert!(check(Bytes(0), Bytes::gib(10)).is_ok());
        assert!(check(Bytes(0), Bytes(Bytes::gib(10).0 + 1)).is_err());
        assert!(check(Bytes::gib(190), Bytes::gib(10)).is_ok());
        assert!(check(Bytes::gib(191), Bytes::gib(10)).is_err());
        assert!(check(Bytes(u64::MAX), Bytes::gib(10)).is_err());
    }
}
