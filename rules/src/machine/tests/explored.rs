//! Everything that can happen to every rule of up to two steps: which events are legal where, and what must hold on the
//! way.

use std::collections::{BTreeMap, HashSet};

use super::*;

fn plan_of(questions: bool, steps: &[StepOutline]) -> Outline {
    Outline { steps: steps.to_vec(), questions }
}

/// Every kind of event, good and bad, for a rule of two steps.
fn alphabet(questions: bool, steps: &[StepOutline]) -> Vec<Event> {
    let plan = plan_of(questions, steps);
    let mut events = vec![
        Event::Start,
        Event::Planned(Ok(plan)),
        Event::Planned(Err(why("bad"))),
        Event::Turn(Ok(plan_of(questions, steps))),
        Event::Turn(Err(why("waited too long"))),
        Event::Chosen(Ok(())),
        Event::Chosen(bad()),
        Event::Opened(Ok(())),
        Event::Opened(bad()),
        Event::Held(vec![]),
        Event::Held(lost(OnFailure::Abort)),
        Event::Held(lost(OnFailure::Degrade)),
        Event::Cut(Ok(())),
        Event::Cut(bad()),
        Event::Checked(vec![]),
        Event::Checked(lost(OnFailure::Abort)),
        Event::Checked(lost(OnFailure::Degrade)),
        Event::Released(vec![]),
        Event::Released(vec![why("bad")]),
        Event::Sealed(Ok(())),
        Event::Sealed(bad()),
        Event::JournalFailed(why("full")),
        Event::Cancelled(why("enough")),
        Event::Collect,
    ];
    for step in 0..2 {
        for result in [Ok(()), bad()] {
            events.push(Event::Prepared(step, result));
        }
        let name = format!("step-{step}");
        // One kind of failure per step keeps the number of states bearable.
        let failed = if step == 0 { gone(&name) } else { owed(&name) };
        events.extend([Ok(()), failed].map(|result| Event::Undone(step, result)));
    }
    events
}

/// Which kinds of events are legal in which phase: the whole table. Everything else is illegal.
fn legal(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::Pending => &["Start", "Cancelled"],
        Phase::Planning => &["Planned", "Cancelled"],
        Phase::Waiting => &["Turn", "Cancelled"],
        Phase::Choosing => &["Chosen", "Cancelled"],
        Phase::Preparing(_) => &["Prepared", "JournalFailed", "Cancelled"],
        Phase::Opening => &["Opened", "JournalFailed", "Cancelled"],
        Phase::Taking(_) => &["Held", "JournalFailed", "Cancelled"],
        Phase::Holding => &["Held", "Cancelled"],
        Phase::Cutting => &["Cut", "Cancelled"],
        Phase::Checking => &["Checked"],
        Phase::Releasing => &["Released"],
        Phase::Sealing => &["Sealed", "JournalFailed"],
        Phase::Undoing(_) => &["Undone"],
        Phase::Overdue => &["Collect"],
        Phase::Succeeded | Phase::Failed => &[],
    }
}

/// What a walk has seen so far; part of the explored state.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that a guarantee asks for")]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Seen {
    owed: usize,
    started: usize,
    started_earlier: usize,
    undone: Vec<usize>,
    unpaid: Vec<usize>,
    collecting: bool,
    prepared: usize,
    taken: usize,
    sessions: bool,
    cut: bool,
    proven: bool,
    open: bool,
    /// It has its turn.
    turn: bool,
    confirmed: bool,
    sealed: bool,
    aborted: bool,
}

