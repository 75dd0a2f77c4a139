use super::*;
use crate::domain::{Bytes, CutId, CutKind, Incarnation, PoolId, SnapshotId, VolumeId};

fn member(name: &str) -> CutMember {
    let volume = VolumeId::new(PoolId::from_random([7; 6]), name, Incarnation(1));
    let cut = CutId::new(CutKind::Group, "c", [&volume]).unwrap();
    CutMember {
        known_as: None,
        snapshot: SnapshotId::of(&volume, &cut, Incarnation(1)),
        volume,
        volume_name: name.into(),
        host: "a".parse().unwrap(),
        capacity: Bytes::gib(1),
        filesystem: None,
    }
}

fn reports(member: &CutMember, kind: MemberKind) -> Reports {
    let volume_id = member.volume.to_string();
    let span = |start_us, end_us| vec![MemberSpan { volume_id: volume_id.clone(), start_us, end_us }];
    Reports {
        prepared: vec![MemberPrepared {
            volume_id: volume_id.clone(),
            kind: kind.into(),
            flush_start_us: 500,
            flush_end_us: 700,
            flush_passes: 1,
        }],
        held: span(1_100, 2_100),
        cut: span(3_000, 5_000),
        released: Some(vec![MemberReleased {
            volume_id,
            start_us: 6_000,
            end_us: 6_100,
            clean: true,
            why: String::new(),
        }]),
    }
}

#[test]
fn a_timeline_is_relative_to_the_first_hold_and_measures_window_skew_and_stall() {
    let members = [member("data")];
    let reports = reports(&members[0], MemberKind::Filesystem);
    let host = "a".parse().unwrap();
    // The host's clock is 100 µs behind the controller's; the first hold was requested at 1 000 on the controller's.
    let clock = Alignment { offset_us: 100, error_us: 5 };
    let view = HostView { host: &host, members: &members, clock, reports: &reports };
    let timeline = timeline(vec![host_lane(&view, 1_000)]);
    let spans: Vec<_> =
        timeline.hosts[0].volumes[0].spans.iter().map(|s| (s.phase, s.start_us, s.end_us)).collect();
    assert_eq!(
        spans,
        [
            (Phase::Flush, -400, -200),
            (Phase::Freeze, 200, 1_200),
            (Phase::Cut, 2_100, 4_100),
            (Phase::Thaw, 5_100, 5_200),
        ]
    );
    assert_eq!((timeline.window_us, timeline.skew_us, timeline.longest_stall_us), (5_200, 0, 5_000));
    assert_eq!(timeline.hosts[0].clock_error_us, 5);
}

#[test]
fn the_level_falls_with_a_raw_device_in_use_and_without_the_barrier() {
    let members = [member("raw")];
    let host = "a".parse().unwrap();
    let of = |kind, one_instant| {
        let reports = reports(&members[0], kind);
        let view =
            HostView { host: &host, members: &members, clock: Alignment::default(), reports: &reports };
        level(&[view], one_instant)
    };
    assert_eq!(of(MemberKind::Filesystem, true), (Level::Filesystem, vec![]));
    assert_eq!(of(MemberKind::Idle, true), (Level::Filesystem, vec![]));
    assert_eq!(of(MemberKind::Block, true).0, Level::Crash);
    assert_eq!(of(MemberKind::BlockHeld, true).0, Level::Group, "at one instant, not flushed by its user");
    assert_eq!(of(MemberKind::BlockHeld, false).0, Level::Crash);
    assert_eq!(of(MemberKind::Filesystem, false).0, Level::Crash);
    assert!(of(MemberKind::Block, true).1[0].contains("raw block device"));
}
