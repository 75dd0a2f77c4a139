use super::*;
use crate::agent::fixtures::{Bench, STAGING, TARGET, publish, stage};
use crate::agent::recovery::Recovered;
use crate::domain::health::Condition;
use crate::domain::node::{GrowRequest, PublishRequest, Usage};
use crate::host::fake::When;
use crate::host::{Files, Freezing, Loops, Mounts};

const XFS: Option<Filesystem> = Some(Filesystem::Xfs);

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn grow(volume: &VolumeId, at: &str) -> GrowRequest {
    GrowRequest { volume: volume.clone(), path: at.into(), capacity: None, access: None }
}

/// Code and message of a refusal.
fn refused<T: std::fmt::Debug>(outcome: Result<T, Fault>, code: Code, word: &str) {
    let fault = outcome.unwrap_err();
    assert_eq!(fault.code, code, "{fault}");
    assert!(fault.message.contains(word), "{word:?} is not in: {fault}");
}

#[test]
fn a_filesystem_is_staged_published_and_given_back_and_every_call_may_be_repeated() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let (staged, published) = (stage(&volume, Access::mount()), publish(&volume, Access::mount()));
    for _ in 0..2 {
        bench.node.stage(&staged).unwrap();
    }
    assert_eq!(bench.local.volume(&volume).unwrap().published_at, Some(STAGING.into()));
    for _ in 0..2 {
        bench.node.publish(&published).unwrap();
    }
    let second = PublishRequest { target: "/kubelet/other".into(), ..published.clone() };
    bench.node.publish(&second).unwrap();
    let Usage::Filesystem { total, .. } = bench.node.stats(&volume, path(TARGET)).unwrap() else {
        panic!("a mount is measured as a filesystem");
    };
    assert_eq!(total, Bytes::gib(1));
    for target in [TARGET, "/kubelet/other", TARGET] {
        bench.node.unpublish(&volume, path(target)).unwrap();
        assert_eq!(bench.host.stat(path(target)).unwrap(), None, "{target} is removed");
    }
    for _ in 0..2 {
        bench.node.unstage(&volume, path(STAGING)).unwrap();
    }
    assert!(bench.is_idle(&volume));
    bench.local.delete_volume(&volume).unwrap();
}

#[test]
fn a_raw_device_is_staged_published_and_given_back_and_every_call_may_be_repeated() {
    let bench = Bench::new();
    let volume = bench.volume("raw", None);
    for _ in 0..2 {
        bench.node.stage(&stage(&volume, Access::Block)).unwrap();
        bench.node.publish(&publish(&volume, Access::Block)).unwrap();
    }
    let node = bench.host.stat(path(TARGET)).unwrap().unwrap();
    assert_eq!(node.kind, FileKind::Block);
    assert_eq!(bench.node.stats(&volume, path(TARGET)), Ok(Usage::Device { total: Bytes::gib(1) }));
    assert_eq!(bench.node.stats(&volume, path(STAGING)), Ok(Usage::Device { total: Bytes::gib(1) }));
    assert_eq!(bench.local.volume(&volume).unwrap().published_at, Some(path(STAGING).join("device")));
    for _ in 0..2 {
        bench.node.unpublish(&volume, path(TARGET)).unwrap();
    }
    assert!(!bench.is_idle(&volume), "it is still staged");
    for _ in 0..2 {
        bench.node.unstage(&volume, path(STAGING)).unwrap();
    }
    assert!(bench.is_idle(&volume));
    assert_eq!(bench.host.list(path(STAGING)).unwrap(), []);
}

/// Runs `deed` so that from its n-th kernel call on nothing succeeds, as if the agent had died there; says whether it
/// got that far.
fn dies_at(bench: &Bench, n: u64, deed: impl FnOnce(&NodeVolumes) -> Result<(), Fault>) -> bool {
    const LONGER_THAN_ANY_DEED: u64 = 60;
    for call in n..n + LONGER_THAN_ANY_DEED {
        bench.host.fail(When::Nth(call), libc::EIO);
    }
    let failed = deed(&bench.node).is_err();
    for _ in 0..n + LONGER_THAN_ANY_DEED {
        drop(bench.host.mounts());
    }
    failed
}

