//! Lanes of pods, from the record of a run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stillpoint_rules::plan::Action;
use stillpoint_rules::run::{Attempt, AttemptFault, Run};

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
        held_us: attempt.held_after_us.map(|after| start_us.saturating_add_unsigned(after)),
        // One that answered to being let go, if only with an exit code, was there.
        lost: attempt.held_after_us.is_some()
            && attempt.fault.is_some_and(|fault| fault != AttemptFault::Answer),
        failure: attempt.error.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use stillpoint_rules::ports::PodTarget;

    use super::*;

    fn session(pod: &str, start: i64, held_after: Option<u64>, error: Option<&str>) -> Attempt {
        Attempt {
            step: "lock".into(),
            action: Action::Hold,
            target: PodTarget {
                namespace: "shop".into(),
                pod: pod.into(),
                uid: "u".into(),
                container: "c".into(),
            },
            host: "a".into(),
            number: 1,
            command: "mariadb".into(),
            started_at: Timestamp::from_microsecond(start).unwrap(),
            duration_us: 9_000,
            exit_code: None,
            http_status: None,
            held_after_us: held_after,
            output: String::new(),
            omitted_bytes: 0,
            error: error.map(str::to_owned),
            fault: error.map(|_| AttemptFault::Lost),
        }
    }

    #[test]
    fn sessions_have_the_instant_at_which_they_held_and_those_that_were_lost_are_known() {
        let mut run = Run::new("cut", Some("rule"), Timestamp::from_microsecond(1_000_000).unwrap());
        run.attempts = vec![
            session("db-0", 1_000_100, Some(2_000), None),
            session("db-1", 1_000_200, Some(2_500), Some("it ended")),
            session("db-2", 1_000_300, None, Some("no lock for you")),
            session("db-3", 1_000_400, Some(2_600), Some("exit code 1")),
        ];
        run.attempts[3].fault = Some(AttemptFault::Answer);
        let lanes = lanes(&run);
        let told = |lane: &PodLane| (lane.pod.clone(), lane.commands[0].held_us, lane.commands[0].lost);
        assert_eq!(
            lanes.iter().map(told).collect::<Vec<_>>(),
            [
                ("shop/db-0".to_owned(), Some(2_100), false),
                ("shop/db-1".to_owned(), Some(2_700), true),
                ("shop/db-2".to_owned(), None, false),
                ("shop/db-3".to_owned(), Some(3_000), false),
            ]
        );
    }
}
