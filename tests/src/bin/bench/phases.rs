//! Where a window goes, from its timeline.

use serde::{Serialize, Serializer};
use stillpoint::domain::timeline::{Phase, Timeline};

use super::table::Samples;
use std::time::Duration;

/// The parts of a pause, one after another: together they are the pause.
pub const PARTS: [&str; 6] =
    ["order to quiesce", "freeze", "order to snapshot", "snapshot", "order to resume", "thaw"];

/// The parts of many windows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phases {
    /// Microseconds of each part, per window.
    windows: Vec<[u64; PARTS.len()]>,
}

impl Phases {
    /// Takes a window apart: each kind of work lasts from the first member that begins to the last one that ends, on
    /// the controller's clock, and between two kinds are messages, threads and state machines.
    pub fn add(&mut self, timeline: &Timeline) {
        let lanes = || timeline.hosts.iter().flat_map(|host| &host.volumes).flat_map(|lane| &lane.spans);
        let of = |phase: Phase| lanes().filter(move |span| span.phase == phase);
        let mut at = 0;
        let mut parts = [0; PARTS.len()];
        for (index, phase) in [Phase::Freeze, Phase::Cut, Phase::Thaw].into_iter().enumerate() {
            let first = of(phase).map(|span| span.start_us).min().unwrap_or(at);
            let last = of(phase).map(|span| span.end_us).max().unwrap_or(at);
            // Clocks of several hosts are aligned up to an error, so that a part may seem to begin before its order.
            parts[2 * index] = u64::try_from(first - at).unwrap_or(0);
            parts[2 * index + 1] = u64::try_from(last - first.max(at)).unwrap_or(0);
            at = last.max(at);
        }
        self.windows.push(parts);
    }

    /// p50 and tail of each part, and the parts of the longest window: what its tail is made of.
    pub fn cells(&self) -> Vec<String> {
        let longest = self.windows.iter().max_by_key(|parts| parts.iter().sum::<u64>());
        let part = |index: usize| {
            let samples = self.part(index);
            let worst = longest.map_or(String::new(), |parts| in_ms(Duration::from_micros(parts[index])));
            format!("{} / {worst}", samples.middle_and_tail())
        };
        (0..PARTS.len()).map(part).collect()
    }

    fn part(&self, index: usize) -> Samples {
        Samples::times(self.windows.iter().map(|parts| Duration::from_micros(parts[index])).collect())
    }
}

fn in_ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}

impl Serialize for Phases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(PARTS.iter().enumerate().map(|(index, name)| (name, self.part(index))))
    }
}

#[cfg(test)]
mod tests {
    use stillpoint::domain::timeline::{HostLane, Span, VolumeLane};
    use stillpoint::domain::{Incarnation, PoolId, VolumeId};

    use super::*;

    fn timeline(members: &[[(i64, i64); 3]]) -> Timeline {
        let lane = |spans: &[(i64, i64); 3]| VolumeLane {
            volume: VolumeId::new(PoolId::from_random([1; 6]), "v", Incarnation(1)),
            name: "v".into(),
            spans: [Phase::Freeze, Phase::Cut, Phase::Thaw]
                .into_iter()
                .zip(spans)
                .map(|(phase, (start_us, end_us))| Span { phase, start_us: *start_us, end_us: *end_us })
                .collect(),
        };
        let volumes = members.iter().map(lane).collect();
        let hosts = vec![HostLane { host: "a".parse().unwrap(), clock_error_us: 0, volumes }];
        Timeline { hosts, ..Timeline::default() }
    }

    #[test]
    fn the_parts_of_a_window_are_the_window() {
        let mut phases = Phases::default();
        phases.add(&timeline(&[
            [(100, 1_000), (1_500, 2_000), (2_300, 2_310)],
            [(200, 1_200), (1_400, 2_100), (2_200, 2_400)],
        ]));
        assert_eq!(phases.windows, [[100, 1_100, 200, 700, 100, 200]]);
        assert_eq!(phases.windows[0].iter().sum::<u64>(), 2_400);
        assert_eq!(phases.cells()[1], "1.10 / max 1.10 / 1.10");
        let json = serde_json::to_value(&phases).unwrap();
        assert_eq!(json["snapshot"]["p50_ms"], 0.7);
    }

    #[test]
    fn the_longest_window_is_shown_as_it_was() {
        let mut phases = Phases::default();
        phases.add(&timeline(&[[(0, 1_000), (1_000, 2_000), (2_000, 2_000)]]));
        phases.add(&timeline(&[[(0, 500), (500, 9_000), (9_000, 9_000)]]));
        assert_eq!(phases.cells()[1], "0.50 / max 1.00 / 0.50");
        assert_eq!(phases.cells()[3], "1.00 / max 8.50 / 8.50");
    }
}
