mod explored;

use super::*;
use crate::api::Take;

const PLAIN: StepOutline =
    StepOutline { before: true, hold: None, after: true, on_failure: OnFailure::Abort };

fn outline(steps: &[StepOutline]) -> Outline {
    Outline { steps: steps.to_vec(), questions: false }
}

fn why(message: &str) -> Failure {
    Failure::new(FailureKind::Before, message)
}

fn bad() -> Result<(), Failure> {
    Err(why("bad"))
}

/// An `after` that failed: still owed.
fn owed(step: &str) -> Result<(), Failure> {
    Err(Failure::of_step(FailureKind::After, step, "still owed"))
}

/// An `after` whose pod is gone: nothing is owed any more.
fn gone(step: &str) -> Result<(), Failure> {
    Err(Failure::of_step(FailureKind::Gone, step, "gone"))
}

fn lost(meaning: OnFailure) -> Vec<StepFailure> {
    vec![StepFailure { why: why("lost"), meaning }]
}

/// Feeds events from the start and returns the machine and all orders.
fn scenario(outline: Outline, events: &[Event]) -> (Machine, Vec<Order>) {
    let mut machine = Machine::new();
    let mut orders = machine.step(Event::Start).unwrap();
    orders.extend(machine.step(Event::Planned(Ok(outline.clone()))).unwrap());
    orders.extend(machine.step(Event::Turn(Ok(outline))).unwrap());
    for event in events {
        orders.extend(machine.step(event.clone()).unwrap());
    }
    (machine, orders)
}

#[test]
fn a_good_run_goes_in_in_order_and_comes_out_in_reverse() {
    let events = [
        Event::Prepared(0, Ok(())),
        Event::Prepared(1, Ok(())),
        Event::Opened(Ok(())),
        Event::Cut(Ok(())),
        Event::Sealed(Ok(())),
        Event::Undone(1, Ok(())),
        Event::Undone(0, Ok(())),
    ];
    let (machine, orders) = scenario(outline(&[PLAIN, PLAIN]), &events);
    let expected = [
        Order::Plan,
        Order::TakeTurn,
        Order::Owe(1),
        Order::Prepare(0),
        Order::Owe(2),
        Order::Prepare(1),
        Order::Owe(2),
        Order::Open,
        Order::Cut,
        Order::Confirm,
        Order::Seal,
        Order::Note,
        Order::Undo(1),
        Order::Note,
        Order::Undo(0),
        Order::Finish,
    ];
    assert_eq!(orders, expected);
    assert_eq!(machine.phase(), Phase::Succeeded);
    assert!(machine.sealed() && machine.application());
}

#[test]
fn a_failing_before_undoes_what_was_started_and_opens_nothing() {
    let (machine, orders) =
        scenario(outline(&[PLAIN, PLAIN, PLAIN]), &[Event::Prepared(0, Ok(())), Event::Prepared(1, bad())]);
    assert!(!orders.contains(&Order::Open));
    assert_eq!(orders.last(), Some(&Order::Undo(1)), "the failing step was started too");
    assert_eq!(machine.phase(), Phase::Undoing(1));
}

fn sealed_events() -> Vec<Event> {
    vec![
        Event::Prepared(0, Ok(())),
        Event::Prepared(1, Ok(())),
        Event::Opened(Ok(())),
        Event::Cut(Ok(())),
        Event::Sealed(Ok(())),
    ]
}

#[test]
fn one_failing_after_does_not_stop_the_others_and_is_tried_again_until_it_is_paid() {
    let (mut machine, _) = scenario(outline(&[PLAIN, PLAIN]), &sealed_events());
    machine.step(Event::Undone(1, owed("b"))).unwrap();
    assert_eq!(machine.step(Event::Undone(0, Ok(()))).unwrap(), [Order::Wait]);
    assert_eq!(machine.phase(), Phase::Overdue);
    assert!(machine.sealed() && !machine.phase().is_final() && machine.phase().is_over());
    for _ in 0..3 {
        assert_eq!(machine.step(Event::Collect).unwrap(), [Order::Note, Order::Undo(1)]);
        assert_eq!(machine.step(Event::Undone(1, owed("b"))).unwrap(), [Order::Wait]);
    }
    assert_eq!(machine.failures().len(), 1, "said once");
    assert_eq!(machine.step(Event::Collect).unwrap(), [Order::Note, Order::Undo(1)]);
    assert_eq!(machine.step(Event::Undone(1, Ok(()))).unwrap(), [Order::Finish]);
    assert_eq!(machine.phase(), Phase::Failed, "late is not as it should be");
}

