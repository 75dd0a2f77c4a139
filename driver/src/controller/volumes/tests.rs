use super::model::{Model, Trouble, host, pool_id};
use super::*;
use crate::backend::BackendKind;
use crate::controller::orders::{Content, Copies, Places, SMALLEST_DEVICE};
use crate::domain::{CutId, CutKind, Incarnation};

type Change = fn(&mut VolumeOrder);

fn over(model: &Arc<Model>) -> Volumes {
    Volumes::new(model.clone(), model.clone(), Policy::default())
}

fn order(name: &str) -> VolumeOrder {
    VolumeOrder {
        name: name.into(),
        size: range(1, 0),
        content: Content::Filesystem(None),
        backend: None,
        source: None,
        places: Places::default(),
        copies: Copies::default(),
        claim: None,
    }
}

fn range(gib: u64, limit: u64) -> SizeRange {
    SizeRange { required: Bytes::gib(gib), limit: (limit > 0).then_some(Bytes::gib(limit)) }
}

fn only(name: &str) -> Places {
    Places { requisite: Some(vec![host(name)]), preferred: vec![] }
}

fn snapshot_of(placed: &Placed) -> CutMember {
    let record = &placed.info.record;
    let cut = CutId::new(CutKind::Single, "snap", [&record.id]).unwrap();
    CutMember {
        known_as: None,
        volume: record.id.clone(),
        volume_name: record.name.clone(),
        snapshot: SnapshotId::of(&record.id, &cut, Incarnation(1)),
        host: placed.host.clone(),
        capacity: record.capacity,
        filesystem: record.filesystem,
    }
}

#[tokio::test]
async fn a_volume_goes_where_most_space_is_and_a_retry_finds_it_there() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let first = volumes.create(&order("v")).await.unwrap();
    assert_eq!((first.host.as_str(), first.info.record.capacity), ("c", Bytes::gib(1)));
    assert_eq!(first.info.record.filesystem, Some(Filesystem::Xfs));
    assert_eq!(over(&model).create(&order("v")).await.unwrap(), first, "also by another controller");
    assert_eq!(model.creations(), 1);
}

#[tokio::test]
async fn the_same_name_with_other_properties_already_exists_and_says_what_differs() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let first = volumes.create(&order("v")).await.unwrap();
    let other = |change: Change| {
        let mut order = order("v");
        change(&mut order);
        order
    };
    let table: [(Change, &str); 6] = [
        (|order| order.size = range(2, 2), "1073741824 bytes large"),
        (|order| order.content = Content::Device, "it carries xfs"),
        (|order| order.content = Content::Filesystem(Some(Filesystem::Ext4)), "it carries xfs"),
        (|order| order.backend = Some(BackendKind::Xfs), "on a btrfs pool"),
        (|order| order.places = only("a"), "on host c"),
        (
            |order| order.source = Some(Source::Volume(VolumeId::new(pool_id(1), "x", Incarnation(1)))),
            "made empty",
        ),
    ];
    for (change, names) in table {
        let fault = volumes.create(&other(change)).await.unwrap_err();
        assert_eq!(fault.code, Code::AlreadyExists, "{fault}");
        assert!(fault.message.contains(names), "{names}: {fault}");
    }
    let same = other(|order| order.size = range(1, 1));
    assert_eq!(volumes.create(&same).await.unwrap(), first);
    assert_eq!(model.creations(), 1);
}

#[tokio::test]
async fn a_pool_that_filled_up_meanwhile_is_passed_over() {
    let model = Arc::new(Model::three());
    model.trouble("c", Trouble::Refused(Fault::exhausted("below the reserve")));
    assert_eq!(over(&model).create(&order("v")).await.unwrap().host, host("b"));
    let mut on_a = order("w");
    on_a.places = only("a");
    model.trouble("a", Trouble::Refused(Fault::exhausted("below the reserve")));
    let fault = over(&model).create(&on_a).await.unwrap_err();
    assert_eq!(fault, Fault::exhausted("below the reserve"));
}

#[tokio::test]
async fn a_silent_host_does_not_stop_new_volumes() {
    let model = Arc::new(Model::three());
    model.silence("c", true);
    assert_eq!(over(&model).create(&order("v")).await.unwrap().host, host("b"));
}

#[tokio::test]
async fn a_retry_waits_for_the_host_that_may_have_made_the_volume() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    model.trouble("c", Trouble::AnswerLost(Fault::unavailable("no connection")));
    assert_eq!(volumes.create(&order("v")).await.unwrap_err().code, Code::Unavailable);
    model.silence("c", true);
    let fault = volumes.create(&order("v")).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "a second volume of the name was made: {fault}");
    assert!(fault.message.contains("host c"), "{fault}");
    assert!(volumes.create(&order("w")).await.is_ok(), "other names go on");
    model.silence("c", false);
    assert_eq!(volumes.create(&order("v")).await.unwrap().host, host("c"));
    assert_eq!(model.creations(), 2);
}

