use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::agent::fixtures::{Bench, round_record};
use crate::agent::locks::VolumeLocks;
use crate::agent::pools::Pools;
use crate::agent::volumes::NodeVolumes;
use crate::backend::BackendKind;
use crate::domain::record::CutMember;
use crate::domain::{Bytes, CutKind, Incarnation, NewVolume};
use crate::host::Host;
use crate::host::fake::FakeHost;

/// One host with two pools, the first with the lower id.
fn two_pools() -> LocalHost {
    let dirs = ["/one", "/two"].map(Path::new);
    let host = FakeHost::with_disk("memory", Bytes::gib(64), dirs[0]);
    host.add_disk("memory", Bytes::gib(64), dirs[1]);
    for dir in dirs {
        Pool::make(&host, BackendKind::Memory, dir).unwrap();
    }
    let kernel: Arc<dyn Host> = Arc::new(host);
    let pools = Pools::open(&kernel, &dirs.map(PathBuf::from), &BTreeMap::new());
    let locks = VolumeLocks::default();
    let node = Arc::new(NodeVolumes::new(Arc::clone(&kernel), Arc::new(pools.clone()), locks.clone()));
    LocalHost::new("node-1".parse().unwrap(), kernel, pools, locks, node)
}

fn volume(host: &LocalHost, pool: &PoolId, name: &str) -> VolumeId {
    let volume = NewVolume {
        id: VolumeId::new(pool.clone(), name, Incarnation(1)),
        name: name.into(),
        capacity: Bytes::mib(64),
        filesystem: None,
        source: None,
    };
    host.create_volume(volume).unwrap().record.id
}

/// A record of this name over these volumes, sorted as controllers send it.
fn named(name: &str, kind: CutKind, volumes: &[VolumeId]) -> CutRecord {
    let id = CutId::new(kind, name, volumes).unwrap();
    let mut record = CutRecord { name: name.into(), ..round_record(volumes) };
    for member in &mut record.members {
        member.snapshot = SnapshotId::of(&member.volume, &id, Incarnation(1));
    }
    CutRecord { id, ..record }
}

fn cut(host: &LocalHost, name: &str, kind: CutKind, volumes: &[VolumeId], is_sealed: bool) -> CutId {
    let record = named(name, kind, volumes);
    let of = |pool: &Arc<Pool>| record.members.iter().any(|member| member.volume.pool == *pool.id());
    for pool in host.pools().iter().filter(of) {
        for paths in pool.prepare_cut(&record).unwrap() {
            pool.copy_member(&paths).unwrap();
        }
    }
    if is_sealed {
        host.seal(&CutRecord { state: CutState::Sealed, ..record.clone() }).unwrap();
    }
    record.id
}

fn all<K: Clone, T>(
    limit: usize,
    mut piece: impl FnMut(Slice<K>) -> Piece<T>,
    key: impl Fn(&T) -> K,
) -> Vec<T> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let got = piece(Slice { after, limit });
        assert!(got.entries.len() <= limit);
        found.extend(got.entries);
        if !got.more {
            return found;
        }
        after = found.last().map(&key);
    }
}

fn cut_ids(host: &LocalHost, scope: CutScope, limit: usize) -> Vec<CutId> {
    let filter = CutFilter::of(scope, Detail::Members);
    let cuts = all(limit, |slice| host.cuts_in(slice, &filter), |cut: &CutRecord| cut.id.clone());
    cuts.into_iter().map(|cut| cut.id).collect()
}

#[test]
fn lists_of_two_pools_are_one_list_in_order() {
    let host = two_pools();
    let pools: Vec<PoolId> = host.pools().iter().map(|pool| pool.id().clone()).collect();
    let mut volumes = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        volumes.extend(pools.iter().map(|pool| volume(&host, pool, name)));
    }
    for (number, volume) in volumes.iter().enumerate() {
        cut(&host, &format!("single-{number}"), CutKind::Single, std::slice::from_ref(volume), true);
    }
    cut(&host, "group", CutKind::Group, &volumes, true);
    let round = cut(&host, "round", CutKind::Group, &volumes[2..6], false);
    for limit in 1..12 {
        let found = all(limit, |slice| host.volumes_in(slice).unwrap(), |v: &VolumeInfo| v.record.id.clone());
        assert_eq!(found, host.volumes().unwrap(), "limit {limit}");
        let entries =
            all(limit, |slice| host.snapshots_in(slice, None), |entry: &SnapshotEntry| entry.id.clone());
        assert_eq!(entries.len(), 20, "limit {limit}");
        assert!(entries.is_sorted_by(|a, b| a.id < b.id));
        let of =
            all(limit, |slice| host.snapshots_in(slice, Some(&volumes[3])), |e: &SnapshotEntry| e.id.clone());
        assert_eq!(of.len(), 2);
        let known: Vec<CutId> = host.cuts().into_iter().map(|cut| cut.id).collect();
        assert_eq!(cut_ids(&host, CutScope::All, limit), known);
        assert_eq!(known.len(), 12);
        assert_eq!(cut_ids(&host, CutScope::Existing, limit).len(), 11);
        assert_eq!(
            cut_ids(&host, CutScope::Unsettled, limit),
            std::slice::from_ref(&round),
            "all others are of this host alone"
        );
    }
}

