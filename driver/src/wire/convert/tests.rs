use jiff::Timestamp;

use super::*;
use crate::domain::health::{Ailment, Condition};
use crate::domain::record::CutMember;
use crate::domain::{Incarnation, Level, PoolId, SnapshotId};

fn pool() -> PoolId {
    PoolId::from_random([1, 2, 3, 4, 5, 6])
}

fn volume(source: Option<Source>) -> VolumeInfo {
    VolumeInfo {
        moved: None,
        record: VolumeRecord {
            known_as: None,
            id: VolumeId::new(pool(), "data", Incarnation(1)),
            name: "data".into(),
            capacity: Bytes::gib(1),
            filesystem: Some(Filesystem::Ext4),
            source,
            created_at: Timestamp::from_second(1_700_000_000).unwrap(),
        },
        backend: "btrfs".into(),
        allocated: Bytes::mib(3),
        published_at: Some("/var/lib/kubelet/x".into()),
        conditions: vec![Ailment::new(Condition::ImageMissing, "it is gone")],
    }
}

fn cut() -> CutRecord {
    let volume = VolumeId::new(pool(), "data", Incarnation(1));
    let id = CutId::new(CutKind::Group, "nightly", [&volume]).unwrap();
    CutRecord {
        members: vec![CutMember {
            known_as: None,
            snapshot: SnapshotId::of(&volume, &id, Incarnation(1)),
            volume,
            volume_name: "data".into(),
            host: "node-1".parse().unwrap(),
            capacity: Bytes::gib(1),
            filesystem: None,
        }],
        id,
        name: "nightly".into(),
        state: CutState::Sealed,
        attempt: Incarnation(1),
        cut_at: Timestamp::from_second(1_700_000_000).unwrap(),
        level: Level::Group,
        reasons: vec!["member data is a raw block volume".into()],
        timeline: None,
    }
}

#[test]
fn volumes_survive_the_way_there_and_back() {
    let volume_source = Source::Volume(VolumeId::new(pool(), "other", Incarnation(1)));
    let snapshot_source = Source::Snapshot(cut().members[0].snapshot.clone());
    for source in [None, Some(volume_source), Some(snapshot_source)] {
        let before = volume(source.clone());
        assert_eq!(volume_from_proto(volume_to_proto(&before)), Ok(before.clone()));
        let asked = NewVolume {
            id: before.record.id.clone(),
            name: "data".into(),
            capacity: Bytes::gib(1),
            filesystem: None,
            source,
        };
        assert_eq!(new_volume_from_proto(new_volume_to_proto(&asked)), Ok(asked));
    }
}

#[test]
fn hosts_and_cuts_survive_the_way_there_and_back() {
    let host = HostInfo {
        host: "node-1".parse().unwrap(),
        version: "0.1.0".into(),
        pools: vec![PoolInfo {
            id: pool(),
            backend: "xfs".into(),
            total: Bytes::gib(9),
            available: Bytes::gib(4),
            path: "/pool".into(),
            conditions: vec![Ailment::new(Condition::PoolFull, "delete something")],
        }],
    };
    assert_eq!(host_from_proto(host_to_proto(&host)), Ok(host));
    let answer = cut_to_proto(&cut()).unwrap();
    assert_eq!(answer.state(), proto::CutState::Sealed);
    assert_eq!(cut_from_proto(answer), Ok(cut()));
}

#[test]
fn a_request_that_does_not_parse_is_invalid_and_names_the_field() {
    let good = new_volume_to_proto(&NewVolume {
        id: VolumeId::new(pool(), "data", Incarnation(1)),
        name: "data".into(),
        capacity: Bytes::gib(1),
        filesystem: None,
        source: None,
    });
    let bad = [
        ("id", proto::CreateVolumeRequest { id: "../../etc".into(), ..good.clone() }),
        ("id", proto::CreateVolumeRequest { name: "other".into(), ..good.clone() }),
        ("filesystem", proto::CreateVolumeRequest { filesystem: "ntfs".into(), ..good.clone() }),
        ("source", proto::CreateVolumeRequest { source: "everything".into(), ..good.clone() }),
    ];
    for (field, request) in bad {
        let fault = new_volume_from_proto(request).unwrap_err();
        assert_eq!(fault.code, Code::Invalid);
        assert!(fault.message.starts_with(field), "{fault}");
    }
    assert_eq!(cut_key(proto::GetCutRequest { by: None }).unwrap_err().code, Code::Invalid);
    let empty = proto::get_cut_request::By::KindAndNameHash(String::new());
    assert_eq!(cut_key(proto::GetCutRequest { by: Some(empty) }).unwrap_err().code, Code::Invalid);
    let odd = proto::get_cut_request::By::KindAndNameHash("ä".into());
    assert_eq!(cut_key(proto::GetCutRequest { by: Some(odd) }).unwrap_err().code, Code::Invalid);
    let missing = record_from_proto(Side::Caller, None).unwrap_err();
    assert_eq!(missing.code, Code::Invalid);
}

#[test]
fn an_answer_that_does_not_parse_is_internal() {
    let mut answer = volume_to_proto(&volume(None));
    answer.created_at = "yesterday".into();
    let fault = volume_from_proto(answer).unwrap_err();
    assert_eq!(fault.code, Code::Internal);
    assert!(fault.message.contains("created_at"), "{fault}");
}

#[test]
fn a_cut_is_asked_for_by_id_or_by_kind_and_name() {
    let id = cut().id;
    let by = proto::get_cut_request::By::CutId(id.to_string());
    assert_eq!(cut_key(proto::GetCutRequest { by: Some(by) }), Ok(CutKey::Id(id.clone())));
    let by = proto::get_cut_request::By::KindAndNameHash(kind_and_hash(id.kind, &id.hash));
    assert_eq!(cut_key(proto::GetCutRequest { by: Some(by) }), Ok(CutKey::Name(id.kind, id.hash)));
}
