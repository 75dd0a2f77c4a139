//! Changed blocks on real btrfs and XFS pools and in memory: exact, fast, and told over CSI as its specification wants.

// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use stillpoint::backend::BackendKind;
use stillpoint::domain::Bytes;
use stillpoint_csi_proto::v1;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_csi_proto::v1::snapshot_metadata_client::SnapshotMetadataClient;
use stillpoint_tests::harness::site::{BLOCK, Site};
use stillpoint_tests::harness::skip;
use stillpoint_tests::scratch::why_not;
use tonic::Code;

const SIZE: Bytes = Bytes::mib(8);
const BLOCKS: u64 = SIZE.0 / BLOCK as u64;

/// What a user of a volume does, as the loop device passes it on to the image.
#[derive(Debug, Clone)]
enum Deed {
    Write {
        block: u64,
        count: u64,
        content: u64,
    },
    /// A discard.
    Punch {
        block: u64,
        count: u64,
    },
    /// A write of zeros, for which filesystems keep room without writing.
    Zero {
        block: u64,
        count: u64,
    },
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let place = || (0..BLOCKS, 1_u64..40).prop_map(|(block, count)| (block, count.min(BLOCKS - block)));
    let deed = prop_oneof![
        // Contents repeat, so that blocks are rewritten with what they had.
        6 => (place(), 0_u64..4).prop_map(|((block, count), content)| Deed::Write { block, count, content }),
        2 => place().prop_map(|(block, count)| Deed::Punch { block, count }),
        1 => place().prop_map(|(block, count)| Deed::Zero { block, count }),
    ];
    proptest::collection::vec(deed, 0..25)
}

fn apply(image: &Path, deed: &Deed) -> Result<Range<u64>> {
    let file = OpenOptions::new().write(true).open(image)?;
    let bytes = |count: u64| i64::try_from(count * BLOCK as u64);
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (block, count) = match *deed {
        Deed::Write { block, count, content } => {
            let data = content.to_be_bytes().repeat(BLOCK / 8 * usize::try_from(count)?);
            file.write_all_at(&data, block * BLOCK as u64)?;
            (block, count)
        }
        Deed::Punch { block, count } => {
            fallocate(&file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep, bytes(block)?, bytes(count)?)?;
            (block, count)
        }
        Deed::Zero { block, count } => {
            fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE | keep, bytes(block)?, bytes(count)?)?;
            (block, count)
        }
    };
    Ok(block..block + count)
}

/// All ranges of a stream, checked against what the specification says about streams.
async fn delta(site: &Site, request: v1::GetMetadataDeltaRequest) -> Result<Vec<Range<u64>>, tonic::Status> {
    let mut client = SnapshotMetadataClient::new(site.csi.clone());
    let mut stream = client.get_metadata_delta(request.clone()).await?.into_inner();
    let mut ranges = Vec::new();
    while let Some(message) = stream.message().await? {
        assert_eq!(message.volume_capacity_bytes, i64::try_from(SIZE.0).unwrap());
        assert_eq!(message.block_metadata_type, i32::from(v1::BlockMetadataType::VariableLength));
        let most = usize::try_from(request.max_results).unwrap();
        assert!(most == 0 || message.block_metadata.len() <= most);
        ranges.extend(message.block_metadata.iter().map(range));
    }
    check_ascending(&ranges, request.starting_offset);
    Ok(ranges)
}

fn range(block: &v1::BlockMetadata) -> Range<u64> {
    let start = u64::try_from(block.byte_offset).unwrap();
    start..start + u64::try_from(block.size_bytes).unwrap()
}

fn check_ascending(ranges: &[Range<u64>], start: i64) {
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= SIZE.0), "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
    assert!(ranges.first().is_none_or(|first| u64::try_from(start).unwrap() < first.end), "{ranges:?}");
}

fn asked(base: &str, target: &str) -> v1::GetMetadataDeltaRequest {
    v1::GetMetadataDeltaRequest {
        base_snapshot_id: base.into(),
        target_snapshot_id: target.into(),
        ..Default::default()
    }
}

