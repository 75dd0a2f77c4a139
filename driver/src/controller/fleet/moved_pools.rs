//! Pools that come to another node, are missing, or are dismissed: whole agents over mTLS.

use std::time::Duration;

use super::*;
use crate::controller::cuts::{Barrier, CutOrder};
use crate::controller::orders::SizeRange;
use crate::controller::paging::PageRequest;
use crate::controller::transfers::world::{Host, World, order};
use crate::controller::volumes::Origin;
use crate::domain::record::{CutRecord, Source};
use crate::domain::{Bytes, CutKind, VolumeId};
use crate::identity::pki;

fn node(name: &str) -> HostName {
    name.parse().unwrap()
}

fn unavailable<T: std::fmt::Debug>(outcome: Result<T, Fault>, names: &str) {
    let fault = outcome.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    assert!(fault.message.contains(names), "{fault}");
}

impl World {
    async fn raw(&self, name: &str, on: &str) -> VolumeId {
        self.volumes.create(&order(name, None, on)).await.unwrap().info.record.id
    }

    async fn taken(&self, kind: CutKind, name: &str, volumes: &[&VolumeId]) -> CutRecord {
        let volumes = volumes.iter().map(|volume| (*volume).clone()).collect();
        self.cuts.take(CutOrder { kind, name: name.into(), volumes, barrier: Barrier::Up }).await.unwrap()
    }
}

