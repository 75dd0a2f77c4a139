use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::domain::Level;

fn pool(number: u8) -> PoolId {
    PoolId::from_random([number; 6])
}

fn volume(number: u8) -> VolumeId {
    VolumeId::new(pool(number % 3 + 1), &format!("volume-{number}"), Incarnation(1))
}

/// Volumes 4 and 5 are what 1 and 2 were before they moved; 6 came from where no cut of it was taken.
fn known_as(id: &VolumeId) -> Option<VolumeId> {
    [(4, 1), (5, 2), (6, 9)].into_iter().find(|(now, _)| volume(*now) == *id).map(|(_, first)| volume(first))
}

fn record(name: u8, volumes: &BTreeSet<u8>, state: CutState) -> CutRecord {
    let mut volumes: Vec<VolumeId> = volumes.iter().copied().map(volume).collect();
    volumes.sort();
    let kind = if volumes.len() == 1 { CutKind::Single } else { CutKind::Group };
    let id = CutId::new(kind, &name.to_string(), &volumes).unwrap();
    let member = |volume: &VolumeId| CutMember {
        known_as: known_as(volume),
        volume: volume.clone(),
        volume_name: "v".into(),
        snapshot: SnapshotId::of(volume, &id, Incarnation(1)),
        host: "a".parse().unwrap(),
        capacity: Bytes::gib(u64::from(name)),
        filesystem: None,
    };
    CutRecord {
        name: name.to_string(),
        state,
        attempt: Incarnation(1),
        members: volumes.iter().map(member).collect(),
        cut_at: Timestamp::UNIX_EPOCH,
        level: Level::Crash,
        reasons: vec![],
        timeline: None,
        id,
    }
}

fn listed(index: &Index, step: usize, of: Option<&VolumeId>) -> Vec<SnapshotEntry> {
    let (mut all, mut slice) = (Vec::new(), Slice { after: None, limit: step });
    loop {
        let piece: Vec<_> = index.snapshots_in(&slice, of).collect();
        let Some(last) = piece.last() else { return all };
        slice.after = Some(last.id.clone());
        all.extend(piece);
    }
}

/// What the list must be, from the records alone.
fn expected(index: &Index, of: Option<&VolumeId>) -> Vec<SnapshotEntry> {
    let own = |cut: &&Arc<CutRecord>| cut.state == CutState::Sealed && cut.id.home == index.pool;
    let entries =
        index.cuts().filter(own).flat_map(|cut| cut.members.iter().map(|member| cut.entry_of(member)));
    let mut entries: Vec<_> = entries.filter(|entry| of.is_none_or(|of| entry.known_as() == of)).collect();
    entries.sort_by(|left, right| left.id.cmp(&right.id));
    entries
}

#[derive(Debug, Clone)]
enum Change {
    Put(u8, BTreeSet<u8>, bool),
    Drop(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0_u8..12, prop::collection::btree_set(0_u8..8, 1..5), any::<bool>())
            .prop_map(|(name, volumes, sealed)| Change::Put(name, volumes, sealed)),
        1 => (0_u8..12).prop_map(Change::Drop),
    ]
}

