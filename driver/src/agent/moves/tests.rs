use std::path::Path;

use super::*;
use crate::agent::fixtures::{Bench, STAGING, TARGET, publish, stage};
use crate::agent::pool::{Begun, Content};
use crate::csi::ports::NodeWork;
use crate::domain::node::Access;
use crate::domain::{Code, Filesystem, Moved, PoolId};

const XFS: Option<Filesystem> = Some(Filesystem::Xfs);

fn elsewhere(volume: &VolumeId) -> VolumeId {
    VolumeId { pool: PoolId::from_random([9; 6]), ..volume.clone() }
}

#[test]
fn a_volume_in_use_is_not_moved_and_the_refusal_says_where_it_is_used() {
    for (filesystem, access) in [(XFS, Access::mount()), (None, Access::Block)] {
        let bench = Bench::new();
        let volume = bench.volume("data", filesystem);
        bench.node.stage(&stage(&volume, access.clone())).unwrap();
        bench.node.publish(&publish(&volume, access)).unwrap();
        let fault = bench.local.begin_move(&volume, &elsewhere(&volume)).unwrap_err();
        assert_eq!(fault.code, Code::Precondition);
        assert!(fault.message.contains(STAGING) && fault.message.contains("unstage it"), "{fault}");
        bench.node.unpublish(&volume, Path::new(TARGET)).unwrap();
        bench.node.unstage(&volume, Path::new(STAGING)).unwrap();
        bench.local.begin_move(&volume, &elsewhere(&volume)).unwrap();
    }
}

#[test]
fn whoever_uses_a_volume_that_is_being_moved_goes_first() {
    type Use = fn(&Bench, &VolumeId);
    let uses: [Use; 3] = [
        |bench, volume| {
            bench.node.stage(&stage(volume, Access::mount())).unwrap();
            bench.node.unstage(volume, Path::new(STAGING)).unwrap();
        },
        |bench, volume| drop(bench.local.expand_volume(volume, Bytes::gib(2)).unwrap()),
        |bench, volume| bench.local.stay(volume).unwrap(),
    ];
    for used in uses {
        let bench = Bench::new();
        let volume = bench.volume("data", XFS);
        let to = elsewhere(&volume);
        let begun = bench.local.begin_move(&volume, &to).unwrap();
        // Also an agent that was started anew knows of it.
        let bench = bench.restarted();
        assert_eq!(bench.local.moves().unwrap().0.len(), 1);
        used(&bench, &volume);
        assert!(bench.local.moves().unwrap().0.is_empty());
        let fault = bench.local.leave(&volume, &to, &begun.content).unwrap_err();
        assert!(fault.code == Code::Aborted && fault.message.contains("used"), "{fault}");
        bench.node.stage(&stage(&volume, Access::mount())).unwrap();
        assert!(bench.local.leave(&volume, &to, &begun.content).is_err());
    }
}

#[test]
fn a_volume_that_has_left_is_refused_everything_and_says_where_it_went() {
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let to = elsewhere(&volume);
    let begun = bench.local.begin_move(&volume, &to).unwrap();
    bench.local.leave(&volume, &to, &begun.content).unwrap();
    for bench in [bench.restarted(), bench] {
        bench.local.leave(&volume, &to, &begun.content).unwrap();
        assert_eq!(bench.node.stage(&stage(&volume, Access::mount())).unwrap_err().code, Code::NotFound);
        let same = bench.new_volume("data", XFS);
        for fault in [
            bench.local.create_volume(same).unwrap_err(),
            bench.local.delete_volume(&volume).unwrap_err(),
            bench.local.stay(&volume).unwrap_err(),
        ] {
            assert_eq!(fault.code, Code::Aborted, "{fault}");
        }
        let known = bench.local.volume(&volume).unwrap();
        assert_eq!(known.moved, Some(Departure { to: to.clone(), is_settled: false }));
        assert_eq!(bench.local.find_volume(&volume.hash).unwrap(), known);
        assert!(bench.local.volumes().unwrap().is_empty());
    }
    let bench = Bench::new();
    let volume = bench.volume("data", XFS);
    let begun = bench.local.begin_move(&volume, &to).unwrap();
    bench.local.leave(&volume, &to, &begun.content).unwrap();
    bench.local.finish_move(&volume).unwrap();
    bench.local.finish_move(&volume).unwrap();
    assert!(bench.local.volume(&volume).unwrap().moved.unwrap().is_settled);
    assert_eq!(bench.local.find_volume(&volume.hash).unwrap_err().code, Code::NotFound);
    bench.local.delete_volume(&volume).unwrap();
    assert_eq!(bench.local.volume(&volume).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_volume_that_came_from_elsewhere_is_staged_and_given_back_under_its_first_id() {
    let bench = Bench::new();
    let pool = bench.pools.iter().next().unwrap();
    let new = bench.new_volume("data", XFS);
    let known_as = elsewhere(&new.id);
    let moved =
        Moved { known_as: known_as.clone(), from: known_as.clone(), created_at: jiff::Timestamp::UNIX_EPOCH };
    let content = Content { id: "content".into(), size: new.capacity, allocated: Bytes(0) };
    let Begun::Part(arrival) = pool.begin_arrival(&new, &content, Some(&moved)).unwrap() else { panic!() };
    bench.host.write_block(&arrival.image(), 0, u64::from_be_bytes(*b"XFSB\0\0\0\0")).unwrap();
    pool.keep_arrival(*arrival).unwrap();
    bench.local.adopt(&new.id, "content").unwrap();
    let node: &dyn NodeWork = &*bench.node;
    assert_eq!(node.stage(&stage(&new.id, Access::mount())).err().map(|fault| fault.code), None);
    node.unstage(&new.id, Path::new(STAGING)).unwrap();
    node.stage(&stage(&known_as, Access::mount())).unwrap();
    node.publish(&publish(&known_as, Access::mount())).unwrap();
    assert!(node.health(&known_as).is_ok() && node.stats(&known_as, Path::new(TARGET)).is_ok());
    assert!(bench.local.volume(&new.id).unwrap().published_at.is_some());
    node.unpublish(&known_as, Path::new(TARGET)).unwrap();
    node.unstage(&known_as, Path::new(STAGING)).unwrap();
    assert!(bench.is_idle(&new.id));
}
