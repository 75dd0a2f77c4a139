//! One run as a pure state machine: [`Machine::step`] takes an event and gives orders. It does no I/O, knows no
//! clock and no pod; it knows steps by number and what is owed.
//!
//! ```text
//! Pending ─ Planning ─ Waiting? ─ Choosing? ─ Preparing(0) ─ Taking(0)? … Preparing(n) ─ Opening ─ Holding? ─ Cutting ─ Checking?
//!                                                                                                  │
//!        Succeeded | Failed ─ Undoing(0) … Undoing(n) ─ Sealing ─ Releasing? ◄─────────────────────┘
//!                      └─ Overdue ─┘ what could not be undone is tried again until it is paid
//! ```
//! A failure anywhere goes straight to letting go: the cut is abandoned, sessions are released, and every `after`
//! of a step that was started runs, in reverse order. One failing `after` does not stop the others.
//!
//! Guarantees (tested over all reachable states): nothing is opened before every `before` ended well; no cut
//! before every session holds; no seal unless the cut succeeded and every session proved that it still held;
//! `after` is ordered for each started step that has one, and again only while it is owed; a run ends only when
//! nothing is owed; what is owed is persisted before the deed; a rule's first command comes after its turn has begun;
//! a cut with a rule is made real only after it was confirmed that nobody has taken the run over meanwhile.

mod types;

use std::collections::BTreeSet;

use crate::api::{OnFailure, Take};
use crate::failure::{Failure, FailureKind};

pub use types::{Event, Illegal, Order, Outline, Phase, Stage, StepFailure, StepOutline};