type Deed = Box<dyn Fn(&NodeVolumes) -> Result<(), Fault>>;

/// All of a volume's life on a host, one call after the other.
fn life(volume: &VolumeId, access: &Access) -> Vec<Deed> {
    let (staging, publishing) = (stage(volume, access.clone()), publish(volume, access.clone()));
    let reader = PublishRequest { target: "/kubelet/reader".into(), read_only: true, ..publishing.clone() };
    let [v1, v2, v3] = [volume.clone(), volume.clone(), volume.clone()];
    vec![
        Box::new(move |node| node.stage(&staging)),
        Box::new(move |node| node.publish(&publishing)),
        Box::new(move |node| node.publish(&reader)),
        Box::new(move |node| node.unpublish(&v1, path("/kubelet/reader"))),
        Box::new(move |node| node.unpublish(&v2, path(TARGET))),
        Box::new(move |node| node.unstage(&v3, path(STAGING))),
    ]
}

fn writers(bench: &Bench, volume: &VolumeId) -> usize {
    let image = bench.pools.image(volume).unwrap().path;
    bench.host.attached(&image).unwrap().iter().filter(|device| !device.read_only).count()
}

#[test]
fn an_agent_that_dies_at_any_kernel_call_of_any_request_is_followed_by_one_that_completes_it() {
    for (filesystem, access) in [(XFS, Access::mount()), (None, Access::Block)] {
        let mut deaths = 0;
        for victim in 0..6 {
            for n in 1.. {
                let bench = Bench::new();
                let volume = bench.volume("data", filesystem);
                let life = life(&volume, &access);
                for deed in &life[..victim] {
                    deed(&bench.node).unwrap();
                }
                let died = dies_at(&bench, n, &life[victim]);
                let bench = bench.restarted();
                for deed in &life[victim..] {
                    deed(&bench.node).unwrap_or_else(|fault| panic!("request {victim}, call {n}: {fault}"));
                    assert!(
                        writers(&bench, &volume) <= 1,
                        "request {victim}, call {n}: it cannot be held as one"
                    );
                }
                assert!(bench.is_idle(&volume), "request {victim}, call {n}: something is left");
                bench.local.delete_volume(&volume).unwrap();
                if !died {
                    break;
                }
                deaths += 1;
            }
        }
        assert!(deaths > 20, "only {deaths} calls were tried");
    }
}

#[test]
fn a_stage_that_was_given_up_half_way_leaves_nothing_after_unstage_or_delete() {
    for n in 1.. {
        let bench = Bench::new();
        let volume = bench.volume("data", XFS);
        let died = dies_at(&bench, n, |node| node.stage(&stage(&volume, Access::mount())));
        let bench = bench.restarted();
        if n % 2 == 0 {
            bench.node.unstage(&volume, path(STAGING)).unwrap();
            assert!(bench.is_idle(&volume), "call {n}");
        }
        // Where it was not mounted yet, deletion removes what is left; where it was, it is refused.
        let staged = bench.local.volume(&volume).unwrap().published_at.is_some();
        assert_eq!(bench.local.delete_volume(&volume).is_err(), staged, "call {n}");
        if !died {
            return;
        }
    }
}

#[test]
fn what_is_there_with_other_properties_already_exists() {
    let bench = Bench::new();
    for (name, filesystem, access) in [("fs", XFS, Access::mount()), ("raw", None, Access::Block)] {
        let volume = bench.volume(name, filesystem);
        let (staged, published) = (stage(&volume, access.clone()), publish(&volume, access.clone()));
        bench.node.stage(&staged).unwrap();
        let read_only = StageRequest { read_only: true, ..staged };
        refused(bench.node.stage(&read_only), Code::AlreadyExists, "unstage it first");
        bench.node.publish(&published).unwrap();
        let read_only = PublishRequest { read_only: true, ..published };
        refused(bench.node.publish(&read_only), Code::AlreadyExists, "unpublish it first");
        bench.node.unpublish(&volume, path(TARGET)).unwrap();
        bench.node.unstage(&volume, path(STAGING)).unwrap();
        assert!(bench.is_idle(&volume));
    }
}

