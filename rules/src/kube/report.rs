//! A run as people read it in the object's status. Pure: record in, status out.

use jiff::Timestamp;

use crate::failure::{Failure, FailureKind};
use crate::machine::{Phase, Stage};
use crate::run::{Attempt, Debt, Level, PodLane, Run};
use crate::text::clip_to;

use super::objects::{Condition, CutStatus, DebtStatus, FailureStatus, Lane, LaneSpan, PodResult, RunStatus};

/// Bytes of output of all pods together: the API server refuses objects over 1.5 MiB, and a run's record stands
/// beside the report while it runs.
const OUTPUT_TOTAL: usize = 256 * 1024;
/// Results of pods that are shown, the failed ones first.
const RESULTS: usize = 500;
/// Lanes that are shown.
const LANES: usize = 500;
/// One line for people.
const LINE: usize = 1000;

/// What is kept from an earlier status of the same object.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// Which attempt this is.
    pub attempt: u32,
    /// Conditions, for the times of their changes.
    pub conditions: Vec<Condition>,
    /// Lanes of volumes, which the engine does not know.
    pub lanes: Vec<Lane>,
}

/// The status of a run. `holder` conducts it.
pub fn status(
    run: &Run,
    before: &Before,
    holder: &str,
    now: Timestamp,
) -> Result<RunStatus, serde_json::Error> {
    let ended = run.phase.is_final();
    let record = if ended { None } else { Some(serde_json::to_value(slim(run))?) };
    let mut timeline: Vec<Lane> = run.lanes().into_iter().map(pod_lane).collect();
    timeline.extend(before.lanes.iter().cloned());
    timeline.truncate(LANES);
    Ok(RunStatus {
        phase: run.phase.stage().word().to_owned(),
        rule: run.rule.clone(),
        doing: doing(run),
        attempt: before.attempt,
        level: run.level.map(|level| level.word().to_owned()),
        reasons: lines(&run.reasons),
        message: message(run),
        failures: failures(&run.failures),
        ignored: failures(&run.ignored),
        session_skew_micros: run.session_skew_us,
        started_at: Some(run.started_at.to_string()),
        ended_at: run.ended_at.map(|at| at.to_string()),
        plan: run
            .plan
            .iter()
            .flat_map(|plan| plan.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect(),
        pods: results(&run.attempts),
        debts: run.debts.iter().map(debt).collect(),
        cut: run.cut.as_ref().map(|cut| CutStatus {
            id: cut.id.clone(),
            sealed: cut.sealed,
            storage_level: Level::from(cut.level).word().to_owned(),
            hold_requested_at: cut.hold_requested_at.to_string(),
            window_micros: cut.window_us,
            skew_micros: cut.skew_us,
        }),
        timeline,
        conditions: conditions(run, &before.conditions, now),
        identity: None,
        waiting_since: waiting_since(run),
        holder: (!ended).then(|| holder.to_owned()),
        renewed_at: (!ended).then(|| now.to_string()),
        record,
    })
}

/// What is still owed to the application.
pub fn unpaid(run: &Run) -> Vec<String> {
    run.owed().map(Debt::in_words).collect()
}

/// The record without what only people read: it must fit beside the report.
fn slim(run: &Run) -> Run {
    let mut run = run.clone();
    for attempt in &mut run.attempts {
        attempt.output = String::new();
    }
    run
}

pub(super) fn doing(run: &Run) -> String {
    let step = |index: usize| {
        let step = run.plan.as_ref().and_then(|plan| plan.steps.get(index));
        step.map_or_else(|| index.to_string(), |step| step.name.clone())
    };
    match run.phase {
        Phase::Pending => "nothing yet".to_owned(),
        Phase::Planning => "listing pods and volumes".to_owned(),
        Phase::Waiting => waiting(run),
        Phase::Choosing => "asking which pods are meant".to_owned(),
        Phase::Preparing(index) => format!("`before` of step {}", step(index)),
        Phase::Opening => "hosts prepare the cut".to_owned(),
        Phase::Taking(index) => format!("taking sessions of step {}", step(index)),
        Phase::Holding => "taking sessions".to_owned(),
        Phase::Cutting => "cutting".to_owned(),
        Phase::Checking => "asking sessions whether they held all along".to_owned(),
        Phase::Releasing => "letting sessions go".to_owned(),
        Phase::Sealing => "sealing the cut".to_owned(),
        Phase::Undoing(index) => format!("`after` of step {}", step(index)),
        Phase::Overdue => "trying again what is owed to the application".to_owned(),
        Phase::Succeeded | Phase::Failed => "ended".to_owned(),
    }
}

/// Its place in the order is kept while all that failed is that it waited too long.
fn waiting_since(run: &Run) -> Option<String> {
    let waits = run.phase == Phase::Waiting
        || run.failures.iter().any(|failure| failure.kind == FailureKind::Waiting);
    run.turn.as_ref().filter(|_| waits).map(|turn| turn.since.to_string())
}

fn waiting(run: &Run) -> String {
    match run.turn.as_ref().and_then(|turn| turn.waits_for.as_ref()) {
        Some(other) => format!("waiting for {other}"),
        None => "looking for other runs that use the same pods or volumes".to_owned(),
    }
}

fn message(run: &Run) -> String {
    let line = match run.failures.first() {
        Some(why) => format!("{}: {why}", run.verdict()),
        None => match (&run.cut, run.level) {
            (Some(cut), Some(level)) => {
                format!("{}: level {}, window {} µs", run.verdict(), level.word(), cut.window_us)
            }
            (_, None) | (None, Some(_)) => doing(run),
        },
    };
    clip_to(&line, LINE)
}

fn failures(failures: &[Failure]) -> Vec<FailureStatus> {
    let one = |failure: &Failure| FailureStatus {
        kind: failure.kind.word().to_owned(),
        step: failure.step.clone(),
        message: clip_to(&failure.message, 4 * LINE),
    };
    failures.iter().take(64).map(one).collect()
}

fn lines(texts: &[String]) -> Vec<String> {
    texts.iter().take(64).map(|text| clip_to(text, 4 * LINE)).collect()
}

/// Failed ones first where there are too many; otherwise in the order in which they ended.
fn results(attempts: &[Attempt]) -> Vec<PodResult> {
    let mut shown: Vec<&Attempt> = attempts.iter().collect();
    if shown.len() > RESULTS {
        shown.sort_by_key(|attempt| attempt.error.is_none());
        shown.truncate(RESULTS);
    }
    let each = OUTPUT_TOTAL / shown.len().max(1);
    shown.into_iter().map(|attempt| result(attempt, each)).collect()
}

fn result(attempt: &Attempt, output_limit: usize) -> PodResult {
    let output = clip_to(&attempt.output, output_limit);
    let omitted = attempt.omitted_bytes + attempt.output.len().saturating_sub(output.len()) as u64;
    PodResult {
        step: attempt.step.clone(),
        action: attempt.action.word().to_owned(),
        pod: attempt.target.pod.clone(),
        namespace: attempt.target.namespace.clone(),
        container: attempt.target.container.clone(),
        node: attempt.host.clone(),
        number: attempt.number,
        command: clip_to(&attempt.command, LINE),
        started_at: attempt.started_at.to_string(),
        duration_micros: attempt.duration_us,
        exit_code: attempt.exit_code,
        http_status: attempt.http_status,
        held_after_micros: attempt.held_after_us,
        output,
        omitted_bytes: (omitted > 0).then_some(omitted),
        error: attempt.error.as_deref().map(|error| clip_to(error, LINE)),
    }
}

fn debt(debt: &Debt) -> DebtStatus {
    DebtStatus {
        step: debt.step_name.clone(),
        pod: debt.target.pod.clone(),
        namespace: debt.target.namespace.clone(),
        container: debt.target.container.clone(),
        command: clip_to(&debt.command.to_string(), LINE),
        state: debt.state.word().to_owned(),
    }
}

fn pod_lane(lane: PodLane) -> Lane {
    let spans = lane.spans.into_iter().map(|span| LaneSpan {
        what: format!("{} of {}", span.action.word(), span.step),
        start_micros: span.start_us,
        end_micros: span.end_us,
        failed: span.failed,
    });
    Lane { of: format!("pod {}", lane.pod), node: lane.host, spans: spans.collect() }
}

fn conditions(run: &Run, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let (succeeded, reason) = match run.phase.stage() {
        Stage::Succeeded => ("True", "Succeeded"),
        Stage::Failed if run.cut.as_ref().is_some_and(|cut| cut.sealed) => ("False", "FailedAfterTheCut"),
        Stage::Failed => ("False", "Failed"),
        Stage::Overdue => ("False", "Overdue"),
        Stage::Waiting => ("Unknown", "Waiting"),
        Stage::Pending | Stage::Running | Stage::Undoing => ("Unknown", "Running"),
    };
    let owed = unpaid(run);
    let (paid, why, debts) = match owed.as_slice() {
        [] => ("True", "NothingOwed", "nothing is owed to the application".to_owned()),
        owed => ("False", "Owed", format!("owed to the application: {}", owed.join(", "))),
    };
    vec![
        condition("Succeeded", succeeded, reason, message(run), before, now),
        condition("DebtsPaid", paid, why, clip_to(&debts, LINE), before, now),
    ]
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    before: &[Condition],
    now: Timestamp,
) -> Condition {
    let same = before.iter().find(|earlier| earlier.type_ == type_ && earlier.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: same.map_or_else(|| now.to_string(), |same| same.last_transition_time.clone()),
    }
}