/// Follows the orders and the event that answers them, and checks the guarantees on the way.
fn observe(seen: &mut Seen, steps: &[StepOutline], event: &Event, orders: &[Order]) {
    match event {
        Event::Prepared(k, result) => {
            seen.prepared += 1;
            seen.aborted |= result.is_err() && steps[*k].on_failure == OnFailure::Abort;
        }
        Event::Opened(Ok(())) => seen.open = true,
        Event::Held(failures) => {
            seen.sessions = true;
            seen.aborted |= failures.iter().any(|f| f.meaning == OnFailure::Abort);
        }
        Event::Cut(Ok(())) => seen.cut = true,
        Event::Checked(failures) => {
            seen.aborted |= failures.iter().any(|f| f.meaning == OnFailure::Abort);
            seen.proven = true;
        }
        Event::Released(failures) => {
            seen.sessions = false;
            seen.aborted |= !failures.is_empty();
        }
        Event::Sealed(_) => seen.sealed = true,
        Event::Turn(result) => seen.turn = result.is_ok(),
        Event::Cancelled(_) => seen.aborted = true,
        Event::JournalFailed(_) => {
            seen.aborted = true;
            if !seen.cut {
                seen.started = seen.started_earlier;
            }
        }
        Event::Undone(k, result) => {
            seen.unpaid.retain(|step| step != k);
            if result.as_ref().is_err_and(|why| why.kind == FailureKind::After) {
                seen.unpaid.push(*k);
                seen.unpaid.sort_unstable();
            }
        }
        Event::Collect => seen.collecting = true,
        Event::Start | Event::Planned(_) | Event::Chosen(_) | Event::Opened(_) | Event::Cut(_) => {}
    }
    let befores = steps.iter().filter(|step| step.before).count();
    for order in orders {
        match order {
            Order::Owe(steps) => seen.owed = *steps,
            Order::Prepare(k) => {
                assert!(*k < seen.owed && seen.turn, "debt before deed, and no deed before its turn");
                (seen.started_earlier, seen.started) = (seen.started, *k + 1);
            }
            Order::Take(k) => {
                assert!(*k < seen.owed && seen.turn && !seen.aborted, "debt before deed");
                (seen.started_earlier, seen.started) = (seen.started, *k + 1);
                seen.taken += 1;
            }
            Order::Choose => assert!(seen.turn, "nobody is asked before its turn"),
            Order::Open => {
                assert!(seen.turn || steps.is_empty(), "nothing is prepared before its turn");
                assert!(seen.prepared == befores && !seen.aborted, "every before ended well");
                (seen.started_earlier, seen.started) = (seen.started, steps.len());
            }
            Order::Cut => {
                let in_turn = steps.iter().filter(|step| step.hold == Some(Take::InTurn)).count();
                let all =
                    seen.taken == in_turn && seen.sessions == steps.iter().any(|step| step.hold.is_some());
                assert!(seen.open && !seen.aborted && all, "nothing is cut on a failed ground");
            }
            Order::Confirm => seen.confirmed = seen.cut,
            Order::Seal => {
                assert!(seen.confirmed || steps.is_empty(), "what was done is still done");
                let held = steps.iter().any(|step| step.hold.is_some());
                assert!(seen.cut && !seen.aborted && !seen.sessions && (!held || seen.proven), "{seen:?}");
            }
            Order::Abandon => {
                assert!(seen.aborted || !seen.cut);
                seen.open = false;
            }
            Order::Undo(k) => {
                assert!(!seen.sessions, "sessions go first");
                if seen.collecting {
                    assert!(seen.unpaid.contains(k), "only what is owed is tried again");
                } else {
                    assert!(seen.undone.last().is_none_or(|last| k < last), "reverse order, never twice");
                    seen.undone.push(*k);
                }
            }
            Order::Plan
            | Order::TakeTurn
            | Order::Note
            | Order::Hold
            | Order::Check
            | Order::Release
            | Order::Wait
            | Order::Finish => {}
        }
    }
}

/// Whether this event may follow these orders: it answers the last of them, or interrupts.
fn answers(order: &Order, event: &Event) -> bool {
    match event {
        Event::Cancelled(_) => true,
        Event::JournalFailed(_) => {
            matches!(order, Order::Prepare(_) | Order::Take(_) | Order::Open | Order::Seal)
        }
        Event::Start => false,
        Event::Planned(_) => *order == Order::Plan,
        Event::Turn(_) => *order == Order::TakeTurn,
        Event::Chosen(_) => *order == Order::Choose,
        Event::Prepared(k, _) => *order == Order::Prepare(*k),
        Event::Opened(_) => *order == Order::Open,
        Event::Held(_) => matches!(order, Order::Hold | Order::Take(_)),
        Event::Cut(_) => *order == Order::Cut,
        Event::Checked(_) => *order == Order::Check,
        Event::Released(_) => *order == Order::Release,
        Event::Sealed(_) => *order == Order::Seal,
        Event::Undone(k, _) => *order == Order::Undo(*k),
        Event::Collect => *order == Order::Wait,
    }
}

