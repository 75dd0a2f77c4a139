//! Calls for volumes, and memory.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use stillpoint::domain::Bytes;
use stillpoint_tests::harness::csi::{from_snapshot, from_volume};
use stillpoint_tests::harness::{Process, Step, binaries};

use super::afar;
use super::field::{FILESYSTEM, FIRST_HOST, Field, Group};
use super::table::{Goal, Row, Samples};
use super::target::wait_for_cleaner;
use super::ways;

/// What whoever calls has, and by a script has not.
pub const CALL_BESIDES: &str =
    "a record that survives power loss; the same answer when it is repeated; room and identity checked";
/// Payload of the volume that is restored and cloned; the volume is a little larger.
const FULL: Bytes = Bytes::gib(1);
const FULL_VOLUME: Bytes = Bytes::mib(1200);

/// Creating, snapshotting, restoring and cloning.
pub async fn volumes(field: &Field, rounds: u32) -> Result<Vec<Row>> {
    let csi = field.stack.csi();
    let pools = BTreeSet::from([field.pool(FIRST_HOST)?.to_path_buf()]);
    let step = Step::begin("CreateVolume");
    let mut created = Vec::new();
    for round in 0..rounds {
        wait_for_cleaner(&pools)?;
        let start = Instant::now();
        let volume = csi.create(&format!("fresh-{round}"), FIRST_HOST, FULL, FILESYSTEM, None).await?;
        created.push(start.elapsed());
        csi.delete(&volume.volume_id).await?;
    }
    step.done();

    let step = Step::begin("CreateSnapshot of an idle volume");
    let idle = field.volumes(Group::One).next().context("no idle volume")?;
    let mut snapshots = Vec::new();
    for round in 0..rounds {
        wait_for_cleaner(&pools)?;
        let start = Instant::now();
        let snapshot = csi.snapshot(&format!("idle-{round}"), &idle.id).await?;
        snapshots.push(start.elapsed());
        csi.delete_snapshot(&snapshot).await?;
    }
    step.done();

    let step = Step::begin("filling a volume with 1 GiB");
    let full = field.stack.provision("full", FIRST_HOST, FULL_VOLUME, FILESYSTEM).await?;
    let write = ways::fill(&full)?;
    step.done();

    let step = Step::begin("restore and clone of it");
    let snapshot = csi.snapshot("full-snapshot", &full.id).await?;
    let (mut restored, mut cloned) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (kind, source, times) in [
            ("restored", from_snapshot(&snapshot), &mut restored),
            ("cloned", from_volume(&full.id), &mut cloned),
        ] {
            wait_for_cleaner(&pools)?;
            let start = Instant::now();
            let name = format!("{kind}-{round}");
            let volume = csi.create(&name, FIRST_HOST, FULL_VOLUME, FILESYSTEM, Some(source)).await?;
            times.push(start.elapsed());
            csi.delete(&volume.volume_id).await?;
        }
    }
    step.done();

    let step = Step::begin("restore of it on another host, and dd between the same pools");
    let afar = afar::copies(field, &snapshot, &full, FULL_VOLUME, FILESYSTEM).await?;
    csi.delete_snapshot(&snapshot).await?;
    field.stack.retire(&full).await?;
    step.done();

    let step = Step::begin("changed blocks: 10 MiB in 2560 places of 1 GiB");
    let changed = afar::changed_blocks(field).await?;
    step.done();

    let goal = |limit| vec![Goal::MiddleMs(limit)];
    let written = Some(Samples::times(vec![write]));
    Ok(vec![
        Row { besides: CALL_BESIDES, ..Row::times("CreateVolume, 1 GiB, xfs", created, goal(40)) },
        Row {
            besides: CALL_BESIDES,
            ..Row::times("CreateSnapshot of an idle volume, the whole call", snapshots, goal(45))
        },
        Row {
            other: written.clone(),
            besides: CALL_BESIDES,
            ..Row::times("restore of a full 1 GiB volume (script: writing 1 GiB)", restored, goal(40))
        },
        Row {
            other: written,
            besides: CALL_BESIDES,
            ..Row::times("clone of a full 1 GiB volume (script: writing 1 GiB)", cloned, goal(40))
        },
        afar,
        changed,
    ])
}

/// Resident memory of the services, the largest of each kind.
pub fn memory(field: &Field) -> Result<Vec<Row>> {
    let sizes = |process: &Process| Ok((process.resident_kib()?, process.anonymous_kib()?));
    let largest = |processes: Vec<&Process>| -> Result<(u64, u64)> {
        let sizes = processes.into_iter().map(sizes).collect::<Result<Vec<_>>>()?;
        sizes.into_iter().max().context("no process to measure")
    };
    let hosts = field.stack.hosts();
    let profile = binaries::profile()?;
    let row = |title: &str, (kib, own): (u64, u64), goal: u64| {
        let title =
            format!("memory of the {title} ({profile} build), {} MiB without the program's text", own >> 10);
        Row { own: Samples::Memory(kib), ..Row::times(title, vec![], vec![Goal::MiB(goal)]) }
    };
    Ok(vec![
        row("agent", largest(hosts.iter().map(|host| &host.agent).collect())?, 40),
        row("guard", largest(hosts.iter().map(|host| &host.guard).collect())?, 4),
        row("controller", sizes(field.stack.controller())?, 60),
    ])
}
