//! One that is sick, a volume or a pool, concerns nobody else, and can be given back.

use super::*;

#[test]
fn a_volume_whose_pool_cannot_be_opened_is_given_back_all_the_same() {
    let bench = Bench::new();
    let (xfs, raw) = (bench.volume("xfs", XFS), bench.volume("raw", None));
    for (volume, access) in [(&xfs, Access::mount()), (&raw, Access::Block)] {
        bench.node.stage(&stage(volume, access.clone())).unwrap();
        bench.node.publish(&publish(volume, access)).unwrap();
        let record = path("/pool/stillpoint.json");
        let good = bench.host.read(record).unwrap();
        bench.host.write_synced(record, b"torn").unwrap();
        let dead = bench.restarted();
        refused(dead.node.stage(&stage(volume, Access::mount())), Code::Unavailable, "stillpoint.json");
        for _ in 0..2 {
            dead.node.unpublish(volume, path(TARGET)).unwrap();
        }
        for _ in 0..2 {
            dead.node.unstage(volume, path(STAGING)).unwrap();
        }
        assert_eq!(bench.host.mounts().unwrap().len(), 2, "only the disks");
        bench.host.write_synced(record, &good).unwrap();
    }
    let again = bench.restarted();
    again.local.recover();
    assert!(again.is_idle(&xfs) && again.is_idle(&raw), "no loop device is left");
}

fn conditions(bench: &Bench, volume: &VolumeId) -> Vec<Condition> {
    bench.local.volume(volume).unwrap().conditions.iter().map(|ailment| ailment.condition).collect()
}

#[test]
fn a_filesystem_that_has_shut_down_is_given_back_and_staged_anew() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    bench.host.shut_down(path(STAGING));
    let bench = bench.restarted();
    assert_eq!(bench.local.recover(), Recovered::default(), "there is nothing to thaw");
    refused(bench.node.stage(&stage(&volume, Access::mount())), Code::Precondition, "shut itself down");
    refused(bench.node.publish(&publish(&volume, Access::mount())), Code::Precondition, "shut itself down");
    bench.node.unstage(&volume, path(STAGING)).unwrap();
    assert!(bench.is_idle(&volume));
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    assert_eq!(conditions(&bench, &volume), []);
}

/// Every call of the start that concerns one volume fails once: the agent starts, the other volume is served, and the
/// sick one is told of and recovers when it can be looked at again.
#[test]
fn an_agent_starts_for_all_other_volumes_whatever_call_fails_for_one() {
    for (filesystem, access) in [(XFS, Access::mount()), (None, Access::Block)] {
        let mut tried = 0;
        for n in 1.. {
            let bench = Bench::new();
            let (sick, well) = (bench.volume("sick", filesystem), bench.volume("well", XFS));
            bench.node.stage(&stage(&sick, access.clone())).unwrap();
            let image = bench.pools.image(&sick).unwrap().path;
            let device = bench.host.attached(&image).unwrap().remove(0);
            if filesystem.is_some() {
                bench.host.open_mount(path(STAGING)).unwrap().freeze().unwrap();
            } else {
                bench.host.open_device(&device, "/pod");
                let users = std::collections::BTreeSet::from(["/pod".into()]);
                crate::host::Throttling::open_throttle(&bench.host, &device, &users).unwrap().hold().unwrap();
            }
            let quiesced = || bench.host.is_frozen(path(STAGING)) || bench.host.is_throttled(&device);
            assert!(quiesced());
            let tree = image.parent().unwrap().to_owned();
            let own = [tree, STAGING.into(), device.path.clone(), "/sys/fs/cgroup".into()];
            bench.host.fail_about(&own, n, libc::EIO);
            let next = bench.restarted();
            let recovered = next.local.recover();
            if bench.host.has_fault_to_come() {
                assert!(!quiesced(), "{recovered:?}");
                break;
            }
            tried += 1;
            let other = StageRequest { target: "/kubelet/well".into(), ..stage(&well, Access::mount()) };
            next.node.stage(&other).unwrap();
            assert_eq!(conditions(&next, &well), [], "call {n}");
            if let Err(fault) = next.local.volume(&sick) {
                assert_eq!(fault.code, Code::Internal, "call {n}: never that it does not exist: {fault}");
                continue;
            }
            let is_told = conditions(&next, &sick).contains(&Condition::ResumeFailed);
            assert_eq!(is_told, !recovered.failed.is_empty(), "call {n}: {recovered:?}");
            assert!(is_told || !quiesced() || recovered == Recovered::default(), "call {n}: {recovered:?}");
            next.local.recover_again();
            assert!(!conditions(&next, &sick).contains(&Condition::ResumeFailed), "call {n}");
        }
        assert!(tried > 5, "only {tried} calls were tried");
    }
}

