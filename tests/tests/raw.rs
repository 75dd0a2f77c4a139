//! Raw block devices in consistent groups, on the real kernel: the causal ledger is written past every page cache to
//! devices of three hosts, while they are cut.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use stillpoint::controller::cuts::{Barrier, CutOrder};
use stillpoint::domain::record::{CutRecord, Source};
use stillpoint::domain::{Filesystem, Incarnation, Level, NewVolume, VolumeId};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Loops, MountRequest, Mounts};
use stillpoint_tests::harness::binaries::binary;
use stillpoint_tests::harness::blkcg::BlockGroup;
use stillpoint_tests::harness::hosts::{Cluster, Shape};
use stillpoint_tests::harness::skip;
use stillpoint_tests::workloads::ledger::{self, Audit, Ledger, Reading};

const CUTS: usize = 5;
/// Without the barrier hosts are cut milliseconds apart, in which the writer does hundreds of steps.
const CUTS_UNTIL_TORN: usize = 10;

/// Three hosts, and a ledger over their volumes whose writer is in a cgroup of its own.
struct Field {
    ledger: Ledger,
    cluster: Cluster,
    group: BlockGroup,
}

impl Field {
    async fn new(label: &str, shapes: [Shape; 3]) -> Result<Option<Self>> {
        let Some(cluster) = Cluster::of(label, shapes).await? else { return Ok(None) };
        let Some(group) = BlockGroup::new(label)? else {
            skip(label, "no cgroup hierarchy here can limit writes to block devices");
            return Ok(None);
        };
        let place = |(host, shape): (&stillpoint_tests::harness::bench::Bench, &Shape)| match shape {
            Shape::Filesystem => host.mounts[0].clone(),
            Shape::Raw => host.devices[0].clone(),
        };
        let places: Vec<PathBuf> = cluster.hosts.iter().zip(&shapes).map(place).collect();
        let places: [PathBuf; 3] = places.try_into().ok().context("three hosts")?;
        let mut ledger = Ledger::start(&binary("stillpoint-demo")?, &places, cluster.run.path())?;
        group.take(ledger.process().pid())?;
        Ok(Some(Self { ledger, cluster, group }))
    }

    /// One cut in the middle of the writing, and what its three snapshots say.
    async fn cut(&mut self, name: &str, barrier: Barrier) -> Result<(CutRecord, Audit)> {
        let before = self.ledger.mark()?.written;
        while self.ledger.mark()?.written < before + 50 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let acknowledged = self.ledger.mark()?.written;
        let order = CutOrder { barrier, ..self.cluster.order(name) };
        let record = self.cluster.cuts.take(order).await?;
        let mut readings = [Reading::default(), Reading::default(), Reading::default()];
        for (index, reading) in readings.iter_mut().enumerate() {
            *reading = self.read(&record, index, name)?;
        }
        Ok((record, ledger::audit(&readings, acknowledged)))
    }

    fn read(&self, record: &CutRecord, index: usize, name: &str) -> Result<Reading> {
        let host = &self.cluster.hosts[index];
        let member = record.members.iter().find(|member| member.volume == host.volumes[0]);
        let member = member.context("every host has a member")?;
        if host.mounts.is_empty() {
            return ledger::read(&host.pool.snapshot_tree(&member.snapshot)?.join("disk.img"));
        }
        let id = VolumeId::new(host.pool.id().clone(), &format!("restored-{name}"), Incarnation(1));
        host.pool.create_volume(&NewVolume {
            id: id.clone(),
            name: format!("restored-{name}"),
            capacity: member.capacity,
            filesystem: Some(Filesystem::Xfs),
            source: Some(Source::Snapshot(member.snapshot.clone())),
        })?;
        let device = LinuxHost.attach(&host.pool.image(&id)?, false)?;
        let target = self.cluster.run.directory(&format!("restored-{name}"))?;
        LinuxHost.mount(&MountRequest {
            device: &device.path,
            target: &target,
            filesystem: Filesystem::Xfs,
            read_only: false,
            options: &[],
        })?;
        LinuxHost.detach(&device.path)?;
        let reading = ledger::read(&target);
        LinuxHost.unmount(&target)?;
        reading
    }

    async fn every_cut_is_consistent(mut self) -> Result<()> {
        for number in 0..CUTS {
            let (record, audit) = self.cut(&format!("cut-{number}"), Barrier::Up).await?;
            ensure!(audit.is_consistent(), "cut {number}: {audit}");
            ensure!(record.level == Level::Group, "one instant, not flushed by its user: {:?}", record.level);
            ensure!(record.reasons.iter().any(|why| why.contains("raw block")), "{:?}", record.reasons);
            let limits = self.group.limits()?;
            ensure!(!limits.lines().any(|line| line.ends_with(" 1")), "a limit is left: {limits}");
        }
        self.ledger.stop()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_devices_of_three_hosts_are_cut_at_one_instant() -> Result<()> {
    match Field::new("raw-only", [Shape::Raw; 3]).await? {
        Some(field) => field.every_cut_is_consistent().await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_devices_and_filesystems_are_cut_at_one_instant() -> Result<()> {
    match Field::new("raw-mixed", [Shape::Raw, Shape::Filesystem, Shape::Raw]).await? {
        Some(field) => field.every_cut_is_consistent().await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_barrier_the_same_ledger_on_raw_devices_is_torn() -> Result<()> {
    let Some(mut field) = Field::new("raw-torn", [Shape::Raw; 3]).await? else { return Ok(()) };
    for number in 0..CUTS_UNTIL_TORN {
        let (record, audit) = field.cut(&format!("cut-{number}"), Barrier::Down).await?;
        ensure!(record.level == Level::Crash, "members at different instants: {:?}", record.level);
        if !audit.is_consistent() {
            return field.ledger.stop();
        }
    }
    anyhow::bail!("{CUTS_UNTIL_TORN} cuts without the barrier passed the check, so the check proves nothing")
}