#[test]
fn a_cut_that_another_host_has_a_member_of_may_need_settling() {
    let bench = Bench::new();
    let (host, own) = (&*bench.local, bench.volume("own", None));
    let far = |byte| VolumeId::new(PoolId::from_random([byte; 6]), "far", Incarnation(1));
    // Once the home is here and once it is elsewhere.
    for (name, far) in [("here", far(0xff)), ("elsewhere", far(0))] {
        cut(host, name, CutKind::Group, &[own.clone(), far], true);
    }
    cut(host, "alone", CutKind::Single, std::slice::from_ref(&own), true);
    assert_eq!(cut_ids(host, CutScope::Unsettled, 10).len(), 2);
    let existing = cut_ids(host, CutScope::Existing, 10);
    assert!(existing.len() == 2 && existing.iter().all(|id| id.home == bench.pool_id()), "{existing:?}");
    let brief = CutFilter { name_prefix: "her".into(), ..CutFilter::of(CutScope::All, Detail::Home) };
    let found = host.cuts_in(Slice { after: None, limit: 10 }, &brief).entries;
    assert_eq!(found.len(), 1);
    let members: Vec<&CutMember> = found[0].members.iter().collect();
    assert!(members.len() == 1 && members[0].volume == own, "only the home's member: {members:?}");
    // Members of the sealed cuts whose home is here, on whatever host.
    assert_eq!(host.snapshots_in(Slice { after: None, limit: 10 }, None).entries.len(), 3);
}

#[test]
fn a_piece_of_cuts_is_bounded_by_their_members() {
    let piece = |lengths: &[usize]| {
        let record =
            named("n", CutKind::Group, &[VolumeId::new(PoolId::from_random([1; 6]), "v", Incarnation(1))]);
        let cut = |length: &usize| CutRecord {
            members: vec![record.members[0].clone(); *length],
            ..record.clone()
        };
        Piece { entries: lengths.iter().map(cut).collect(), more: false }
    };
    let kept = |lengths: &[usize]| {
        let bounded = piece(lengths).bounded(10);
        (bounded.entries.len(), bounded.more)
    };
    assert_eq!(kept(&[4, 4, 2]), (3, false));
    assert_eq!(kept(&[4, 4, 3]), (2, true));
    assert_eq!(kept(&[40, 1]), (1, true), "one cut is always told");
    assert_eq!(kept(&[40]), (1, false));
}

/// Real cuts, voids and deletes on some volumes while another thread lists: what exists all the time is always listed,
/// once, and what is void never.
#[test]
fn lists_are_right_while_cuts_come_and_go() {
    let bench = Bench::new();
    let host = &*bench.local;
    let pool = bench.pools.iter().next().unwrap();
    let [kept, busy] = ["kept", "busy"].map(|name| bench.volume(name, None));
    let always: BTreeSet<SnapshotId> = (0..40)
        .map(|n| cut(host, &format!("kept-{n}"), CutKind::Single, std::slice::from_ref(&kept), true))
        .map(|id| SnapshotId::of(&kept, &id, Incarnation(1)))
        .collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..60 {
                let record = named(&format!("busy-{n}"), CutKind::Single, std::slice::from_ref(&busy));
                for paths in pool.prepare_cut(&record).unwrap() {
                    pool.copy_member(&paths).unwrap();
                }
                if n % 3 == 0 {
                    pool.void_cut(&record.id).unwrap();
                } else {
                    pool.seal_cut(&CutRecord { state: CutState::Sealed, ..record.clone() }).unwrap();
                }
                if n % 3 == 1 {
                    pool.delete_cut(&record.id).unwrap();
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
        let mut rounds = 0;
        while !is_over.load(Ordering::SeqCst) || rounds == 0 {
            let listed =
                all(7, |slice| host.snapshots_in(slice, None), |entry: &SnapshotEntry| entry.id.clone());
            let ids: BTreeSet<SnapshotId> = listed.iter().map(|entry| entry.id.clone()).collect();
            assert_eq!(ids.len(), listed.len(), "something is listed twice");
            assert!(ids.is_superset(&always));
            let void =
                |name: &str| name.strip_prefix("busy-").is_some_and(|n| n.parse::<u32>().unwrap() % 3 == 0);
            assert!(!listed.iter().any(|entry| void(&entry.cut_name)), "a void cut is listed");
            rounds += 1;
        }
    });
    let listed = all(7, |slice| host.snapshots_in(slice, None), |entry: &SnapshotEntry| entry.id.clone());
    assert_eq!(listed.len(), 40 + 20);
    // A restart reads the same from the disk.
    let again = bench.restarted();
    let after =
        all(7, |slice| again.local.snapshots_in(slice, None), |entry: &SnapshotEntry| entry.id.clone());
    assert_eq!(after, listed);
}
