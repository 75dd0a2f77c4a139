//! Pauses of groups, beside the kernel alone and beside scripts. All of them take turns: in each round everybody once,
//! another one first each time, after the same rest, and after the cleaner of the pools has ended.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use stillpoint::domain::timeline::{Phase, Timeline};
use stillpoint_tests::harness::Step;
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::stack::Rcu;

use super::field::{Field, Group};
use super::floor::Ready;
use super::load::Load;
use super::phases::Phases;
use super::rival::Rival;
use super::scripts;
use super::table::{Goal, Row, Samples};
use super::target::{REST, Target, wait_for_cleaner};
use super::together::Together;

/// A pause of one volume is short, so its tail needs more samples.
const MORE_FOR_ONE: u32 = 5;
/// The serial script is slow; fewer rounds are enough for its median.
const SERIAL_ROUNDS: u32 = 5;
const MEASURED: [Group; 4] = [Group::One, Group::Sixteen, Group::SixtyFour, Group::Spread];
/// What whoever takes a group snapshot by Stillpoint has, and by a script has not.
pub const GROUP_BESIDES: &str = "proof that nobody wrote between quiesce and resume, else no snapshot; resumes by itself \
when anything dies; a record that survives power loss, committed whole or not at all; the consistency reached";

/// Who takes a snapshot of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stillpoint,
    Kernel,
    KernelTogether,
    Parallel,
    ParallelTogether,
    Serial,
}

impl Way {
    const EXPEDITED: [Self; 6] = [
        Self::Stillpoint,
        Self::Kernel,
        Self::KernelTogether,
        Self::Parallel,
        Self::ParallelTogether,
        Self::Serial,
    ];
    const PLAIN: [Self; 2] = [Self::Stillpoint, Self::Kernel];

    fn is_together(self) -> bool {
        match self {
            Self::KernelTogether | Self::ParallelTogether => true,
            Self::Stillpoint | Self::Kernel | Self::Parallel | Self::Serial => false,
        }
    }

    /// The name in the table of rivals.
    fn rival(self) -> Option<Rival> {
        match self {
            Self::Stillpoint => None,
            Self::Kernel => Some(Rival::Kernel),
            Self::KernelTogether => Some(Rival::KernelTogether),
            Self::Parallel => Some(Rival::Parallel),
            Self::ParallelTogether => Some(Rival::ParallelTogether),
            Self::Serial => Some(Rival::Serial),
        }
    }
}

/// Whether volumes are written meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    Idle,
    Loaded,
}

/// Pauses of each group.
pub async fn windows(field: &Field, rcu: Rcu, rounds: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for group in MEASURED {
        if field.volumes(group).next().is_none() {
            continue;
        }
        let count = if group == Group::One { rounds * MORE_FOR_ONE } else { rounds };
        let taken = contest(field, group, rcu, Writers::Idle, count).await?;
        rows.push(taken.row(title(group), goals(group)));
    }
    Ok(rows)
}

/// Sixteen volumes while five of them are written.
pub async fn loaded(field: &Field, rounds: u32) -> Result<Row> {
    let title = "pause, 16 volumes, 1 node, 4 fsync writers and a buffered one";
    let taken = contest(field, Group::Sixteen, Rcu::Auto, Writers::Loaded, rounds).await?;
    Ok(taken.row(title.into(), vec![Goal::MiddleMs(60), Goal::AtMostPercent(100)]))
}

fn title(group: Group) -> String {
    format!("pause, {}, idle", group.title())
}

/// Against the clock, and against the best script of the same run.
fn goals(group: Group) -> Vec<Goal> {
    let middle = match group {
        Group::One => return vec![Goal::TailMs(5), Goal::AtMostPercent(100)],
        Group::Eight => return vec![],
        Group::Sixteen => 20,
        Group::SixtyFour => 60,
        Group::Spread => 90,
    };
    vec![Goal::MiddleMs(middle), Goal::AtMostPercent(100)]
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
            row.plain_floor = plain.rival(Rival::Kernel).cloned();
            row.plain = Some(plain.own);
            row.plain_phases = plain.phases;
            row.plain_goals = plain_goals(group);
        }
    }
}

/// Everybody's pauses, and what ours were spent on.
#[derive(Default)]
struct Taken {
    own: Vec<Duration>,
    parts: [Vec<Duration>; 3],
    phases: Phases,
    rivals: Vec<(Rival, Vec<Duration>)>,
}

impl Taken {
    fn add(&mut self, timeline: &Timeline) {
        self.own.push(Duration::from_micros(timeline.window_us));
        self.phases.add(timeline);
        for (times, phase) in self.parts.iter_mut().zip([Phase::Freeze, Phase::Cut, Phase::Thaw]) {
            times.push(slowest(timeline, phase));
        }
    }

