//! Headroom: an overfull pool must never turn into corrupted volumes.
//!
//! Everything here is thin, so a write into a volume can need new space at any time: on its first touch, and again
//! after each snapshot, which makes old blocks shared. When the pool has none left, the volume's filesystem sees
//! ENOSPC from its own disk and may go read-only for good. Therefore:
//! * a **reserve** stays free: no volume and no snapshot is made when it would be touched;
//! * one volume's capacity never exceeds the pool's size;
//! * what is **promised** never exceeds [`Overcommit`] times the pool's size without the reserve. Promised is what is in
//!   use now and what the volumes may still come to need: a volume that shares no blocks its capacity less what it has
//!   written, one that shares blocks with snapshots or copies all of its capacity, since each of its blocks may have to
//!   be written to a new place. With a factor of 1 volumes that are written within their own size never run the pool
//!   full. A larger factor is the administrator's trust that not all of them are filled.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
/// A pool is nearly full when less than this share of it is free above the reserve (one part in …).
pub const NEARLY_FULL_SHARE: u64 = 6;

/// How many times its size a pool may promise; a factor in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Factor", into = "String")]
pub struct Overcommit(u32);

/// A factor as people write it in YAML.
#[derive(Deserialize)]
#[serde(untagged)]
enum Factor {
    Number(serde_json::Number),
    Text(String),
}

/// A text that is no factor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "overcommit {0:?} is not a factor from 0.1 to 100 with at most two decimals; 1 promises what the pool has"
)]
pub struct NotAFactor(String);

impl Overcommit {
    /// Nothing is promised that is not there: the default.
    pub const NONE: Self = Self(100);
    const LEAST: u32 = 10;
    const MOST: u32 = 10_000;

    /// So many times.
    pub const fn times(factor: u32) -> Self {
        Self(factor.saturating_mul(100))
    }

    /// In hundredths.
    pub const fn hundredths(self) -> u32 {
        self.0
    }

    /// A factor of so many hundredths.
    pub const fn of_hundredths(hundredths: u32) -> Self {
        Self(hundredths)
    }

    /// What may be promised of so much.
    pub fn of(self, size: Bytes) -> Bytes {
        let most = u128::from(size.0) * u128::from(self.0) / 100;
        Bytes(u64::try_from(most).unwrap_or(u64::MAX))
    }
}

impl Default for Overcommit {
    fn default() -> Self {
        Self::NONE
    }
}

impl FromStr for Overcommit {
    type Err = NotAFactor;

    fn from_str(text: &str) -> std::result::Result<Self, NotAFactor> {
        let fail = || NotAFactor(text.chars().take(64).collect());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(decimals) || decimals.len() > 2 {
            return Err(fail());
        }
        let hundredths = format!("{whole}{decimals:0<2}").parse::<u32>().map_err(|_| fail())?;
        if (Self::LEAST..=Self::MOST).contains(&hundredths) { Ok(Self(hundredths)) } else { Err(fail()) }
    }
}

impl fmt::Display for Overcommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole}"),
            rest if rest % 10 == 0 => write!(f, "{whole}.{}", rest / 10),
            rest => write!(f, "{whole}.{rest:02}"),
        }
    }
}

impl From<Overcommit> for String {
    fn from(factor: Overcommit) -> Self {
        factor.to_string()
    }
}

impl TryFrom<Factor> for Overcommit {
    type Error = NotAFactor;

    fn try_from(factor: Factor) -> std::result::Result<Self, NotAFactor> {
        match factor {
            Factor::Number(number) => number.to_string().parse(),
            Factor::Text(text) => text.parse(),
        }
    }
}

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
    /// Free space without the reserve.
    pub available: Bytes,
    /// What stays free so that existing volumes can be overwritten.
    pub reserve: Bytes,
    /// What is free, the reserve included.
    pub free: Bytes,
    /// What is in use, and what the volumes may still come to need.
    pub promised: Bytes,
    /// The most that may be promised.
    pub limit: Bytes,
}

impl PoolSpace {
    /// The figures of a pool on a filesystem with this space, whose volumes may still come to need `growth`.
    pub fn of(space: Space, growth: Bytes, factor: Overcommit) -> Self {
        let share = space.total.0 / RESERVE_SHARE;
        let most = space.total.0 / RESERVE_MOST_SHARE;
        let reserve = Bytes(share.max(RESERVE_LEAST.0).min(most));
        let used = space.total.saturating_sub(space.available);
        Self {
            total: space.total,
            available: space.available.saturating_sub(reserve),
            reserve,
            free: space.available,
            promised: Bytes(used.0.saturating_add(growth.0)),
            limit: factor.of(space.total.saturating_sub(reserve)),
        }
    }

    /// What may still be promised to new volumes: the lesser of what is free and what is not promised.
    pub fn room(&self) -> Bytes {
        self.available.min(self.limit.saturating_sub(self.promised))
    }

    /// How much more the volumes may come to need than there is: what an overcommitted pool can run short of.
    pub fn shortage(&self) -> Bytes {
        self.promised.saturating_sub(self.total)
    }

