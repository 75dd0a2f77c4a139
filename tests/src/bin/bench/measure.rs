//! The measurements.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stillpoint::domain::Bytes;
use stillpoint::domain::timeline::{Phase, Timeline};
use stillpoint_tests::harness::csi::{Volume, from_snapshot, from_volume};
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Process, Step, binaries};

use super::afar;
use super::field::{FILESYSTEM, FIRST_HOST, Field, Group};
use super::load::Load;
use super::phases::Phases;
use super::table::{Goal, Row, Samples};
use super::{floor, serial, ways};

/// A window of one volume is short, so its tail needs more samples.
const MORE_FOR_ONE: u32 = 5;
/// The script is slow; fewer rounds are enough for its median.
const SERIAL_ROUNDS: u32 = 5;
/// Payload of the volume that is restored and cloned; the volume is a little larger.
const FULL: Bytes = Bytes::gib(1);
const FULL_VOLUME: Bytes = Bytes::mib(1200);

/// Groups whose windows are measured.
const MEASURED: [Group; 4] = [Group::One, Group::Sixteen, Group::SixtyFour, Group::Spread];

/// Window of each group, beside the script's where all volumes are on one host.
pub async fn windows(field: &Field, rcu: Rcu, rounds: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for group in MEASURED {
        if field.volumes(group).next().is_none() {
            continue;
        }
        let title = title(group);
        let step = Step::begin(format!("{title}, {rcu:?}"));
        let count = if group == Group::One { rounds * MORE_FOR_ONE } else { rounds };
        let own = own_windows(field, group, count).await?;
        let other = if rcu == Rcu::Auto {
            step.detail("the serial script");
            Some(Samples::times(script(field, group)?))
        } else {
            None
        };
        step.detail("the kernel alone");
        let floor = match group {
            // On one host only: the kernel alone knows nothing of others.
            Group::Spread => None,
            Group::One | Group::Eight | Group::Sixteen | Group::SixtyFour => {
                Some(Samples::times(floor::windows(field, group, rcu, count)?))
            }
        };
        step.done();
        rows.push(Row {
            parts: own.parts(),
            other,
            floor,
            phases: Some(own.phases),
            ..Row::times(title, own.whole, goals(group))
        });
    }
    Ok(rows)
}

/// Sixteen volumes while five of them are written.
pub async fn loaded(field: &Field, rounds: u32) -> Result<Row> {
    let title = "window, 16 volumes, 1 host, 4 fsync writers and a buffered one";
    let step = Step::begin(title);
    let load = Load::start(field.volumes(Group::Sixteen))?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let own = own_windows(field, Group::Sixteen, rounds).await?;
    step.detail("the serial script");
    let other = script(field, Group::Sixteen)?;
    load.finish()?;
    step.done();
    Ok(Row {
        parts: own.parts(),
        other: Some(Samples::times(other)),
        phases: Some(own.phases),
        ..Row::times(title, own.whole, vec![Goal::MiddleMs(60)])
    })
}

fn title(group: Group) -> String {
    format!("window, {}, idle", group.title())
}

fn script(field: &Field, group: Group) -> Result<Vec<Duration>> {
    let volumes: Vec<&Volume> = field.volumes(group).collect();
    (0..SERIAL_ROUNDS).map(|_| serial::round(field, &volumes)).collect()
}

fn goals(group: Group) -> Vec<Goal> {
    match group {
        Group::One => vec![Goal::TailMs(5)],
        Group::Eight => vec![],
        Group::Sixteen => vec![Goal::MiddleMs(20), Goal::Times(25)],
        Group::SixtyFour => vec![Goal::MiddleMs(60), Goal::Times(40)],
        Group::Spread => vec![Goal::MiddleMs(90)],
    }
}

/// Goals of the plain column.
fn plain_goals(group: Group) -> Vec<Goal> {
    match group {
        Group::One => vec![Goal::MiddleMs(35), Goal::TailMs(75)],
        Group::Sixteen => vec![Goal::MiddleMs(90)],
        Group::Eight | Group::SixtyFour | Group::Spread => vec![],
    }
}

/// Puts what was measured without expedited grace periods beside the rest.
pub fn beside(rows: &mut [Row], plain: Vec<Row>) {
    for plain in plain {
        let group = MEASURED.into_iter().find(|group| title(*group) == plain.title);
        if let (Some(row), Some(group)) = (rows.iter_mut().find(|row| row.title == plain.title), group) {
            row.plain = Some(plain.own);
            row.plain_phases = plain.phases;
            row.plain_floor = plain.floor;
            row.plain_goals = plain_goals(group);
        }
    }
}

/// Windows of many cuts, and what they were spent on.
#[derive(Default)]
struct Windows {
    whole: Vec<Duration>,
    freeze: Vec<Duration>,
    cut: Vec<Duration>,
    thaw: Vec<Duration>,
    phases: Phases,
}

impl Windows {
    fn add(&mut self, timeline: &Timeline) {
        self.whole.push(Duration::from_micros(timeline.window_us));
        self.phases.add(timeline);
        for (phase, times) in
            [(Phase::Freeze, &mut self.freeze), (Phase::Cut, &mut self.cut), (Phase::Thaw, &mut self.thaw)]
        {
            times.push(slowest(timeline, phase));
        }
    }

    /// Medians of the slowest member.
    fn parts(&self) -> String {
        let middle = |times: &[Duration]| Samples::times(times.to_vec()).middle();
        format!("{} / {} / {}", middle(&self.freeze), middle(&self.cut), middle(&self.thaw))
    }
}

/// The longest time that a phase took for any member.
fn slowest(timeline: &Timeline, phase: Phase) -> Duration {
    let lanes = timeline.hosts.iter().flat_map(|host| &host.volumes);
    let spans = lanes.flat_map(|lane| &lane.spans).filter(|span| span.phase == phase);
    let lengths = spans.map(|span| u64::try_from(span.end_us - span.start_us).unwrap_or(0));
    Duration::from_micros(lengths.max().unwrap_or(0))
}

async fn own_windows(field: &Field, group: Group, count: u32) -> Result<Windows> {
    let operator = field.stack.operator();
    let selector = format!("group={}", group.label());
    let mut windows = Windows::default();
    for round in 0..count {
        let name = format!("{}-{round}", group.label());
        let record = operator.snapshot(&name, &selector, None, Barrier::Together).await?;
        windows.add(record.timeline.as_ref().context("a sealed cut has no timeline")?);
        operator.delete(&record.id.to_string()).await?;
    }
    Ok(windows)
}

/// Creating, snapshotting, restoring and cloning.
pub async fn volumes(field: &Field, rounds: u32) -> Result<Vec<Row>> {
    let csi = field.stack.csi();
    let step = Step::begin("CreateVolume");
    let mut created = Vec::new();
    for round in 0..rounds {
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
        Row::times("CreateVolume, 1 GiB, xfs", created, goal(40)),
        Row::times("CreateSnapshot of an idle volume, the whole call", snapshots, goal(45)),
        Row {
            other: written.clone(),
            ..Row::times("restore of a full 1 GiB volume (script: writing 1 GiB)", restored, goal(40))
        },
        Row {
            other: written,
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
