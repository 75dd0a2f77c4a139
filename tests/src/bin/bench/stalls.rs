//! The table of write stalls.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::table::Samples;

/// The longest operation of any writer within a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// From the write to the end of its sync.
    pub whole: Duration,
    /// The part of it in which its thread was ready and had no processor.
    pub unscheduled: Duration,
    /// The longest operation of the writer in memory, in the same stretch.
    pub in_memory: Duration,
}

/// One round: a stretch without a snapshot, then a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Without a snapshot.
    pub usual: Stall,
    /// During the whole call.
    pub during: Stall,
    /// From the first quiesce to the last resume.
    pub pause: Duration,
}

impl Round {
    /// What the snapshot added beyond its pause.
    fn excess(&self) -> Duration {
        self.during.whole.saturating_sub(self.usual.whole + self.pause)
    }
}

/// Rounds of one way under one load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalls {
    /// What.
    pub title: String,
    /// What the caller also gets.
    pub besides: &'static str,
    /// Whether the project promises something.
    pub has_goal: bool,
    /// Its rounds.
    pub rounds: Vec<Round>,
}

/// The tail may be longer than the usual longest stall and the pause by so much.
const TAIL: Duration = Duration::from_millis(20);

/// Heads of [`Stalls::cells`].
pub const HEADER: [&str; 9] = [
    "ms, p50 / max",
    "usual longest",
    "longest during a snapshot",
    "pause",
    "more than both",
    "of the longest: no processor",
    "usual, in memory",
    "during, in memory",
    "goal",
];

/// What the columns mean.
pub const LEGEND: &str = "A writer on each of 16 volumes writes 4 KiB and syncs it, every millisecond; the longest of all these \
operations in a round. usual longest: in a stretch as long as the snapshot's whole call, just before it. more than both: what is \
left of the longest during a snapshot without the usual longest and the pause. no processor: for so long the writer of that \
operation was ready and not scheduled. in memory: the longest operation of a writer on tmpfs, which waits for no storage. \
Goal: nothing left at p50, at most 20 ms at the tail.";

impl Stalls {
    /// The samples of one column.
    fn samples(&self, of: impl Fn(&Round) -> Duration) -> Samples {
        Samples::times(self.rounds.iter().map(of).collect())
    }

    fn excess(&self) -> Samples {
        self.samples(Round::excess)
    }

    /// The goal in words, with whether it is met.
    pub fn goal(&self) -> String {
        if !self.has_goal {
            return String::new();
        }
        let excess = self.excess();
        let mark = |met: bool| if met { "✓" } else { "✗" };
        let middle = excess.percentile(50).is_some_and(|time| time.is_zero());
        let tail = excess.tail().is_some_and(|time| time <= TAIL);
        format!("p50 ≤ 0 {}, {} ≤ {} {}", mark(middle), excess.tail_name(), TAIL.as_millis(), mark(tail))
    }

    /// Everything, for a table.
    pub fn cells(&self) -> [String; 9] {
        let cell = |of: fn(&Round) -> Duration| self.samples(of).middle_and_longest();
        [
            self.title.clone(),
            cell(|round| round.usual.whole),
            cell(|round| round.during.whole),
            cell(|round| round.pause),
            cell(Round::excess),
            cell(|round| round.during.unscheduled),
            cell(|round| round.usual.in_memory),
            cell(|round| round.during.in_memory),
            self.goal(),
        ]
    }
}

impl Serialize for Stalls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::json!({
            "title": self.title,
            "usual": self.samples(|round| round.usual.whole),
            "during": self.samples(|round| round.during.whole),
            "pause": self.samples(|round| round.pause),
            "more_than_both": self.excess(),
            "no_processor": self.samples(|round| round.during.unscheduled),
            "in_memory_usual": self.samples(|round| round.usual.in_memory),
            "in_memory_during": self.samples(|round| round.during.in_memory),
            "goal": self.goal(),
        })
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(usual: u64, during: u64, pause: u64) -> Round {
        let stall = |ms| Stall {
            whole: Duration::from_millis(ms),
            unscheduled: Duration::ZERO,
            in_memory: Duration::from_millis(1),
        };
        Round { usual: stall(usual), during: stall(during), pause: Duration::from_millis(pause) }
    }

    #[test]
    fn a_stall_beyond_the_usual_and_the_pause_misses_the_goal() {
        let stalls = |rounds: &[Round]| Stalls {
            title: "t".into(),
            besides: "",
            has_goal: true,
            rounds: rounds.to_vec(),
        };
        assert_eq!(stalls(&[round(10, 25, 20), round(10, 49, 20)]).goal(), "p50 ≤ 0 ✓, max ≤ 20 ✓");
        assert_eq!(stalls(&[round(10, 25, 20), round(10, 51, 20)]).goal(), "p50 ≤ 0 ✓, max ≤ 20 ✗");
        assert_eq!(stalls(&[round(10, 31, 20)]).goal(), "p50 ≤ 0 ✗, max ≤ 20 ✓");
        assert_eq!(stalls(&[round(10, 25, 20)]).cells()[2], "25.00 / 25.00");
    }
}