fn outlines() -> Vec<Vec<StepOutline>> {
    let mut steps = Vec::new();
    for bits in 1..8_u8 {
        for on_failure in [OnFailure::Abort, OnFailure::Degrade, OnFailure::Ignore] {
            let [before, hold, after] = [1, 2, 4].map(|bit| bits & bit != 0);
            steps.push(StepOutline { before, hold: hold.then_some(Take::Last), after, on_failure });
            // Failing means the same whenever a session is taken.
            if hold && on_failure == OnFailure::Abort {
                steps.push(StepOutline { before, hold: Some(Take::InTurn), after, on_failure });
            }
        }
    }
    let mut all = vec![Vec::new()];
    for first in &steps {
        all.push(vec![*first]);
        all.extend(steps.iter().map(|second| vec![*first, *second]));
    }
    all
}

/// Explores everything that can happen for every rule of up to two steps.
#[test]
fn over_all_reachable_states_the_guarantees_hold_and_every_run_ends() {
    let mut phases: BTreeMap<Phase, usize> = BTreeMap::new();
    for steps in outlines() {
        for questions in [false, true] {
            explore(&steps, questions, &mut phases);
        }
    }
    assert_eq!(phases.len(), 19, "every phase is reached: {phases:?}");
}

fn explore(steps: &[StepOutline], questions: bool, phases: &mut BTreeMap<Phase, usize>) {
    let alphabet = alphabet(questions, steps);
    let mut known: HashSet<(Machine, Seen)> = HashSet::new();
    let mut open = vec![(Machine::new(), Seen::default(), Order::Note)];
    while let Some((machine, seen, order)) = open.pop() {
        *phases.entry(machine.phase()).or_default() += 1;
        for event in &alphabet {
            let mut next = machine.clone();
            let result = next.step(event.clone());
            let kind = event.kind();
            let numbered = match (machine.phase(), event) {
                (Phase::Preparing(k), Event::Prepared(n, _)) | (Phase::Undoing(k), Event::Undone(n, _)) => {
                    k == *n
                }
                _ => true,
            };
            let expected = legal(machine.phase()).contains(&kind) && numbered;
            assert_eq!(result.is_ok(), expected, "{:?} and {kind}", machine.phase());
            let Ok(orders) = result else {
                assert_eq!(next, machine, "an illegal event changes nothing");
                continue;
            };
            let begin = *event == Event::Start && machine.phase() == Phase::Pending;
            if !begin && !answers(&order, event) {
                continue;
            }
            let mut seen = seen.clone();
            observe(&mut seen, steps, event, &orders);
            let last = orders.last().expect("a legal event gives an order").clone();
            if next.phase().is_final() {
                finished(&next, &seen, steps, &last);
                *phases.entry(next.phase()).or_default() += 1;
            } else if known.insert((next.clone(), seen.clone())) {
                open.push((next, seen, last));
            }
        }
    }
}

fn finished(machine: &Machine, seen: &Seen, steps: &[StepOutline], last: &Order) {
    assert_eq!(*last, Order::Finish);
    assert!(!seen.sessions, "no session outlives its run");
    assert!(seen.unpaid.is_empty(), "a run that owes something has not ended");
    assert!(machine.phase() == Phase::Failed || machine.sealed(), "success is a sealed cut");
    let mut owed: Vec<usize> = (0..seen.started).filter(|k| steps[*k].after).collect();
    owed.reverse();
    assert_eq!(seen.undone, owed, "exactly what was started is undone: {machine:?}");
}
