//! What is measured, as a line of the main table.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::phases::Phases;
use super::rival::Rival;

/// With fewer samples a 99th percentile is just the longest one, and is called so.
const ENOUGH_FOR_P99: usize = 100;

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

    /// The 99th percentile where there are enough samples for one, else the longest.
    pub fn tail(&self) -> Option<Duration> {
        self.percentile(if self.has_percentile() { 99 } else { 100 })
    }

    /// What [`Self::tail`] is.
    pub fn tail_name(&self) -> &'static str {
        if self.has_percentile() { "p99" } else { "max" }
    }

    fn has_percentile(&self) -> bool {
        matches!(self, Self::Times(times) if times.len() >= ENOUGH_FOR_P99)
    }

    /// The tail as text, named where it is not the percentile that the column says.
    fn tail_cell(&self) -> String {
        match (self.tail(), self.has_percentile()) {
            (None, _) => String::new(),
            (tail, true) => time(tail),
            (tail, false) => format!("max {}", time(tail)),
        }
    }

    /// Median and longest as text.
    pub fn middle_and_longest(&self) -> String {
        match self.percentile(100) {
            None => String::new(),
            longest => format!("{} / {}", self.middle(), time(longest)),
        }
    }

    /// Median and tail as text.
    pub fn middle_and_tail(&self) -> String {
        format!("{} / {}", self.middle(), self.tail_cell())
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
                p99_ms: self.has_percentile().then(|| self.percentile(99)).flatten().map(ms),
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
    /// 99th percentile in milliseconds; the longest where there are fewer than a hundred samples.
    TailMs(u64),
    /// Memory.
    MiB(u64),
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
    /// Everybody else who did the same, in the same rounds.
    pub rivals: Vec<(Rival, Samples)>,
    /// What the caller gets besides, that the other way does not give.
    pub besides: &'static str,
    /// What pauses are made of.
    pub phases: Option<Phases>,
    /// The same without expedited grace periods.
    pub plain_phases: Option<Phases>,
    /// What the kernel alone takes without expedited grace periods.
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
            rivals: vec![],
            besides: "",
            phases: None,
            plain_phases: None,
            plain_floor: None,
        }
    }

    /// How long somebody else took.
    pub fn rival(&self, rival: Rival) -> Option<&Samples> {
        self.rivals.iter().find(|(known, _)| *known == rival).map(|(_, samples)| samples)
    }

    /// The script with the shortest median.
    pub fn best_script(&self) -> Option<(Rival, &Samples)> {
        let scripts = self.rivals.iter().filter(|(rival, _)| rival.is_script());
        let best = scripts.min_by_key(|(_, samples)| samples.percentile(50));
        best.map(|(rival, samples)| (*rival, samples))
    }

    /// A line of the table of rivals.
    pub fn rival_cells(&self) -> Option<Vec<String>> {
        if self.rivals.is_empty() {
            return None;
        }
        let cell = |rival: &Rival| self.rival(*rival).map_or("–".into(), Samples::middle_and_tail);
        let first = [self.title.clone(), self.own.middle_and_tail()];
        let best = self.best_script().map_or(String::new(), |(rival, _)| rival.title().to_owned());
        Some(first.into_iter().chain(Rival::ALL.iter().map(cell)).chain([best]).collect())
    }

    /// Lines of the table of phases: with expedited grace periods, and without.
    pub fn phase_cells(&self) -> Vec<Vec<String>> {
        let line = |title: String, own: &Samples, phases: &Phases, floor: Option<&Samples>| {
            let floor_time = floor.map_or(String::new(), Samples::middle_and_tail);
            let ratio = floor.and_then(|floor| factor(floor, own));
            let window = own.middle_and_tail();
            let first =
                [title, window, floor_time, ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x"))];
            first.into_iter().chain(phases.cells()).collect()
        };
        let own = self
            .phases
            .as_ref()
            .map(|phases| line(self.title.clone(), &self.own, phases, self.rival(Rival::Kernel)));
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
            Goal::TailMs(limit) => {
                (format!("{} ≤ {limit}", samples.tail_name()), within(samples.tail(), limit))
            }
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
    pub fn cells(&self) -> [String; 11] {
        let [middle, tail] = match &self.own {
            Samples::Times(_) => [time(self.own.percentile(50)), self.own.tail_cell()],
            Samples::Memory(kib) => {
                [format!("{}.{} MiB", kib >> 10, ((kib & 1023) * 10) >> 10), String::new()]
            }
        };
        [
            self.title.clone(),
            middle,
            tail,
            self.parts.clone(),
            self.goals(),
            self.plain.as_ref().map_or(String::new(), Samples::middle),
            self.plain.as_ref().map_or(String::new(), Samples::tail_cell),
            self.plain_goals(),
            self.other.as_ref().map_or(String::new(), |other| time(other.percentile(50))),
            self.ratio(),
            self.besides.into(),
        ]
    }
}

/// Heads of [`Row::cells`].
pub const HEADER: [&str; 11] = [
    "ms",
    "p50",
    "p99",
    "freeze / snapshot / thaw",
    "goal",
    "plain RCU p50",
    "p99",
    "goal",
    "best script p50",
    "ratio",
    "what the caller also gets",
];

/// How many times longer the other way takes.
pub fn factor(own: &Samples, other: &Samples) -> Option<f64> {
    let own = own.percentile(50)?.as_secs_f64();
    let other = other.percentile(50)?.as_secs_f64();
    (own > 0.0).then(|| other / own)
}

fn within(time: Option<Duration>, limit_ms: u64) -> bool {
    time.is_some_and(|time| time <= Duration::from_millis(limit_ms))
}

/// In milliseconds.
pub fn time(time: Option<Duration>) -> String {
    time.map_or(String::new(), |time| format!("{:.2}", ms(time)))
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
        assert_eq!((samples.tail_name(), samples.tail_cell()), ("p99", "99.00".into()));
        let few = Samples::times((1..=99).map(Duration::from_millis).collect());
        assert_eq!((few.tail_name(), few.tail_cell()), ("max", "max 99.00".into()));
        assert_eq!(serde_json::to_value(few).unwrap()["p99_ms"], serde_json::Value::Null);
    }

    #[test]
    fn a_goal_that_is_missed_is_said_to_be_missed() {
        let goals = |goals| row(&[10, 20, 90], goals).goals();
        assert_eq!(goals(vec![Goal::MiddleMs(20), Goal::TailMs(20)]), "p50 ≤ 20 ✓, max ≤ 20 ✗");
        assert_eq!(row(&[10, 20, 90], vec![]).ratio(), "10.0x");
        let plain = Row { plain_goals: vec![Goal::TailMs(90)], ..row(&[10, 20, 90], vec![]) };
        assert_eq!(plain.plain_goals(), "max ≤ 90 ✓");
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

    #[test]
    fn goals_are_measured_against_the_best_script_and_never_against_the_kernel() {
        let samples = |ms| Samples::times(vec![Duration::from_millis(ms)]);
        let rivals = vec![
            (Rival::Serial, samples(300)),
            (Rival::Parallel, samples(30)),
            (Rival::ParallelTogether, samples(20)),
            (Rival::Kernel, samples(5)),
        ];
        let row = Row { rivals, ..row(&[25], vec![]) };
        assert_eq!(row.best_script(), Some((Rival::ParallelTogether, &samples(20))));
        assert!(row.rival_cells().unwrap().contains(&"300.00 / max 300.00".to_owned()));
        assert_eq!(Row { rivals: vec![], ..row }.rival_cells(), None);
    }
}
