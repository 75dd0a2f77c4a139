//! Copies to another host beside `dd`, and changed blocks.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint::domain::Bytes;
use stillpoint_csi_proto::v1;
use stillpoint_csi_proto::v1::snapshot_metadata_client::SnapshotMetadataClient;
use stillpoint_tests::harness::bench::command;
use stillpoint_tests::harness::csi::{Volume, channel, from_snapshot};

use super::field::{FIRST_HOST, Field};
use super::table::{Goal, Row, Samples};

/// Copies of each kind; they take turns, so that both see the same machine.
const COPIES: usize = 3;
/// The project's promise: at least so much of dd's speed, in percent.
const SHARE: u64 = 60;
const SCATTERED: u64 = 2560;
const BLOCK: u64 = 4096;

/// A restore on the second host, beside dd with direct I/O of the allocated part between the same pools.
pub async fn copies(
    field: &Field,
    snapshot: &str,
    full: &Volume,
    size: Bytes,
    filesystem: &str,
) -> Result<Row> {
    let (csi, hosts) = (field.stack.csi(), field.stack.hosts());
    let target = hosts.get(1).context("a second host is needed")?;
    let source = hosts[0].pool.join("snapshots").join(&full.id).join(snapshot).join("disk.img");
    let copy = hosts[1].pool.join("volumes").join(".new-bench-dd");
    let (mut own, mut dd) = (Vec::new(), Vec::new());
    for round in 0..COPIES {
        let begin = Instant::now();
        let origin = Some(from_snapshot(snapshot));
        let volume = csi.create(&format!("afar-{round}"), &target.name, size, filesystem, origin).await?;
        own.push(begin.elapsed());
        csi.delete(&volume.volume_id).await?;
        dd.push(copy_by_dd(&source, &copy)?);
    }
    let dd = Samples::times(dd);
    let limit = dd.percentile(50).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let title = format!("restore of 1 GiB on another host (script: dd, direct; goal {SHARE} % of its speed)");
    Ok(Row { other: Some(dd), ..Row::times(title, own, vec![Goal::MiddleMs(limit * 100 / SHARE)]) })
}

/// In a directory whose files are not copied on write either, as the driver's own images.
fn copy_by_dd(source: &std::path::Path, copy: &PathBuf) -> Result<Duration> {
    let _ = fs::remove_dir_all(copy);
    fs::create_dir(copy)?;
    // Not every filesystem has the attribute; then there is nothing to copy on write either.
    let _ = command("chattr", &["+C".as_ref(), copy.as_os_str()]);
    let image = copy.join("disk.img");
    let begin = Instant::now();
    command(
        "dd",
        &[
            format!("if={}", source.display()).as_ref(),
            format!("of={}", image.display()).as_ref(),
            "bs=1M".as_ref(),
            "iflag=direct".as_ref(),
            "oflag=direct".as_ref(),
            "conv=fsync,sparse".as_ref(),
            "status=none".as_ref(),
        ],
    )?;
    let time = begin.elapsed();
    fs::remove_dir_all(copy)?;
    Ok(time)
}

/// Changes that are scattered over a volume, found over CSI.
pub async fn changed_blocks(field: &Field) -> Result<Row> {
    let (csi, host) = (field.stack.csi(), &field.stack.hosts()[0]);
    let size = Bytes::gib(1);
    let volume = csi.create("scattered", FIRST_HOST, size, "xfs", None).await?;
    let image = host.pool.join("volumes").join(&volume.volume_id).join("disk.img");
    let file = OpenOptions::new().write(true).open(&image)?;
    let chunk = vec![0x5a; 4 << 20];
    for at in (0..size.0).step_by(chunk.len()) {
        file.write_all_at(&chunk, at)?;
    }
    let base = csi.snapshot("scattered-1", &volume.volume_id).await?;
    for number in 0..SCATTERED {
        file.write_all_at(&[1; 4096], (number * 102 + number % 7) * BLOCK)?;
    }
    drop(file);
    let target = csi.snapshot("scattered-2", &volume.volume_id).await?;
    let socket = channel(&field.stack.path().join("csi.sock")).await?;
    let mut times = Vec::new();
    for _ in 0..10 {
        let begin = Instant::now();
        let request = v1::GetMetadataDeltaRequest {
            base_snapshot_id: base.clone(),
            target_snapshot_id: target.clone(),
            ..Default::default()
        };
        let answer = SnapshotMetadataClient::new(socket.clone()).get_metadata_delta(request).await?;
        let (mut stream, mut found) = (answer.into_inner(), 0);
        while let Some(message) = stream.message().await? {
            found += message.block_metadata.iter().map(|block| block.size_bytes).sum::<i64>();
        }
        times.push(begin.elapsed());
        ensure!(found == 10 << 20, "{found} bytes were found instead of 10 MiB");
    }
    for snapshot in [&base, &target] {
        csi.delete_snapshot(snapshot).await?;
    }
    csi.delete(&volume.volume_id).await?;
    Ok(Row::times("10 MiB changed in 2560 places of 1 GiB, found", times, vec![Goal::MiddleMs(200)]))
}
