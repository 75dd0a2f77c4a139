//! Moves between two whole agents.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::controller::cuts::{Barrier, CutOrder};
use crate::controller::fleet::{AgentAddress, Fleet};
use crate::controller::paging::PageRequest;
use crate::controller::transfers;
use crate::controller::transfers::world::{Host, WRITTEN, World, files, order};
use crate::controller::volumes::Volumes;
use crate::domain::record::Source;
use crate::domain::{Bytes, CutKind, SnapshotId};
use crate::host::fake::When;
use crate::identity::tls::Credentials;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

/// All volumes, as CSI lists them.
async fn list(volumes: &Volumes) -> Vec<Placed> {
    volumes.page(&PageRequest::new(0, "").unwrap(), |_| true).await.unwrap().entries
}

impl World {
    async fn to(&self, id: &VolumeId, name: &str) -> Result<Relocated, Fault> {
        relocate(&self.fleet, id, &host(name)).await
    }

    /// The agents as a new controller meets them.
    fn new_fleet(&self) -> Fleet {
        let agents = [("a", self.a.address), ("b", self.b.address)]
            .map(|(name, address)| AgentAddress { host: host(name), address: address.to_string() });
        Fleet::new(agents, &Credentials::of_controller(&files(self.dir.path(), "controller")).unwrap())
            .unwrap()
    }

    async fn cut(&self, name: &str, volume: &VolumeId) -> Result<SnapshotId, Fault> {
        let order = CutOrder {
            kind: CutKind::Single,
            name: name.into(),
            volumes: vec![volume.clone()],
            barrier: Barrier::Up,
        };
        Ok(self.cuts.take(order).await?.members[0].snapshot.clone())
    }

    /// The one volume that exists, by its first id.
    async fn only(&self, id: &VolumeId) -> Placed {
        let all = list(&self.volumes).await;
        assert_eq!(all.len(), 1, "{all:?}");
        let found = self.volumes.get(id).await.unwrap();
        assert_eq!(all[0], found);
        assert_eq!(found.id(), id);
        found
    }

