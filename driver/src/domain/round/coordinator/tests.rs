use super::*;

const REPORTS: [Report; 5] =
    [Report::Prepared, Report::Held, Report::Cut, Report::ReleasedClean, Report::ReleasedLapsed];

fn events(hosts: usize) -> Vec<Event> {
    let mut all = vec![Event::Proceed, Event::GiveUp, Event::LimitPassed];
    for host in 0..hosts {
        all.push(Event::HostFailed(host));
        all.extend(REPORTS.map(|report| Event::Reported(host, report)));
    }
    all
}

fn run(hosts: usize, events: &[Event]) -> (State, Vec<Action>) {
    let mut orders = Vec::new();
    let mut state = start(hosts);
    for event in events {
        let (next, actions) = step(hosts, state, *event);
        state = next;
        orders.extend(actions);
    }
    (state, orders)
}

#[test]
fn two_hosts_go_through_in_step() {
    use Event::{Proceed, Reported};
    let (state, orders) = run(
        2,
        &[
            Reported(1, Report::Prepared),
            Reported(0, Report::Prepared),
            Proceed,
            Reported(0, Report::Held),
            Reported(1, Report::Held),
            Reported(1, Report::Cut),
            Reported(0, Report::Cut),
            Reported(0, Report::ReleasedClean),
            Reported(1, Report::ReleasedClean),
        ],
    );
    assert_eq!(state, State::Clean);
    assert_eq!(orders, [Action::Hold, Action::Cut, Action::Release]);
}

#[test]
fn one_lapsed_hold_fails_the_round_after_all_have_let_go() {
    use Event::{Proceed, Reported};
    let mut events = vec![Reported(0, Report::Prepared), Proceed, Reported(0, Report::Held)];
    events.extend([Reported(0, Report::Cut), Reported(0, Report::ReleasedLapsed)]);
    assert_eq!(run(1, &events).0, State::Failed(Cause::Lapsed(BTreeSet::from([0]))));
}

/// What the world has seen of a round: which hosts held and cut when which orders were given.
#[derive(Clone, Default)]
struct World {
    held: BTreeSet<usize>,
    cut: BTreeSet<usize>,
    lapsed: bool,
    failed: bool,
}

type Step = fn(usize, State, Event) -> (State, Vec<Action>);

/// Explores every sequence of events over two hosts and gives back the first broken rule.
fn explore(step: Step, state: &State, world: &World, depth: usize, seen: &mut usize) -> Result<(), String> {
    const HOSTS: usize = 2;
    *seen += 1;
    if *state == State::Clean && (world.cut.len() < HOSTS || world.lapsed || world.failed) {
        return Err("clean although a member was not cut, lapsed or failed".into());
    }
    if depth == 0 {
        return Ok(());
    }
    for event in events(HOSTS) {
        let mut world = world.clone();
        match event {
            Event::Reported(host, Report::Held) => _ = world.held.insert(host),
            Event::Reported(host, Report::Cut) => _ = world.cut.insert(host),
            Event::Reported(_, Report::ReleasedLapsed) => world.lapsed = true,
            Event::HostFailed(_) => world.failed = true,
            Event::Reported(..) | Event::Proceed | Event::GiveUp | Event::LimitPassed => {}
        }
        let (next, actions) = step(HOSTS, state.clone(), event);
        if actions.contains(&Action::Cut) && world.held.len() < HOSTS {
            return Err("cut before every hold".into());
        }
        if actions.contains(&Action::Release) && world.cut.len() < HOSTS {
            return Err("release before every cut".into());
        }
        // A state that did not change needs no second look.
        if next != *state {
            explore(step, &next, &world, depth - 1, seen)?;
        }
    }
    Ok(())
}

#[test]
fn no_sequence_of_reports_cuts_before_every_hold_or_releases_before_every_cut() {
    let mut seen = 0;
    explore(step, &start(2), &World::default(), 10, &mut seen).unwrap();
    assert!(seen > 100, "explored {seen} states");
}

#[test]
fn the_exploration_finds_a_coordinator_that_releases_after_the_first_cut() {
    fn hasty(hosts: usize, state: State, event: Event) -> (State, Vec<Action>) {
        match (&state, event) {
            (State::Cutting(_), Event::Reported(_, Report::Cut)) => {
                (State::Releasing((0..hosts).collect(), Lapses::new()), vec![Action::Release])
            }
            _ => step(hosts, state, event),
        }
    }
    let found = explore(hasty, &start(2), &World::default(), 10, &mut 0);
    assert_eq!(found, Err("release before every cut".into()));
}

#[test]
fn a_final_state_stays_and_orders_nothing() {
    for state in [State::Clean, State::Failed(Cause::GivenUp)] {
        for event in events(2) {
            assert_eq!(step(2, state.clone(), event), (state.clone(), vec![]));
        }
    }
}
