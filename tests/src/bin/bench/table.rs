//! The tables, on the terminal and as JSON.

use std::time::Duration;

use serde::{Serialize, Serializer};
use stillpoint::observe::table::{right_align, with_header};

use super::phases::{PARTS, Phases};

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Samples {
    /// Times, sorted.
    Times(Vec<Duration>),
    /// Resident memory in KiB.
    Memory(u64),
}

impl Samples {
    /// Times in any order.
    pub fn times(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self::Times(times)
    }

    /// The median as text.
    pub fn middle(&self) -> String {
        self.percentile(50).map_or(String::new(), |time| format!("{:.2}", ms(time)))
    }

    /// The smallest time that is not shorter than this share of all, in percent.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        match self {
            Self::Times(times) => times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied(),
            Self::Memory(_) => None,
        }
    }

    /// Shortest to longest, and how many.
    pub fn spread(&self) -> String {
        match self {
            Self::Times(times) => match (times.first(), times.last()) {
                (Some(first), Some(last)) => {
                    format!("{:.2} – {:.2}, n {}", ms(*first), ms(*last), times.len())
                }
                _ => String::new(),
            },
            Self::Memory(_) => String::new(),
        }
    }
}

/// Milliseconds, as in all files that the bench writes.
#[derive(Serialize)]
struct Figures {
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    min_ms: Option<f64>,
    max_ms: Option<f64>,
    samples: usize,
}

impl Serialize for Samples {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Memory(kib) => serializer.serialize_newtype_struct("kib", kib),
            Self::Times(times) => Figures {
                p50_ms: self.percentile(50).map(ms),
                p99_ms: self.percentile(99).map(ms),
                min_ms: times.first().copied().map(ms),
                max_ms: times.last().copied().map(ms),
                samples: times.len(),
            }
            .serialize(serializer),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What the project promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Goal {
    /// Median in milliseconds.
    MiddleMs(u64),
    /// 99th percentile in milliseconds.
    TailMs(u64),
    /// Memory.
    MiB(u64),
    /// At least so many times faster than the other way, in the same run.
    Times(u64),
    /// The median is at most so many milliseconds above the other one, in the same run.
    AddsMs(u64),
    /// The median is at most so many percent of the other one, in the same run.
    AtMostPercent(u64),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What.
    pub title: String,
    /// Ours.
    pub own: Samples,
    /// What a window is spent on: freeze, cut, thaw, in milliseconds.
    pub parts: String,
    /// What it should be.
    pub goals: Vec<Goal>,
    /// The same without expedited grace periods.
    pub plain: Option<Samples>,
    /// What that should be.
    pub plain_goals: Vec<Goal>,
    /// The other way, measured in the same run.
    pub other: Option<Samples>,
    /// What windows are made of.
    pub phases: Option<Phases>,
    /// The same without expedited grace periods.
    pub plain_phases: Option<Phases>,
    /// What the kernel alone takes, in the same run.
    pub floor: Option<Samples>,
    /// The same without expedited grace periods.
    pub plain_floor: Option<Samples>,
}

impl Row {
    /// A line of times, without anything beside it.
    pub fn times(title: impl Into<String>, own: Vec<Duration>, goals: Vec<Goal>) -> Self {
        Self {
            title: title.into(),
            own: Samples::times(own),
            parts: String::new(),
            goals,
            plain: None,
            plain_goals: vec![],
            other: None,
            phases: None,
            plain_phases: None,
            floor: None,
            plain_floor: None,
        }
    }

