//! Volumes that go from host to host: whole agents over mTLS on loopback, real btrfs and XFS pools.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use stillpoint::backend::BackendKind;
use stillpoint::domain::Bytes;
use stillpoint_csi_proto::v1;
use stillpoint_tests::harness::bench::command;
use stillpoint_tests::harness::csi::{from_snapshot, from_volume};
use stillpoint_tests::harness::site::Site;
use stillpoint_tests::harness::skip;
use stillpoint_tests::scratch::why_not;

const SIZE: Bytes = Bytes::mib(64);
const CHUNK: usize = 1 << 20;

async fn site(test: &str, kinds: &[BackendKind]) -> Result<Option<Site>> {
    if let Some(reason) = kinds.iter().find_map(|kind| why_not(*kind)) {
        skip(test, &reason);
        return Ok(None);
    }
    Site::new(kinds).await.map(Some)
}

/// Random data in every second mebibyte, and single blocks in between.
fn fill(site: &Site, host: usize, volume: &v1::Volume) -> Result<()> {
    let mut data = vec![0; CHUNK];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut data)?;
    let file = OpenOptions::new().write(true).open(site.hosts[host].image(&volume.volume_id))?;
    for (number, start) in (0..SIZE.0).step_by(2 * CHUNK).enumerate() {
        data[number] ^= 1;
        file.write_all_at(&data, start)?;
        file.write_all_at(&data[..4096], start + CHUNK as u64 + 65_536)?;
    }
    Ok(())
}

fn content(site: &Site, host: usize, volume: &v1::Volume) -> Result<Vec<u8>> {
    site.hosts[host].read(&site.hosts[host].image(&volume.volume_id), SIZE)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_three_hosts_is_restored_onto_one() -> Result<()> {
    use BackendKind::{Btrfs, Xfs};
    let Some(site) = site("a_group_of_three_hosts_is_restored_onto_one", &[Btrfs, Xfs, Btrfs]).await? else {
        return Ok(());
    };
    let mut volumes = Vec::new();
    for host in 0..3 {
        let volume = site.volume(&format!("member-{host}"), host, SIZE, None).await?;
        fill(&site, host, &volume)?;
        volumes.push(volume);
    }
    let snapshots = site.group("cut", &volumes).await?;
    let before: Vec<Vec<u8>> = volumes
        .iter()
        .enumerate()
        .map(|(host, volume)| content(&site, host, volume))
        .collect::<Result<_>>()?;
    // What comes after the cut is not in it.
    for (host, volume) in volumes.iter().enumerate() {
        site.hosts[host].write(&site.hosts[host].image(&volume.volume_id), 0, 0xdead)?;
    }
    for target in [2, 1] {
        for (member, snapshot) in snapshots.iter().enumerate() {
            let name = format!("restored-{target}-{member}");
            let made = site.volume(&name, target, SIZE, Some(from_snapshot(snapshot))).await?;
            assert_eq!(made.content_source, Some(from_snapshot(snapshot)));
            ensure!(
                content(&site, target, &made)? == before[member],
                "{name} has other data than its source"
            );
        }
    }
    let figures = site.fleet.transfers().figures();
    assert_eq!((figures.running, figures.arrived, figures.failures()), (0, 4, 0), "two of six were at home");
    site.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_onto_another_host_has_the_data_and_the_holes_of_its_source() -> Result<()> {
    use BackendKind::{Btrfs, Xfs};
    let test = "a_clone_onto_another_host_has_the_data_and_the_holes_of_its_source";
    let Some(site) = site(test, &[Btrfs, Xfs]).await? else { return Ok(()) };
    for (source, target) in [(0, 1), (1, 0)] {
        let volume = site.volume(&format!("source-{source}"), source, SIZE, None).await?;
        fill(&site, source, &volume)?;
        let origin = Some(from_volume(&volume.volume_id));
        let made = site.volume(&format!("clone-{target}"), target, SIZE, origin).await?;
        ensure!(content(&site, target, &made)? == content(&site, source, &volume)?);
        let allocated = |host: usize, volume: &v1::Volume| {
            let image = site.hosts[host].image(&volume.volume_id);
            Ok::<_, anyhow::Error>(site.hosts[host].kernel.stat(&image)?.context("no image")?.allocated)
        };
        let (there, here) = (allocated(target, &made)?, allocated(source, &volume)?);
        ensure!(there.0 <= here.0 + (4 << 20), "{there} are allocated for {here}");
    }
    site.close().await
}

/// Speed beside `dd` with direct I/O between the same pools, printed. This build is not optimised; `make bench` is.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_volume_arrives() -> Result<()> {
    use BackendKind::{Btrfs, Xfs};
    let Some(site) = site("a_large_volume_arrives", &[Btrfs, Xfs]).await? else { return Ok(()) };
    let size = Bytes::mib(512);
    let volume = site.volume("large", 0, size, None).await?;
    let mut data = vec![0; 4 << 20];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut data)?;
    let source = site.hosts[0].image(&volume.volume_id);
    let file = OpenOptions::new().write(true).open(&source)?;
    for start in (0..size.0).step_by(data.len()) {
        file.write_all_at(&data, start)?;
    }
    file.sync_all()?;
    drop(file);
    let snapshot = site.snapshot("cut", &volume).await?;
    let begin = Instant::now();
    let made = site.volume("arrived", 1, size, Some(from_snapshot(&snapshot))).await?;
    let own = begin.elapsed();
    let arrived = site.hosts[1].image(&made.volume_id);
    let copy = arrived.with_file_name("dd.img");
    let begin = Instant::now();
    command(
        "dd",
        &[
            format!("if={}", source.display()).as_ref(),
            format!("of={}", copy.display()).as_ref(),
            "bs=1M".as_ref(),
            "iflag=direct".as_ref(),
            "oflag=direct".as_ref(),
            "conv=fsync".as_ref(),
            "status=none".as_ref(),
        ],
    )?;
    let dd = begin.elapsed();
    command("cmp", &[arrived.as_os_str(), copy.as_os_str()])?;
    println!(
        "512 MiB from btrfs to XFS: {own:.2?}, dd {dd:.2?}: {:.0} % of its speed",
        100.0 * dd.as_secs_f64() / own.as_secs_f64()
    );
    site.close().await
}