#[test]
fn one_volume_that_cannot_be_looked_at_hides_no_other_from_lists() {
    let bench = Bench::new();
    let (sick, well) = (bench.volume("sick", XFS), bench.volume("well", XFS));
    bench.host.fail_about(&[bench.pools.image(&sick).unwrap().path], 1, libc::EIO);
    let volumes = bench.local.volumes().unwrap();
    let of = |id: &VolumeId| {
        let found = volumes.iter().find(|volume| volume.record.id == *id).unwrap();
        found.conditions.iter().map(|ailment| ailment.condition).collect::<Vec<_>>()
    };
    assert_eq!((of(&sick), of(&well)), (vec![Condition::VolumeFailed], vec![]));
}

#[test]
fn an_ext4_with_errors_that_a_check_does_not_repair_is_not_mounted_until_somebody_has_repaired_it() {
    let bench = Bench::new();
    let volume = bench.volume("data", EXT4);
    let image = bench.pools.image(&volume).unwrap().path;
    bench.host.set_damaged(&image, true);
    refused(
        bench.node.stage(&stage(&volume, Access::mount())),
        Code::Precondition,
        "e2fsck -f /pool/volumes",
    );
    assert!(bench.is_idle(&volume), "not even attached");
    assert_eq!(conditions(&bench, &volume), [Condition::FilesystemDamaged]);
    bench.host.set_damaged(&image, false);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    assert_eq!(conditions(&bench, &volume), []);
}

#[test]
fn a_filesystem_that_cannot_be_grown_is_staged_and_told_of() {
    let bench = Bench::new();
    let volume = bench.volume("data", EXT4);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    bench.node.unstage(&volume, path(STAGING)).unwrap();
    bench.local.expand_volume(&volume, Bytes::gib(2)).unwrap();
    bench.host.fail(When::NthOf("grow filesystem", 1), libc::EIO);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    assert_eq!(conditions(&bench, &volume), [Condition::FilesystemNotGrown]);
    bench.host.fail(When::NthOf("grow filesystem", 1), libc::EIO);
    refused(bench.node.grow(&grow(&volume, STAGING)), Code::Internal, "may have errors");
    assert_eq!(bench.node.grow(&grow(&volume, STAGING)), Ok(Bytes::gib(2)));
    assert_eq!(conditions(&bench, &volume), []);
}

#[test]
fn without_the_capability_ext4_grows_before_it_is_mounted_and_says_why_not_while_it_is() {
    let bench = Bench::new();
    bench.host.set_resource_capability(false);
    let volume = bench.volume("data", EXT4);
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    bench.local.expand_volume(&volume, Bytes::gib(2)).unwrap();
    refused(bench.node.grow(&grow(&volume, STAGING)), Code::Precondition, "lacks CAP_SYS_RESOURCE");
    assert_eq!(conditions(&bench, &volume), [Condition::FilesystemNotGrown]);
    bench.node.unstage(&volume, path(STAGING)).unwrap();
    bench.node.stage(&stage(&volume, Access::mount())).unwrap();
    assert_eq!(conditions(&bench, &volume), []);
    assert_eq!(bench.node.grow(&grow(&volume, STAGING)), Ok(Bytes::gib(2)));
}
