//! The table.

use std::time::Duration;

use stillpoint::observe::table::{right_align, with_header};

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
        self.percentile(50).map_or(String::new(), |time| format!("{:.2}", time.as_secs_f64() * 1000.0))
    }

    /// The smallest time that is not shorter than this share of all, in percent.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        match self {
            Self::Times(times) => times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied(),
            Self::Memory(_) => None,
        }
    }
}

/// What the project promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Nothing.
    None,
    /// Median in milliseconds.
    MiddleMs(u64),
    /// 99th percentile in milliseconds.
    TailMs(u64),
    /// Memory.
    MiB(u64),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What.
    pub title: String,
    /// Ours.
    pub own: Samples,
    /// What a window is spent on.
    pub parts: String,
    /// What it should be.
    pub goal: Goal,
    /// The other way, measured in the same run.
    pub other: Option<Samples>,
}

impl Row {
    fn goal(&self) -> String {
        let (text, is_met) = match (self.goal, &self.own) {
            (Goal::MiddleMs(limit), own) => (format!("p50 ≤ {limit} ms"), within(own.percentile(50), limit)),
            (Goal::TailMs(limit), own) => (format!("p99 ≤ {limit} ms"), within(own.percentile(99), limit)),
            (Goal::MiB(limit), Samples::Memory(kib)) => (format!("≤ {limit} MiB"), *kib <= limit << 10),
            (Goal::None, _) | (Goal::MiB(_), Samples::Times(_)) => return String::new(),
        };
        format!("{text} {}", if is_met { "✓" } else { "✗" })
    }

    /// How many times longer the other way took.
    fn ratio(&self) -> String {
        let middle = |samples: &Samples| samples.percentile(50).map(|time| time.as_secs_f64());
        match (middle(&self.own), self.other.as_ref().and_then(middle)) {
            (Some(own), Some(other)) if own > 0.0 => format!("{:.1}x", other / own),
            (Some(_) | None, _) => String::new(),
        }
    }

    fn cells(&self) -> [String; 7] {
        let [middle, tail] = match &self.own {
            Samples::Times(_) => [time(self.own.percentile(50)), time(self.own.percentile(99))],
            Samples::Memory(kib) => {
                [format!("{}.{} MiB", kib >> 10, ((kib & 1023) * 10) >> 10), String::new()]
            }
        };
        let other = self.other.as_ref().map_or(String::new(), |other| time(other.percentile(50)));
        [self.title.clone(), middle, tail, self.parts.clone(), self.goal(), other, self.ratio()]
    }
}

fn within(time: Option<Duration>, limit_ms: u64) -> bool {
    time.is_some_and(|time| time <= Duration::from_millis(limit_ms))
}

fn time(time: Option<Duration>) -> String {
    time.map_or(String::new(), |time| format!("{:.2} ms", time.as_secs_f64() * 1000.0))
}

/// The whole table.
pub fn render(rows: &[Row]) -> String {
    let mut table = with_header(&["", "p50", "p99", "freeze / cut / thaw", "goal", "other p50", "ratio"]);
    for row in rows {
        table.add_row(row.cells());
    }
    right_align(&mut table, [1, 2, 3, 5, 6]);
    format!(
        "{table}\nfreeze / cut / thaw: medians of the slowest member, ms. other, for windows: a script in this run:\n\
         fsfreeze -f each, btrfs subvolume snapshot each, fsfreeze -u each; first freeze to last thaw."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(times: &[u64], goal: Goal) -> Row {
        let own = Samples::times(times.iter().map(|ms| Duration::from_millis(*ms)).collect());
        let other = Some(Samples::times(vec![Duration::from_millis(200)]));
        Row { title: "t".into(), own, parts: String::new(), goal, other }
    }

    #[test]
    fn percentiles_are_of_the_samples() {
        let samples = Samples::times((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(samples.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(samples.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(Samples::times(vec![]).percentile(50), None);
    }

    #[test]
    fn a_goal_that_is_missed_is_said_to_be_missed() {
        assert_eq!(row(&[10, 20, 90], Goal::MiddleMs(20)).goal(), "p50 ≤ 20 ms ✓");
        assert_eq!(row(&[10, 20, 90], Goal::TailMs(20)).goal(), "p99 ≤ 20 ms ✗");
        assert_eq!(row(&[10, 20, 90], Goal::MiddleMs(20)).ratio(), "10.0x");
    }
}