#[test]
fn what_must_be_done_first_is_said() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let published = publish(&volume, Access::mount());
    refused(bench.node.publish(&published), Code::Precondition, "stage it there first");
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    let elsewhere = StageRequest { target: "/kubelet/elsewhere".into(), ..stage(&volume, Access::mount()) };
    refused(bench.node.stage(&elsewhere), Code::Precondition, STAGING);
    bench.node.publish(&published).unwrap();
    refused(bench.node.unstage(&volume, path(STAGING)), Code::Precondition, TARGET);
    refused(bench.node.unpublish(&volume, path(STAGING)), Code::Precondition, "unstage it instead");
    refused(bench.local.delete_volume(&volume), Code::Precondition, "in use");
}

#[test]
fn a_single_writer_has_no_second_consumer() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    let first = PublishRequest { single_writer: true, ..publish(&volume, Access::mount()) };
    for _ in 0..2 {
        bench.node.publish(&first).unwrap();
    }
    let second = PublishRequest { target: "/kubelet/second".into(), ..first };
    refused(bench.node.publish(&second), Code::Precondition, TARGET);
    assert_eq!(bench.host.stat(path("/kubelet/second")).unwrap(), None, "nothing was made");
    bench.node.unpublish(&volume, path(TARGET)).unwrap();
    bench.node.publish(&second).unwrap();
}

#[test]
fn a_volume_is_used_as_what_it_was_made_as() {
    let bench = Bench::new();
    let (xfs, raw) = (bench.volume("xfs", XFS), bench.volume("raw", None));
    let ext4 = Access::Mount { filesystem: Some(Filesystem::Ext4), options: vec![] };
    for (volume, access) in [(&xfs, Access::Block), (&xfs, ext4), (&raw, Access::mount())] {
        refused(bench.node.stage(&stage(volume, access.clone())), Code::Precondition, "was made as");
        refused(bench.node.publish(&publish(volume, access)), Code::Precondition, "was made as");
    }
    assert!(bench.is_idle(&xfs) && bench.is_idle(&raw));
}

#[test]
fn an_unknown_volume_is_not_found_and_giving_it_back_is_fine() {
    let bench = Bench::new();
    let here = VolumeId::new(bench.pool_id(), "never made", crate::domain::Incarnation(1));
    let elsewhere =
        VolumeId::new(crate::domain::PoolId::from_random([9; 6]), "data", crate::domain::Incarnation(1));
    for volume in [here, elsewhere] {
        refused(bench.node.stage(&stage(&volume, Access::mount())), Code::NotFound, "volume");
        refused(bench.node.publish(&publish(&volume, Access::mount())), Code::NotFound, "volume");
        refused(bench.node.stats(&volume, path("some/path")), Code::NotFound, "volume");
        refused(bench.node.grow(&grow(&volume, "some/path")), Code::NotFound, "volume");
        bench.node.unpublish(&volume, path(TARGET)).unwrap();
        bench.node.unstage(&volume, path(STAGING)).unwrap();
        let occupied = bench.node.unstage(&volume, path("/pool"));
        refused(occupied, Code::Precondition, "mounted at /pool");
    }
}

#[test]
fn a_volume_is_not_found_where_it_is_not() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    refused(bench.node.stats(&volume, path(STAGING)), Code::NotFound, "neither staged nor published");
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    for wrong in ["/kubelet", "/kubelet/staging/some/path", "/pool", "/nowhere"] {
        refused(bench.node.stats(&volume, path(wrong)), Code::NotFound, wrong);
        refused(bench.node.grow(&grow(&volume, wrong)), Code::NotFound, wrong);
    }
}

