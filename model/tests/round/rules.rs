//! The rules that hold in the model: the real machines of `domain::round`, and for each rule a way to break it.

use std::collections::BTreeMap;

use stillpoint::domain::round::coordinator::{self, Action, Cause, Event, State};
use stillpoint::domain::round::participant;

use super::world::{HOSTS, Scope};

type CoordinatorStep = fn(usize, State, Event) -> (State, Vec<Action>);
type ParticipantStep =
    fn(participant::State, participant::Event) -> (participant::State, Vec<participant::Action>);

/// How everybody behaves.
pub struct Rules {
    pub coordinator: Coordinator,
    pub participant: ParticipantStep,
    pub guard: GuardRule,
    pub lapses: LapseRule,
    pub recovery: Recovery,
    pub fence: FenceRule,
    pub reading: ReadRule,
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardRule {
    Thaws,
    /// Mutation.
    ForgetsAtEof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LapseRule {
    Reported,
    /// Mutation.
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The home pool decides and is voided first.
    HomeFirst,
    /// Mutation: the other host is cleaned before the home pool is asked.
    OtherFirst,
    /// Mutation: voids whatever is there.
    VoidsSealed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceRule {
    ByAttempt,
    /// Mutation: a removal takes whatever is there under the name.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRule {
    /// Who looks at a record is told whether its round is under way.
    SeesRounds,
    /// Mutation: a record of a round that has not reached the home pool yet passes for one that was left behind.
    SeesRecords,
}

impl Rules {
    /// As the code is.
    pub fn real() -> Self {
        Self::with_coordinator(coordinator::step)
    }

    pub fn with_coordinator(step: CoordinatorStep) -> Self {
        Self {
            coordinator: Coordinator::tabulate(step),
            participant: participant::step,
            guard: GuardRule::Thaws,
            lapses: LapseRule::Reported,
            recovery: Recovery::HomeFirst,
            fence: FenceRule::ByAttempt,
            reading: ReadRule::SeesRounds,
            scope: Scope::Recovery,
        }
    }
}

/// What the coordinator machine does in every state that it can reach, written down once so that states are numbers.
pub struct Coordinator {
    states: Vec<State>,
    next: Vec<BTreeMap<u8, (u8, Vec<Action>)>>,
}

/// Everything that can happen to a coordinator of [`HOSTS`] hosts.
fn events() -> Vec<Event> {
    use coordinator::Report::{Cut, Held, Prepared, ReleasedClean, ReleasedLapsed};
    let mut events = vec![Event::Proceed, Event::LimitPassed];
    for host in 0..HOSTS {
        events.push(Event::HostFailed(host));
        let reports = [Prepared, Held, Cut, ReleasedClean, ReleasedLapsed];
        events.extend(reports.map(|report| Event::Reported(host, report)));
    }
    events
}

/// A failed round stays failed and orders nothing more, whatever the cause.
fn without_cause(state: State) -> State {
    if let State::Failed(_) = state { State::Failed(Cause::GivenUp) } else { state }
}

impl Coordinator {
    fn tabulate(step: CoordinatorStep) -> Self {
        let events = events();
        let mut table = Self { states: vec![coordinator::start(HOSTS)], next: Vec::new() };
        while table.next.len() < table.states.len() {
            let state = table.states[table.next.len()].clone();
            let mut row = BTreeMap::new();
            for (number, event) in (0..).zip(&events) {
                let (next, actions) = step(HOSTS, state.clone(), *event);
                row.insert(number, (table.number(without_cause(next)), actions));
            }
            table.next.push(row);
        }
        table
    }

    fn number(&mut self, state: State) -> u8 {
        let found = self.states.iter().position(|known| *known == state).unwrap_or_else(|| {
            self.states.push(state);
            self.states.len() - 1
        });
        u8::try_from(found).expect("a coordinator of two hosts has few states")
    }

    /// The state in which a round begins.
    pub const START: u8 = 0;

    pub fn state(&self, number: u8) -> &State {
        &self.states[usize::from(number)]
    }

    pub fn step(&self, state: u8, event: Event) -> (u8, &[Action]) {
        let number = events().iter().position(|known| *known == event).expect("a known event");
        let number = u8::try_from(number).expect("few events");
        let (next, actions) = &self.next[usize::from(state)][&number];
        (*next, actions)
    }
}