fn page() -> PageRequest {
    PageRequest::new(0, "").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_comes_to_another_node_is_found_there_with_all_that_it_has() {
    let mut world = World::new().await;
    let (x, y) = (world.raw("x", "a").await, world.raw("y", "b").await);
    let group = world.taken(CutKind::Group, "nightly", &[&x, &y]).await;
    let single = world.taken(CutKind::Single, "alone", &[&y]).await;
    let snapshot = single.members[0].snapshot.clone();
    // Node b is taken out of the cluster, its disk lies on a table.
    world.b.end().await;
    world.fleet.dismiss(&node("b"));
    let pool = y.pool.to_string();
    unavailable(world.cuts.find(CutKind::Group, "never taken").await, &pool);
    unavailable(world.cuts.list().await, &pool);
    unavailable(world.cuts.snapshots(None, &page()).await, &pool);
    unavailable(world.volumes.page(&page(), |_| true).await, &pool);
    unavailable(world.volumes.get(&y).await, &pool);
    unavailable(world.volumes.delete(&y).await, &pool);
    unavailable(world.cuts.of_snapshot(&snapshot).await, &pool);
    unavailable(world.cuts.delete(&single.handle()).await, &pool);
    unavailable(world.cuts.delete(&group.handle()).await, &pool);
    assert_eq!(world.taken(CutKind::Group, "others", &[&x]).await.members.len(), 1, "others go on");
    // The disk is put into node c.
    pki::agent(world.dir.path(), &node("c")).unwrap();
    let mut c = Host::start_with(world.dir.path(), "c", world.b.kernel.clone(), world.b.pool.clone()).await;
    world.fleet.admit(AgentAddress { host: node("c"), address: c.address.to_string() }).unwrap();
    assert_eq!(world.cuts.find(CutKind::Group, "nightly").await.unwrap(), Some(group.clone()));
    assert_eq!(world.cuts.find(CutKind::Group, "never taken").await.unwrap(), None);
    assert_eq!(world.volumes.get(&y).await.unwrap().host, node("c"));
    let restored = order("restored", Some(Source::Snapshot(snapshot)), "c");
    assert_eq!(world.volumes.create(&restored).await.unwrap().host, node("c"));
    let swept = world.cuts.sweep(Duration::ZERO).await;
    assert_eq!((swept.rolled_forward, swept.voided, swept.left), (vec![], vec![], vec![]));
    assert_eq!(world.taken(CutKind::Group, "nightly", &[&x, &y]).await, group, "a retry");
    for cut in [group.handle(), single.handle()] {
        world.cuts.delete(&cut).await.unwrap();
    }
    for end in [node("a"), node("c")] {
        let agent = world.fleet.agent(&end).unwrap();
        assert_eq!(agent.cut(&group.id).await.unwrap(), None, "nothing of it is left on {end}");
    }
    let names: Vec<_> = world.cuts.list().await.unwrap().into_iter().map(|cut| cut.name).collect();
    assert_eq!(names, ["others"]);
    c.end().await;
    world.a.end().await;
}

/// Loses the node of `lost`'s pool for good, and looks what becomes of a group over both.
async fn lose(is_home: bool) {
    let mut world = World::new().await;
    let (x, y) = (world.raw("x", "a").await, world.raw("y", "b").await);
    let group = world.taken(CutKind::Group, "nightly", &[&x, &y]).await;
    let a_is_lost = (group.id.home == x.pool) == is_home;
    let (lost, name, left) = if a_is_lost { (&x, "a", "b") } else { (&y, "b", "a") };
    let refused = world.fleet.dismiss_pool(&lost.pool).await.unwrap_err();
    assert_eq!(refused.code, Code::Precondition, "{refused}");
    if a_is_lost {
        world.a.end().await;
    } else {
        world.b.end().await;
    }
    unavailable(world.fleet.dismiss_pool(&lost.pool).await, name);
    world.fleet.dismiss(&node(name));
    let swept = world.cuts.sweep(Duration::ZERO).await;
    assert_eq!(swept.voided, [], "nothing is removed before somebody has said that the pool is lost");
    world.fleet.dismiss_pool(&lost.pool).await.unwrap();
    assert_eq!(world.volumes.get(lost).await.unwrap_err().code, Code::NotFound);
    world.volumes.delete(lost).await.unwrap();
    let other = world.fleet.agent(&node(left)).unwrap();
    if is_home {
        assert_eq!(world.cuts.find(CutKind::Group, "nightly").await.unwrap(), None);
        assert_eq!(world.cuts.sweep(Duration::ZERO).await.voided, std::slice::from_ref(&group.id));
    } else {
        assert!(
            world.cuts.find(CutKind::Group, "nightly").await.unwrap().is_some(),
            "its other members are there"
        );
        world.cuts.delete(&group.handle()).await.unwrap();
    }
    assert_eq!(other.cut(&group.id).await.unwrap(), None);
    assert_eq!(world.cuts.list().await.unwrap(), []);
    if a_is_lost {
        world.b.end().await;
    } else {
        world.a.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_home_pool_is_dismissed_is_gone_and_the_rest_of_it_is_removed() {
    lose(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_has_lost_another_pool_than_its_home_can_still_be_deleted() {
    lose(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_never_taken_for_one_that_has_nothing() {
    let mut world = World::new().await;
    let y = world.raw("y", "b").await;
    let group = world.taken(CutKind::Group, "nightly", &[&y]).await;
    world.b.end().await;
    unavailable(world.cuts.find(CutKind::Group, "nightly").await, "host b");
    unavailable(world.cuts.find(CutKind::Single, "nightly").await, "host b");
    unavailable(world.cuts.delete(&group.handle()).await, "host b");
    unavailable(world.volumes.delete(&y).await, "host b");
    world.a.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_one_node_are_snapshotted_while_another_is_silent() {
    let mut world = World::new().await;
    let (x, y) = (world.raw("x", "a").await, world.raw("y", "b").await);
    world.b.end().await;
    let asked_for = std::slice::from_ref(&x);
    assert_eq!(world.cuts.find_of(CutKind::Single, "snapshot-1", asked_for).await.unwrap(), None);
    let taken = world.taken(CutKind::Single, "snapshot-1", &[&x]).await;
    assert_eq!(
        world.cuts.find_of(CutKind::Single, "snapshot-1", asked_for).await.unwrap(),
        Some(taken.clone())
    );
    assert_eq!(world.cuts.settle(CutKind::Single, "snapshot-1", asked_for).await.unwrap(), Some(taken));
    unavailable(world.cuts.find_of(CutKind::Group, "group-1", &[x, y]).await, "host b");
    world.a.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_does_not_give_the_snapshot_of_an_earlier_volume_of_that_name() {
    let mut world = World::new().await;
    let x = world.raw("x", "a").await;
    let daily = world.taken(CutKind::Single, "daily", &[&x]).await;
    world.volumes.delete(&x).await.unwrap();
    assert_eq!(world.taken(CutKind::Single, "daily", &[&x]).await, daily, "it outlives its volume");
    let remade = world.raw("x", "a").await;
    assert_ne!(remade, x);
    let order = CutOrder {
        kind: CutKind::Single,
        name: "daily".into(),
        volumes: vec![remade.clone()],
        barrier: Barrier::Up,
    };
    let fault = world.cuts.take(order).await.unwrap_err();
    assert_eq!(fault.code, Code::AlreadyExists, "{fault}");
    assert!(fault.message.contains("earlier volume x"), "{fault}");
    assert!(world.cuts.get(&daily.handle()).await.unwrap().is_some(), "the old one is untouched");
    world.cuts.delete(&daily.handle()).await.unwrap();
    assert_eq!(world.taken(CutKind::Single, "daily", &[&remade]).await.members.len(), 1);
    world.a.end().await;
    world.b.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_keeps_the_id_of_something_deleted_never_reaches_what_has_its_name_now() {
    let mut world = World::new().await;
    let old = world.raw("x", "a").await;
    let old_group = world.taken(CutKind::Group, "nightly", &[&old]).await;
    let restore =
        |group: &CutRecord| order("restored", Some(Source::Snapshot(group.members[0].snapshot.clone())), "a");
    let restored = world.volumes.make_or_find(&restore(&old_group)).await.unwrap();
    assert_eq!(restored.1, Origin::Made);
    let again = world.volumes.make_or_find(&restore(&old_group)).await.unwrap();
    assert_eq!((&again.0, again.1), (&restored.0, Origin::Found));
    world.cuts.delete(&old_group.handle()).await.unwrap();
    world.volumes.delete(&old).await.unwrap();
    let new = world.raw("x", "a").await;
    let new_group = world.taken(CutKind::Group, "nightly", &[&new]).await;

    let larger = SizeRange { required: Bytes::gib(1), limit: None };
    assert_eq!(world.volumes.get(&old).await.unwrap_err().code, Code::NotFound);
    assert_eq!(world.volumes.expand(&old, larger).await.unwrap_err().code, Code::NotFound);
    world.volumes.delete(&old).await.unwrap();
    assert_eq!(world.cuts.get(&old_group.handle()).await.unwrap(), None);
    world.cuts.delete(&old_group.handle()).await.unwrap();
    assert_eq!(world.cuts.of_snapshot(&old_group.members[0].snapshot).await.unwrap(), None);
    // What was restored from the old one is not given for the new one.
    let fault = world.volumes.make_or_find(&restore(&new_group)).await.unwrap_err();
    assert_eq!(fault.code, Code::AlreadyExists, "{fault}");
    assert!(fault.message.contains(&old_group.members[0].snapshot.to_string()), "{fault}");

    assert_eq!(world.volumes.get(&new).await.unwrap().id(), &new);
    assert_eq!(world.cuts.get(&new_group.handle()).await.unwrap(), Some(new_group));
    world.a.end().await;
    world.b.end().await;
}
