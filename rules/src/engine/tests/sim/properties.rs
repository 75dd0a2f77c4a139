//! Random rules and random faults, which shrink to the fewest that are needed; and without chance: each kind of bad luck
//! at each call, and death before and after each write. Every guarantee is also broken once, to see that it is noticed.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::super::hooks::{Breaking, Broken};
use super::fate::{Luck, Script, WriteLuck};
use super::shape::{PLAIN, Repeatable, StepShape, rule};
use super::{Outcome, World, live, ring};

/// Rules that have everything: sessions of both kinds, retries, what may not be repeated.
fn everything() -> Vec<Vec<StepShape>> {
    let once = StepShape { after: Some(Repeatable::No), ..PLAIN };
    let strict = StepShape { before: false, hold: Some("abort"), ..PLAIN };
    let lenient = StepShape { hold: Some("degrade"), on_failure: "degrade", after: None, ..PLAIN };
    let early = StepShape { hold: Some("abort"), in_turn: true, ..PLAIN };
    let again = StepShape { retries: true, on_failure: "ignore", ..PLAIN };
    vec![vec![PLAIN, once], vec![strict, again], vec![again, lenient, once], vec![early, PLAIN]]
}

fn outcome(shape: &[StepShape], pods: usize, script: Script) -> Outcome {
    live(&World::new(rule(shape), ring(pods), script))
}

/// Every fault at every call and every death at every write, one at a time; whether `judge` says to go on.
fn everywhere(shape: &[StepShape], mut judge: impl FnMut(&Script, &Outcome) -> bool) {
    let whole = outcome(shape, 2, Script::default());
    let calls = (0..whole.effects).flat_map(|at| Luck::BAD.map(|luck| Script::call(at, luck)));
    let deaths = [WriteLuck::Fails, WriteLuck::DiesBefore, WriteLuck::DiesAfter];
    let writes = (0..whole.writes).flat_map(|at| deaths.map(|luck| Script::write(at, luck)));
    for script in std::iter::once(Script::default()).chain(calls).chain(writes) {
        let ended = outcome(shape, 2, script.clone());
        if !judge(&script, &ended) {
            return;
        }
    }
}

#[test]
fn whatever_fails_at_whichever_call_or_write_everything_is_undone_and_nothing_lost_is_sealed() {
    for shape in everything() {
        let mut count = 0;
        everywhere(&shape, |script, outcome| {
            assert_eq!(outcome.violations, [""; 0], "{script:?}");
            count += 1;
            true
        });
        assert!(count > 100, "{count}");
    }
}

#[test]
fn each_guarantee_that_the_engine_breaks_is_noticed() {
    for broken in Broken::ALL {
        let _breaking = Breaking::with(broken);
        let noticed = everything().iter().any(|shape| {
            let mut noticed = false;
            everywhere(shape, |_, outcome| {
                noticed = !outcome.violations.is_empty();
                !noticed
            });
            noticed
        });
        assert!(noticed, "{broken:?} was not noticed");
    }
}

fn steps() -> impl Strategy<Value = Vec<StepShape>> {
    let step = (
        any::<bool>(),
        prop::sample::select(vec![None, Some(Repeatable::Yes), Some(Repeatable::No)]),
        prop::sample::select(vec![None, None, Some("abort"), Some("degrade")]),
        prop::sample::select(vec!["abort", "degrade", "ignore"]),
        any::<(bool, bool)>(),
    )
        .prop_map(|(before, after, hold, on_failure, (retries, in_turn))| StepShape {
            before,
            after,
            hold,
            in_turn,
            on_failure,
            retries,
        });
    prop::collection::vec(step, 1..4)
}

/// Where calls are made for the rules above; later numbers are never reached.
const CALLS: usize = 60;
const WRITES: usize = 16;

fn scripts() -> impl Strategy<Value = Script> {
    let calls = prop::collection::btree_map(0..CALLS, prop::sample::select(Luck::BAD.to_vec()), 0..6);
    let death = prop::option::of((
        0..WRITES,
        prop::sample::select(vec![WriteLuck::Fails, WriteLuck::DiesBefore, WriteLuck::DiesAfter]),
    ));
    (calls, death)
        .prop_map(|(calls, death)| Script { calls, writes: death.into_iter().collect::<BTreeMap<_, _>>() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_rule_and_whatever_fails_everything_is_undone(
        shape in steps(), pods in 1_usize..4, script in scripts()
    ) {
        let world: Arc<World> = World::new(rule(&shape), ring(pods), script);
        prop_assert_eq!(live(&world).violations, Vec::<String>::new());
    }
}