fn is_in(ranges: &[Range<u64>], block: u64) -> bool {
    ranges.iter().any(|range| range.contains(&(block * BLOCK as u64)))
}

/// One history of deeds and snapshots: nothing that differs is missed, and nothing is told that nobody touched.
async fn one_history(site: &Site, name: &str, rounds: &[Vec<Deed>]) -> Result<()> {
    let volume = site.volume(name, 0, SIZE, None).await?;
    let (host, image) = (&site.hosts[0], site.hosts[0].image(&volume.volume_id));
    let mut last: Option<(String, Vec<u8>)> = None;
    for (number, deeds) in rounds.iter().enumerate() {
        let mut touched = Vec::new();
        for deed in deeds {
            touched.push(apply(&image, deed)?);
        }
        let snapshot = site.snapshot(&format!("{name}-{number}"), &volume).await?;
        let content = host.read(&host.snapshot_image(&volume.volume_id, &snapshot), SIZE)?;
        if let Some((base, before)) = last {
            let ranges = delta(site, asked(&base, &snapshot)).await?;
            for block in 0..BLOCKS {
                let at = usize::try_from(block)? * BLOCK;
                let differs = before[at..at + BLOCK] != content[at..at + BLOCK];
                let told = is_in(&ranges, block);
                ensure!(told || !differs, "block {block} differs and was not told: {rounds:?}");
                ensure!(
                    !told || touched.iter().any(|range| range.contains(&block)),
                    "block {block} was told and nobody touched it: {rounds:?}"
                );
            }
        }
        last = Some((snapshot, content));
    }
    Ok(())
}