#[tokio::test]
async fn work_that_may_still_be_under_way_is_met_on_its_host() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let mut on_a = order("v");
    on_a.places.preferred = vec![host("a")];
    model.trouble("a", Trouble::Refused(Fault::deadline("no answer")));
    assert_eq!(volumes.create(&on_a).await.unwrap_err().code, Code::Deadline);
    assert_eq!(volumes.create(&order("v")).await.unwrap().host, host("a"), "c has more space");
}

#[tokio::test]
async fn a_failure_that_may_have_left_something_is_not_final() {
    let model = Arc::new(Model::three());
    model.trouble("c", Trouble::AnswerLost(Fault::internal("disk on fire")));
    let volumes = over(&model);
    assert_eq!(volumes.create(&order("v")).await, Err(Fault::unavailable("disk on fire")));
    assert_eq!(volumes.create(&order("v")).await.unwrap().host, host("c"));
    assert_eq!(model.creations(), 1);
}

#[tokio::test]
async fn a_final_refusal_leaves_no_doubt() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    model.trouble("c", Trouble::Refused(Fault::invalid("bad")));
    assert_eq!(volumes.create(&order("v")).await.unwrap_err().code, Code::Invalid);
    model.silence("c", true);
    assert_eq!(volumes.create(&order("v")).await.unwrap().host, host("b"));
}

#[tokio::test]
async fn a_copy_goes_beside_its_source_and_is_at_least_as_large() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let mut first = order("v");
    (first.places, first.size) = (only("a"), range(3, 0));
    let source = volumes.create(&first).await.unwrap();
    let mut clone = order("clone");
    (clone.source, clone.size) = (Some(Source::Volume(source.id().clone())), SizeRange::ANY);
    let cloned = volumes.create(&clone).await.unwrap();
    assert_eq!((cloned.host.as_str(), cloned.info.record.capacity), ("a", Bytes::gib(3)));
    assert_eq!(cloned.info.record.source, clone.source);
    assert_eq!(volumes.create(&clone).await.unwrap(), cloned, "a retry finds the copy");

    clone.name = "small".into();
    clone.size = range(1, 2);
    assert_eq!(volumes.create(&clone).await.unwrap_err().code, Code::OutOfRange);
    clone.size = range(1, 0);
    assert_eq!(volumes.create(&clone).await.unwrap().info.record.capacity, Bytes::gib(3));

    (clone.name, clone.places) = ("away".into(), only("b"));
    assert!(model.copies.lock().unwrap().is_empty());
    let away = volumes.create(&clone).await.unwrap();
    assert_eq!((away.host.as_str(), &away.info.record.source), ("b", &clone.source));
    let copies = model.copies.lock().unwrap().clone();
    assert_eq!(copies.len(), 1, "its data is copied, from a snapshot of it");
    assert_eq!((&copies[0].0, &copies[0].1.volume), (&host("b"), source.id()));
    assert_eq!(model.member(&copies[0].1).await, Ok(None), "which is gone");
}

#[tokio::test]
async fn where_the_sources_pool_is_full_the_copy_goes_elsewhere_and_a_copy_that_breaks_off_is_not_final() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let mut first = order("v");
    first.places = only("a");
    let snapshot = snapshot_of(&volumes.create(&first).await.unwrap());
    model.add_snapshot(snapshot.clone());
    let mut restored = order("restored");
    restored.source = Some(Source::Snapshot(snapshot.snapshot.clone()));
    model.trouble("a", Trouble::Refused(Fault::exhausted("the pool is too full")));
    assert_eq!(volumes.create(&restored).await.unwrap().host.as_str(), "c", "where most is free");
    assert_eq!(model.copies.lock().unwrap().clone(), [(host("c"), snapshot.snapshot.clone())]);

    (restored.name, restored.places) = ("again".into(), only("b"));
    model.trouble("b", Trouble::Refused(Fault::internal("broke off")));
    assert_eq!(volumes.create(&restored).await.unwrap_err().code, Code::Unavailable, "to be asked again");
    assert_eq!(volumes.create(&restored).await.unwrap().host.as_str(), "b");
}

#[tokio::test]
async fn a_restore_takes_filesystem_and_size_from_the_snapshot_even_when_the_volume_is_gone() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let mut first = order("v");
    first.content = Content::Filesystem(Some(Filesystem::Ext4));
    let source = volumes.create(&first).await.unwrap();
    let member = snapshot_of(&source);
    model.add_snapshot(member.clone());
    volumes.delete(source.id()).await.unwrap();

    let mut restore = order("restored");
    restore.source = Some(Source::Snapshot(member.snapshot.clone()));
    let restored = volumes.create(&restore).await.unwrap();
    assert_eq!(restored.info.record.filesystem, Some(Filesystem::Ext4));
    model.remove_snapshot(&member.snapshot);
    assert_eq!(volumes.create(&restore).await.unwrap(), restored, "the retry needs no source");
    restore.name = "again".into();
    assert_eq!(volumes.create(&restore).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn what_a_copy_carries_cannot_be_chosen_but_read_raw() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let xfs = volumes.create(&order("xfs")).await.unwrap();
    let mut raw = order("raw");
    raw.content = Content::Device;
    let raw = volumes.create(&raw).await.unwrap();
    assert_eq!(raw.info.record.filesystem, None);
    let copy = |name: &str, of: &Placed, content| VolumeOrder {
        content,
        source: Some(Source::Volume(of.id().clone())),
        ..order(name)
    };
    let as_ext4 = copy("1", &xfs, Content::Filesystem(Some(Filesystem::Ext4)));
    assert_eq!(volumes.create(&as_ext4).await.unwrap_err().code, Code::Invalid);
    let mounted = copy("2", &raw, Content::Filesystem(None));
    assert_eq!(volumes.create(&mounted).await.unwrap_err().code, Code::Invalid);
    let as_device = copy("3", &xfs, Content::Device);
    assert_eq!(volumes.create(&as_device).await.unwrap().info.record.filesystem, None);
}

