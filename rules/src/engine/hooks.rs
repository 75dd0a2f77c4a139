//! What tests see of a run beside its ports, and how they break it. Of the thread that runs, so that tests do not meddle
//! with each other.

use std::cell::{Cell, RefCell};

use crate::machine::{Event, Order, Phase};

use super::conduct::Conductor;

/// One guarantee that the engine no longer keeps, to see that somebody notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// All is kept.
    Nothing,
    /// Nothing is written down before it is begun.
    OwesNothing,
    /// What is owed is taken for paid.
    UndoesNothing,
    /// What is owed is paid twice.
    UndoesTwice,
    /// Whatever may have been under way when a process died is done again.
    NeverDoubts,
    /// Sessions that could not be taken are not missed.
    CutsWithoutSessions,
    /// Sessions are not asked whether they held.
    BelievesSessions,
    /// Sessions are left alone.
    ReleasesNever,
    /// A cut that failed is sealed.
    SealsWhatFailed,
    /// What was prepared is never given up.
    KeepsTheRound,
    /// No wait has an end.
    WaitsForEver,
    /// Runs that use the same pods overlap.
    TakesNoTurn,
    /// A cut is made real by a process that may have lost its run.
    ConfirmsNothing,
}

impl Broken {
    /// What only several runs notice.
    pub(super) const OF_TURNS: [Self; 2] = [Self::TakesNoTurn, Self::ConfirmsNothing];

    pub(super) const ALL: [Self; 10] = [
        Self::OwesNothing,
        Self::UndoesNothing,
        Self::UndoesTwice,
        Self::NeverDoubts,
        Self::CutsWithoutSessions,
        Self::BelievesSessions,
        Self::ReleasesNever,
        Self::SealsWhatFailed,
        Self::KeepsTheRound,
        Self::WaitsForEver,
    ];
}

/// Is told of phases.
type Listener = Box<dyn FnMut(Phase)>;

thread_local! {
    static BROKEN: Cell<Broken> = const { Cell::new(Broken::Nothing) };
    static PHASES: RefCell<Vec<Listener>> = const { RefCell::new(Vec::new()) };
}

/// Breaks the engine on this thread until it is dropped.
pub(super) struct Breaking;

impl Breaking {
    pub(super) fn with(broken: Broken) -> Self {
        BROKEN.set(broken);
        Self
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        BROKEN.set(Broken::Nothing);
    }
}

pub(super) fn is(broken: Broken) -> bool {
    BROKEN.get() == broken
}

/// Tells of every phase that a run of this thread enters, until the next one is set.
pub(super) fn tell_phases(told: impl FnMut(Phase) + 'static) {
    PHASES.with_borrow_mut(|phases| *phases = vec![Box::new(told)]);
}

pub(super) fn entered(phase: Phase) {
    PHASES.with_borrow_mut(|phases| phases.iter_mut().for_each(|told| told(phase)));
}

impl Conductor {
    /// Does an order wrongly where the engine is broken so; otherwise not at all.
    pub(super) async fn break_order(&mut self, order: &Order) -> Option<Option<Event>> {
        let event = match (BROKEN.get(), order) {
            (Broken::OwesNothing, Order::Owe(_)) => None,
            (Broken::UndoesNothing, Order::Undo(step)) => Some(Event::Undone(*step, Ok(()))),
            (Broken::UndoesTwice, Order::Undo(step)) => {
                let owed = self.run.debts.clone();
                self.undo(*step).await;
                self.run.debts = owed;
                Some(self.undo(*step).await)
            }
            (Broken::CutsWithoutSessions, Order::Hold) => {
                self.hold(|_, _| true).await;
                Some(Event::Held(vec![]))
            }
            (Broken::BelievesSessions, Order::Check) => {
                self.check().await;
                Some(Event::Checked(vec![]))
            }
            (Broken::ReleasesNever, Order::Release) => {
                std::mem::forget(std::mem::take(&mut self.sessions));
                Some(Event::Released(vec![]))
            }
            (Broken::SealsWhatFailed, Order::Cut) => {
                self.take_cut().await;
                Some(Event::Cut(Ok(())))
            }
            (Broken::KeepsTheRound, Order::Abandon) => {
                std::mem::forget(self.cut.take());
                None
            }
            (Broken::ConfirmsNothing, Order::Confirm) => None,
            (_, _) => return None,
        };
        Some(event)
    }
}