    fn content(&self, placed: &Placed) -> Vec<u64> {
        let end: &Host = if placed.host == host("a") { &self.a } else { &self.b };
        end.read(&placed.info.record.id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_moves_with_its_data_and_everything_finds_it_under_its_old_id() {
    let world = World::new().await;
    let id = world.volume().await;
    let data = world.a.read(&id);
    let before = world.snapshot(&id).await;
    let made_at = world.only(&id).await.info.record.created_at;
    let moved = world.to(&id, "b").await.unwrap();
    assert_eq!((moved.from, moved.placed.host.as_str()), (Some(host("a")), "b"));
    let placed = world.only(&id).await;
    assert_eq!((placed.host.as_str(), placed.info.record.created_at), ("b", made_at));
    assert_eq!(world.content(&placed), data);
    assert!(world.a.kernel.read_block(&world.a.image(&id), 0).is_err(), "the data at the source is gone");
    // Moving it where it is does nothing.
    let calls = world.a.kernel.calls_of("pwrite") + world.b.kernel.calls_of("pwrite");
    assert_eq!(world.to(&id, "b").await.unwrap(), Relocated { placed: placed.clone(), from: None });
    assert_eq!(world.a.kernel.calls_of("pwrite") + world.b.kernel.calls_of("pwrite"), calls);
    // The same request finds it, for the request did not say where.
    let mut again = order("data", None, "a");
    again.places.requisite = None;
    assert_eq!(world.volumes.create(&again).await.unwrap().id(), &id);
    // Its snapshot is where it was, and is restored from there.
    let restored = order("restored", Some(Source::Snapshot(before.clone())), "a");
    let restored = world.volumes.create(&restored).await.unwrap();
    assert_eq!(world.content(&restored), data);
    world.volumes.delete(restored.id()).await.unwrap();
    assert_eq!(world.cut("nightly", &id).await.unwrap(), before, "a retry from before the move");
    // New cuts are taken where it is now, and say whose they are.
    let after = world.cut("after", &id).await.unwrap();
    assert_eq!(after.volume, placed.info.record.id);
    let cut = world.cuts.of_snapshot(&after).await.unwrap().unwrap();
    assert_eq!(cut.members[0].known_as(), &id);
    let listed = world.cuts.snapshots(Some(&id), &PageRequest::new(0, "").unwrap()).await.unwrap().entries;
    let listed: std::collections::BTreeSet<_> = listed.into_iter().map(|entry| entry.id).collect();
    assert_eq!(listed, [before.clone(), after.clone()].into(), "its snapshots, from before and after");
    let clone = world.volumes.create(&order("clone", Some(Source::Volume(id.clone())), "b")).await.unwrap();
    assert_eq!(
        (world.content(&clone), clone.info.record.source.clone()),
        (data.clone(), Some(Source::Volume(id.clone())))
    );
    let far = world.volumes.create(&order("far", Some(Source::Volume(id.clone())), "a")).await.unwrap();
    assert_eq!(world.content(&far), data);
    for made in [clone, far] {
        world.volumes.delete(made.id()).await.unwrap();
    }
    let larger = crate::controller::orders::SizeRange { required: Bytes::mib(32), limit: None };
    assert_eq!(world.volumes.expand(&id, larger).await.unwrap().info.record.capacity, Bytes::mib(32));
    world.volumes.delete(&id).await.unwrap();
    assert!(list(&world.volumes).await.is_empty());
    assert_eq!(world.volumes.get(&id).await.unwrap_err().code, Code::NotFound);
    world.volumes.delete(&id).await.unwrap();
    // What it left is deleted as ever.
    for name in ["nightly", "after"] {
        let cut = world.cuts.find(CutKind::Single, name).await.unwrap().unwrap();
        world.cuts.delete(&cut.handle()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_returns_is_what_it_was() {
    let world = World::new().await;
    let id = world.volume().await;
    let (data, first) = (world.a.read(&id), world.only(&id).await);
    for target in ["b", "a", "b", "a"] {
        let moved = world.to(&id, target).await.unwrap();
        assert_eq!((moved.placed.host.as_str(), world.content(&moved.placed)), (target, data.clone()));
        assert_eq!(world.only(&id).await, moved.placed);
    }
    assert_eq!(world.only(&id).await.info.record, first.info.record);
    assert_eq!((world.a.parts(), world.b.parts()), (0, 0));
}

/// Both agents fail one kernel call after the other, any; each time there is one volume with its data, and it moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_call_that_fails_at_either_end_leaves_one_usable_volume_and_the_retry_moves_it() {
    let world = World::new().await;
    let id = world.volume().await;
    let data = world.a.read(&id);
    let mut failed = 0;
    for n in (1..).step_by(5) {
        let at = world.only(&id).await.host;
        let target = if at == host("a") { "b" } else { "a" };
        let victim = if n % 2 == 0 { &world.a.kernel } else { &world.b.kernel };
        victim.fail(When::Nth(n), libc::EIO);
        let outcome = world.to(&id, target).await;
        victim.forgive();
        let placed = world.only(&id).await;
        assert_eq!(world.content(&placed), data, "call {n}");
        if let Err(fault) = outcome {
            failed += 1;
            let moved =
                world.to(&id, target).await.unwrap_or_else(|again| panic!("call {n}: {fault}; then {again}"));
            assert_eq!(world.content(&moved.placed), data, "call {n}");
        }
        if n > 250 {
            break;
        }
    }
    assert!(failed > 8, "only {failed} moves failed");
    assert_eq!((world.a.parts(), world.b.parts()), (0, 0));
}

/// A controller that dies after each step, by doing only the steps before.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_step_a_controller_dies_after_the_next_one_finds_the_volume_and_finishes() {
    for died_after in ["begin", "receive", "leave", "adopt"] {
        for finisher in ["move", "look", "create", "delete", "sweep"] {
            let world = World::new().await;
            let id = world.volume().await;
            let data = world.a.read(&id);
            let at = format!("died after {died_after}, then {finisher}");
            let (source, target) =
                (world.fleet.agent(&host("a")).unwrap(), world.fleet.agent(&host("b")).unwrap());
            let pool = target.describe().await.unwrap().pools[0].id.clone();
            let goal = VolumeId { pool, ..id.clone() };
            let begun = source.begin_move(&id, &goal).await.unwrap();
            if died_after != "begin" {
                let (volume, moved) = arriving(&begun.volume.record, goal.clone());
                let what = Granting::Leaving(id.clone());
                let brought =
                    transfers::bring(&world.fleet, &source, &target, volume, what, Some(&moved)).await;
                let content = brought.map_err(|stopped| stopped.fault).unwrap().content;
                assert_eq!(content, begun.content);
            }
            if died_after == "leave" || died_after == "adopt" {
                let_go(|| source.leave(&id, &goal, &begun.content)).await.unwrap();
            }
            if died_after == "adopt" {
                target.adopt(&goal, &begun.content).await.unwrap();
            }
            let committed = died_after == "leave" || died_after == "adopt";
            let fleet = world.new_fleet();
            let volumes =
                Volumes::new(Arc::new(fleet.clone()), Arc::new(world.cuts.clone()), Policy::default());
            match finisher {
                "move" => {
                    let moved = relocate(&fleet, &id, &host("b")).await.unwrap();
                    assert_eq!(moved.from.is_none(), committed, "{at}");
                }
                "look" => {
                    let expected = if committed { "b" } else { "a" };
                    assert_eq!(volumes.get(&id).await.unwrap().host.as_str(), expected, "{at}");
                }
                "create" => {
                    let mut again = order("data", None, "a");
                    again.places.requisite = None;
                    assert_eq!(volumes.create(&again).await.unwrap().id(), &id, "{at}");
                }
                "delete" => {
                    volumes.delete(&id).await.unwrap();
                    sweep(&fleet).await.unwrap();
                    assert!(list(&volumes).await.is_empty(), "{at}");
                    assert_eq!((world.a.parts(), world.b.parts()), (0, 0), "{at}");
                    continue;
                }
                _ => sweep(&fleet).await.unwrap(),
            }
            let placed = world.only(&id).await;
            assert_eq!(world.content(&placed), data, "{at}");
            let moved = relocate(&fleet, &id, &host("b")).await.unwrap().placed;
            assert_eq!((moved.host.as_str(), world.content(&moved)), ("b", data), "{at}");
            assert!(world.a.kernel.read_block(&world.a.image(&id), 0).is_err(), "{at}");
            assert_eq!(world.b.parts(), 0, "{at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_move_whose_target_is_silent_is_unavailable_and_never_made_a_second_time() {
    let mut world = World::new().await;
    let id = world.volume().await;
    let (source, target) = (world.fleet.agent(&host("a")).unwrap(), world.fleet.agent(&host("b")).unwrap());
    let goal = VolumeId { pool: target.describe().await.unwrap().pools[0].id.clone(), ..id.clone() };
    let begun = source.begin_move(&id, &goal).await.unwrap();
    let (volume, moved) = arriving(&begun.volume.record, goal.clone());
    let what = Granting::Leaving(id.clone());
    let brought = transfers::bring(&world.fleet, &source, &target, volume, what, Some(&moved)).await;
    assert!(brought.is_ok());
    let_go(|| source.leave(&id, &goal, &begun.content)).await.unwrap();
    world.b.end().await;
    let mut again = order("data", None, "a");
    again.places.requisite = None;
    for fault in [
        world.volumes.get(&id).await.unwrap_err(),
        world.volumes.create(&again).await.unwrap_err(),
        world.volumes.delete(&id).await.unwrap_err(),
        world.cut("cut", &id).await.unwrap_err(),
        world.to(&id, "a").await.unwrap_err(),
    ] {
        assert_eq!(fault.code, Code::Unavailable, "{fault}");
    }
    // The target is back, with what waits.
    world.b = Host::start(world.dir.path(), "b", world.b.kernel.clone()).await;
    let fleet = world.new_fleet();
    sweep(&fleet).await.unwrap();
    let (agent, info) = fleet.locate(&id).await.unwrap();
    assert_eq!((agent.host().as_str(), info.record.id), ("b", goal));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_found_after_the_host_that_it_came_from_is_gone_for_good() {
    let mut world = World::new().await;
    let id = world.volume().await;
    world.to(&id, "b").await.unwrap();
    world.a.end().await;
    assert_eq!(world.volumes.get(&id).await.unwrap().host.as_str(), "b");
    world.cut("cut", &id).await.unwrap();
    world.volumes.delete(&id).await.unwrap();
    let fault = world.volumes.get(&id).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "nobody concludes from silence: {fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_exist_or_is_full_is_refused_by_name_and_nothing_changes() {
    let world = World::new().await;
    let id = world.volume().await;
    let fault = world.to(&id, "nowhere").await.unwrap_err();
    assert!(fault.code == Code::NotFound && fault.message.contains("nowhere"), "{fault}");
    world.b.kernel.fail(When::NthOf("pwrite", 50), libc::ENOSPC);
    let fault = world.to(&id, "b").await.unwrap_err();
    assert!(fault.code == Code::Exhausted && fault.message.contains("host b"), "{fault}");
    assert_eq!((world.only(&id).await.host.as_str(), world.b.parts()), ("a", 0));
    world.to(&id, "b").await.unwrap();
}

/// Copies of the volume to b, held in the middle.
async fn stuck(
    world: &World,
    id: &VolumeId,
) -> (crate::host::fake::Hang, tokio::task::JoinHandle<Result<Relocated, Fault>>) {
    let hang = world.b.kernel.hang(When::NthOf("pwrite", 200));
    let (fleet, id) = (world.fleet.clone(), id.clone());
    let moving = tokio::spawn(async move { relocate(&fleet, &id, &host("b")).await });
    let hang = tokio::task::spawn_blocking(move || {
        hang.wait_until_reached();
        hang
    });
    (hang.await.unwrap(), moving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_cancelled_ends_its_call_and_leaves_nothing_but_the_volume() {
    let world = World::new().await;
    let id = world.volume().await;
    let (hang, moving) = stuck(&world, &id).await;
    assert_eq!(world.fleet.transfers().running().len(), 1);
    let cancelling = {
        let fleet = world.fleet.clone();
        tokio::spawn(async move { transfers::cancel(&fleet, "data").await })
    };
    // What is being written comes to its end first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(hang);
    assert_eq!(cancelling.await.unwrap().unwrap(), [host("b")]);
    let fault = moving.await.unwrap().unwrap_err();
    assert_eq!(fault.code, Code::Precondition);
    assert!(fault.message.contains("cancelled by hand") && fault.message.contains("removed"), "{fault}");
    assert_eq!(world.b.parts(), 0);
    assert_eq!(world.only(&id).await.host.as_str(), "a");
    let source = world.fleet.agent(&host("a")).unwrap();
    assert!(source.moves().await.unwrap().0.is_empty(), "the volume stays");
    let figures = world.fleet.transfers().figures();
    assert_eq!((figures.failures(), figures.failed[transfers::Failure::Cancelled as usize]), (1, 1));
    assert_eq!(transfers::cancel(&world.fleet, "data").await.unwrap_err().code, Code::NotFound);
    world.to(&id, "b").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_for_a_copy_that_broke_off_is_removed_by_cancelling_it() {
    let world = World::new().await;
    let id = world.volume().await;
    world.b.kernel.fail(When::NthOf("pwrite", 300), libc::EIO);
    world.to(&id, "b").await.unwrap_err();
    assert_eq!(world.b.parts(), 1);
    assert_eq!(transfers::cancel(&world.fleet, &id.to_string()).await.unwrap(), [host("b")]);
    assert_eq!(world.b.parts(), 0);
    let snapshot = world.snapshot(&id).await;
    world.b.kernel.fail(When::NthOf("pwrite", 300), libc::EIO);
    let restored = order("restored", Some(Source::Snapshot(snapshot)), "b");
    world.volumes.create(&restored).await.unwrap_err();
    assert_eq!(transfers::cancel(&world.fleet, "restored").await.unwrap(), [host("b")]);
    assert_eq!(world.b.parts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_with_what_has_arrived_also_for_another_controller_and_after_both_agents_were_started_anew()
 {
    let mut world = World::new().await;
    let id = world.volume().await;
    let data = world.a.read(&id);
    // Its caller goes away in the middle.
    let (hang, moving) = stuck(&world, &id).await;
    moving.abort();
    let _ = moving.await;
    drop(hang);
    for name in ["a", "b"] {
        let end = if name == "a" { &mut world.a } else { &mut world.b };
        end.end().await;
        let kernel = end.kernel.clone();
        let started = Host::start(world.dir.path(), name, kernel).await;
        *(if name == "a" { &mut world.a } else { &mut world.b }) = started;
    }
    let written = world.b.kernel.calls_of("pwrite");
    let moved = relocate(&world.new_fleet(), &id, &host("b")).await.unwrap();
    assert_eq!(world.content(&moved.placed), data);
    let pieces = WRITTEN.filter(|block| block % 7 != 0 && (block - 1) % 7 == 0).count() as u64;
    let more = world.b.kernel.calls_of("pwrite") - written;
    assert!(more < pieces, "{more} writes for {pieces} pieces: nothing was resumed");
}
