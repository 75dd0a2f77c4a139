use super::*;

const STATES: [State; 11] = [
    State::Idle,
    State::Preparing,
    State::Prepared,
    State::Freezing,
    State::Held,
    State::Copying,
    State::Copied,
    State::Releasing,
    State::Released,
    State::GivingUp(Cause::LimitPassed),
    State::Over,
];
const ORDERS: [Order; 4] = [Order::Open, Order::Hold, Order::Cut, Order::Release];
const DEEDS: [Deed; 5] = [Deed::Prepare, Deed::Freeze, Deed::Copy, Deed::Release, Deed::Undo];

fn events() -> Vec<Event> {
    let mut all = vec![Event::LimitPassed, Event::StreamEnded];
    all.extend(ORDERS.map(Event::Order));
    all.extend(DEEDS.map(Event::Done));
    all.extend(DEEDS.map(Event::Failed));
    all
}

/// The way through, and nothing else, moves forward.
#[test]
fn every_pair_of_state_and_event_does_what_the_table_says() {
    use Action::{Begin, Report};
    let forward = [
        (State::Idle, Event::Order(Order::Open), State::Preparing, Begin(Deed::Prepare)),
        (State::Preparing, Event::Done(Deed::Prepare), State::Prepared, Report(Deed::Prepare)),
        (State::Prepared, Event::Order(Order::Hold), State::Freezing, Begin(Deed::Freeze)),
        (State::Freezing, Event::Done(Deed::Freeze), State::Held, Report(Deed::Freeze)),
        (State::Held, Event::Order(Order::Cut), State::Copying, Begin(Deed::Copy)),
        (State::Copying, Event::Done(Deed::Copy), State::Copied, Report(Deed::Copy)),
        (State::Copied, Event::Order(Order::Release), State::Releasing, Begin(Deed::Release)),
        (State::Releasing, Event::Done(Deed::Release), State::Released, Report(Deed::Release)),
    ];
    for state in STATES {
        for event in events() {
            let (next, actions) = step(state, event);
            if let Some((.., to, action)) =
                forward.iter().find(|(from, on, ..)| *from == state && *on == event)
            {
                assert_eq!((next, actions), (*to, vec![*action]));
                continue;
            }
            let undoes = actions == [Action::Begin(Deed::Undo)];
            match state {
                State::Idle | State::Over => {
                    assert!(matches!(next, State::Over | State::Idle), "{state:?} {event:?}");
                }
                State::Released => assert_eq!(next, State::Released),
                State::Releasing if !matches!(event, Event::Failed(_) | Event::StreamEnded) => {
                    assert_eq!(next, State::Releasing);
                }
                State::GivingUp(_) => assert!(!undoes, "undo is begun once"),
                State::Preparing
                | State::Prepared
                | State::Freezing
                | State::Held
                | State::Copying
                | State::Copied
                | State::Releasing => {
                    if matches!(event, Event::Done(_)) {
                        assert_eq!((next, actions), (state, vec![]));
                    } else {
                        assert!(
                            undoes && matches!(next, State::GivingUp(_)),
                            "{state:?} {event:?} -> {next:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn whatever_may_be_held_is_let_go_when_the_stream_ends_or_the_limit_passes() {
    for state in STATES.into_iter().filter(|state| state.may_hold()) {
        for event in [Event::StreamEnded, Event::LimitPassed] {
            let (next, actions) = step(state, event);
            let letting_go = matches!(next, State::GivingUp(_) | State::Releasing);
            assert!(letting_go, "{state:?} {event:?} -> {next:?} {actions:?}");
        }
    }
}

/// Drives the machine with every sequence of events up to a length, with a shell that answers each deed: undo is
/// begun whenever a freeze was begun and no release was.
#[test]
fn no_sequence_of_events_ends_with_something_held() {
    fn explore(state: State, frozen: bool, pending: Option<Deed>, depth: usize, seen: &mut usize) {
        *seen += 1;
        if state.is_final() {
            assert!(!frozen, "final with a hold");
        }
        if depth == 0 {
            return;
        }
        let answers = pending.into_iter().flat_map(|deed| [Event::Done(deed), Event::Failed(deed)]);
        let outside = ORDERS.map(Event::Order).into_iter().chain([Event::LimitPassed, Event::StreamEnded]);
        for event in answers.chain(outside) {
            let (mut frozen, mut pending) = (frozen, pending);
            if let Event::Done(deed) | Event::Failed(deed) = event {
                pending = None;
                // A freeze that failed may have frozen some members; only release and undo let go.
                frozen = match deed {
                    Deed::Freeze => true,
                    Deed::Release | Deed::Undo => false,
                    Deed::Prepare | Deed::Copy => frozen,
                };
            }
            let (next, actions) = step(state, event);
            for action in actions {
                if let Action::Begin(deed) = action {
                    frozen |= deed == Deed::Freeze;
                    pending = Some(deed);
                }
            }
            explore(next, frozen, pending, depth - 1, seen);
        }
    }
    let mut seen = 0;
    explore(State::Idle, false, None, 7, &mut seen);
    assert!(seen > 10_000, "explored {seen} states");
}