#[test]
fn what_is_owed_to_a_pod_that_is_gone_ends_with_it() {
    let (mut machine, _) = scenario(outline(&[PLAIN, PLAIN]), &sealed_events());
    machine.step(Event::Undone(1, gone("b"))).unwrap();
    assert_eq!(machine.step(Event::Undone(0, Ok(()))).unwrap(), [Order::Finish]);
    assert_eq!((machine.phase(), machine.failures()[0].kind), (Phase::Failed, FailureKind::Gone));
}

#[test]
fn sessions_are_released_before_the_seal_and_a_lost_one_voids_the_cut() {
    let held =
        StepOutline { before: false, hold: Some(Take::Last), after: true, on_failure: OnFailure::Abort };
    let up_to_check = [Event::Opened(Ok(())), Event::Held(vec![]), Event::Cut(Ok(()))];
    let (mut machine, orders) = scenario(outline(&[held]), &up_to_check);
    assert_eq!(&orders[2..], [Order::Owe(1), Order::Open, Order::Hold, Order::Cut, Order::Check]);
    let mut good = machine.clone();
    assert_eq!(good.step(Event::Checked(vec![])).unwrap(), [Order::Release]);
    assert_eq!(good.step(Event::Released(vec![])).unwrap(), [Order::Confirm, Order::Seal]);
    let mut mean = machine.clone();
    mean.step(Event::Checked(vec![])).unwrap();
    let orders = mean.step(Event::Released(vec![why("bad")])).unwrap();
    assert_eq!(orders, [Order::Abandon, Order::Note, Order::Undo(0)], "its last lines belong to the cut");
    let orders = machine.step(Event::Checked(lost(OnFailure::Abort))).unwrap();
    assert_eq!(orders, [Order::Abandon, Order::Release]);
}

#[test]
fn a_step_may_degrade_the_level_or_be_ignored() {
    for (meaning, application) in [(OnFailure::Degrade, false), (OnFailure::Ignore, true)] {
        let step = StepOutline { on_failure: meaning, ..PLAIN };
        let events =
            [Event::Prepared(0, bad()), Event::Opened(Ok(())), Event::Cut(Ok(())), Event::Sealed(Ok(()))];
        let (machine, orders) = scenario(outline(&[step]), &events);
        assert!(orders.contains(&Order::Seal), "{meaning:?}");
        assert_eq!(machine.application(), application);
        assert!(machine.failures().is_empty());
        assert_eq!(machine.ignored().len(), usize::from(meaning == OnFailure::Ignore));
    }
}

#[test]
fn what_could_not_be_written_down_was_not_started() {
    let (mut machine, _) = scenario(outline(&[PLAIN, PLAIN]), &[Event::Prepared(0, Ok(()))]);
    let orders = machine.step(Event::JournalFailed(why("full"))).unwrap();
    assert_eq!(orders, [Order::Note, Order::Undo(0)]);
}

#[test]
fn a_run_that_somebody_has_taken_over_makes_no_cut_real() {
    let events = &sealed_events()[..4];
    let (mut machine, orders) = scenario(outline(&[PLAIN, PLAIN]), events);
    assert_eq!(orders[orders.len() - 2..], [Order::Confirm, Order::Seal]);
    let orders = machine.step(Event::JournalFailed(why("taken over"))).unwrap();
    assert_eq!(orders, [Order::Abandon, Order::Note, Order::Undo(1)]);
}

#[test]
fn a_run_whose_turn_does_not_come_does_nothing() {
    let mut machine = Machine::new();
    machine.step(Event::Start).unwrap();
    assert_eq!(machine.step(Event::Planned(Ok(outline(&[PLAIN])))).unwrap(), [Order::TakeTurn]);
    assert_eq!(machine.step(Event::Turn(bad().map(|()| Outline::default()))).unwrap(), [Order::Finish]);
    assert_eq!(machine.phase(), Phase::Failed);
}

#[test]
fn an_orphan_only_undoes() {
    let steps = outline(&[PLAIN, StepOutline { after: false, ..PLAIN }, PLAIN]);
    let (mut machine, orders) = Machine::orphaned(steps, 3, true, vec![why("died")]);
    assert_eq!(orders, [Order::Note, Order::Undo(2)]);
    assert_eq!(machine.step(Event::Undone(2, Ok(()))).unwrap(), [Order::Note, Order::Undo(0)]);
    assert_eq!(machine.step(Event::Undone(0, Ok(()))).unwrap(), [Order::Finish]);
    assert_eq!((machine.phase(), machine.sealed()), (Phase::Failed, true));
    let (machine, orders) = Machine::orphaned(outline(&[PLAIN]), 0, false, vec![why("died")]);
    assert_eq!((machine.phase(), orders), (Phase::Failed, vec![Order::Finish]));
}