#[test]
fn paths_that_lead_elsewhere_change_nothing() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let calls = bench.host.calls();
    for bad in ["", "relative", "/kubelet/../etc", "/a\0b", "/"] {
        let staged = StageRequest { target: bad.into(), ..stage(&volume, Access::mount()) };
        refused(bench.node.stage(&staged), Code::Invalid, "staging_target_path");
        let published = PublishRequest { target: bad.into(), ..publish(&volume, Access::mount()) };
        refused(bench.node.publish(&published), Code::Invalid, "target_path");
        refused(bench.node.unpublish(&volume, path(bad)), Code::Invalid, "target_path");
        refused(bench.node.unstage(&volume, path(bad)), Code::Invalid, "staging_target_path");
        refused(bench.node.stats(&volume, path(bad)), Code::Invalid, "volume_path");
    }
    assert_eq!(bench.host.calls(), calls);
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    bench.host.add_disk("nfs", Bytes::gib(1), path("/kubelet/foreign"));
    let on_it = StageRequest { target: "/kubelet/foreign".into(), ..stage(&volume, Access::mount()) };
    refused(bench.node.stage(&on_it), Code::Precondition, "something else (nfs)");
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    refused(
        bench.node.unpublish(&volume, path("/kubelet/foreign")),
        Code::Precondition,
        "something else (nfs)",
    );
    bench.host.make_all(path("/kubelet/full/of/files"));
    assert!(bench.node.unpublish(&volume, path("/kubelet/full")).is_err(), "not empty");
    bench.host.write_synced(path("/kubelet/file"), b"precious").unwrap();
    refused(bench.node.unpublish(&volume, path("/kubelet/file")), Code::Precondition, "not empty");
    let on_file = PublishRequest { target: "/kubelet/file".into(), ..publish(&volume, Access::mount()) };
    refused(bench.node.publish(&on_file), Code::Precondition, "not a directory");
    assert_eq!(bench.host.read(path("/kubelet/file")).unwrap(), b"precious");
}

#[test]
fn a_volume_that_lies_under_another_mount_is_not_taken_for_the_volume() {
    let bench = Bench::new();
    let (lower, upper) = (bench.volume("lower", XFS), bench.volume("upper", XFS));
    bench.node.stage(&stage(&lower, Access::mount())).unwrap();
    let other = StageRequest { target: "/kubelet/upper".into(), ..stage(&upper, Access::mount()) };
    bench.node.stage(&other).unwrap();
    bench.host.bind(path("/kubelet/upper"), path(STAGING), false).unwrap();
    refused(bench.node.stats(&lower, path(STAGING)), Code::NotFound, "neither");
    refused(bench.node.unstage(&lower, path(STAGING)), Code::Precondition, "something else");
}

#[test]
fn a_read_only_volume_is_mounted_read_only_from_a_writable_device_and_not_grown() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let read_only = StageRequest { read_only: true, ..stage(&volume, Access::mount()) };
    bench.node.stage(&read_only).unwrap();
    bench.node.stage(&read_only).unwrap();
    bench.node.publish(&publish(&volume, Access::mount())).unwrap();
    let mounts = bench.host.mounts().unwrap();
    let mode = |at: &str| mounts.iter().find(|mount| mount.target == path(at)).unwrap().read_only;
    assert!(mode(STAGING) && mode(TARGET), "a consumer of a read-only volume reads, whatever it asks for");
    assert_eq!(bench.host.calls_of("grow filesystem"), 0);
    let image = bench.pools.image(&volume).unwrap().path;
    assert!(
        bench.host.attached(&image).unwrap().iter().all(|device| !device.read_only),
        "the log is replayed"
    );
}

