//! Cuts over three hosts: real agents' services over mTLS on loopback, real pools, real freezes, one kernel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stillpoint::controller::cuts::{Barrier, CutOrder, Opened};
use stillpoint::domain::record::CutState;
use stillpoint::domain::timeline::Phase;
use stillpoint::domain::{Code, Level};
use stillpoint::host::Freezing;
use stillpoint::host::linux::LinuxHost;
use stillpoint_tests::harness::bench::{BLINK, PATIENCE, command, writable};
use stillpoint_tests::harness::hosts::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_over_three_hosts_is_sealed_on_all_and_measured() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-three").await? else { return Ok(()) };
    let record = cluster.cuts.take(cluster.order("nightly")).await?;
    assert_eq!((record.state, record.level), (CutState::Sealed, Level::Filesystem));
    assert_eq!(record.members.len(), 3);
    let timeline = record.timeline.clone().context("a sealed cut has a timeline")?;
    let phases: Vec<_> = timeline.hosts.iter().flat_map(|h| &h.volumes).map(|v| v.spans.len()).collect();
    assert_eq!(phases, [4, 4, 4], "flush, freeze, cut and thaw on each host: {timeline:?}");
    let ends = |phase| spans(&timeline, phase).map(|span| span.end_us).collect::<Vec<_>>();
    let starts = |phase| spans(&timeline, phase).map(|span| span.start_us).collect::<Vec<_>>();
    let error = timeline.hosts.iter().map(|host| host.clock_error_us).max().unwrap_or(0).cast_signed();
    assert!(
        ends(Phase::Freeze).iter().max() <= starts(Phase::Cut).iter().map(|s| s + 2 * error).min().as_ref()
    );
    assert!(
        ends(Phase::Cut).iter().max() <= starts(Phase::Thaw).iter().map(|s| s + 2 * error).min().as_ref()
    );
    for host in &cluster.hosts {
        let stored = host.pool.cut(&record.id)?;
        assert_eq!(stored, record, "the same text on every pool");
    }
    assert_eq!(cluster.cuts.list().await?.len(), 1);
    Ok(())
}