#[tokio::test]
async fn small_wishes_grow_to_what_the_filesystem_needs() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let mut tiny = order("tiny");
    tiny.size = SizeRange { required: Bytes(1), limit: None };
    assert_eq!(volumes.create(&tiny).await.unwrap().info.record.capacity, Bytes::mib(300));
    (tiny.name, tiny.content) = ("device".into(), Content::Device);
    assert_eq!(volumes.create(&tiny).await.unwrap().info.record.capacity, SMALLEST_DEVICE);
    tiny.name = "limited".into();
    tiny.content = Content::Filesystem(None);
    tiny.size.limit = Some(Bytes::mib(100));
    assert_eq!(volumes.create(&tiny).await.unwrap_err().code, Code::OutOfRange);
}

#[tokio::test]
async fn lists_are_whole_or_unavailable() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    for (name, on) in [("1", "a"), ("2", "b"), ("3", "c")] {
        let mut order = order(name);
        order.places = only(on);
        volumes.create(&order).await.unwrap();
    }
    let all = PageRequest::new(0, "").unwrap();
    assert_eq!(volumes.page(&all, |_| true).await.unwrap().entries.len(), 3);
    model.silence("b", true);
    let fault = volumes.page(&all, |_| true).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable);
    assert!(fault.message.contains("host b"), "{fault}");
}

#[tokio::test]
async fn a_volume_of_an_unknown_pool_is_not_found_and_deleting_it_is_fine() {
    let volumes = over(&Arc::new(Model::three()));
    let id = VolumeId::new(pool_id(99), "v", Incarnation(1));
    assert_eq!(volumes.get(&id).await.unwrap_err().code, Code::NotFound);
    assert_eq!(volumes.expand(&id, range(1, 0)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(volumes.delete(&id).await, Ok(()));
}

#[tokio::test]
async fn a_silent_home_is_unavailable_and_not_mistaken_for_nothing() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let placed = volumes.create(&order("v")).await.unwrap();
    model.silence("c", true);
    assert_eq!(volumes.get(placed.id()).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(volumes.delete(placed.id()).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn expanding_gives_exactly_what_was_asked_and_never_shrinks() {
    let volumes = over(&Arc::new(Model::three()));
    let placed = volumes.create(&order("v")).await.unwrap();
    let to = |size| volumes.expand(placed.id(), size);
    assert_eq!(to(range(5, 5)).await.unwrap().info.record.capacity, Bytes::gib(5));
    assert_eq!(to(range(2, 0)).await.unwrap().info.record.capacity, Bytes::gib(5));
    assert_eq!(to(range(1, 2)).await.unwrap_err().code, Code::OutOfRange);
    let huge = SizeRange { required: Bytes(u64::MAX), limit: None };
    assert_eq!(to(huge).await.unwrap_err().code, Code::OutOfRange);
}

#[tokio::test]
async fn capacity_counts_the_pools_that_were_asked_for() {
    let model = Arc::new(Model::three());
    let volumes = over(&model);
    let ask = |backend, place| {
        let volumes = &volumes;
        async move {
            let query = CapacityQuery { backend, place };
            volumes.capacity(&query).await.map(|found| (found.available, found.largest))
        }
    };
    assert_eq!(ask(None, Place::Anywhere).await, Ok((Bytes::gib(650), Bytes::gib(300))));
    assert_eq!(ask(None, Place::On(host("c"))).await, Ok((Bytes::gib(350), Bytes::gib(300))));
    assert_eq!(ask(Some(BackendKind::Xfs), Place::Anywhere).await, Ok((Bytes::gib(50), Bytes::gib(50))));
    assert_eq!(ask(None, Place::Nowhere).await, Ok((Bytes(0), Bytes(0))));
    assert_eq!(ask(None, Place::On(host("x"))).await, Ok((Bytes(0), Bytes(0))));
    model.silence("c", true);
    assert_eq!(ask(None, Place::Anywhere).await, Ok((Bytes::gib(300), Bytes::gib(200))));
    assert_eq!(ask(None, Place::On(host("c"))).await.unwrap_err().code, Code::Unavailable);
}
