use std::sync::atomic::Ordering;
use std::time::Duration;

use stillpoint_csi_proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::controller_client::ControllerClient;
use v1::group_controller_client::GroupControllerClient;
use v1::identity_client::IdentityClient;
use v1::node_client::NodeClient;
use v1::volume_capability::access_mode::Mode;
use v1::volume_capability::{AccessMode, AccessType, MountVolume};

use super::model::World;
use crate::csi::DRIVER_NAME;

fn mounted(mode: Mode) -> v1::VolumeCapability {
    v1::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

fn request(name: &str) -> v1::CreateVolumeRequest {
    v1::CreateVolumeRequest {
        name: name.into(),
        volume_capabilities: vec![mounted(Mode::SingleNodeWriter)],
        capacity_range: Some(v1::CapacityRange { required_bytes: 1 << 30, limit_bytes: 1 << 30 }),
        ..Default::default()
    }
}

async fn volume(channel: &Channel, name: &str) -> v1::Volume {
    let created = ControllerClient::new(channel.clone()).create_volume(request(name)).await.unwrap();
    created.into_inner().volume.unwrap()
}

async fn snapshot(channel: &Channel, name: &str, of: &v1::Volume) -> Result<v1::Snapshot, Status> {
    let request = v1::CreateSnapshotRequest {
        name: name.into(),
        source_volume_id: of.volume_id.clone(),
        ..Default::default()
    };
    let taken = ControllerClient::new(channel.clone()).create_snapshot(request).await?;
    Ok(taken.into_inner().snapshot.unwrap())
}

async fn group(channel: &Channel, name: &str, of: &[&v1::Volume]) -> Result<v1::VolumeGroupSnapshot, Status> {
    let request = v1::CreateVolumeGroupSnapshotRequest {
        name: name.into(),
        source_volume_ids: of.iter().map(|volume| volume.volume_id.clone()).collect(),
        ..Default::default()
    };
    let taken = GroupControllerClient::new(channel.clone()).create_volume_group_snapshot(request).await?;
    Ok(taken.into_inner().group_snapshot.unwrap())
}

#[tokio::test]
async fn both_sockets_say_who_they_are_and_stop_in_order() {
    let world = World::start().await;
    for channel in [&world.controller, &world.node] {
        let mut client = IdentityClient::new(channel.clone());
        let info = client.get_plugin_info(v1::GetPluginInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.name, DRIVER_NAME);
        assert!(info.name.ends_with(|c: char| c.is_ascii_alphabetic()));
        let capabilities = client.get_plugin_capabilities(v1::GetPluginCapabilitiesRequest {}).await;
        assert_eq!(capabilities.unwrap().into_inner().capabilities.len(), 5);
        let probe = client.probe(v1::ProbeRequest {}).await.unwrap().into_inner();
        assert_eq!(probe.ready, Some(true));
    }
    let wrong = NodeClient::new(world.controller.clone()).node_get_info(v1::NodeGetInfoRequest {}).await;
    assert_eq!(wrong.unwrap_err().code(), Code::Unimplemented, "the controller is no node");
    world.stop().await;
}

#[tokio::test]
async fn a_volume_lives_and_dies() {
    let world = World::start().await;
    let mut client = ControllerClient::new(world.controller.clone());
    let made = volume(&world.controller, "v").await;
    assert_eq!(made.capacity_bytes, 1 << 30);
    assert_eq!(made.accessible_topology[0].segments["topology.stillpoint.dev/node"], "a");
    assert!(made.volume_id.len() <= 128);
    let id = made.volume_id.clone();
    let got = client.controller_get_volume(v1::ControllerGetVolumeRequest { volume_id: id.clone() }).await;
    assert_eq!(got.unwrap().into_inner().volume, Some(made));
    let expand = v1::ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: Some(v1::CapacityRange { required_bytes: 3 << 30, limit_bytes: 0 }),
        ..Default::default()
    };
    let grown = client.controller_expand_volume(expand).await.unwrap().into_inner();
    assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (3 << 30, true));
    for _ in 0..2 {
        let delete = v1::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
        client.delete_volume(delete).await.unwrap();
    }
    let gone = client.controller_get_volume(v1::ControllerGetVolumeRequest { volume_id: id }).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn volumes_are_listed_in_pages() {
    let world = World::start().await;
    let mut client = ControllerClient::new(world.controller.clone());
    for n in 0..5 {
        volume(&world.controller, &format!("v{n}")).await;
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    for expected in [2, 2, 1] {
        let list = v1::ListVolumesRequest { max_entries: 2, starting_token: token };
        let page = client.list_volumes(list).await.unwrap().into_inner();
        assert_eq!(page.entries.len(), expected);
        seen.extend(page.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id));
        token = page.next_token;
    }
    assert_eq!(token, "");
    seen.dedup();
    assert_eq!(seen.len(), 5);
    let bad = v1::ListVolumesRequest { starting_token: "invalid-token".into(), ..Default::default() };
    assert_eq!(client.list_volumes(bad).await.unwrap_err().code(), Code::Aborted);
    let bad = v1::ListVolumesRequest { max_entries: -1, ..Default::default() };
    assert_eq!(client.list_volumes(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn validation_confirms_all_or_says_what_is_not_possible() {
    let world = World::start().await;
    let mut client = ControllerClient::new(world.controller.clone());
    let made = volume(&world.controller, "v").await;
    let mut ask = async |uses: Vec<v1::VolumeCapability>| {
        let request = v1::ValidateVolumeCapabilitiesRequest {
            volume_id: made.volume_id.clone(),
            volume_capabilities: uses,
            ..Default::default()
        };
        client.validate_volume_capabilities(request).await.map(tonic::Response::into_inner)
    };
    let fine = ask(vec![mounted(Mode::SingleNodeWriter)]).await.unwrap();
    assert_eq!(fine.confirmed.unwrap().volume_capabilities.len(), 1);
    let shared = ask(vec![mounted(Mode::MultiNodeMultiWriter)]).await.unwrap();
    assert!(shared.confirmed.is_none() && shared.message.contains("one host"), "{}", shared.message);
    let block = v1::VolumeCapability {
        access_type: Some(AccessType::Block(v1::volume_capability::BlockVolume {})),
        ..mounted(Mode::SingleNodeWriter)
    };
    assert!(ask(vec![block]).await.unwrap().message.contains("carries xfs"));
    assert_eq!(ask(vec![]).await.unwrap_err().code(), Code::InvalidArgument);
    let malformed = v1::VolumeCapability::default();
    assert_eq!(ask(vec![malformed]).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn snapshots_are_taken_found_restored_and_deleted() {
    let world = World::start().await;
    let mut client = ControllerClient::new(world.controller.clone());
    let (one, two) = (volume(&world.controller, "1").await, volume(&world.controller, "2").await);
    let taken = snapshot(&world.controller, "s", &one).await.unwrap();
    assert!(taken.ready_to_use && taken.group_snapshot_id.is_empty() && taken.creation_time.is_some());
    assert_eq!(snapshot(&world.controller, "s", &one).await.unwrap(), taken, "a retry gets the same");
    let clash = snapshot(&world.controller, "s", &two).await.unwrap_err();
    assert_eq!(clash.code(), Code::AlreadyExists);

    let source = v1::VolumeContentSource {
        r#type: Some(v1::volume_content_source::Type::Snapshot(v1::volume_content_source::SnapshotSource {
            snapshot_id: taken.snapshot_id.clone(),
        })),
    };
    let restore =
        v1::CreateVolumeRequest { volume_content_source: Some(source.clone()), ..request("restored") };
    let restored = client.create_volume(restore).await.unwrap().into_inner().volume.unwrap();
    assert_eq!(restored.content_source, Some(source), "the answer repeats the source");

    let gone = v1::DeleteVolumeRequest { volume_id: one.volume_id.clone(), ..Default::default() };
    client.delete_volume(gone).await.unwrap();
    assert_eq!(snapshot(&world.controller, "s", &one).await.unwrap(), taken, "a retry needs no volume");
    assert_eq!(snapshot(&world.controller, "t", &one).await.unwrap_err().code(), Code::NotFound);

    for _ in 0..2 {
        let delete =
            v1::DeleteSnapshotRequest { snapshot_id: taken.snapshot_id.clone(), ..Default::default() };
        client.delete_snapshot(delete).await.unwrap();
    }
    let get = v1::GetSnapshotRequest { snapshot_id: taken.snapshot_id, ..Default::default() };
    assert_eq!(client.get_snapshot(get).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_group_is_one_thing() {
    let world = World::start().await;
    let mut client = GroupControllerClient::new(world.controller.clone());
    let (one, two) = (volume(&world.controller, "1").await, volume(&world.controller, "2").await);
    let taken = group(&world.controller, "g", &[&one, &two]).await.unwrap();
    assert!(taken.ready_to_use && taken.snapshots.len() == 2);
    assert!(taken.snapshots.iter().all(|snapshot| snapshot.group_snapshot_id == taken.group_snapshot_id));
    let reversed = group(&world.controller, "g", &[&two, &one]).await.unwrap();
    assert_eq!(reversed, taken, "members are a set");
    let fewer = group(&world.controller, "g", &[&one]).await.unwrap_err();
    assert_eq!(fewer.code(), Code::AlreadyExists);

    let member = taken.snapshots[0].snapshot_id.clone();
    let alone = v1::DeleteSnapshotRequest { snapshot_id: member.clone(), ..Default::default() };
    let refused = ControllerClient::new(world.controller.clone()).delete_snapshot(alone).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let get = |ids: Vec<String>| v1::GetVolumeGroupSnapshotRequest {
        group_snapshot_id: taken.group_snapshot_id.clone(),
        snapshot_ids: ids,
        ..Default::default()
    };
    let delete = |ids: Vec<String>| v1::DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: taken.group_snapshot_id.clone(),
        snapshot_ids: ids,
        ..Default::default()
    };
    let mut ids: Vec<String> = taken.snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect();
    ids.reverse();
    let got = client.get_volume_group_snapshot(get(ids.clone())).await.unwrap().into_inner();
    assert_eq!(got.group_snapshot, Some(taken.clone()));
    for wrong in [vec![], vec![member.clone()], vec![member, "other".into()]] {
        let refused = client.get_volume_group_snapshot(get(wrong.clone())).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let refused = client.delete_volume_group_snapshot(delete(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    client.delete_volume_group_snapshot(delete(ids)).await.unwrap();
    client.delete_volume_group_snapshot(delete(vec![])).await.unwrap();
    let gone = client.get_volume_group_snapshot(get(vec![])).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound, "existence comes before the list");
}

#[tokio::test]
async fn lists_of_snapshots_hold_members_of_groups_and_filter() {
    let world = World::start().await;
    let (one, two) = (volume(&world.controller, "1").await, volume(&world.controller, "2").await);
    let alone = snapshot(&world.controller, "s", &one).await.unwrap();
    group(&world.controller, "g", &[&one, &two]).await.unwrap();
    let mut client = ControllerClient::new(world.controller.clone());
    let mut ask = async |of: &str, id: &str| {
        let request = v1::ListSnapshotsRequest {
            source_volume_id: of.into(),
            snapshot_id: id.into(),
            ..Default::default()
        };
        client.list_snapshots(request).await.unwrap().into_inner().entries.len()
    };
    assert_eq!(ask("", "").await, 3);
    assert_eq!(ask(&one.volume_id, "").await, 2);
    assert_eq!(ask("", &alone.snapshot_id).await, 1);
    assert_eq!(ask(&two.volume_id, &alone.snapshot_id).await, 0);
    assert_eq!(ask("", "none-exist-id").await, 0);
    assert_eq!(ask("fake-vol-id", "").await, 0);
}

#[tokio::test]
async fn a_caller_that_gives_up_finds_its_own_snapshot_when_it_comes_back() {
    let world = World::start().await;
    let made = volume(&world.controller, "v").await;
    *world.cuts.delay.lock().unwrap() = Duration::from_millis(300);
    let impatient = tokio::time::timeout(Duration::from_millis(50), snapshot(&world.controller, "s", &made));
    assert!(impatient.await.is_err(), "the caller gave up");
    snapshot(&world.controller, "s", &made).await.unwrap();
    assert_eq!(world.cuts.begun.load(Ordering::SeqCst), 1, "the retry began anew");
    let list = v1::ListSnapshotsRequest::default();
    let listed = ControllerClient::new(world.controller.clone()).list_snapshots(list).await.unwrap();
    assert_eq!(listed.into_inner().entries.len(), 1);
}

#[tokio::test]
async fn a_silent_host_is_unavailable_to_the_caller() {
    let world = World::start().await;
    let made = volume(&world.controller, "v").await;
    world.hosts.silence("a", true);
    let mut client = ControllerClient::new(world.controller.clone());
    let get = v1::ControllerGetVolumeRequest { volume_id: made.volume_id };
    assert_eq!(client.controller_get_volume(get).await.unwrap_err().code(), Code::Unavailable);
    let list = client.list_volumes(v1::ListVolumesRequest::default()).await;
    assert_eq!(list.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn what_is_not_offered_is_unimplemented_and_says_why() {
    let world = World::start().await;
    let mut client = ControllerClient::new(world.controller.clone());
    let publish = client.controller_publish_volume(v1::ControllerPublishVolumeRequest::default()).await;
    let refused = publish.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("local"), "{}", refused.message());
}

#[tokio::test]
async fn health_is_told_by_node_and_controller_and_unknown_volumes_are_not_found() {
    use v1::{StorageHealthErrorType, VolumeHealthErrorType};

    let world = World::start().await;
    let made = volume(&world.controller, "v").await;
    let mut node = NodeClient::new(world.node.clone());
    let ask = |id: &str| v1::NodeGetVolumeHealthRequest { volume_id: id.into(), ..Default::default() };
    let told = node.node_get_volume_health(ask(&made.volume_id)).await.unwrap().into_inner();
    let health = told.volume_health.unwrap();
    assert_eq!(health.volume_id, made.volume_id);
    assert_eq!(health.health_statuses[0].status(), VolumeHealthErrorType::Inaccessible);
    assert_eq!(health.health_statuses[0].reason, "FilesystemShutDown");
    assert_eq!(node.node_get_volume_health(ask("")).await.unwrap_err().code(), Code::InvalidArgument);
    let storage = node.node_get_storage_health(v1::NodeGetStorageHealthRequest::default()).await.unwrap();
    assert_eq!(storage.into_inner().backend_health[0].status(), StorageHealthErrorType::StorageDegraded);

    let mut controller = ControllerClient::new(world.controller.clone());
    let ask = |id: &str| v1::ControllerGetVolumeHealthRequest { volume_id: id.into(), ..Default::default() };
    let told = controller.controller_get_volume_health(ask(&made.volume_id)).await.unwrap().into_inner();
    assert!(told.volume_health.unwrap().health_statuses.is_empty(), "nothing is wrong with it");
    assert_eq!(
        controller.controller_get_volume_health(ask("")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let all = v1::ControllerListVolumeHealthRequest::default();
    let listed = controller.controller_list_volume_health(all).await.unwrap().into_inner();
    assert_eq!(listed.entries, [], "only what is not healthy is listed");
}

#[tokio::test]
async fn a_host_says_where_it_is_and_publishes_to_one_writer() {
    let world = World::start().await;
    let made = volume(&world.controller, "v").await;
    let mut node = NodeClient::new(world.node.clone());
    let info = node.node_get_info(v1::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.node_id, "a");
    assert_eq!(info.accessible_topology.as_ref(), made.accessible_topology.first());
    let at = |name: &str| world.directory.path().join(name).display().to_string();
    let publish = |target: &str| v1::NodePublishVolumeRequest {
        volume_id: made.volume_id.clone(),
        staging_target_path: at("staging"),
        target_path: at(target),
        volume_capability: Some(mounted(Mode::SingleNodeSingleWriter)),
        ..Default::default()
    };
    node.node_publish_volume(publish("target")).await.unwrap();
    let second = node.node_publish_volume(publish("other")).await.unwrap_err();
    assert_eq!(second.code(), Code::FailedPrecondition);
    let stats = |path: String| v1::NodeGetVolumeStatsRequest {
        volume_id: made.volume_id.clone(),
        volume_path: path,
        ..Default::default()
    };
    let usage = node.node_get_volume_stats(stats(at("target"))).await.unwrap().into_inner().usage;
    assert_eq!(usage.len(), 2);
    let nowhere = node.node_get_volume_stats(stats("some/path".into())).await.unwrap_err();
    assert_eq!(nowhere.code(), Code::NotFound);
    let unpublish =
        v1::NodeUnpublishVolumeRequest { volume_id: made.volume_id.clone(), target_path: at("target") };
    node.node_unpublish_volume(unpublish).await.unwrap();
    assert!(!world.directory.path().join("target").exists());
}

/// For working on the services without any agent; the suite over real agents is in the tests crate.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the csi-sanity tool in CSI_SANITY, which tests/sanity builds; run by: make test"]
async fn csi_sanity_finds_nothing_wrong_with_the_model() {
    let tool = std::env::var("CSI_SANITY").expect("CSI_SANITY names the csi-sanity binary");
    for access in ["mount", "block"] {
        let world = World::start().await;
        let at = |name: &str| world.directory.path().join(name).display().to_string();
        let status = tokio::process::Command::new(&tool)
            .arg(format!("--csi.endpoint=unix://{}", at("node.sock")))
            .arg(format!("--csi.controllerendpoint=unix://{}", at("controller.sock")))
            .arg(format!("--csi.mountdir={}", at("mount")))
            .arg(format!("--csi.stagingdir={}", at("staging")))
            .arg(format!("--csi.testvolumeaccesstype={access}"))
            .arg(format!("--csi.testvolumesize={}", 1_u64 << 30))
            .status()
            .await
            .unwrap();
        assert!(status.success(), "{access}");
    }
}
