//! The SnapshotMetadata service over a real socket and a scripted walk; over real pools it is tested in `tests/`.

#![allow(clippy::single_range_in_vec_init, reason = "a list with one range in it is what is meant")]

use std::ops::Range;

use stillpoint_csi_proto::v1;
use tonic::{Code, Status};
use v1::controller_client::ControllerClient;
use v1::snapshot_metadata_client::SnapshotMetadataClient;

use super::model::{Script, ScriptEnd, World};
use crate::controller::blocks::Page;
use crate::domain::{Bytes, Fault};

const MIB: u64 = 1 << 20;

fn page(ranges: impl IntoIterator<Item = Range<u64>>) -> Page {
    Page { size: Bytes::gib(1), ranges: ranges.into_iter().collect() }
}

async fn snapshot(world: &World, name: &str, volume: &str) -> String {
    let mut client = ControllerClient::new(world.controller.clone());
    let access_type = v1::volume_capability::AccessType::Mount(v1::volume_capability::MountVolume::default());
    let mode = v1::volume_capability::access_mode::Mode::SingleNodeWriter.into();
    let request = v1::CreateVolumeRequest {
        name: volume.into(),
        volume_capabilities: vec![v1::VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(v1::volume_capability::AccessMode { mode }),
        }],
        ..Default::default()
    };
    let volume = client.create_volume(request).await.unwrap().into_inner().volume.unwrap();
    let request = v1::CreateSnapshotRequest {
        source_volume_id: volume.volume_id,
        name: name.into(),
        ..Default::default()
    };
    client.create_snapshot(request).await.unwrap().into_inner().snapshot.unwrap().snapshot_id
}

/// All messages, or how it ended.
async fn delta(
    world: &World,
    request: v1::GetMetadataDeltaRequest,
) -> (Vec<v1::GetMetadataDeltaResponse>, Result<(), Status>) {
    let mut client = SnapshotMetadataClient::new(world.controller.clone());
    let mut stream = match client.get_metadata_delta(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (vec![], Err(status)),
    };
    let mut messages = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

fn request(base: &str, target: &str) -> v1::GetMetadataDeltaRequest {
    v1::GetMetadataDeltaRequest {
        base_snapshot_id: base.into(),
        target_snapshot_id: target.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn messages_hold_at_most_what_was_asked_for_and_all_of_it_in_order() {
    let world = World::start().await;
    let (base, target) = (snapshot(&world, "one", "v").await, snapshot(&world, "two", "v").await);
    let ranges = |from: u64, to: u64| (from..to).map(|n| n * MIB..n * MIB + 4096);
    let pages = vec![page(ranges(0, 7)), page([]), page(ranges(7, 10))];
    *world.blocks.script.lock().unwrap() = Script { pages, end: ScriptEnd::Complete };
    let asked = v1::GetMetadataDeltaRequest { max_results: 3, ..request(&base, &target) };
    let (messages, end) = delta(&world, asked).await;
    end.unwrap();
    assert!(messages.iter().all(|message| message.block_metadata.len() <= 3), "{messages:?}");
    let variable = i32::from(v1::BlockMetadataType::VariableLength);
    assert!(messages.iter().all(|m| m.block_metadata_type == variable && m.volume_capacity_bytes == 1 << 30));
    let blocks: Vec<_> = messages.iter().flat_map(|message| &message.block_metadata).collect();
    assert_eq!(blocks.len(), 10);
    assert!(blocks.windows(2).all(|pair| pair[0].byte_offset + pair[0].size_bytes <= pair[1].byte_offset));
    world.stop().await;
}

#[tokio::test]
async fn a_snapshot_without_changes_tells_its_size_and_nothing_else() {
    let world = World::start().await;
    let target = snapshot(&world, "one", "v").await;
    let (messages, end) = delta(&world, request(&target, &target)).await;
    end.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].volume_capacity_bytes, messages[0].block_metadata.len()), (1 << 30, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_walk_that_does_not_come_to_its_end_ends_in_an_error() {
    let world = World::start().await;
    let target = snapshot(&world, "one", "v").await;
    let broken = Fault::unavailable("the host went away");
    for (end, code) in [(ScriptEnd::Fault(broken), Code::Unavailable), (ScriptEnd::Panic, Code::Aborted)] {
        *world.blocks.script.lock().unwrap() = Script { pages: vec![page([0..4096])], end };
        let (messages, outcome) = delta(&world, request(&target, &target)).await;
        assert_eq!(messages.len(), 1, "what was told before is not lost");
        assert_eq!(outcome.unwrap_err().code(), code);
    }
    world.stop().await;
}

#[tokio::test]
async fn every_wrong_request_has_the_code_of_the_specification() {
    let world = World::start().await;
    let (one, other) = (snapshot(&world, "one", "v").await, snapshot(&world, "two", "w").await);
    let unknown = one.replace("-s", "-s0").chars().take(one.len()).collect::<String>();
    let refused = [
        (request("", &one), Code::InvalidArgument),
        (request(&one, ""), Code::InvalidArgument),
        (request("garbage", &one), Code::NotFound),
        (request(&one, &unknown), Code::NotFound),
        (request(&unknown, &one), Code::NotFound),
        (request(&other, &one), Code::InvalidArgument),
        (v1::GetMetadataDeltaRequest { max_results: -1, ..request(&one, &one) }, Code::InvalidArgument),
        (v1::GetMetadataDeltaRequest { starting_offset: -1, ..request(&one, &one) }, Code::OutOfRange),
        (
            v1::GetMetadataDeltaRequest { starting_offset: (1 << 30) + 1, ..request(&one, &one) },
            Code::OutOfRange,
        ),
    ];
    for (asked, code) in refused {
        let (_, end) = delta(&world, asked.clone()).await;
        assert_eq!(end.unwrap_err().code(), code, "{asked:?}");
    }
    assert!(world.blocks.asked.lock().unwrap().is_empty(), "none of them reaches an agent");
    let asked = v1::GetMetadataDeltaRequest { starting_offset: 1 << 30, ..request(&one, &one) };
    delta(&world, asked).await.1.unwrap();
    assert_eq!(
        world.blocks.asked.lock().unwrap()[0].start,
        1 << 30,
        "the end itself is a place to resume at"
    );
    world.stop().await;
}

#[tokio::test]
async fn allocated_blocks_come_without_a_base() {
    let world = World::start().await;
    let snapshot = snapshot(&world, "one", "v").await;
    *world.blocks.script.lock().unwrap() = Script { pages: vec![page([0..MIB])], end: ScriptEnd::Complete };
    let mut client = SnapshotMetadataClient::new(world.controller.clone());
    let asked = v1::GetMetadataAllocatedRequest {
        snapshot_id: snapshot,
        starting_offset: 4096,
        ..Default::default()
    };
    let mut stream = client.get_metadata_allocated(asked).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.block_metadata[0].size_bytes, 1 << 20);
    assert!(stream.message().await.unwrap().is_none());
    let asked = world.blocks.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.base, asked.start), (None, 4096));
    let missing = client.get_metadata_allocated(v1::GetMetadataAllocatedRequest::default()).await;
    assert_eq!(missing.unwrap_err().code(), Code::InvalidArgument);
    world.stop().await;
}