proptest! {
    #[test]
    fn what_is_derived_is_always_what_the_records_say(
        changes in prop::collection::vec(change(), 0..60), step in 1_usize..9,
    ) {
        let mut index = Index::of(pool(1));
        for change in changes {
            match change {
                Change::Put(name, volumes, sealed) => {
                    let state = if sealed { CutState::Sealed } else { CutState::Round };
                    index.put_cut(&record(name, &volumes, state));
                }
                Change::Drop(name) => {
                    let ids: Vec<CutId> =
                        index.cuts().filter(|cut| cut.name == name.to_string()).map(|cut| cut.id.clone()).collect();
                    for id in ids {
                        prop_assert!(index.drop_cut(&id).is_some());
                        index.forget_removed(&id);
                    }
                }
            }
            prop_assert_eq!(listed(&index, step, None), expected(&index, None));
            for volume in (0..10).map(volume) {
                prop_assert_eq!(listed(&index, step, Some(&volume)), expected(&index, Some(&volume)));
            }
            for volume in (0..10).map(volume) {
                let own = |cut: &&Arc<CutRecord>| {
                    volume.pool == index.pool && cut.members.iter().any(|member| member.volume == volume)
                };
                let holding = index.cuts().filter(own).count();
                prop_assert_eq!(index.held.get(&volume).copied().unwrap_or_default(), holding);
            }
            let rounds = index.cuts().filter(|cut| cut.state == CutState::Round).count();
            prop_assert_eq!(index.round_count(), rounds);
            for volume in (0..10).map(volume) {
                let has = |cut: &&Arc<CutRecord>| {
                    cut.state == CutState::Round && cut.members.iter().any(|member| member.volume == volume)
                };
                prop_assert_eq!(index.round_of(&volume), index.cuts().find(has).map(|cut| &cut.id));
            }
        }
    }

    #[test]
    fn what_is_promised_is_the_sum_of_all_capacities(
        changes in prop::collection::vec((0_u8..6, prop::option::of(any::<u64>())), 0..40),
    ) {
        let mut index = Index::of(pool(1));
        for (number, capacity) in changes {
            let id = volume(number);
            match capacity {
                Some(capacity) => index.put_volume(VolumeRecord {
                    known_as: None,
                    id,
                    name: "v".into(),
                    capacity: Bytes(capacity),
                    filesystem: None,
                    source: None,
                    created_at: Timestamp::UNIX_EPOCH,
                }),
                None => index.drop_volume(&id),
            }
            let sum = index.volumes().fold(0_u64, |sum, volume| sum.saturating_add(volume.capacity.0));
            prop_assert_eq!(index.promised(), Bytes(sum));
        }
    }
}

#[test]
fn a_volume_shares_with_its_snapshots_its_copies_and_what_it_was_copied_from() {
    let mut index = Index::of(pool(1));
    let put = |index: &mut Index, number: u8, source: Option<Source>| {
        index.put_volume(VolumeRecord {
            known_as: None,
            id: volume(number),
            name: "v".into(),
            capacity: Bytes::gib(1),
            filesystem: None,
            source,
            created_at: Timestamp::UNIX_EPOCH,
        });
    };
    let alone = |index: &Index, numbers: &[u8]| {
        let found: BTreeSet<VolumeId> =
            index.volumes_that_share_nothing().into_iter().map(|(id, _)| id).collect();
        assert_eq!(found, numbers.iter().copied().map(volume).collect());
    };
    for number in [0, 3, 6] {
        put(&mut index, number, None);
    }
    alone(&index, &[0, 3, 6]);
    let cut = record(1, &BTreeSet::from([0, 1]), CutState::Sealed);
    index.put_cut(&cut);
    alone(&index, &[3, 6]);
    // A clone of 3, and two restores of one snapshot that stay alike when it is gone.
    put(&mut index, 9, Some(Source::Volume(volume(3))));
    let snapshot = SnapshotId::of(&volume(0), &cut.id, Incarnation(1));
    put(&mut index, 12, Some(Source::Snapshot(snapshot.clone())));
    put(&mut index, 15, Some(Source::Snapshot(snapshot)));
    alone(&index, &[6]);
    index.drop_cut(&cut.id);
    index.forget_removed(&cut.id);
    alone(&index, &[0, 6]);
    index.drop_volume(&volume(12));
    index.drop_volume(&volume(3));
    alone(&index, &[0, 6, 9, 15]);
    // What came from another pool shares nothing here.
    let elsewhere = SnapshotId::of(&volume(1), &cut.id, Incarnation(1));
    put(&mut index, 18, Some(Source::Snapshot(elsewhere)));
    alone(&index, &[0, 6, 9, 15, 18]);
}
