//! The measurements.

use std::fs::File;
use std::io::{Read, Write};
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
use super::serial;
use super::table::{Goal, Row, Samples};

/// A window of one volume is short, so its tail needs more samples.
const MORE_FOR_ONE: u32 = 5;
/// The script is slow; fewer rounds are enough for its median.
const SERIAL_ROUNDS: u32 = 10;
/// Payload of the volume that is restored and cloned; the volume is a little larger.
const FULL: Bytes = Bytes::gib(1);
const FULL_VOLUME: Bytes = Bytes::mib(1200);

/// Window of each group, beside the script's.
pub async fn windows(field: &Field, rcu: Rcu, rounds: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for group in Group::ALL {
        let (kind, goal) = match rcu {
            Rcu::Auto => ("expedited", expedited_goal(group)),
            Rcu::Never => ("not expedited", plain_goal(group)),
        };
        let title = format!("window, {}, {kind}", group.title());
        let step = Step::begin(&title);
        let count = if group == Group::One { rounds * MORE_FOR_ONE } else { rounds };
        let own = own_windows(field, group, count).await?;
        step.detail("the serial script");
        let volumes: Vec<&Volume> = field.volumes(group).collect();
        let serial = (0..SERIAL_ROUNDS.min(rounds))
            .map(|_| serial::round(field, &volumes))
            .collect::<Result<Vec<Duration>>>()?;
        step.done();
        let (parts, own) = (own.parts(), Samples::times(own.whole));
        rows.push(Row { title, own, parts, goal, other: Some(Samples::times(serial)) });
    }
    Ok(rows)
}

fn expedited_goal(group: Group) -> Goal {
    match group {
        Group::One => Goal::TailMs(8),
        Group::Sixteen | Group::Spread => Goal::MiddleMs(40),
    }
}

fn plain_goal(group: Group) -> Goal {
    match group {
        Group::One => Goal::MiddleMs(40),
        Group::Sixteen | Group::Spread => Goal::None,
    }
}

/// Windows of many cuts, and what they were spent on.
#[derive(Default)]
struct Windows {
    whole: Vec<Duration>,
    freeze: Vec<Duration>,
    cut: Vec<Duration>,
    thaw: Vec<Duration>,
}

impl Windows {
    fn add(&mut self, timeline: &Timeline) {
        self.whole.push(Duration::from_micros(timeline.window_us));
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

/// Creating, restoring and cloning.
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

    let step = Step::begin("filling a volume with 1 GiB");
    let full = field.stack.provision("full", FIRST_HOST, FULL_VOLUME, FILESYSTEM).await?;
    let write = fill(&full)?;
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

    let row = |title: &str, own, other: Option<Duration>| Row {
        title: title.into(),
        own: Samples::times(own),
        parts: String::new(),
        goal: Goal::MiddleMs(40),
        other: other.map(|time| Samples::times(vec![time])),
    };
    Ok(vec![
        row("CreateVolume, 1 GiB, xfs", created, None),
        row("restore of a full 1 GiB volume (beside: writing 1 GiB)", restored, Some(write)),
        row("clone of a full 1 GiB volume (beside: writing 1 GiB)", cloned, Some(write)),
        afar,
        changed,
    ])
}

/// Writes data that cannot be compressed; how long that took, which is the least that a restore by copying takes.
fn fill(volume: &Volume) -> Result<Duration> {
    let mut block = vec![0; 1 << 20];
    File::open("/dev/urandom")?.read_exact(&mut block)?;
    let path = volume.path.join("payload");
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let start = Instant::now();
    for _ in 0..FULL.0 >> 20 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(start.elapsed())
}

/// Resident memory of the services, the largest of each kind.
pub fn memory(field: &Field) -> Result<Vec<Row>> {
    let largest = |processes: Vec<&Process>| -> Result<u64> {
        let sizes = processes.into_iter().map(Process::resident_kib).collect::<Result<Vec<_>>>()?;
        sizes.into_iter().max().context("no process to measure")
    };
    let hosts = field.stack.hosts();
    let profile = binaries::profile()?;
    let row = |title: &str, kib: u64, goal: u64| Row {
        title: format!("memory of the {title} ({profile} build)"),
        own: Samples::Memory(kib),
        parts: String::new(),
        goal: Goal::MiB(goal),
        other: None,
    };
    Ok(vec![
        row("agent", largest(hosts.iter().map(|host| &host.agent).collect())?, 40),
        row("guard", largest(hosts.iter().map(|host| &host.guard).collect())?, 4),
        row("controller", field.stack.controller().resident_kib()?, 60),
    ])
}
