//! A cut shaped like real ones: three hosts, eleven volumes, three Cassandra pods flushed before and one
//! command after.

use crate::domain::timeline::{HostLane, Phase, Span, Timeline, VolumeLane};
use crate::domain::{HostName, Incarnation, Level, PoolId, VolumeId};

use super::{Moment, Picture, PodCommand, PodLane};

fn host_name(text: &str) -> HostName {
    text.parse().unwrap()
}

pub(crate) fn lane(name: &str, spans: &[(Phase, i64, i64)]) -> VolumeLane {
    VolumeLane {
        volume: VolumeId::new(PoolId::from_random([1; 6]), name, Incarnation(1)),
        name: name.into(),
        spans: spans
            .iter()
            .map(|(phase, start_us, end_us)| Span { phase: *phase, start_us: *start_us, end_us: *end_us })
            .collect(),
    }
}

/// A lane that is flushed, frozen at `freeze`, cut at `cut` and thawed at `thaw`.
fn held(name: &str, flush: i64, freeze: (i64, i64), cut: (i64, i64), thaw: i64) -> VolumeLane {
    lane(
        name,
        &[
            (Phase::Flush, -340_000, -340_000 + flush),
            (Phase::Freeze, freeze.0, freeze.1),
            (Phase::Cut, cut.0, cut.1),
            (Phase::Thaw, thaw, thaw + 40),
        ],
    )
}

fn pod(name: &str, host: &str, took: i64) -> PodLane {
    let start = -2_010_000;
    PodLane {
        pod: name.into(),
        host: host.into(),
        commands: vec![PodCommand {
            step: "flush-ring".into(),
            moment: Moment::Before,
            command: "nodetool flush".into(),
            start_us: start,
            end_us: start + took,
            held_us: None,
            lost: false,
            failure: String::new(),
        }],
    }
}

pub(crate) fn picture() -> Picture {
    let hosts = ["node-1", "node-2", "node-3"].iter().zip(0_i64..).map(|(host, index)| {
        let late = index * 420;
        let mut volumes = vec![
            held(
                &format!("cassandra-{index}"),
                304_000,
                (350 + late, 6_900 + late),
                (11_000 + late, 15_350 + late),
                18_450 + late,
            ),
            held(
                &format!("ledger-{index}"),
                21_000,
                (380 + late, 2_450 + late),
                (11_040 + late, 14_900 + late),
                18_480 + late,
            ),
            held(
                &format!("shop-{index}"),
                88_000,
                (390 + late, 3_800 + late),
                (11_020 + late, 15_900 + late),
                18_500 + late,
            ),
        ];
        if index < 2 {
            let name = if index == 0 { "pg-data" } else { "pg-wal" };
            volumes.push(held(
                name,
                143_000,
                (400 + late, 8_850 + late),
                (11_090 + late, 16_400 + late),
                18_530 + late,
            ));
        } else {
            volumes.push(lane("spare", &[(Phase::Cut, 12_000, 15_000)]));
        }
        HostLane { host: host_name(host), clock_error_us: 90 + index.unsigned_abs() * 35, volumes }
    });
    let mut pods: Vec<_> = [1_520_000, 1_380_000, 1_610_000]
        .iter()
        .zip(0..)
        .map(|(took, index)| pod(&format!("cassandra-{index}"), &format!("node-{}", index + 1), *took))
        .collect();
    pods.push(PodLane {
        pod: "postgres-0".into(),
        host: "node-1".into(),
        commands: vec![
            PodCommand {
                step: "checkpoint".into(),
                moment: Moment::Before,
                command: "psql -c CHECKPOINT".into(),
                start_us: -395_000,
                end_us: -352_000,
                held_us: None,
                lost: false,
                failure: String::new(),
            },
            PodCommand {
                step: "checkpoint".into(),
                moment: Moment::After,
                command: "log-backup-done.sh".into(),
                start_us: 96_000,
                end_us: 141_000,
                held_us: None,
                lost: false,
                failure: String::new(),
            },
        ],
    });
    Picture {
        id: "010101010101-g00000000000000000000000000000000-00000001".into(),
        name: "nightly-2026-11-20".into(),
        level: Level::Application,
        reasons: Vec::new(),
        cut_at: "2026-11-20T02:00:00Z".into(),
        timeline: Timeline {
            window_us: 19_460,
            skew_us: 840,
            longest_stall_us: 18_950,
            hosts: hosts.collect(),
        },
        pods,
        session_skew_us: None,
    }
}

/// The same cut with two sessions, the second of which was lost.
pub(crate) fn sessions() -> Picture {
    let mut picture = picture();
    for (pod, held_us, failure) in [(0, -900, ""), (1, -260, "it ended before it was released")] {
        picture.pods[pod].commands.push(PodCommand {
            step: "lock".into(),
            moment: Moment::Hold,
            command: "mariadb --batch".into(),
            start_us: -4_000,
            end_us: 21_000,
            held_us: Some(held_us),
            lost: !failure.is_empty(),
            failure: failure.into(),
        });
    }
    picture.session_skew_us = Some(640);
    picture
}

/// The same volumes cut one after another.
pub(crate) fn serial() -> Picture {
    let mut picture = picture();
    picture.level = Level::Crash;
    picture.reasons = vec!["the volumes were cut one after another, without a barrier".into()];
    let mut at = 0;
    for lane in picture.timeline.hosts.iter_mut().flat_map(|host| &mut host.volumes) {
        *lane = self::lane(
            &lane.name,
            &[
                (Phase::Flush, at - 20_000, at - 1_000),
                (Phase::Freeze, at, at + 2_000),
                (Phase::Cut, at + 2_500, at + 6_000),
                (Phase::Thaw, at + 6_500, at + 6_540),
            ],
        );
        at += 31_000;
    }
    picture.timeline.window_us = u64::try_from(at).unwrap() - 24_460;
    picture.timeline.skew_us = u64::try_from(at).unwrap() - 31_000;
    picture
}
