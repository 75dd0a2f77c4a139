//! The round explored exhaustively: two hosts with two members each, two controllers (a replica, or one that was started
//! again and takes up the same name), with every order in which messages can arrive and be lost, deadlines can pass, and
//! controllers, agents and guards can die and start.
//!
//! The machines are the real ones of `domain::round`; network, pools, guards, frozen filesystems and what controllers do
//! after a round are the model around them. Deadlines may pass at any moment and as often as they like; deaths, losses and
//! failing kernel calls are bounded in number, and may come at any moment: one in a world, or `FAULTS` of them.

mod explore;
mod hosts;
mod rules;
mod steps;
mod world;

use explore::{Explored, explore};
use rules::{FenceRule, GuardRule, LapseRule, ReadRule, Recovery, Rules};
use stillpoint::domain::round::coordinator::{self, Action, Event, Lapses, Report, State};
use stillpoint::domain::round::participant;
use world::Scope;

/// Environment variable with the number of faults that may happen in one world: deaths, losses and failing kernel calls.
const FAULTS: &str = "FAULTS";

/// What is explored every day; `make soak` explores two.
const FAULTS_USUALLY: u8 = 1;

fn faults() -> u8 {
    let Ok(text) = std::env::var(FAULTS) else { return FAULTS_USUALLY };
    text.parse().expect("FAULTS is a number of faults")
}

/// Explores everything in this scope with at most so many faults.
fn must_hold(scope: Scope) {
    let faults = faults();
    let outcome = explore(&Rules { scope, ..Rules::real() }, faults);
    if let Err(violation) = &outcome {
        eprintln!("{scope:?}: {violation}");
    }
    let explored = outcome.map_or(0, |Explored { states, steps }| {
        println!("{scope:?}: explored {states} states, {steps} steps, at most {faults} faults");
        states
    });
    assert!(explored > 10_000, "a property is broken, or the model has lost its steps ({explored} states)");
}

#[test]
fn no_order_of_events_in_a_round_and_its_recovery_breaks_an_invariant() {
    must_hold(Scope::Recovery);
}

#[test]
fn a_retry_under_the_same_name_after_an_attempt_with_a_fault_breaks_no_invariant() {
    must_hold(Scope::Retry);
}

#[test]
fn two_controllers_at_once_break_no_invariant() {
    must_hold(Scope::AtOnce);
}

/// The exploration of a world with a broken rule must find what it leads to.
fn must_break(rules: &Rules, faults: u8, property: &'static str) {
    let outcome = explore(rules, faults);
    let states = outcome.as_ref().map_or(0, |explored| explored.states);
    let violation = outcome.err();
    let found = violation.as_ref().map(|violation| violation.property);
    if let Some(other) = violation.as_ref().filter(|violation| violation.property != property) {
        eprintln!("{other}");
    }
    assert_eq!(found, Some(property), "in {states} states");
    println!("{property}: found after {} steps", violation.map_or(0, |violation| violation.trace.len() - 1));
}

#[test]
fn a_coordinator_that_releases_before_all_have_cut_is_found() {
    fn hasty(hosts: usize, state: State, event: Event) -> (State, Vec<Action>) {
        match (&state, event) {
            (State::Cutting(_), Event::Reported(_, Report::Cut)) => {
                (State::Releasing((0..hosts).collect(), Lapses::new()), vec![Action::Release])
            }
            // It does not expect the other host's report any more.
            (State::Releasing(..), Event::Reported(_, Report::Cut)) => (state, vec![]),
            _ => coordinator::step(hosts, state, event),
        }
    }
    must_break(&Rules::with_coordinator(hasty), 0, "a sealed group has members of different instants");
}

#[test]
fn a_coordinator_that_seals_before_all_have_released_is_found() {
    fn hasty(hosts: usize, state: State, event: Event) -> (State, Vec<Action>) {
        match (&state, event) {
            (State::Releasing(..), Event::Reported(_, Report::ReleasedClean)) => (State::Clean, vec![]),
            _ => coordinator::step(hosts, state, event),
        }
    }
    must_break(&Rules::with_coordinator(hasty), 0, "a sealed group has members of different instants");
}

#[test]
fn a_sweep_that_voids_what_is_sealed_is_found() {
    let rules = Rules { recovery: Recovery::VoidsSealed, ..Rules::real() };
    must_break(&rules, 1, "a member is sealed and its home pool is not");
}

#[test]
fn a_sweep_that_cleans_up_elsewhere_before_it_asks_the_home_pool_is_found() {
    let rules = Rules { recovery: Recovery::OtherFirst, scope: Scope::AtOnce, ..Rules::real() };
    must_break(&rules, 0, "a sealed group has lost a member");
}

#[test]
fn a_void_that_does_not_say_of_which_attempt_is_found() {
    let rules = Rules { fence: FenceRule::None, scope: Scope::AtOnce, ..Rules::real() };
    must_break(&rules, 1, "a sealed group has lost a member");
}

#[test]
fn a_record_whose_round_has_not_ended_and_that_passes_for_abandoned_is_found() {
    let rules = Rules { reading: ReadRule::SeesRecords, scope: Scope::AtOnce, ..Rules::real() };
    must_break(&rules, 0, "a sealed group has lost a member");
}

#[test]
fn a_guard_that_does_not_thaw_when_its_agent_is_gone_is_found() {
    let rules = Rules { guard: GuardRule::ForgetsAtEof, ..Rules::real() };
    must_break(&rules, 1, "something stays frozen unless somebody helps");
}

#[test]
fn an_agent_that_ignores_a_lapse_is_found() {
    let rules = Rules { lapses: LapseRule::Ignored, ..Rules::real() };
    must_break(&rules, 0, "a sealed group has members of different instants");
}

#[test]
fn an_agent_that_goes_on_holding_when_it_takes_too_long_is_found() {
    fn stubborn(
        state: participant::State,
        event: participant::Event,
    ) -> (participant::State, Vec<participant::Action>) {
        let ignored = event == participant::Event::LimitPassed;
        if ignored { (state, vec![]) } else { participant::step(state, event) }
    }
    let rules = Rules { participant: stubborn, ..Rules::real() };
    must_break(&rules, 1, "something stays frozen unless somebody helps");
}
