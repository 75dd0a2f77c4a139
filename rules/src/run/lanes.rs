//! What was done in pods, as lanes of a timeline.

use serde::{Deserialize, Serialize};

use crate::plan::Action;

use super::Run;

/// One pod's part in a timeline. Instants in microseconds relative to the first hold requested (to the start of
/// the run where nothing was held); negative for what came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLane {
    /// `namespace/name`.
    pub pod: String,
    /// Its host.
    pub host: String,
    /// By start.
    pub spans: Vec<PodSpan>,
}

/// One thing that was done in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpan {
    /// The step.
    pub step: String,
    /// What.
    pub action: Action,
    /// Start.
    pub start_us: i64,
    /// End.
    pub end_us: i64,
    /// Whether it failed.
    pub failed: bool,
}

impl Run {
    /// A lane per pod, for a timeline.
    pub fn lanes(&self) -> Vec<PodLane> {
        let origin = self.cut.as_ref().map_or(self.started_at, |cut| cut.hold_requested_at);
        let mut lanes: Vec<PodLane> = Vec::new();
        for attempt in &self.attempts {
            let start_us = attempt.started_at.as_microsecond() - origin.as_microsecond();
            let length = i64::try_from(attempt.duration_us).unwrap_or(i64::MAX);
            let span = PodSpan {
                step: attempt.step.clone(),
                action: attempt.action,
                start_us,
                end_us: start_us.saturating_add(length),
                failed: attempt.error.is_some(),
            };
            let pod = format!("{}/{}", attempt.target.namespace, attempt.target.pod);
            match lanes.iter_mut().find(|lane| lane.pod == pod) {
                Some(lane) => lane.spans.push(span),
                None => lanes.push(PodLane { pod, host: attempt.host.clone(), spans: vec![span] }),
            }
        }
        for lane in &mut lanes {
            lane.spans.sort_by_key(|span| span.start_us);
        }
        lanes.sort_by(|a, b| a.pod.cmp(&b.pod));
        lanes
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::ports::{PodTarget, StorageLevel};
    use crate::run::{Attempt, CutOutcome};

    #[test]
    fn lanes_are_relative_to_the_hold_and_joined_by_pod() {
        let at = |us| Timestamp::from_microsecond(us).unwrap();
        let mut run = Run::new("cut", Some("rule"), at(1_000));
        let attempt = |pod: &str, action, start, length| Attempt {
            step: "s".into(),
            action,
            target: PodTarget {
                namespace: "n".into(),
                pod: pod.into(),
                uid: "u".into(),
                container: "c".into(),
            },
            host: "h".into(),
            number: 1,
            command: "x".into(),
            started_at: at(start),
            duration_us: length,
            exit_code: Some(0),
            http_status: None,
            held_after_us: None,
            output: String::new(),
            omitted_bytes: 0,
            error: None,
            fault: None,
        };
        run.attempts = vec![
            attempt("b", Action::Before, 2_000, 500),
            attempt("a", Action::After, 9_000, 10),
            attempt("a", Action::Before, 2_500, 500),
        ];
        run.cut = Some(CutOutcome {
            id: "c".into(),
            sealed: true,
            level: StorageLevel::Filesystem,
            hold_requested_at: at(5_000),
            window_us: 10,
            skew_us: 1,
        });
        let lanes = run.lanes();
        assert_eq!(lanes.iter().map(|lane| lane.pod.as_str()).collect::<Vec<_>>(), ["n/a", "n/b"]);
        let spans: Vec<_> = lanes[0].spans.iter().map(|span| (span.start_us, span.end_us)).collect();
        assert_eq!(spans, [(-2_500, -2_000), (4_000, 4_010)]);
    }
}
