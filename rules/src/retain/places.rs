//! The places that a policy has for good cuts, taken newest first.

use std::collections::BTreeSet;

use jiff::{Timestamp, Zoned};

use crate::schedule::Zone;

use super::{DeleteReason, Fate, KeepReason, Period, Retention};

/// One hour, day, week, month or year of a calendar. The offset tells the two equal hours of a fold apart.
type Key = (i16, i16, i8, i32);

pub(super) struct Good<'p> {
    policy: &'p Retention,
    zone: &'p Zone,
    seen: u32,
    taken: [BTreeSet<Key>; Period::ALL.len()],
}

impl<'p> Good<'p> {
    pub(super) fn new(policy: &'p Retention, zone: &'p Zone) -> Self {
        Self { policy, zone, seen: 0, taken: std::array::from_fn(|_| BTreeSet::new()) }
    }

    /// Called with instants that never rise.
    pub(super) fn place(&mut self, at: Timestamp) -> Fate {
        if !self.policy.counts() {
            return Fate::Keep(vec![KeepReason::NoCount]);
        }
        let mut reasons = Vec::new();
        self.seen = self.seen.saturating_add(1);
        if let Some(of) = self.policy.last.filter(|of| self.seen <= *of) {
            reasons.push(KeepReason::Last { rank: self.seen, of });
        }
        let wall = at.to_zoned(self.zone.rules().clone());
        for ((period, of), taken) in Period::ALL.into_iter().zip(self.policy.periods).zip(&mut self.taken) {
            let Some(of) = of else { continue };
            let rank = u32::try_from(taken.len()).unwrap_or(u32::MAX).saturating_add(1);
            if rank <= of && taken.insert(key(period, &wall)) {
                reasons.push(KeepReason::Newest { period, rank, of });
            }
        }
        if reasons.is_empty() { Fate::Delete(DeleteReason::NoPlace) } else { Fate::Keep(reasons) }
    }
}

fn key(period: Period, wall: &Zoned) -> Key {
    match period {
        Period::Hour => (wall.year(), wall.day_of_year(), wall.hour(), wall.offset().seconds()),
        Period::Day => (wall.year(), wall.day_of_year(), 0, 0),
        Period::Week => {
            let week = wall.date().iso_week_date();
            (week.year(), i16::from(week.week()), 0, 0)
        }
        Period::Month => (wall.year(), i16::from(wall.month()), 0, 0),
        Period::Year => (wall.year(), 0, 0, 0),
    }
}