    fn add_rival(&mut self, rival: Rival, time: Duration) {
        match self.rivals.iter_mut().find(|(known, _)| *known == rival) {
            Some((_, times)) => times.push(time),
            None => self.rivals.push((rival, vec![time])),
        }
    }

    fn row(self, title: String, goals: Vec<Goal>) -> Row {
        let [freeze, snapshot, thaw] = self.parts.map(|times| Samples::times(times).middle());
        let rivals = self.rivals.into_iter().map(|(rival, times)| (rival, Samples::times(times)));
        let row = Row {
            parts: format!("{freeze} / {snapshot} / {thaw}"),
            phases: Some(self.phases),
            rivals: rivals.collect(),
            besides: GROUP_BESIDES,
            ..Row::times(title, self.own, goals)
        };
        Row { other: row.best_script().map(|(_, samples)| samples.clone()), ..row }
    }
}

/// The longest time that a phase took for any member.
fn slowest(timeline: &Timeline, phase: Phase) -> Duration {
    let lanes = timeline.hosts.iter().flat_map(|host| &host.volumes);
    let spans = lanes.flat_map(|lane| &lane.spans).filter(|span| span.phase == phase);
    let lengths = spans.map(|span| u64::try_from(span.end_us - span.start_us).unwrap_or(0));
    Duration::from_micros(lengths.max().unwrap_or(0))
}

/// What a round needs.
struct Scene<'a> {
    field: &'a Field,
    group: Group,
    rcu: Rcu,
    apart: Target,
    together: Option<Together>,
}

async fn contest(field: &Field, group: Group, rcu: Rcu, writers: Writers, rounds: u32) -> Result<Taken> {
    let step = Step::begin(format!("{}, {rcu:?}, {writers:?}", title(group)));
    let ways: &[Way] = match rcu {
        Rcu::Auto => &Way::EXPEDITED,
        Rcu::Never => &Way::PLAIN,
    };
    // One volume alone is together with nobody.
    let is_possible = |way: &Way| group != Group::One || !way.is_together();
    let ways: Vec<Way> = ways.iter().copied().filter(is_possible).collect();
    let needs_together = ways.iter().any(|way| way.is_together());
    let together = needs_together.then(|| Together::new(field, group)).transpose()?;
    let scene = Scene { field, group, rcu, apart: Target::of(field, group)?, together };
    let pools: BTreeSet<PathBuf> = scene.apart.pools();
    let mut taken = Taken::default();
    for round in 0..rounds {
        step.detail(&format!("round {} of {rounds}", round + 1));
        for turn in 0..ways.len() {
            let way = ways[(turn + round as usize) % ways.len()];
            if way == Way::Serial && round >= SERIAL_ROUNDS {
                continue;
            }
            wait_for_cleaner(&pools)?;
            let load = match writers {
                Writers::Idle => None,
                Writers::Loaded => Some(Load::start(&scene.target(way)?.mounts)?),
            };
            scene.one(way, round, &mut taken).await?;
            load.map_or(Ok(()), Load::finish)?;
        }
        scene.delete(round, &ways).await?;
    }
    scene.apart.close()?;
    scene.together.map_or(Ok(()), Together::close)?;
    step.done();
    Ok(taken)
}

impl Scene<'_> {
    fn target(&self, way: Way) -> Result<&Target> {
        if !way.is_together() {
            return Ok(&self.apart);
        }
        Ok(&self.together.as_ref().context("no volumes were made together")?.target)
    }

    fn name(&self, round: u32) -> String {
        format!("{}-{round}", self.group.label())
    }

    /// One pause of one way, after the same rest for all.
    async fn one(&self, way: Way, round: u32, taken: &mut Taken) -> Result<()> {
        let copy = format!("{way:?}-{round}");
        let target = self.target(way)?;
        let time = match way {
            Way::Stillpoint => {
                tokio::time::sleep(REST).await;
                let selector = format!("group={}", self.group.label());
                let operator = self.field.stack.operator();
                let record = operator.snapshot(&self.name(round), &selector, None, Barrier::Together).await?;
                taken.add(record.timeline.as_ref().context("a committed snapshot has no timeline")?);
                return Ok(());
            }
            Way::Kernel | Way::KernelTogether => {
                let ready = Ready::new(target, &copy)?;
                std::thread::sleep(REST);
                target.flush()?;
                ready.pause(self.rcu)?
            }
            Way::Parallel | Way::ParallelTogether => scripts::parallel(target, &copy)?,
            Way::Serial => scripts::serial(target, &copy)?,
        };
        taken.add_rival(way.rival().context("ours is no rival")?, time);
        Ok(())
    }

    /// Deletes what everybody has made in this round.
    async fn delete(&self, round: u32, ways: &[Way]) -> Result<()> {
        if ways.contains(&Way::Stillpoint) {
            self.field.stack.operator().delete(&self.name(round)).await?;
        }
        self.apart.delete_copies()?;
        self.together.as_ref().map_or(Ok(()), |together| together.target.delete_copies())
    }
}
