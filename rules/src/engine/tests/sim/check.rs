//! What must be true, whatever happened.

use std::collections::BTreeSet;

use super::{Done, Place, World};
use crate::api::OnFailure;
use crate::run::{DebtState, Run};

/// When a process has ended or died: nothing of it goes on holding.
pub(super) fn after_a_life(world: &World) -> Vec<String> {
    let mut state = world.state();
    let mut found = std::mem::take(&mut state.seen);
    if !state.holding.is_empty() {
        found.push(format!("the sessions {:?} outlive their run", state.holding));
    }
    if !state.hosts.are_idle() {
        found.push(format!("hosts are left {:?}", state.hosts.doing));
    }
    if state.most > world.parallel {
        found.push(format!("{} at once", state.most));
    }
    state.holding.clear();
    state.hosts = super::Hosts::default();
    found
}

/// When the next process has settled everything. What nobody has ended happens now.
pub(super) fn in_the_end(world: &World) -> Vec<String> {
    let mut state = world.state();
    for (_, place) in std::mem::take(&mut state.to_come) {
        let waits = state.stored.values().flat_map(Run::owed);
        let expected =
            waits.into_iter().any(|debt| (&debt.step_name, &debt.target.pod) == (&place.0, &place.1));
        if !expected {
            *state.done.entry(place).or_default() = Done { begun: true, undone: 0 };
        }
    }
    let mut found = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    must(state.sealed <= 1, "sealed twice".to_owned());
    for run in state.stored.values() {
        let stuck: Vec<_> = run.owed().filter(|debt| debt.state != DebtState::Unknown).collect();
        must(stuck.is_empty(), format!("owed for ever: {stuck:?}"));
        must(run.phase.is_final() || run.owed().count() > 0, format!("a run stays {:?}", run.phase));
        must(!run.phase.is_final() || run.owed().count() == 0, "a run ended with debts".to_owned());
        must(!run.succeeded() || state.sealed == 1, "success without a cut".to_owned());
        for debt in run.owed() {
            must(!debt.command.retry.idempotent, format!("{} may be repeated and is not", debt.in_words()));
        }
    }
    for (place, done) in &state.done {
        let (name, pod) = place;
        let Some(after) =
            world.rule.spec.steps.iter().find(|step| step.name == *name).and_then(|s| s.after.as_ref())
        else {
            continue;
        };
        let repeatable = after.idempotent != Some(false);
        let unknown = is_unknown(&state, place);
        let must_be_undone = done.begun && !state.gone.contains(pod) && !unknown;
        must(!must_be_undone || done.undone >= 1, format!("{name} in {pod} was begun and never undone"));
        // What was not written down cannot be known: only then may it happen again.
        must(
            repeatable || state.forgot || done.undone <= 1,
            format!("{name} in {pod} was undone {} times", done.undone),
        );
    }
    found
}

fn is_unknown(state: &super::State, (step, pod): &Place) -> bool {
    let debts = state.stored.values().flat_map(|run| &run.debts);
    debts
        .filter(|debt| debt.step_name == *step && debt.target.pod == *pod)
        .any(|debt| debt.state == DebtState::Unknown)
}

/// Sessions without which nothing may be held: those whose absence stops the run.
pub(super) fn wanted_sessions(world: &World) -> BTreeSet<Place> {
    let steps = world.rule.spec.steps.iter();
    let strict = steps.filter(|step| step.hold.is_some() && step.on_failure == OnFailure::Abort);
    strict.flat_map(|step| world.pods.iter().map(|pod| (step.name.clone(), pod.name.clone()))).collect()
}