    /// What is low, if something is.
    pub fn condition(&self) -> Option<Condition> {
        if self.available.0 == 0 {
            return Some(Condition::PoolFull);
        }
        let little = self.reserve.max(Bytes(self.total.0 / NEARLY_FULL_SHARE));
        (self.available < little).then_some(Condition::PoolNearlyFull)
    }

    /// Refuses when `need` would touch the reserve.
    pub(super) fn check(&self, pool: &PoolId, need: Bytes, freeing: Freeing) -> Result<()> {
        if self.available >= need {
            return Ok(());
        }
        let (free, total, reserve) = (self.free, self.total, self.reserve);
        Err(PoolError::Full { pool: pool.clone(), free, total, reserve, need, freeing })
    }

    /// Refuses to promise `more` bytes.
    pub(super) fn check_promise(
        &self,
        pool: &PoolId,
        more: Bytes,
        factor: Overcommit,
        freeing: Freeing,
    ) -> Result<()> {
        if self.promised.0.saturating_add(more.0) <= self.limit.0 {
            return Ok(());
        }
        let (promised, limit) = (self.promised, self.limit);
        Err(PoolError::Promised { pool: pool.clone(), more, promised, limit, factor, freeing })
    }
}

/// Deleted volumes and snapshots whose space is not free yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freeing {
    /// How many.
    pub trees: usize,
}

impl fmt::Display for Freeing {
    /// A clause for the end of a message; nothing where nothing is being freed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trees {
            0 => Ok(()),
            trees => write!(
                f,
                "; the space of {trees} deleted volumes or snapshots is still being freed, ask again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(total: Bytes, available: Bytes, growth: Bytes, factor: Overcommit) -> PoolSpace {
        PoolSpace::of(Space { total, available }, growth, factor)
    }

    fn reserve(total: Bytes) -> Bytes {
        space(total, total, Bytes(0), Overcommit::NONE).reserve
    }

    fn pool() -> PoolId {
        "3f9a0c11d2e4".parse().unwrap()
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
        let space = space(Bytes::gib(20), Bytes::mib(1025), Bytes(0), Overcommit::NONE);
        assert_eq!(space.available, Bytes::mib(1));
        assert!(space.check(&pool(), Bytes::mib(1), Freeing::default()).is_ok());
        let error = space.check(&pool(), Bytes::mib(2), Freeing { trees: 3 }).unwrap_err().to_string();
        assert!(error.contains("too full") && error.contains("1 GiB"), "{error}");
        assert!(error.contains("3 deleted volumes or snapshots is still being freed"), "{error}");
    }

    #[test]
    fn a_pool_has_room_for_what_is_neither_used_nor_promised() {
        let (total, reserve) = (Bytes::gib(100), Bytes::gib(5));
        let room = |used: u64, growth: u64, factor| {
            let free = total.saturating_sub(Bytes::gib(used));
            space(total, free, Bytes::gib(growth), factor).room()
        };
        assert_eq!(room(0, 0, Overcommit::NONE), total.saturating_sub(reserve));
        assert_eq!(room(10, 40, Overcommit::NONE), Bytes::gib(45), "promised counts, though it is free");
        assert_eq!(room(10, 85, Overcommit::NONE), Bytes(0));
        assert_eq!(room(10, 1000, Overcommit::NONE), Bytes(0), "a pool that was filled with a larger factor");
        assert_eq!(room(10, 85, Overcommit::times(2)), Bytes::gib(85), "what is free is the limit then");
        assert_eq!(room(10, u64::MAX >> 30, Overcommit::times(100)), Bytes(0));
    }

    #[test]
    fn a_promise_ends_at_the_factor_and_says_how_to_go_on() {
        let space = space(Bytes::gib(100), Bytes::gib(90), Bytes::gib(80), Overcommit::NONE);
        let check = |gib| space.check_promise(&pool(), Bytes::gib(gib), Overcommit::NONE, Freeing::default());
        assert!(check(5).is_ok());
        let error = check(6).unwrap_err().to_string();
        assert!(
            error.contains("90 GiB of 95 GiB") && error.contains("raise its overcommit factor (now 1)"),
            "{error}"
        );
        let most = space.check_promise(&pool(), Bytes(u64::MAX), Overcommit::NONE, Freeing::default());
        assert!(most.is_err());
    }

    #[test]
    fn a_factor_is_read_as_people_write_it() {
        for (text, hundredths) in
            [("1", 100), ("1.5", 150), ("0.8", 80), ("20", 2000), ("1.25", 125), ("100", 10_000)]
        {
            let factor: Overcommit = text.parse().unwrap();
            assert_eq!(factor.hundredths(), hundredths, "{text}");
            assert_eq!(factor.to_string().parse(), Ok(factor));
        }
        for wrong in ["", "0", "0.09", "101", "-1", "1.234", ".5", "1.", "1e3", "many", "99999999999"] {
            assert!(wrong.parse::<Overcommit>().is_err(), "{wrong:?}");
        }
    }
}