fn spans(
    timeline: &stillpoint::domain::timeline::Timeline,
    phase: Phase,
) -> impl Iterator<Item = &stillpoint::domain::timeline::Span> {
    let lanes = timeline.hosts.iter().flat_map(|host| &host.volumes);
    lanes.flat_map(|lane| &lane.spans).filter(move |span| span.phase == phase)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_is_the_same_cut_and_other_members_are_refused() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-again").await? else { return Ok(()) };
    let first = cluster.cuts.take(cluster.order("nightly")).await?;
    let mut again = cluster.order("nightly");
    again.volumes.reverse();
    assert_eq!(cluster.other_controller()?.take(again).await?, first, "a set has no order");
    let mut fewer = cluster.order("nightly");
    fewer.volumes.pop();
    let refused = cluster.cuts.take(fewer).await.expect_err("other members");
    assert_eq!(refused.code, Code::AlreadyExists, "{refused}");
    assert!(refused.message.contains("choose another name, or delete it first"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_outlives_its_volumes_and_is_found_again_under_its_name() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-outlive").await? else { return Ok(()) };
    let first = cluster.cuts.take(cluster.order("nightly")).await?;
    let host = &cluster.hosts[0];
    command("umount", &[host.mounts[0].as_os_str()])?;
    host.pool.delete_volume(&host.volumes[0])?;
    assert_eq!(cluster.cuts.take(cluster.order("nightly")).await?, first);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_deleted_on_all_hosts_and_deleting_it_again_is_fine() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-delete").await? else { return Ok(()) };
    let record = cluster.cuts.take(cluster.order("nightly")).await?;
    cluster.cuts.delete(&record.handle()).await?;
    assert_eq!(cluster.cuts.list().await?, []);
    cluster.check_nothing_left()?;
    cluster.cuts.delete(&record.handle()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_is_dropped_when_all_hosts_have_cut_is_gone_everywhere() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-drop").await? else { return Ok(()) };
    let Opened::Ready(mut open) = cluster.cuts.open(cluster.order("dropped")).await? else {
        bail!("it is new")
    };
    open.cut().await?;
    drop(open);
    cluster.check_nothing_left_soon().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_fails_the_cut_and_nothing_is_held_on_the_others() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-silent").await? else { return Ok(()) };
    cluster.servers[2].abort();
    // A controller that has no connection from before.
    let fault = cluster.other_controller()?.take(cluster.order("nightly")).await.expect_err("host c is gone");
    assert_eq!(fault.code, Code::Unavailable, "{fault}");
    assert!(fault.message.contains("host c"), "{fault}");
    cluster.check_nothing_left()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapse_on_one_host_voids_the_cut_on_all() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-lapse").await? else { return Ok(()) };
    // A thief that thaws host b's volume as soon as it is frozen.
    let stolen = LinuxHost.open_mount(&cluster.hosts[1].mounts[0])?;
    let thief = std::thread::spawn(move || {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && stolen.thaw().is_err() {
            std::hint::spin_loop();
        }
    });
    let fault = cluster.cuts.take(cluster.order("nightly")).await.expect_err("the hold had lapsed");
    assert_eq!(fault.code, Code::Aborted, "{fault}");
    assert!(fault.message.contains("had lapsed") && fault.message.contains("on b"), "{fault}");
    thief.join().ok().context("the thief panicked")?;
    cluster.check_nothing_left()?;
    // Nobody steals the second time: the same name succeeds.
    cluster.cuts.take(cluster.order("nightly")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_controller_left_is_settled_by_the_next() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-sweep").await? else { return Ok(()) };
    // Sealed at home only: as if the controller had died between two seals.
    let Opened::Ready(mut open) = cluster.cuts.open(cluster.order("half")).await? else { bail!("it is new") };
    let taken = open.cut().await?;
    let mut record = open.record().clone();
    record.state = CutState::Sealed;
    record.level = taken.level;
    let home = cluster.hosts.iter().find(|host| *host.pool.id() == record.id.home).context("no home")?;
    home.pool.seal_cut(&record)?;
    std::mem::forget(open);
    let swept = cluster.other_controller()?.sweep(Duration::ZERO).await;
    assert_eq!(swept.rolled_forward, [record.id.clone()], "{swept:?}");
    for host in &cluster.hosts {
        assert_eq!(host.pool.cut(&record.id)?.state, CutState::Sealed);
    }
    // Sealed nowhere: a retry under the same name starts from zero, and so does a sweep.
    for retry in [true, false] {
        let dead = cluster.other_controller()?;
        let Opened::Ready(mut open) = dead.open(cluster.order("none")).await? else { bail!("it is new") };
        open.cut().await?;
        std::mem::forget(open);
        if retry {
            let taken = cluster.other_controller()?.take(cluster.order("none")).await?;
            cluster.cuts.delete(&taken.handle()).await?;
        } else {
            let swept = cluster.other_controller()?.sweep(Duration::ZERO).await;
            assert_eq!(swept.voided.len(), 1, "{swept:?}");
        }
    }
    assert_eq!(cluster.cuts.list().await?.len(), 1);
    cluster.cuts.delete(&record.handle()).await?;
    cluster.check_nothing_left()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_barrier_hosts_are_cut_one_after_another_and_the_level_says_so() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-serial").await? else { return Ok(()) };
    let order = CutOrder { barrier: Barrier::Down, ..cluster.order("serial") };
    let record = cluster.cuts.take(order).await?;
    assert_eq!(record.level, Level::Crash);
    assert!(record.reasons[0].contains("one after another"), "{:?}", record.reasons);
    let timeline = record.timeline.context("a timeline")?;
    let first_thaw = spans(&timeline, Phase::Thaw).map(|span| span.end_us).min();
    let last_freeze = spans(&timeline, Phase::Freeze).map(|span| span.start_us).max();
    assert!(first_thaw < last_freeze, "some host was released before another was held");
    // The test switch of a whole controller does the same to every order.
    let record = cluster.cuts.clone().with_barrier(Barrier::Down).take(cluster.order("switch")).await?;
    assert_eq!(record.level, Level::Crash);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_prepared_and_not_quiesced_can_be_written_on_all_nodes() -> Result<()> {
    let Some(cluster) = Cluster::new("cuts-prepared").await? else { return Ok(()) };
    let Opened::Ready(open) = cluster.cuts.open(cluster.order("prepared")).await? else { bail!("it is new") };
    for host in &cluster.hosts {
        assert!(writable(&host.mounts[0], BLINK * 10)?, "a member that is only prepared cannot be written");
    }
    drop(open);
    cluster.check_nothing_left_soon().await
}
