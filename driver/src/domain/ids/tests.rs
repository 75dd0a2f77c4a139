use super::*;
use proptest::prelude::*;

fn pool() -> PoolId {
    PoolId::from_random([0x3f, 0x9a, 0x0c, 0x11, 0xd2, 0xe4])
}

#[test]
fn ids_survive_a_round_trip_through_text_and_stay_below_the_csi_limit() {
    let volume = VolumeId::new(pool(), "pvc-1", Incarnation(1));
    let cut = CutId::new(CutKind::Group, "nightly", [&volume]).unwrap();
    let snapshot = SnapshotId::of(&volume, &cut, Incarnation(1));
    assert_eq!(volume.to_string().parse(), Ok(volume.clone()));
    assert_eq!(cut.to_string().parse(), Ok(cut));
    assert_eq!(snapshot.to_string().parse(), Ok(snapshot.clone()));
    assert!(snapshot.to_string().len() < 128);
}

#[test]
fn the_home_pool_is_the_lowest_member_pool() {
    let low = VolumeId::new(PoolId::from_random([0; 6]), "b", Incarnation(1));
    let high = VolumeId::new(pool(), "a", Incarnation(1));
    assert_eq!(CutId::new(CutKind::Group, "n", [&high, &low]).unwrap().home, low.pool);
    assert_eq!(CutId::new(CutKind::Group, "n", []), None);
}

#[test]
fn a_single_cut_and_a_group_of_the_same_name_are_different_cuts() {
    let volume = VolumeId::new(pool(), "a", Incarnation(1));
    let single = CutId::new(CutKind::Single, "n", [&volume]).unwrap();
    let group = CutId::new(CutKind::Group, "n", [&volume]).unwrap();
    assert_ne!(single.to_string(), group.to_string());
}

#[test]
fn path_tricks_are_not_ids() {
    for text in
        ["", ".", "..", "../../etc", "3f9a0c11d2e4-v../x", "3f9a0c11d2e4-v", "3F9A0C11D2E4", "a/b", "a\0b"]
    {
        assert!(text.parse::<PoolId>().is_err(), "{text:?}");
        assert!(text.parse::<VolumeId>().is_err(), "{text:?}");
        assert!(text.parse::<SnapshotId>().is_err(), "{text:?}");
        assert!(text.parse::<CutId>().is_err(), "{text:?}");
    }
    for text in ["", "-a", "a-", "A", "a_b", "a/b", &"a".repeat(64)] {
        assert!(text.parse::<HostName>().is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn no_text_that_parses_could_leave_a_directory(text in ".{0,160}") {
        let safe = |id: String| !id.contains('/') && !id.contains("..") && !id.contains('\0');
        if let Ok(id) = text.parse::<VolumeId>() { prop_assert!(safe(id.to_string())); }
        if let Ok(id) = text.parse::<SnapshotId>() { prop_assert!(safe(id.to_string())); }
        if let Ok(id) = text.parse::<CutId>() { prop_assert!(safe(id.to_string())); }
    }
}