async fn histories(test: &str, kind: BackendKind) -> Result<()> {
    if let Some(reason) = why_not(kind) {
        skip(test, &reason);
        return Ok(());
    }
    let site = Site::new(&[kind]).await?;
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for case in 0..12 {
        let rounds = proptest::collection::vec(deeds(), 2..5).new_tree(&mut runner);
        let rounds = rounds.map_err(|why| anyhow::anyhow!("no history: {why}"))?.current();
        one_history(&site, &format!("v{case}"), &rounds).await?;
    }
    site.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_on_btrfs_are_told_exactly() -> Result<()> {
    histories("changes_on_btrfs_are_told_exactly", BackendKind::Btrfs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_on_xfs_are_told_exactly() -> Result<()> {
    histories("changes_on_xfs_are_told_exactly", BackendKind::Xfs).await
}

/// What csi-sanity does not look at.
async fn contract(test: &str, kind: BackendKind) -> Result<()> {
    if let Some(reason) = why_not(kind) {
        skip(test, &reason);
        return Ok(());
    }
    let site = Site::new(&[kind]).await?;
    let (host, volume) = (&site.hosts[0], site.volume("v", 0, SIZE, None).await?);
    let image = host.image(&volume.volume_id);
    for block in (0..100).step_by(2) {
        host.write(&image, block, 1)?;
    }
    let one = site.snapshot("one", &volume).await?;
    for block in (40..140).step_by(4) {
        host.write(&image, block, 2)?;
    }
    let two = site.snapshot("two", &volume).await?;

    let all = delta(&site, asked(&one, &two)).await?;
    let blocks: Vec<u64> = (0..BLOCKS).filter(|block| is_in(&all, *block)).collect();
    assert_eq!(blocks, (40..140).step_by(4).collect::<Vec<_>>());
    for max_results in [1, 3, 1000] {
        let paged = v1::GetMetadataDeltaRequest { max_results, ..asked(&one, &two) };
        assert_eq!(delta(&site, paged).await?, all, "pages of {max_results}");
    }
    for (index, range) in all.iter().enumerate() {
        let starting_offset = i64::try_from(range.end)?;
        let rest = v1::GetMetadataDeltaRequest { starting_offset, ..asked(&one, &two) };
        assert_eq!(delta(&site, rest).await?, all[index + 1..], "going on after {range:?}");
    }
    assert_eq!(delta(&site, asked(&two, &two)).await?, []);

    let mut client = SnapshotMetadataClient::new(site.csi.clone());
    let allocated = v1::GetMetadataAllocatedRequest { snapshot_id: two.clone(), ..Default::default() };
    let mut stream = client.get_metadata_allocated(allocated).await?.into_inner();
    let mut ranges = Vec::new();
    while let Some(message) = stream.message().await? {
        ranges.extend(message.block_metadata.iter().map(range));
    }
    check_ascending(&ranges, 0);
    let written = |block: u64| {
        (block < 100 && block.is_multiple_of(2)) || (40..140).contains(&block) && block.is_multiple_of(4)
    };
    assert!((0..BLOCKS).all(|block| !written(block) || is_in(&ranges, block)), "all data is told");
    assert!(!is_in(&ranges, BLOCKS - 1), "and holes are not");

    let beyond =
        v1::GetMetadataDeltaRequest { starting_offset: i64::try_from(SIZE.0)? + 1, ..asked(&one, &two) };
    assert_eq!(delta(&site, beyond).await.unwrap_err().code(), Code::OutOfRange);
    let mut controller = ControllerClient::new(site.csi.clone());
    let gone = v1::DeleteSnapshotRequest { snapshot_id: one.clone(), ..Default::default() };
    controller.delete_snapshot(gone).await?;
    assert_eq!(delta(&site, asked(&one, &two)).await.unwrap_err().code(), Code::NotFound);
    site.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn btrfs_keeps_the_contract_of_snapshot_metadata() -> Result<()> {
    contract("btrfs_keeps_the_contract_of_snapshot_metadata", BackendKind::Btrfs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn xfs_keeps_the_contract_of_snapshot_metadata() -> Result<()> {
    contract("xfs_keeps_the_contract_of_snapshot_metadata", BackendKind::Xfs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract_of_snapshot_metadata() -> Result<()> {
    contract("memory_keeps_the_contract_of_snapshot_metadata", BackendKind::Memory).await
}

/// The figure is printed; asserted is what was found, and a deadline that only a defect misses.
async fn scattered(test: &str, kind: BackendKind) -> Result<()> {
    if let Some(reason) = why_not(kind) {
        skip(test, &reason);
        return Ok(());
    }
    let site = Site::new(&[kind]).await?;
    let (size, host) = (Bytes::gib(1), &site.hosts[0]);
    let volume = site.volume("v", 0, size, None).await?;
    let image = host.image(&volume.volume_id);
    let file = OpenOptions::new().write(true).open(&image)?;
    let chunk = vec![0x5a; 4 << 20];
    for at in (0..size.0).step_by(chunk.len()) {
        file.write_all_at(&chunk, at)?;
    }
    drop(file);
    let one = site.snapshot("one", &volume).await?;
    // 2560 blocks, none beside another: 10 MiB.
    for number in 0..2560_u64 {
        host.write(&image, number * 102 + number % 7, number)?;
    }
    let two = site.snapshot("two", &volume).await?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let mut client = SnapshotMetadataClient::new(site.csi.clone());
        let mut stream = client.get_metadata_delta(asked(&one, &two)).await?.into_inner();
        let mut found = 0;
        while let Some(message) = stream.message().await? {
            found += message.block_metadata.iter().map(|block| block.size_bytes).sum::<i64>();
        }
        times.push(begin.elapsed());
        assert_eq!(found, 10 << 20);
    }
    times.sort();
    println!(
        "{kind}: 10 MiB in 2560 places of 1 GiB found over CSI in {:.1?} (median of 5; all: {times:.1?})",
        times[2]
    );
    assert!(times[0] < Duration::from_secs(20));
    site.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_changes_are_found_on_btrfs() -> Result<()> {
    scattered("scattered_changes_are_found_on_btrfs", BackendKind::Btrfs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_changes_are_found_on_xfs() -> Result<()> {
    scattered("scattered_changes_are_found_on_xfs", BackendKind::Xfs).await
}
