//! Bad input, one table per kind of request.

use std::collections::HashMap;

use proptest::prelude::*;
use stillpoint_csi_proto::v1;
use v1::volume_capability::access_mode::Mode;
use v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

use super::parameters::snapshot_parameters;
use super::*;
use crate::backend::BackendKind;
use crate::controller::orders::{Content, Copies, Place, Places, SizeRange, VolumeOrder};
use crate::csi::ports::{Asked, SnapshotObject};
use crate::domain::node::Access;
use crate::domain::record::Source;
use crate::domain::{Bytes, Code, CutKind, Filesystem, HostName};

const VOLUME: &str = "3f9a0c11d2e4-v00000000000000000000000000000001-00000001";
const OTHER: &str = "3f9a0c11d2e4-v00000000000000000000000000000002-00000001";
const SNAPSHOT: &str =
    "3f9a0c11d2e4-v00000000000000000000000000000001-00000001-s0000000000000000000000000000000a-00000001";

fn mount(fs_type: &str) -> AccessType {
    AccessType::Mount(MountVolume { fs_type: fs_type.into(), ..Default::default() })
}

fn block() -> AccessType {
    AccessType::Block(BlockVolume {})
}

fn used(access: AccessType, mode: Mode) -> v1::VolumeCapability {
    v1::VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(access) }
}

