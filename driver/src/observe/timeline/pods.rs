//! Lanes of pods, from the record of a run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stillpoint_rules::plan::Action;
use stillpoint_rules::run::{Attempt, Run};

use super::{Moment, PodCommand, PodLane};

/// A lane for each pod in which something was done, in the order of the rule; instants relative to the first hold
/// requested, or to the start of the run where nothing was held.
pub fn lanes(run: &Run) -> Vec<PodLane> {
    let origin = run.cut.as_ref().map_or(run.started_at, |cut| cut.hold_requested_at);
    let mut attempts: Vec<&Attempt> = run.attempts.iter().collect();
    attempts.sort_by_key(|attempt| attempt.started_at);
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut lanes: Vec<PodLane> = Vec::new();
    for attempt in attempts {
        let target = &attempt.target;
        let pod = match target.namespace.as_str() {
            "" | "default" => target.pod.clone(),
            namespace => format!("{namespace}/{}", target.pod),
        };
        let place = *places.entry(pod.clone()).or_insert_with(|| {
            lanes.push(PodLane { pod, host: attempt.host.clone(), commands: Vec::new() });
            lanes.len() - 1
        });
        lanes[place].commands.push(command(attempt, origin));
    }
    lanes
}

fn command(attempt: &Attempt, origin: Timestamp) -> PodCommand {
    let start_us = attempt.started_at.as_microsecond().saturating_sub(origin.as_microsecond());
    let took = i64::try_from(attempt.duration_us).unwrap_or(i64::MAX);
    PodCommand {
        step: attempt.step.clone(),
        moment: match attempt.action {
            Action::Where | Action::Before => Moment::Before,
            Action::Hold => Moment::Hold,
            Action::After => Moment::After,
        },
        command: attempt.command.clone(),
        start_us,
        end_us: start_us.saturating_add(took),
        failure: attempt.error.clone().unwrap_or_default(),
    }
}
