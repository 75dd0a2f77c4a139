//! How soon a snapshot that failed for good is tried again.
//!
//! csi-snapshotter v8.6 comes back with a failed *group* about three times a second: its own writes to the content
//! wake it, past its queue's growing pauses. Each attempt would run the rule, write events and open a round. So an
//! attempt waits for its turn here, unless somebody has changed what it depends on ([`Circumstances`]).
//!
//! Kept in memory only: a controller that has just started tries once at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::lookup::Circumstances;
use crate::domain::CutKind;

/// Before the second attempt; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A rule that was put right elsewhere (a pod that is ready now) is noticed after this at the latest. The sidecar has
/// given each of its workers a call of five minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Snapshots that are remembered; beyond that the one that failed first is forgotten, and so tried at once.
const REMEMBERED: usize = 1024;

type Key = (CutKind, String);

/// Failures of this process, by snapshot. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pace {
    failures: Arc<Mutex<HashMap<Key, Failure>>>,
}

/// The last of some failures in a row.
#[derive(Debug, Clone)]
pub struct Failure {
    count: u32,
    at: Instant,
    /// What it depended on; `None`: it could not be asked for.
    pub circumstances: Option<Circumstances>,
}

impl Failure {
    /// When it is this snapshot's turn again.
    pub fn turn(&self) -> Instant {
        self.at + pause(self.count)
    }
}

impl Pace {
    /// Notes a failure for good.
    pub fn failed(&self, kind: CutKind, name: &str, circumstances: Option<Circumstances>) {
        let key = (kind, name.to_owned());
        let mut failures = self.failures();
        let count = failures.get(&key).map_or(1, |failure| failure.count.saturating_add(1));
        failures.insert(key, Failure { count, at: Instant::now(), circumstances });
        if failures.len() > REMEMBERED {
            let oldest = failures.iter().min_by_key(|(_, failure)| failure.at).map(|(key, _)| key.clone());
            oldest.and_then(|key| failures.remove(&key));
        }
    }

    /// It did not fail for good this time.
    pub fn forget(&self, kind: CutKind, name: &str) {
        self.failures().remove(&(kind, name.to_owned()));
    }

    /// Its last failure.
    pub fn failure(&self, kind: CutKind, name: &str) -> Option<Failure> {
        self.failures().get(&(kind, name.to_owned())).cloned()
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Key, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after so many failures in a row.
fn pause(count: u32) -> Duration {
    let doubled = 1_u32.checked_shl(count.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let seconds: Vec<u64> =
            [1, 2, 3, 4, 5, 6, 7, 33, u32::MAX].map(|count| pause(count).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30, 30]);
    }

    #[test]
    fn failures_in_a_row_are_counted_per_snapshot_until_one_is_no_failure() {
        let pace = Pace::default();
        for _ in 0..3 {
            pace.failed(CutKind::Group, "a", None);
        }
        pace.failed(CutKind::Single, "a", None);
        let count = |kind| pace.failure(kind, "a").map(|failure| failure.count);
        assert_eq!((count(CutKind::Group), count(CutKind::Single)), (Some(3), Some(1)));
        pace.forget(CutKind::Group, "a");
        assert_eq!((count(CutKind::Group), count(CutKind::Single)), (None, Some(1)));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let pace = Pace::default();
        for number in 0..=REMEMBERED {
            pace.failed(CutKind::Group, &number.to_string(), None);
        }
        assert_eq!(pace.failures().len(), REMEMBERED);
    }
}