fn writer(access: AccessType) -> v1::VolumeCapability {
    used(access, Mode::SingleNodeWriter)
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn good() -> v1::CreateVolumeRequest {
    v1::CreateVolumeRequest {
        name: "pvc-1".into(),
        volume_capabilities: vec![writer(mount(""))],
        capacity_range: Some(v1::CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
        ..Default::default()
    }
}

/// `good()`, changed.
fn with(change: impl FnOnce(&mut v1::CreateVolumeRequest)) -> v1::CreateVolumeRequest {
    let mut request = good();
    change(&mut request);
    request
}

fn order(change: impl FnOnce(&mut v1::CreateVolumeRequest)) -> VolumeOrder {
    volume_order(&with(change)).unwrap()
}

/// Each refusal has this code and names this.
fn refused<T: std::fmt::Debug>(outcome: Result<T, Fault>, code: Code, names: &str) {
    let fault = outcome.unwrap_err();
    assert_eq!(fault.code, code, "{fault}");
    assert!(fault.message.contains(names), "{names:?} is not named in: {fault}");
}

#[test]
fn a_plain_request_becomes_an_order() {
    let expected = VolumeOrder {
        name: "pvc-1".into(),
        size: SizeRange { required: Bytes::gib(1), limit: None },
        content: Content::Filesystem(None),
        backend: None,
        source: None,
        places: Places::default(),
        copies: Copies::default(),
        claim: None,
    };
    assert_eq!(volume_order(&good()), Ok(expected));
}

#[test]
fn names_are_there_not_too_long_and_without_control_characters() {
    let named = |name: &str| volume_order(&with(|request| request.name = name.into()));
    refused(named(""), Code::Invalid, "name is missing");
    refused(named(&"x".repeat(129)), Code::Invalid, "129 bytes");
    refused(named(&"ä".repeat(65)), Code::Invalid, "130 bytes");
    refused(named("a\0b"), Code::Invalid, "control character");
    refused(named("a\u{9f}"), Code::Invalid, "control character");
    for fine in ["x".repeat(128), "../../etc/passwd".into(), "/".into(), "名前 \t\n".into(), ".".into()] {
        assert!(named(&fine).is_ok(), "{fine:?} is only a name: it is hashed and never a path");
    }
}

#[test]
fn capabilities_that_a_local_volume_cannot_have_are_refused_by_name() {
    let asked = |uses: Vec<v1::VolumeCapability>| {
        volume_order(&with(|request| request.volume_capabilities = uses)).map(|order| order.content)
    };
    refused(asked(vec![]), Code::Invalid, "volume_capabilities are missing");
    refused(asked(vec![v1::VolumeCapability::default()]), Code::Invalid, "access_type");
    let no_mode = v1::VolumeCapability { access_type: Some(block()), access_mode: None };
    refused(asked(vec![no_mode]), Code::Invalid, "access_mode is missing");
    for mode in [Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter, Mode::MultiNodeMultiWriter] {
        refused(asked(vec![used(block(), mode)]), Code::Invalid, mode.as_str_name());
    }
    let strange =
        v1::VolumeCapability { access_type: Some(block()), access_mode: Some(AccessMode { mode: 99 }) };
    refused(asked(vec![strange]), Code::Invalid, "access_mode 99");
    refused(asked(vec![writer(mount("ntfs"))]), Code::Invalid, "ntfs");
    refused(asked(vec![writer(mount("")), writer(block())]), Code::Invalid, "block and mount");
    refused(asked(vec![writer(mount("xfs")), writer(mount("ext4"))]), Code::Invalid, "ext4");
    assert_eq!(asked(vec![writer(block())]), Ok(Content::Device));
    assert_eq!(
        asked(vec![writer(mount("")), used(mount("ext4"), Mode::SingleNodeReaderOnly)]),
        Ok(Content::Filesystem(Some(Filesystem::Ext4)))
    );
}

#[test]
fn access_modes_say_who_writes_and_how_many_targets_there_are() {
    let of = |mode| capability(&used(block(), mode)).map(|used| (used.read_only, used.single_target));
    assert_eq!(of(Mode::SingleNodeWriter), Ok((false, true)));
    assert_eq!(of(Mode::SingleNodeSingleWriter), Ok((false, true)));
    assert_eq!(of(Mode::SingleNodeMultiWriter), Ok((false, false)));
    assert_eq!(of(Mode::SingleNodeReaderOnly), Ok((true, true)));
}

#[test]
fn mount_options_are_checked_and_a_group_is_refused_because_it_is_not_announced() {
    let asked = |flags: Vec<String>, group: &str| {
        let mount =
            MountVolume { mount_flags: flags, volume_mount_group: group.into(), ..Default::default() };
        capability(&writer(AccessType::Mount(mount))).map(|used| used.access).map_err(Fault::from)
    };
    let options = vec!["nosuid".to_owned()];
    let expected = Access::Mount { filesystem: None, options: options.clone() };
    assert_eq!(asked(options, ""), Ok(expected));
    refused(asked(vec![], "2000"), Code::Invalid, "does not announce VOLUME_MOUNT_GROUP");
    refused(asked(vec![String::new()], ""), Code::Invalid, "mount_flags");
    refused(asked(vec!["a\nb".into()], ""), Code::Invalid, "mount_flags");
    refused(
        asked(vec!["nosuid".into(), "nobarier".into()], ""),
        Code::Invalid,
        "\"nobarier\" is not an option",
    );
    refused(asked(vec!["x".repeat(5000)], ""), Code::Invalid, "5001 bytes");
}

#[test]
fn mount_options_that_no_volume_can_have_are_refused_by_name_when_it_is_made() {
    let asked = |filesystem: &str, option: &str, source: Option<v1::VolumeContentSource>| {
        let mount = MountVolume {
            fs_type: filesystem.into(),
            mount_flags: vec!["_netdev".into(), "relatime".into(), option.into()],
            ..Default::default()
        };
        volume_order(&with(|request| {
            request.volume_capabilities = vec![writer(AccessType::Mount(mount))];
            request.volume_content_source = source;
        }))
    };
    refused(asked("", "nobarier", None), Code::Invalid, "\"nobarier\" is not an option");
    refused(asked("ext4", "nouuid", None), Code::Invalid, "\"nouuid\" is an option of xfs");
    refused(asked("", "nobarrier", None), Code::Invalid, "the volume carries xfs");
    let source = v1::volume_content_source::VolumeSource { volume_id: VOLUME.into() };
    let source = v1::VolumeContentSource { r#type: Some(v1::volume_content_source::Type::Volume(source)) };
    assert!(asked("", "nobarrier", Some(source)).is_ok(), "its source may carry ext4");
    assert!(asked("ext4", "nobarrier", None).is_ok());
}

#[test]
fn sizes_are_sensible_or_refused() {
    let sized = |required_bytes, limit_bytes| {
        let range = v1::CapacityRange { required_bytes, limit_bytes };
        volume_order(&with(|request| request.capacity_range = Some(range))).map(|order| order.size)
    };
    refused(sized(0, 0), Code::Invalid, "zero bytes");
    refused(sized(-1, 0), Code::Invalid, "required_bytes is -1");
    refused(sized(0, -5), Code::Invalid, "limit_bytes is -5");
    refused(sized(10, 9), Code::Invalid, "limit_bytes 9 is below required_bytes 10");
    assert_eq!(sized(10, 10), Ok(SizeRange { required: Bytes(10), limit: Some(Bytes(10)) }));
    assert!(sized(i64::MAX, 0).is_ok(), "what is too large is said where the limit is known");
    assert_eq!(order(|request| request.capacity_range = None).size, SizeRange::ANY);
    refused(volume_size(None), Code::Invalid, "capacity_range is missing");
}

#[test]
fn unknown_parameters_are_refused_by_name_and_the_sidecars_own_are_not() {
    let asked = |pairs: &[(&str, &str)]| {
        volume_order(&with(|request| request.parameters = map(pairs)))
            .map(|order| (order.backend, order.content))
    };
    refused(asked(&[("stillpoint.dev/backnd", "xfs")]), Code::Invalid, "\"stillpoint.dev/backnd\"");
    refused(asked(&[("b", ""), ("a", "")]), Code::Invalid, "\"a\", \"b\"");
    refused(asked(&[("csi.storage.k8s.io", "")]), Code::Invalid, "\"csi.storage.k8s.io\"");
    refused(asked(&[("stillpoint.dev/backend", "zfs")]), Code::Invalid, "zfs");
    refused(asked(&[("csi.storage.k8s.io/fstype", "btrfs")]), Code::Invalid, "btrfs");
    refused(asked(&[("csi.storage.k8s.io/pvc/name", &"x".repeat(4096))]), Code::Invalid, "4123 bytes");
    assert_eq!(
        asked(&[
            ("stillpoint.dev/backend", "xfs"),
            ("csi.storage.k8s.io/fstype", "ext4"),
            ("csi.storage.k8s.io/pvc/name", "data"),
        ]),
        Ok((Some(BackendKind::Xfs), Content::Filesystem(Some(Filesystem::Ext4))))
    );
    let contradiction = volume_order(&with(|request| {
        request.parameters = map(&[("csi.storage.k8s.io/fstype", "ext4")]);
        request.volume_capabilities = vec![writer(mount("xfs"))];
    }));
    refused(contradiction, Code::Invalid, "both ext4 and xfs");
    let mutable = with(|request| request.mutable_parameters = map(&[("iops", "9")]));
    refused(volume_order(&mutable), Code::Invalid, "\"iops\"");
    refused(snapshot_parameters(&map(&[("deep", "yes")]), CutKind::Single), Code::Invalid, "\"deep\"");
    // Kubernetes' own test suite says it in classes of groups; nobody in classes of single snapshots.
    let suite = map(&[("deletionPolicy", "Delete")]);
    assert_eq!(snapshot_parameters(&suite, CutKind::Group), Ok(Asked::default()));
    refused(snapshot_parameters(&suite, CutKind::Single), Code::Invalid, "\"deletionPolicy\"");
    for near in ["deletionpolicy", "DeletionPolicy", "deletionPolicy2"] {
        refused(snapshot_parameters(&map(&[(near, "Delete")]), CutKind::Group), Code::Invalid, near);
    }
    let half = map(&[("csi.storage.k8s.io/volumesnapshot/name", "s")]);
    assert_eq!(snapshot_parameters(&half, CutKind::Single), Ok(Asked::default()));
}

#[test]
fn whose_snapshot_it_is_and_the_rule_of_its_class_are_passed_on() {
    let given = map(&[
        ("csi.storage.k8s.io/volumegroupsnapshot/name", "s"),
        ("csi.storage.k8s.io/volumegroupsnapshot/namespace", "shop"),
        ("stillpoint.dev/rule", "flush"),
    ]);
    let object = SnapshotObject { namespace: "shop".into(), name: "s".into() };
    let asked = Asked { object: Some(object), rule: Some("flush".into()) };
    assert_eq!(snapshot_parameters(&given, CutKind::Group), Ok(asked));
    assert_eq!(snapshot_parameters(&given, CutKind::Single).unwrap().object, None);
    let wrong = map(&[("stillpoint.dev/rule", "other/flush")]);
    refused(snapshot_parameters(&wrong, CutKind::Group), Code::Invalid, "not the name of a Rule");
}

#[test]
fn a_source_is_an_id_of_ours_or_not_found() {
    use v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let from = |kind: Option<Type>| {
        let source = v1::VolumeContentSource { r#type: kind };
        volume_order(&with(|request| request.volume_content_source = Some(source))).map(|order| order.source)
    };
    let snapshot = |id: &str| Some(Type::Snapshot(SnapshotSource { snapshot_id: id.into() }));
    let volume = |id: &str| Some(Type::Volume(VolumeSource { volume_id: id.into() }));
    refused(from(None), Code::Invalid, "volume_content_source is empty");
    refused(from(snapshot("")), Code::Invalid, "volume_content_source.snapshot is missing");
    refused(from(snapshot("non-existing-snapshot-id")), Code::NotFound, "non-existing");
    refused(from(volume(SNAPSHOT)), Code::NotFound, "is not a volume id");
    assert_eq!(from(snapshot(SNAPSHOT)), Ok(Some(Source::Snapshot(SNAPSHOT.parse().unwrap()))));
    assert_eq!(from(volume(VOLUME)), Ok(Some(Source::Volume(VOLUME.parse().unwrap()))));
}

fn term(pairs: &[(&str, &str)]) -> v1::Topology {
    v1::Topology { segments: map(pairs) }
}

#[test]
fn only_terms_with_our_key_alone_are_places_of_ours() {
    let host = |name: &str| name.parse::<HostName>().unwrap();
    let places = |requisite: Vec<v1::Topology>, preferred: Vec<v1::Topology>| {
        let asked = v1::TopologyRequirement { requisite, preferred };
        order(|request| request.accessibility_requirements = Some(asked)).places
    };
    let ours = |name| term(&[(TOPOLOGY_KEY, name)]);
    let zone = || term(&[("topology.kubernetes.io/zone", "z1")]);
    let both = || term(&[(TOPOLOGY_KEY, "a"), ("topology.kubernetes.io/zone", "z1")]);
    assert_eq!(
        places(vec![ours("a"), zone(), ours("b")], vec![ours("b")]),
        Places { requisite: Some(vec![host("a"), host("b")]), preferred: vec![host("b")] }
    );
    assert_eq!(places(vec![zone(), both(), ours("Not A Host")], vec![]).requisite, Some(vec![]));
    assert!(places(vec![], vec![]).is_silent());
    let query = |topology| {
        let request = v1::GetCapacityRequest { accessible_topology: topology, ..Default::default() };
        capacity_query(&request).unwrap().place
    };
    assert_eq!(query(None), Place::Anywhere);
    assert_eq!(query(Some(ours("a"))), Place::On(host("a")));
    assert_eq!(query(Some(zone())), Place::Nowhere);
}

#[test]
fn ids_that_are_not_ours_are_not_found_or_nothing_to_delete() {
    let tricks =
        ["fake-vol-id", "../../etc", "3f9a0c11d2e4-v../../../../../../../../../etc", &"9".repeat(10_000)];
    for id in tricks {
        refused(volume(id), Code::NotFound, "volume_id");
        refused(snapshot(id), Code::NotFound, "snapshot_id");
        refused(group(id), Code::NotFound, "group_snapshot_id");
        assert_eq!(doomed::<VolumeId>("volume_id", id), Ok(None));
        assert!(volume(id).unwrap_err().message.len() < 300, "the whole of it was repeated");
    }
    refused(doomed::<VolumeId>("volume_id", ""), Code::Invalid, "volume_id is missing");
    assert!(doomed::<VolumeId>("volume_id", VOLUME).unwrap().is_some());
}

#[test]
fn snapshot_orders_name_a_volume_of_ours() {
    let asked = |name: &str, id: &str| {
        snapshot_order(&v1::CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: id.into(),
            ..Default::default()
        })
    };
    refused(asked("", VOLUME), Code::Invalid, "name is missing");
    refused(asked("s", ""), Code::Invalid, "source_volume_id is missing");
    refused(asked("s", "garbage"), Code::NotFound, "garbage");
    assert!(asked(&"s".repeat(128), VOLUME).is_ok());
}

#[test]
fn a_group_is_a_set_of_volumes() {
    let asked = |ids: &[&str]| {
        group_order(&v1::CreateVolumeGroupSnapshotRequest {
            name: "g".into(),
            source_volume_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            ..Default::default()
        })
    };
    refused(asked(&[]), Code::Invalid, "source_volume_ids are missing");
    refused(asked(&[VOLUME, VOLUME]), Code::Invalid, "twice");
    refused(asked(&[VOLUME, "garbage"]), Code::NotFound, "garbage");
    refused(asked(&vec![VOLUME; 2000]), Code::Invalid, "2000 volumes");
    assert_eq!(asked(&[VOLUME, OTHER]), asked(&[OTHER, VOLUME]), "order means nothing");
}

#[test]
fn a_list_of_snapshots_is_filtered_and_garbage_matches_nothing() {
    let asked = |snapshot: &str, volume: &str| {
        snapshot_filter(&v1::ListSnapshotsRequest {
            snapshot_id: snapshot.into(),
            source_volume_id: volume.into(),
            ..Default::default()
        })
    };
    assert_eq!(asked("", ""), SnapshotFilter::All);
    assert_eq!(asked("none-exist-id", ""), SnapshotFilter::Nothing);
    assert_eq!(asked("", "fake"), SnapshotFilter::Nothing);
    assert_eq!(asked("", VOLUME), SnapshotFilter::Of(VOLUME.parse().unwrap()));
    assert_eq!(asked(SNAPSHOT, ""), SnapshotFilter::One(SNAPSHOT.parse().unwrap(), None));
}

#[test]
fn target_paths_are_absolute_and_mean_what_they_say() {
    let staged = |path: &str| {
        stage(&v1::NodeStageVolumeRequest {
            volume_id: VOLUME.into(),
            staging_target_path: path.into(),
            volume_capability: Some(writer(mount(""))),
            ..Default::default()
        })
        .map(|request| request.target)
    };
    for (bad, why) in [
        ("", "missing"),
        ("relative/path", "not absolute"),
        ("/var/lib/../../etc", "`..`"),
        ("/", "root"),
        ("/a\0b", "NUL"),
    ] {
        refused(staged(bad), Code::Invalid, why);
    }
    refused(staged(&format!("/{}", "x".repeat(5000))), Code::Invalid, "longer");
    assert_eq!(staged("/var/lib/kubelet/x"), Ok("/var/lib/kubelet/x".into()));
}

#[test]
fn node_requests_say_first_what_is_missing() {
    refused(stage(&v1::NodeStageVolumeRequest::default()), Code::Invalid, "volume_id");
    refused(unstage(&v1::NodeUnstageVolumeRequest::default()), Code::Invalid, "volume_id");
    refused(publish(&v1::NodePublishVolumeRequest::default()), Code::Invalid, "volume_id");
    refused(unpublish(&v1::NodeUnpublishVolumeRequest::default()), Code::Invalid, "volume_id");
    let garbage = || "fake-vol-id".to_owned();
    let no_target = v1::NodePublishVolumeRequest { volume_id: garbage(), ..Default::default() };
    refused(publish(&no_target), Code::Invalid, "target_path");
    let no_use = v1::NodePublishVolumeRequest { target_path: "/t".into(), ..no_target };
    refused(publish(&no_use), Code::Invalid, "volume_capability");
    let no_staging = v1::NodePublishVolumeRequest { volume_capability: Some(writer(block())), ..no_use };
    refused(publish(&no_staging), Code::Precondition, "staging_target_path");
    let unknown = v1::NodePublishVolumeRequest { staging_target_path: "/s".into(), ..no_staging };
    refused(publish(&unknown), Code::NotFound, "fake-vol-id");
    let same = v1::NodePublishVolumeRequest {
        volume_id: VOLUME.into(),
        staging_target_path: "/t".into(),
        ..unknown
    };
    refused(publish(&same), Code::Invalid, "staging path");
}

#[test]
fn at_a_path_that_is_not_absolute_is_no_volume() {
    let stats_at = |volume: &str, path: &str| {
        stats(&v1::NodeGetVolumeStatsRequest {
            volume_id: volume.into(),
            volume_path: path.into(),
            ..Default::default()
        })
    };
    refused(stats_at("fake", "some/path"), Code::NotFound, "fake");
    refused(stats_at(VOLUME, ""), Code::Invalid, "volume_path");
    refused(stats_at(VOLUME, "some/path"), Code::NotFound, "some/path");
    assert!(stats_at(VOLUME, "/some/path").is_ok(), "whether it is there is the host's to say");
    let grow = v1::NodeExpandVolumeRequest {
        volume_id: VOLUME.into(),
        volume_path: "/t".into(),
        capacity_range: Some(v1::CapacityRange { required_bytes: 7, limit_bytes: 0 }),
        ..Default::default()
    };
    let parsed = expand_node(&grow).unwrap();
    assert_eq!((parsed.capacity, parsed.access), (Some(Bytes(7)), None));
}

#[test]
fn a_reader_publishes_read_only_whoever_says_so() {
    let asked = |mode, readonly| {
        let request = publish(&v1::NodePublishVolumeRequest {
            volume_id: VOLUME.into(),
            staging_target_path: "/s".into(),
            target_path: "/t".into(),
            volume_capability: Some(used(mount("xfs"), mode)),
            readonly,
            ..Default::default()
        })
        .unwrap();
        (request.read_only, request.single_writer)
    };
    assert_eq!(asked(Mode::SingleNodeMultiWriter, false), (false, false));
    assert_eq!(asked(Mode::SingleNodeMultiWriter, true), (true, false));
    assert_eq!(asked(Mode::SingleNodeReaderOnly, false), (true, true));
}

proptest! {
    #[test]
    fn no_text_makes_parsing_fall_over(text in ".{0,200}", number: i64, count: i32) {
        let _ = volume(&text).map_err(|fault| assert!(!fault.message.is_empty()));
        let _ = snapshot(&text);
        let request = with(|request| {
            request.name.clone_from(&text);
            request.parameters = map(&[(&text, &text)]);
            request.capacity_range = Some(v1::CapacityRange { required_bytes: number, limit_bytes: number });
            request.volume_capabilities = vec![v1::VolumeCapability {
                access_type: Some(mount(&text)),
                access_mode: Some(AccessMode { mode: count }),
            }];
        });
        let _ = volume_order(&request);
        let _ = stage(&v1::NodeStageVolumeRequest {
            volume_id: VOLUME.into(),
            staging_target_path: text,
            volume_capability: Some(writer(mount(""))),
            ..Default::default()
        });
    }
}

/// Sizes as nobody would ask for them, and as somebody might.
fn any_size() -> impl Strategy<Value = i64> {
    const LARGEST: i64 = 64 << 40;
    let edges =
        [i64::MIN, -1, 0, 1, 4095, 4096, 4097, LARGEST - 1, LARGEST, LARGEST + 1, i64::MAX - 1, i64::MAX];
    prop_oneof![proptest::sample::select(edges.to_vec()), any::<i64>(), 0..(1_i64 << 41)]
}

proptest! {
    #[test]
    fn any_sizes_are_refused_or_give_a_volume_within_them(required in any_size(), limit in any_size()) {
        let range = v1::CapacityRange { required_bytes: required, limit_bytes: limit };
        let Ok(order) = volume_order(&with(|request| request.capacity_range = Some(range))) else {
            prop_assert!(required < 0 || limit < 0 || required.max(limit) == 0 || (limit != 0 && limit < required));
            return Ok(());
        };
        for smallest in [Bytes(1), Bytes::mib(300), Bytes(64 << 40), Bytes(u64::MAX)] {
            if let Ok(size) = order.size.choose(smallest, Bytes::gib(1)) {
                prop_assert!(size.0.is_multiple_of(4096) && order.size.admits(size) && size >= smallest);
                prop_assert!(i64::try_from(size.0).is_ok());
            }
        }
    }
}