#[test]
fn a_reader_next_to_a_writer_of_a_raw_device_has_a_device_that_cannot_be_written() {
    let bench = Bench::new();
    let volume = bench.volume("raw", None);
    bench.node.stage(&stage(&volume, Access::Block)).unwrap();
    bench.node.publish(&publish(&volume, Access::Block)).unwrap();
    let reader = PublishRequest {
        target: "/kubelet/reader".into(),
        read_only: true,
        ..publish(&volume, Access::Block)
    };
    bench.node.publish(&reader).unwrap();
    bench.host.write_block(path(TARGET), 7, 42).unwrap();
    assert!(bench.host.write_block(path("/kubelet/reader"), 7, 43).is_err());
    assert_eq!(bench.host.read_block(path("/kubelet/reader"), 7).unwrap(), 42);
    let image = bench.pools.image(&volume).unwrap().path;
    assert_eq!(bench.host.attached(&image).unwrap().len(), 2);
    bench.node.unpublish(&volume, path("/kubelet/reader")).unwrap();
    assert_eq!(bench.host.attached(&image).unwrap().len(), 1, "the reader's device is gone with it");
}

#[test]
fn an_expanded_volume_grows_where_it_is_staged_or_at_its_next_stage() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let total = |bench: &Bench| match bench.node.stats(&volume, path(STAGING)).unwrap() {
        Usage::Filesystem { total, .. } | Usage::Device { total } => total,
    };
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    let asked = GrowRequest { capacity: Some(Bytes::gib(2)), ..grow(&volume, STAGING) };
    refused(bench.node.grow(&asked), Code::OutOfRange, "expand it at the controller first");
    bench.local.expand_volume(&volume, Bytes::gib(2)).unwrap();
    assert_eq!(bench.node.grow(&asked), Ok(Bytes::gib(2)));
    assert_eq!(total(&bench), Bytes::gib(2));
    bench.node.unstage(&volume, path(STAGING)).unwrap();
    bench.local.expand_volume(&volume, Bytes::gib(3)).unwrap();
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    assert_eq!(total(&bench), Bytes::gib(3));
}

#[test]
fn a_volume_in_a_round_is_left_alone() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    let cut = crate::domain::CutId::new(crate::domain::CutKind::Single, "now", [&volume]).unwrap();
    let round = bench.locks.try_lock_all([&volume], Purpose::Round(cut)).unwrap();
    for outcome in [
        bench.node.stage(&stage(&volume, Access::mount())),
        bench.node.publish(&publish(&volume, Access::mount())),
        bench.node.unpublish(&volume, path(TARGET)),
        bench.node.unstage(&volume, path(STAGING)),
        bench.node.grow(&grow(&volume, STAGING)).map(drop),
        bench.local.delete_volume(&volume),
        bench.local.expand_volume(&volume, Bytes::gib(2)).map(drop),
    ] {
        refused(outcome, Code::Aborted, "is being taken of it");
    }
    bench.node.stats(&volume, path(STAGING)).unwrap();
    drop(round);
    bench.node.unstage(&volume, path(STAGING)).unwrap();
}

#[test]
fn a_frozen_filesystem_is_thawed_before_it_is_unmounted() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    bench.host.open_mount(path(STAGING)).unwrap().freeze().unwrap();
    bench.node.unstage(&volume, path(STAGING)).unwrap();
    assert!(bench.is_idle(&volume), "a device under a frozen filesystem would be leaked");
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    assert!(!bench.host.is_frozen(path(STAGING)), "a filesystem that is unmounted frozen stays frozen");
}

#[test]
fn an_agent_that_starts_thaws_what_its_predecessor_left_frozen_and_nothing_else() {
    let bench = Bench::new();
    let (frozen, quiet) = (bench.volume("frozen", XFS), bench.volume("quiet", XFS));
    bench.node.stage(&stage(&frozen, Access::mount())).unwrap();
    let other = StageRequest { target: "/kubelet/quiet".into(), ..stage(&quiet, Access::mount()) };
    bench.node.stage(&other).unwrap();
    bench.host.add_disk("xfs", Bytes::gib(1), path("/kubelet/foreign"));
    for target in [STAGING, "/kubelet/foreign"] {
        bench.host.open_mount(path(target)).unwrap().freeze().unwrap();
    }
    assert_eq!(bench.restarted().local.recover().thawed, [frozen]);
    assert!(!bench.host.is_frozen(path(STAGING)));
    assert!(bench.host.is_frozen(path("/kubelet/foreign")), "not ours");
}