    /// Lines of the table of phases: with expedited grace periods, and without.
    pub fn phase_cells(&self) -> Vec<Vec<String>> {
        let line = |title: String, own: &Samples, phases: &Phases, floor: Option<&Samples>| {
            let floor_time = floor.map_or(String::new(), |floor| {
                format!("{} / {}", time(floor.percentile(50)), time(floor.percentile(99)))
            });
            let ratio = floor.and_then(|floor| factor(floor, own));
            let window = format!("{} / {}", time(own.percentile(50)), time(own.percentile(99)));
            let first =
                [title, window, floor_time, ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x"))];
            first.into_iter().chain(phases.cells()).collect()
        };
        let own = self
            .phases
            .as_ref()
            .map(|phases| line(self.title.clone(), &self.own, phases, self.floor.as_ref()));
        let plain = self.plain.as_ref().zip(self.plain_phases.as_ref()).map(|(plain, phases)| {
            line(format!("{}, plain RCU", self.title), plain, phases, self.plain_floor.as_ref())
        });
        own.into_iter().chain(plain).collect()
    }

    /// The goals in words, each with whether it is met.
    pub fn goals(&self) -> String {
        let own = self.goals.iter().map(|goal| self.goal(*goal, &self.own));
        own.collect::<Vec<_>>().join(", ")
    }

    /// The goals of the plain column.
    pub fn plain_goals(&self) -> String {
        let Some(plain) = &self.plain else { return String::new() };
        self.plain_goals.iter().map(|goal| self.goal(*goal, plain)).collect::<Vec<_>>().join(", ")
    }

    fn goal(&self, goal: Goal, samples: &Samples) -> String {
        let (text, is_met) = match goal {
            Goal::MiddleMs(limit) => (format!("p50 ≤ {limit}"), within(samples.percentile(50), limit)),
            Goal::TailMs(limit) => (format!("p99 ≤ {limit}"), within(samples.percentile(99), limit)),
            Goal::MiB(limit) => {
                let met = matches!(samples, Samples::Memory(kib) if *kib <= limit << 10);
                (format!("≤ {limit} MiB"), met)
            }
            Goal::AddsMs(limit) => {
                let added = self.added();
                let met = added.is_some_and(|added| added <= Duration::from_millis(limit));
                (format!("p50 +{:.2}, ≤ +{limit}", ms(added.unwrap_or_default())), met)
            }
            Goal::AtMostPercent(most) => {
                let share = self.factor().map_or(f64::INFINITY, |factor| 100.0 / factor);
                let limit = f64::from(u32::try_from(most).unwrap_or(u32::MAX));
                (format!("{share:.0} %, ≤ {most} %"), share <= limit)
            }
            Goal::Times(least) => {
                let met = self
                    .factor()
                    .is_some_and(|factor| factor >= f64::from(u32::try_from(least).unwrap_or(u32::MAX)));
                (format!("≥ {least}x"), met)
            }
        };
        format!("{text} {}", if is_met { "✓" } else { "✗" })
    }

    /// What this has more than the other.
    fn added(&self) -> Option<Duration> {
        let other = self.other.as_ref()?.percentile(50)?;
        Some(self.own.percentile(50)?.saturating_sub(other))
    }

    fn factor(&self) -> Option<f64> {
        factor(&self.own, self.other.as_ref()?)
    }

    /// How many times longer the other way took.
    pub fn ratio(&self) -> String {
        self.factor().map_or(String::new(), |factor| format!("{factor:.1}x"))
    }

    /// Everything, for a table.
    pub fn cells(&self) -> [String; 10] {
        let [middle, tail] = match &self.own {
            Samples::Times(_) => [time(self.own.percentile(50)), time(self.own.percentile(99))],
            Samples::Memory(kib) => {
                [format!("{}.{} MiB", kib >> 10, ((kib & 1023) * 10) >> 10), String::new()]
            }
        };
        let of_plain = |percent| self.plain.as_ref().and_then(|plain| plain.percentile(percent));
        [
            self.title.clone(),
            middle,
            tail,
            self.parts.clone(),
            self.goals(),
            time(of_plain(50)),
            time(of_plain(99)),
            self.plain_goals(),
            self.other.as_ref().map_or(String::new(), |other| time(other.percentile(50))),
            self.ratio(),
        ]
    }
}

/// Heads of [`Row::cells`].
pub const HEADER: [&str; 10] = [
    "ms",
    "p50",
    "p99",
    "freeze / cut / thaw",
    "goal",
    "plain RCU p50",
    "p99",
    "goal",
    "script p50",
    "ratio",
];

/// One thing done in four ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// What.
    pub title: String,
    /// Ours.
    pub own: Samples,
    /// fsfreeze and a subvolume snapshot.
    pub subvolume: Option<Samples>,
    /// fsfreeze and a reflink.
    pub reflink: Option<Samples>,
    /// An archive of the live directory.
    pub tar: Option<Samples>,
}

impl Comparison {
    /// Everything, for a table.
    pub fn cells(&self) -> [String; 5] {
        let other = |samples: &Option<Samples>| match samples {
            None => "–".to_owned(),
            Some(samples) => {
                let ratio =
                    factor(&self.own, samples).map_or(String::new(), |factor| format!(" ({factor:.1}x)"));
                format!("{}{ratio}", time(samples.percentile(50)))
            }
        };
        [
            self.title.clone(),
            time(self.own.percentile(50)),
            other(&self.subvolume),
            other(&self.reflink),
            other(&self.tar),
        ]
    }
}

/// Heads of [`Comparison::cells`].
pub const WAYS: [&str; 5] = [
    "ms, p50",
    "Stillpoint",
    "fsfreeze + subvolume snapshot",
    "fsfreeze + cp --reflink",
    "tar, not consistent",
];

fn factor(own: &Samples, other: &Samples) -> Option<f64> {
    let own = own.percentile(50)?.as_secs_f64();
    let other = other.percentile(50)?.as_secs_f64();
    (own > 0.0).then(|| other / own)
}

fn within(time: Option<Duration>, limit_ms: u64) -> bool {
    time.is_some_and(|time| time <= Duration::from_millis(limit_ms))
}

fn time(time: Option<Duration>) -> String {
    time.map_or(String::new(), |time| format!("{:.2}", ms(time)))
}

/// Heads of [`Row::phase_cells`].
pub fn phase_header() -> Vec<&'static str> {
    [["ms", "window p50 / p99", "kernel alone p50 / p99", "ratio p50"].as_slice(), &PARTS].concat()
}

