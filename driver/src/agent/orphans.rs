//! What calls have left that were never repeated, collected after a grace period and counted: half-made volumes and
//! records, snapshots that no cut lists, cuts of which nobody knows that they will not be sealed.
//!
//! A call that is repeated takes up or removes what its first try left, and a start sweeps everything at once; this is
//! for what neither happens to. Something counts as an orphan when it has not changed for [`GRACE`] while nobody
//! worked on it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::local::LocalHost;
use super::pool::{Fence, Orphan, Pool};
use crate::domain::record::CutState;
use crate::domain::{Bytes, Code, Fault};
use crate::observe::metrics::health as metrics;

/// Longer than any call and any rule between two steps of a cut.
pub const GRACE: Duration = Duration::from_hours(1);

/// How many were collected since the start of the agent, for status and metrics.
#[derive(Debug, Default)]
pub struct Counts {
    half_made: AtomicU64,
    snapshots: AtomicU64,
    rounds: AtomicU64,
}

impl Counts {
    /// Half-made volumes and records.
    pub fn half_made(&self) -> u64 {
        self.half_made.load(Ordering::Relaxed)
    }

    /// Snapshots that no cut listed.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Cuts that were never sealed.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

/// What is under suspicion since when, and how large it was.
#[derive(Debug, Default)]
pub struct Suspects(BTreeMap<String, (Instant, Bytes)>);

impl Suspects {
    /// Whether this has not changed for the grace period. Called for all suspects of a look, then [`Self::forget`].
    fn is_orphan(&mut self, name: &str, size: Bytes, now: Instant, grace: Duration) -> bool {
        let (since, known) = self.0.entry(name.to_owned()).or_insert((now, size));
        if *known != size {
            (*since, *known) = (now, size);
        }
        now.saturating_duration_since(*since) >= grace
    }

    /// Forgets what was not seen any more.
    fn forget(&mut self, seen: &[String]) {
        self.0.retain(|name, _| seen.contains(name));
    }
}

impl LocalHost {
    /// Looks once at all pools and collects what has been left alone for `grace`.
    pub fn collect_orphans(
        &self,
        suspects: &mut Suspects,
        now: Instant,
        grace: Duration,
    ) -> Result<(), Fault> {
        let mut seen = Vec::new();
        for pool in self.pools().iter() {
            // One that resists, or one pool that cannot be read, must not keep the others from being collected.
            let orphans = pool.orphans().unwrap_or_else(|error| {
                tracing::warn!(pool = %pool.id(), %error, "orphans cannot be looked for");
                vec![]
            });
            for orphan in orphans {
                let name = orphan.path.display().to_string();
                if suspects.is_orphan(&name, orphan.size, now, grace) {
                    match self.collect(&pool, &orphan) {
                        Ok(true) => {
                            tracing::warn!(path = name, kind = ?orphan.kind, "collected what a call had left behind");
                        }
                        Ok(false) => {}
                        Err(fault) => tracing::warn!(path = name, %fault, "an orphan could not be collected"),
                    }
                }
                seen.push(name);
            }
            // Of a cut whose home is elsewhere only that pool knows; the controller asks it.
            let own = pool.cuts().into_iter().filter(|cut| cut.id.home == *pool.id());
            for cut in own.filter(|cut| cut.state == CutState::Round) {
                let name = format!("{} attempt {}", cut.id, cut.attempt);
                if suspects.is_orphan(&name, Bytes(0), now, grace) {
                    match self.void(&cut.id, &Fence::Attempt(cut.attempt)) {
                        Ok(()) => {
                            self.orphan_counts().rounds.fetch_add(1, Ordering::Relaxed);
                            metrics::collected(metrics::Orphan::Round);
                            tracing::warn!(cut = %cut.id, "removed a cut that was never sealed");
                        }
                        // Somebody works on it after all, or it was sealed meanwhile.
                        Err(fault) if matches!(fault.code, Code::Aborted | Code::Precondition) => {}
                        Err(fault) => {
                            tracing::warn!(cut = %cut.id, %fault, "a cut that was never sealed could not be removed");
                        }
                    }
                }
                seen.push(name);
            }
        }
        suspects.forget(&seen);
        Ok(())
    }

