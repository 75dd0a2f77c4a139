//! One operation at a time per volume. Nobody waits: who comes second is told what is under way and tries again
//! (ABORTED), so nothing piles up behind a hold and no order of locking can deadlock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{CutId, Fault, VolumeId};

/// What a volume is locked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// It is being made.
    Create,
    /// It is being removed.
    Delete,
    /// It is being made larger.
    Expand,
    /// It is being attached, mounted, unmounted or detached.
    Use,
    /// Its move to another host begins or is committed.
    Move,
    /// It is a member of this cut's round.
    Round(CutId),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("it is being created"),
            Self::Delete => f.write_str("it is being deleted"),
            Self::Expand => f.write_str("it is being expanded"),
            Self::Use => f.write_str("it is being staged, published or given back"),
            Self::Move => f.write_str("it is being moved"),
            Self::Round(cut) => write!(f, "cut {cut} is being taken of it"),
        }
    }
}

/// The locks of all volumes of one agent. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct VolumeLocks(Arc<Mutex<BTreeMap<VolumeId, Purpose>>>);

/// Locks that are held until this is dropped.
#[derive(Debug)]
#[must_use = "the locks are given back when this is dropped"]
pub struct Guard {
    locks: VolumeLocks,
    volumes: Vec<VolumeId>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        for volume in &self.volumes {
            held.remove(volume);
        }
    }
}

impl VolumeLocks {
    /// Locks one volume, or says what is under way.
    pub fn try_lock(&self, volume: &VolumeId, purpose: Purpose) -> Result<Guard, Fault> {
        self.try_lock_all([volume], purpose)
    }

    /// Locks all of these volumes or none. A volume that is named twice is locked once.
    pub fn try_lock_all<'a>(
        &self,
        volumes: impl IntoIterator<Item = &'a VolumeId>,
        purpose: Purpose,
    ) -> Result<Guard, Fault> {
        let mut volumes: Vec<_> = volumes.into_iter().cloned().collect();
        volumes.sort();
        volumes.dedup();
        let mut held = self.held();
        for volume in &volumes {
            if let Some(other) = held.get(volume) {
                return Err(Fault::aborted(format!("volume {volume} is busy: {other}; try again")));
            }
        }
        held.extend(volumes.iter().map(|volume| (volume.clone(), purpose.clone())));
        drop(held);
        Ok(Guard { locks: self.clone(), volumes })
    }

    /// What a volume is locked for now.
    pub fn purpose(&self, volume: &VolumeId) -> Option<Purpose> {
        self.held().get(volume).cloned()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Purpose>> {
        // The map is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Incarnation;
    use crate::domain::{Code, CutKind, PoolId};

    fn volume(name: &str) -> VolumeId {
        VolumeId::new(PoolId::from_random([7; 6]), name, Incarnation(1))
    }

    #[test]
    fn a_round_takes_all_of_its_members_or_none() {
        let (locks, a, b, c) = (VolumeLocks::default(), volume("a"), volume("b"), volume("c"));
        let staging = locks.try_lock(&b, Purpose::Use).unwrap();
        let cut = CutId::new(CutKind::Group, "nightly", [&a]).unwrap();
        let fault = locks.try_lock_all([&a, &b, &c], Purpose::Round(cut.clone())).unwrap_err();
        assert_eq!(fault.code, Code::Aborted);
        assert!(fault.message.contains("being staged"), "{fault}");
        assert_eq!(locks.purpose(&a), None);
        drop(staging);
        let round = locks.try_lock_all([&a, &b, &c, &a], Purpose::Round(cut.clone())).unwrap();
        let fault = locks.try_lock(&c, Purpose::Delete).unwrap_err();
        assert!(fault.message.contains(&format!("cut {cut} is being taken of it")), "{fault}");
        drop(round);
        assert_eq!([&a, &b, &c].map(|volume| locks.purpose(volume)), [None, None, None]);
    }
}