const EXT4: Option<Filesystem> = Some(Filesystem::Ext4);

#[test]
fn a_device_node_that_a_tenant_made_in_a_volume_pins_no_other_volume() {
    let bench = Bench::new();
    let (own, victim) = (bench.volume("own", XFS), bench.volume("victim", None));
    let other = StageRequest { target: "/kubelet/own".into(), ..stage(&own, Access::mount()) };
    bench.node.stage(&other).unwrap();
    bench.node.stage(&stage(&victim, Access::Block)).unwrap();
    let device = bench.host.attached(&bench.pools.image(&victim).unwrap().path).unwrap().remove(0);
    let node = path("/kubelet/own").join(device.path.file_name().unwrap());
    bench.host.make_node(&node, device.device).unwrap();
    bench.host.make_all(path("/kubelet/pod"));
    bench.host.make_file(path("/kubelet/pod/device")).unwrap();
    bench.host.bind(&node, path("/kubelet/pod/device"), false).unwrap();
    let single = PublishRequest { single_writer: true, ..publish(&victim, Access::Block) };
    bench.node.publish(&single).unwrap();
    bench.node.unpublish(&victim, path(TARGET)).unwrap();
    bench.node.unstage(&victim, path(STAGING)).unwrap();
    bench.local.delete_volume(&victim).unwrap();
}

#[test]
fn a_path_through_a_symbolic_link_is_refused_before_anything_is_done() {
    let bench = Bench::new();
    let (volume, raw) = (bench.volume("data", XFS), bench.volume("raw", None));
    bench.host.make_all(path("/kubelet/real"));
    bench.host.make_link(path("/kubelet/link"), path("/kubelet/real"));
    for target in ["/kubelet/link", "/kubelet/link/below"] {
        for (volume, access) in [(&volume, Access::mount()), (&raw, Access::Block)] {
            let request = StageRequest { target: target.into(), ..stage(volume, access) };
            refused(bench.node.stage(&request), Code::Precondition, "symbolic link");
        }
    }
    assert_eq!((bench.host.calls_of("attach"), bench.host.calls_of("mount")), (0, 0));
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    let request = PublishRequest { target: "/kubelet/link".into(), ..publish(&volume, Access::mount()) };
    refused(bench.node.publish(&request), Code::Precondition, "symbolic link");
    assert_eq!(bench.host.calls_of("bind mount"), 0);
}

#[test]
fn a_mount_that_a_link_led_astray_meanwhile_is_undone_where_it_is() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    bench.host.make_all(path("/kubelet/real"));
    let hang = bench.host.hang(When::NthOf("bind mount", 1));
    let outcome = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| bench.node.publish(&publish(&volume, Access::mount())));
        hang.wait_until_reached();
        bench.host.make_link(path(TARGET), path("/kubelet/real"));
        hang.release();
        publishing.join().unwrap()
    });
    refused(outcome, Code::Precondition, "symbolic link");
    let places = bench.host.mounts().unwrap();
    assert!(places.iter().all(|mount| mount.target != path("/kubelet/real")), "{places:?}");
}

#[test]
fn a_mount_option_of_another_filesystem_is_refused_by_name_when_the_volume_is_staged() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let access = Access::Mount { filesystem: None, options: vec!["nofail".into(), "nobarrier".into()] };
    refused(bench.node.stage(&stage(&volume, access)), Code::Invalid, "\"nobarrier\" is an option of ext4");
    assert!(bench.is_idle(&volume));
}

mod sick;