/// The state of one run.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that a guarantee asks for")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    phase: Phase,
    outline: Outline,
    /// Steps whose turn has come: their `after` is owed.
    started: usize,
    /// Steps whose turn had come when the journal was last known to be written.
    covered: usize,
    sessions: bool,
    opened: bool,
    sealed: bool,
    /// Everything was tried once; only what is owed is tried again.
    collecting: bool,
    /// Steps whose `after` could not be paid.
    unpaid: BTreeSet<usize>,
    degraded: Vec<Failure>,
    ignored: Vec<Failure>,
    failures: Vec<Failure>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A run of which nothing was done.
    pub fn new() -> Self {
        Self {
            phase: Phase::Pending,
            outline: Outline::default(),
            started: 0,
            covered: 0,
            sessions: false,
            opened: false,
            sealed: false,
            collecting: false,
            unpaid: BTreeSet::new(),
            degraded: Vec::new(),
            ignored: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A run that a dead process left behind: `owed` steps had been started. Nothing of the cut is continued.
    /// `failures` are those known by then and the death itself.
    pub fn orphaned(
        outline: Outline,
        owed: usize,
        sealed: bool,
        failures: Vec<Failure>,
    ) -> (Self, Vec<Order>) {
        let mut machine = Self::new();
        let owed = owed.min(outline.steps.len());
        (machine.outline, machine.started, machine.covered, machine.sealed) = (outline, owed, owed, sealed);
        machine.failures = failures;
        let orders = machine.undo_from(owed);
        (machine, orders)
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why the run fails; empty while it does not.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Why the level is lower than the rule promises; empty while it is not.
    pub fn degraded(&self) -> &[Failure] {
        &self.degraded
    }

    /// What failed and was allowed to; the rule says that it means nothing.
    pub fn ignored(&self) -> &[Failure] {
        &self.ignored
    }

    /// Whether the cut is real.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// Whether the rule has steps and all of them did what they say.
    pub fn application(&self) -> bool {
        !self.outline.steps.is_empty() && self.degraded.is_empty() && self.failures.is_empty()
    }

    /// The only function that changes the state.
    pub fn step(&mut self, event: Event) -> Result<Vec<Order>, Illegal> {
        let illegal = Illegal { phase: self.phase, event: event.kind() };
        let orders = match (self.phase, event) {
            (Phase::Pending, Event::Start) => self.enter(Phase::Planning, vec![Order::Plan]),
            (Phase::Planning, Event::Planned(Ok(outline))) => {
                self.outline = outline;
                if self.outline.steps.is_empty() {
                    self.prepare_from(0)
                } else {
                    self.enter(Phase::Waiting, vec![Order::TakeTurn])
                }
            }
            (Phase::Waiting, Event::Turn(Ok(outline))) => {
                self.outline = outline;
                if self.outline.questions {
                    self.enter(Phase::Choosing, vec![Order::Note, Order::Choose])
                } else {
                    self.prepare_from(0)
                }
            }
            (Phase::Choosing, Event::Chosen(Ok(()))) => self.prepare_from(0),
            (Phase::Preparing(k), Event::Prepared(done, result)) if done == k => self.prepared(k, result),
            (Phase::Opening, Event::Opened(Ok(()))) => self.opened(),
            (Phase::Taking(k), Event::Held(failures)) => {
                self.sessions = true;
                if self.tolerate(failures) { self.prepare_from(k + 1) } else { self.let_go() }
            }
            (Phase::Holding, Event::Held(failures)) => {
                if self.tolerate(failures) {
                    self.enter(Phase::Cutting, vec![Order::Cut])
                } else {
                    self.let_go()
                }
            }
            (Phase::Cutting, Event::Cut(Ok(()))) => {
                if self.sessions {
                    self.enter(Phase::Checking, vec![Order::Check])
                } else {
                    self.enter(Phase::Sealing, self.sealing())
                }
            }
            (Phase::Checking, Event::Checked(failures)) => {
                self.tolerate(failures);
                self.let_go()
            }
            (Phase::Releasing, Event::Released(failures)) => {
                self.sessions = false;
                self.failures.extend(failures);
                self.let_go()
            }
            (Phase::Sealing, Event::Sealed(result)) => {
                self.opened = false;
                self.sealed = result.is_ok();
                self.failures.extend(result.err());
                self.let_go()
            }
            (Phase::Undoing(k), Event::Undone(done, result)) if done == k => {
                match result {
                    Ok(()) => drop(self.unpaid.remove(&k)),
                    Err(why) => self.still_owed(k, why),
                }
                self.undo_from(k)
            }
            (Phase::Overdue, Event::Collect) => self.undo_from(self.outline.steps.len()),
            (Phase::Planning, Event::Planned(Err(why)))
            | (Phase::Waiting, Event::Turn(Err(why)))
            | (Phase::Choosing, Event::Chosen(Err(why)))
            | (Phase::Opening, Event::Opened(Err(why)))
            | (Phase::Cutting, Event::Cut(Err(why))) => self.fail(why),
            (
                Phase::Preparing(_) | Phase::Taking(_) | Phase::Opening | Phase::Sealing,
                Event::JournalFailed(why),
            ) => {
                self.started = self.covered;
                self.fail(why)
            }
            (phase, Event::Cancelled(why)) if phase.can_be_cancelled() => {
                self.sessions |= matches!(phase, Phase::Taking(_) | Phase::Holding);
                self.opened |= phase == Phase::Opening;
                self.fail(why)
            }
            (
                _,
                Event::Start
                | Event::Planned(_)
                | Event::Turn(_)
                | Event::Chosen(_)
                | Event::Prepared(..)
                | Event::Opened(_)
                | Event::Held(_)
                | Event::Cut(_)
                | Event::Checked(_)
                | Event::Released(_)
                | Event::Sealed(_)
                | Event::Undone(..)
                | Event::JournalFailed(_)
                | Event::Collect
                | Event::Cancelled(_),
            ) => return Err(illegal),
        };
        Ok(orders)
    }

    fn enter(&mut self, phase: Phase, orders: Vec<Order>) -> Vec<Order> {
        self.phase = phase;
        orders
    }

    /// The next `before` or session in its turn from step `from` on, or the opening. Steps without one start as their
    /// turn passes.
    fn prepare_from(&mut self, from: usize) -> Vec<Order> {
        self.covered = self.started;
        let acts = |k: &usize| self.outline.steps[*k].before || self.takes_in_turn(*k);
        let next = (from..self.outline.steps.len()).find(acts);
        self.started = next.map_or(self.outline.steps.len(), |k| k + 1);
        match next {
            Some(k) if self.outline.steps[k].before => {
                self.enter(Phase::Preparing(k), vec![Order::Owe(k + 1), Order::Prepare(k)])
            }
            Some(k) => self.enter(Phase::Taking(k), vec![Order::Owe(k + 1), Order::Take(k)]),
            None => self.enter(Phase::Opening, vec![Order::Owe(self.started), Order::Open]),
        }
    }

    fn prepared(&mut self, k: usize, result: Result<(), Failure>) -> Vec<Order> {
        let meaning = self.outline.steps[k].on_failure;
        let failures = result.err().map(|why| StepFailure { why, meaning }).into_iter().collect();
        if !self.tolerate(failures) {
            return self.let_go();
        }
        if self.takes_in_turn(k) {
            // What it owes is in the journal already.
            self.covered = self.started;
            return self.enter(Phase::Taking(k), vec![Order::Take(k)]);
        }
        self.prepare_from(k + 1)
    }

    fn takes_in_turn(&self, k: usize) -> bool {
        self.outline.steps[k].hold == Some(Take::InTurn)
    }

    fn opened(&mut self) -> Vec<Order> {
        self.opened = true;
        self.covered = self.started;
        let last = self.outline.steps.iter().any(|step| step.hold == Some(Take::Last));
        self.sessions |= last;
        if last {
            self.enter(Phase::Holding, vec![Order::Hold])
        } else {
            self.enter(Phase::Cutting, vec![Order::Cut])
        }
    }

    /// Records failures by what they mean; whether the run goes on.
    fn tolerate(&mut self, failures: Vec<StepFailure>) -> bool {
        for StepFailure { why, meaning } in failures {
            match meaning {
                OnFailure::Abort => self.failures.push(why),
                OnFailure::Degrade => self.degraded.push(why),
                OnFailure::Ignore => self.ignored.push(why),
            }
        }
        self.failures.is_empty()
    }

    fn fail(&mut self, why: Failure) -> Vec<Order> {
        self.failures.push(why);
        self.let_go()
    }

    /// What is held is let go first, then the cut gets its fate, then the application is undone.
    fn let_go(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        let doomed = !self.failures.is_empty();
        if doomed && self.opened {
            self.opened = false;
            orders.push(Order::Abandon);
        }
        if self.sessions {
            orders.push(Order::Release);
            return self.enter(Phase::Releasing, orders);
        }
        if self.opened {
            orders.extend(self.sealing());
            return self.enter(Phase::Sealing, orders);
        }
        orders.extend(self.undo_from(self.started));
        orders
    }

    /// Without steps there is nothing that somebody else could have undone.
    fn sealing(&self) -> Vec<Order> {
        if self.outline.steps.is_empty() { vec![Order::Seal] } else { vec![Order::Confirm, Order::Seal] }
    }

    /// What could not be paid is said once, in its newest words. Nothing is said twice of a step whose pods are gone:
    /// such a debt is settled, but the run has failed.
    fn still_owed(&mut self, k: usize, why: Failure) {
        if why.kind == FailureKind::Gone {
            self.unpaid.remove(&k);
        } else {
            self.unpaid.insert(k);
        }
        let same = |known: &&mut Failure| known.step == why.step && known.kind == why.kind;
        match self.failures.iter_mut().find(same) {
            Some(known) => *known = why,
            None => self.failures.push(why),
        }
    }

    /// The `after` of the last started step below `from` that is to be run, or the end. In the first pass all of
    /// them are, later those that are still owed.
    fn undo_from(&mut self, from: usize) -> Vec<Order> {
        let first_pass = !self.collecting;
        let next = (0..from.min(self.started))
            .rev()
            .find(|k| if first_pass { self.outline.steps[*k].after } else { self.unpaid.contains(k) });
        if let Some(k) = next {
            return self.enter(Phase::Undoing(k), vec![Order::Note, Order::Undo(k)]);
        }
        if !self.unpaid.is_empty() {
            self.collecting = true;
            return self.enter(Phase::Overdue, vec![Order::Wait]);
        }
        let verdict = if self.failures.is_empty() { Phase::Succeeded } else { Phase::Failed };
        self.enter(verdict, vec![Order::Finish])
    }
}

#[cfg(test)]
mod tests;