/// What the columns of the table of phases mean.
pub const PHASE_LEGEND: &str = "Parts of a window, one after another: p50 / p99 / that part of the longest window. \
Each kind of work lasts from the first member that begins to the last one that ends; what is called after orders is \
messages, threads, the guard and the state machines between two kinds of work. kernel alone: FIFREEZE, the btrfs snapshot \
and FITHAW of the same volumes in this run, a thread per volume, without Stillpoint.";

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Results {
    /// Windows, calls, memory.
    pub rows: Vec<Row>,
    /// Side by side with scripts.
    pub ways: Vec<Comparison>,
}

/// What the columns mean.
pub const LEGEND: &str = "freeze / cut / thaw: medians of the slowest member. script, for windows: fsfreeze -f each, \
btrfs subvolume snapshot each, fsfreeze -u each, in this run; first freeze to last thaw.";

/// The tables for a terminal.
pub fn render(results: &Results) -> String {
    let mut rows = with_header(&HEADER);
    for row in &results.rows {
        rows.add_row(row.cells());
    }
    right_align(&mut rows, [1, 2, 3, 5, 6, 8, 9]);
    let mut ways = with_header(&WAYS);
    for way in &results.ways {
        ways.add_row(way.cells());
    }
    right_align(&mut ways, 1..5);
    let mut phases = with_header(&phase_header());
    for row in &results.rows {
        for cells in row.phase_cells() {
            phases.add_row(cells);
        }
    }
    right_align(&mut phases, 1..phase_header().len());
    format!("{rows}\n{LEGEND}\n{phases}\n{PHASE_LEGEND}\n{ways}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(times: &[u64], goals: Vec<Goal>) -> Row {
        let times: Vec<_> = times.iter().map(|time| Duration::from_millis(*time)).collect();
        let other = Some(Samples::times(vec![Duration::from_millis(200)]));
        Row { other, plain: Some(Samples::times(times.clone())), ..Row::times("t", times, goals) }
    }

    #[test]
    fn percentiles_are_of_the_samples() {
        let samples = Samples::times((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(samples.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(samples.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(samples.spread(), "1.00 – 100.00, n 100");
        assert_eq!(Samples::times(vec![]).percentile(50), None);
    }

    #[test]
    fn a_goal_that_is_missed_is_said_to_be_missed() {
        let goals = |goals| row(&[10, 20, 90], goals).goals();
        assert_eq!(goals(vec![Goal::MiddleMs(20), Goal::TailMs(20)]), "p50 ≤ 20 ✓, p99 ≤ 20 ✗");
        assert_eq!(goals(vec![Goal::Times(10), Goal::Times(11)]), "≥ 10x ✓, ≥ 11x ✗");
        assert_eq!(row(&[10, 20, 90], vec![]).ratio(), "10.0x");
        let plain = Row { plain_goals: vec![Goal::TailMs(90)], ..row(&[10, 20, 90], vec![]) };
        assert_eq!(plain.plain_goals(), "p99 ≤ 90 ✓");
    }

    #[test]
    fn what_may_only_be_a_little_more_than_the_other_is_compared_with_it() {
        let goals = |times: &[u64], goal| row(times, vec![goal]).goals();
        assert_eq!(goals(&[205], Goal::AddsMs(10)), "p50 +5.00, ≤ +10 ✓");
        assert_eq!(goals(&[211], Goal::AddsMs(10)), "p50 +11.00, ≤ +10 ✗");
        assert_eq!(goals(&[240], Goal::AtMostPercent(120)), "120 %, ≤ 120 % ✓");
        assert_eq!(goals(&[250], Goal::AtMostPercent(120)), "125 %, ≤ 120 % ✗");
    }

    #[test]
    fn figures_are_written_in_milliseconds() {
        let json = serde_json::to_value(row(&[10, 20, 90], vec![Goal::MiddleMs(20)])).unwrap();
        assert_eq!(json["own"]["p50_ms"], 20.0);
        assert_eq!(json["own"]["samples"], 3);
        assert_eq!(json["goals"][0]["MiddleMs"], 20);
    }
}