    fn collect(&self, pool: &Pool, orphan: &Orphan) -> Result<bool, Fault> {
        use super::pool::OrphanKind::{HalfMade, Snapshot};

        let collected = pool.collect(orphan)?;
        if collected {
            let (count, metric) = match orphan.kind {
                HalfMade => (&self.orphan_counts().half_made, metrics::Orphan::HalfMade),
                Snapshot => (&self.orphan_counts().snapshots, metrics::Orphan::Snapshot),
            };
            count.fetch_add(1, Ordering::Relaxed);
            metrics::collected(metric);
        }
        Ok(collected)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::agent::fixtures::Bench;
    use crate::domain::{CutId, CutKind, Incarnation, SnapshotId};
    use crate::host::Files;
    use crate::host::fake::When;

    /// Two looks, the second one after the grace period.
    fn twice(bench: &Bench, between: impl FnOnce()) {
        let mut suspects = Suspects::default();
        let start = Instant::now();
        bench.local.collect_orphans(&mut suspects, start, GRACE).unwrap();
        between();
        bench.local.collect_orphans(&mut suspects, start + GRACE, GRACE).unwrap();
    }

    fn names(bench: &Bench, dir: &str) -> Vec<String> {
        let names = bench.host.list(&Path::new("/pool").join(dir)).unwrap();
        names.into_iter().map(|(name, _)| name).filter(|name| !name.starts_with(".gone")).collect()
    }

    #[test]
    fn what_a_failed_create_left_is_collected_after_the_grace_period() {
        let bench = Bench::new();
        // The create fails, and so does its own tidying up.
        bench.host.fail(When::NthOf("rename", 1), libc::EIO);
        bench.local.create_volume(bench.new_volume("a", None)).unwrap_err();
        assert_eq!(names(&bench, "volumes").len(), 1, "something half made is there");
        let mut suspects = Suspects::default();
        let start = Instant::now();
        bench.local.collect_orphans(&mut suspects, start, GRACE).unwrap();
        bench.local.collect_orphans(&mut suspects, start + GRACE / 2, GRACE).unwrap();
        assert_eq!(names(&bench, "volumes").len(), 1, "too young");
        bench.local.collect_orphans(&mut suspects, start + GRACE, GRACE).unwrap();
        assert!(names(&bench, "volumes").is_empty());
        assert_eq!(bench.local.orphan_counts().half_made(), 1);
    }

    #[test]
    fn what_grows_or_is_finished_meanwhile_is_no_orphan() {
        let bench = Bench::new();
        bench.host.fail(When::NthOf("rename", 1), libc::EIO);
        bench.local.create_volume(bench.new_volume("a", None)).unwrap_err();
        twice(&bench, || drop(bench.volume("a", None)));
        assert_eq!(names(&bench, "volumes").len(), 1);
        assert_eq!(bench.local.orphan_counts().half_made(), 0);
        let mut suspects = Suspects::default();
        let now = Instant::now();
        assert!(!suspects.is_orphan("x", Bytes(1), now, GRACE));
        assert!(!suspects.is_orphan("x", Bytes(2), now + GRACE, GRACE), "it has grown");
        assert!(suspects.is_orphan("x", Bytes(2), now + GRACE * 2, GRACE));
    }

    #[test]
    fn a_cut_that_is_never_sealed_is_removed_unless_its_round_goes_on() {
        let bench = Bench::new();
        let volume = bench.volume("a", None);
        let record = crate::agent::fixtures::round_record(std::slice::from_ref(&volume));
        let pool = bench.pools.iter().next().unwrap();
        for paths in pool.prepare_cut(&record).unwrap() {
            pool.copy_member(&paths).unwrap();
        }
        let purpose = crate::agent::locks::Purpose::Round(record.id.clone());
        let live = bench.locks.try_lock(&volume, purpose).unwrap();
        twice(&bench, || {});
        assert_eq!(pool.cuts().len(), 1, "its round goes on");
        drop(live);
        twice(&bench, || {});
        assert!(pool.cuts().is_empty());
        assert_eq!(bench.local.orphan_counts().rounds(), 1);
    }

    #[test]
    fn a_snapshot_that_no_cut_lists_is_collected() {
        let bench = Bench::new();
        let volume = bench.volume("a", None);
        let cut = CutId::new(CutKind::Single, "lost", [&volume]).unwrap();
        let snapshot = SnapshotId::of(&volume, &cut, Incarnation(1));
        let directory = Path::new("/pool/snapshots").join(volume.to_string());
        bench.host.make_all(&directory.join(snapshot.to_string()));
        twice(&bench, || {});
        assert_eq!(bench.local.orphan_counts().snapshots(), 1);
        assert!(names(&bench, &format!("snapshots/{volume}")).is_empty());
    }
}
