//! Volumes, pods and cuts for the tests of this module.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stillpoint_rules::ports::{Pod, PodState};

use crate::domain::record::{CutMember, CutRecord, CutState, VolumeRecord};
use crate::domain::timeline::{HostLane, Phase, Span, Timeline, VolumeLane};
use crate::domain::{
    Bytes, CutId, CutKind, Filesystem, Incarnation, Level, PoolId, SnapshotId, VolumeId, VolumeInfo,
};

use super::storage::{PlacedVolume, Volumes};

pub(crate) fn volume(name: &str, host: u8) -> PlacedVolume {
    PlacedVolume {
        host: format!("node-{host}").parse().unwrap(),
        info: VolumeInfo {
            moved: None,
            record: VolumeRecord {
                known_as: None,
                id: VolumeId::new(PoolId::from_random([host; 6]), name, Incarnation(1)),
                name: name.into(),
                capacity: Bytes::gib(1),
                filesystem: Some(Filesystem::Xfs),
                source: None,
                created_at: Timestamp::UNIX_EPOCH,
            },
            backend: "memory".into(),
            allocated: Bytes::mib(10),
            published_at: None,
            conditions: vec![],
        },
    }
}

pub(crate) fn volumes() -> Volumes {
    Volumes { all: vec![volume("pg-data", 1), volume("pg-wal", 2), volume("ring", 3)], silent: vec![] }
}

pub(crate) fn pod(name: &str, app: &str, volumes: &[&str]) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: "1".into(),
        labels: BTreeMap::from([("app".into(), app.into())]),
        host: "node-1".into(),
        containers: vec!["main".into()].into(),
        volumes: volumes.iter().map(|volume| (*volume).into()).collect(),
        state: PodState::Ready,
    }
}

/// A sealed cut of these volumes that ended its cut at `cut_at_ms`, with a window of 20 ms.
pub(crate) fn record(name: &str, members: &[PlacedVolume], cut_at_ms: i64) -> CutRecord {
    let id = CutId::new(CutKind::Group, name, members.iter().map(PlacedVolume::id)).unwrap();
    let member = |volume: &PlacedVolume| CutMember {
        known_as: None,
        volume: volume.id().clone(),
        volume_name: volume.name().into(),
        snapshot: SnapshotId::of(volume.id(), &id, Incarnation(1)),
        host: volume.host.clone(),
        capacity: volume.info.record.capacity,
        filesystem: volume.info.record.filesystem,
    };
    let span = |phase, start_us, end_us| Span { phase, start_us, end_us };
    let lane = |volume: &PlacedVolume| VolumeLane {
        volume: volume.id().clone(),
        name: volume.name().into(),
        spans: vec![
            span(Phase::Freeze, 0, 5_000),
            span(Phase::Cut, 6_000, 10_000),
            span(Phase::Thaw, 19_000, 20_000),
        ],
    };
    let hosts = members.iter().map(|volume| HostLane {
        host: volume.host.clone(),
        clock_error_us: 50,
        volumes: vec![lane(volume)],
    });
    CutRecord {
        name: name.into(),
        state: CutState::Sealed,
        attempt: Incarnation(1),
        members: members.iter().map(member).collect(),
        cut_at: Timestamp::from_millisecond(cut_at_ms).unwrap(),
        level: Level::Filesystem,
        reasons: vec![],
        timeline: Some(Timeline {
            window_us: 20_000,
            skew_us: 0,
            longest_stall_us: 20_000,
            hosts: hosts.collect(),
        }),
        id,
    }
}
