//! One run as a pure state machine: [`Machine::step`] takes an event and gives orders. It does no I/O, knows no
//! clock and no pod; it knows steps by number and what is owed.
//!
//! ```text
//! Pending ─ Planning ─ Choosing? ─ Preparing(0) … Preparing(n) ─ Opening ─ Holding? ─ Cutting ─ Checking?
//!                                                                                                  │
//!        Succeeded | Failed ─ Undoing(0) … Undoing(n) ─ Sealing ─ Releasing? ◄─────────────────────┘
//! ```
//! A failure anywhere goes straight to letting go: the cut is abandoned, sessions are released, and every `after`
//! of a step that was started runs, in reverse order. One failing `after` does not stop the others.
//!
//! Guarantees (tested over all reachable states): nothing is opened before every `before` ended well; no cut
//! before every session holds; no seal unless the cut succeeded and every session proved that it still held;
//! `after` is ordered exactly once for each started step that has one; what is owed is persisted before the deed.

use serde::{Deserialize, Serialize};

use crate::api::OnFailure;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing was done.
    Pending,
    /// Pods and volumes are being listed.
    Planning,
    /// `where` commands are being asked.
    Choosing,
    /// The `before` of this step runs.
    Preparing(usize),
    /// Hosts prepare the cut; nothing is held.
    Opening,
    /// Sessions are being taken.
    Holding,
    /// Hosts hold, cut and release.
    Cutting,
    /// Sessions are asked whether they held all along.
    Checking,
    /// Sessions are let go.
    Releasing,
    /// The cut is made real.
    Sealing,
    /// The `after` of this step runs.
    Undoing(usize),
    /// Everything went as the rule says.
    Succeeded,
    /// Something did not; the reasons are in [`Machine::failures`].
    Failed,
}

impl Phase {
    /// Whether a run in this phase has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// Whether a run can be told to stop here. Later it only lets go, which is what stopping means.
    pub fn can_be_cancelled(self) -> bool {
        match self {
            Self::Pending
            | Self::Planning
            | Self::Choosing
            | Self::Preparing(_)
            | Self::Opening
            | Self::Holding
            | Self::Cutting => true,
            Self::Checking
            | Self::Releasing
            | Self::Sealing
            | Self::Undoing(_)
            | Self::Succeeded
            | Self::Failed => false,
        }
    }
}

/// What the machine knows of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Outline {
    /// One entry per step.
    pub steps: Vec<StepOutline>,
    /// Whether pods must be asked first.
    pub questions: bool,
}

/// What the machine knows of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StepOutline {
    /// It has a `before`.
    pub before: bool,
    /// It has a session.
    pub hold: bool,
    /// It has an `after`.
    pub after: bool,
    /// What its failure means.
    pub on_failure: OnFailure,
}

/// A failure of a step, in words, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StepFailure {
    /// What happened.
    pub why: String,
    /// What it means for the run.
    pub meaning: OnFailure,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The run shall begin.
    Start,
    /// The plan is made.
    Planned(Result<Outline, String>),
    /// The questions are answered.
    Chosen(Result<(), String>),
    /// Every `before` of the step has ended.
    Prepared(usize, Result<(), String>),
    /// The hosts are prepared, or not.
    Opened(Result<(), String>),
    /// All sessions hold, or these do not.
    Held(Vec<StepFailure>),
    /// Hosts have held, cut and released.
    Cut(Result<(), String>),
    /// These sessions could not prove that they held all along.
    Checked(Vec<StepFailure>),
    /// All sessions are let go; these did not end well.
    Released(Vec<String>),
    /// The cut is real, or void.
    Sealed(Result<(), String>),
    /// Every `after` of the step has ended.
    Undone(usize, Result<(), String>),
    /// The journal could not be written; the deed that was to follow was not begun.
    JournalFailed(String),
    /// The run shall stop: asked for, or out of time. The order under way was given up.
    Cancelled(String),
}

/// What shall be done, in order. The last order of a list answers with an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Order {
    /// Make the plan: [`Event::Planned`].
    Plan,
    /// Ask the `where` commands: [`Event::Chosen`].
    Choose,
    /// Persist the run with the debts of the first so many steps. When that fails nothing of the rest of the
    /// list is done: [`Event::JournalFailed`].
    Owe(usize),
    /// Persist the run as it is; a failure is recorded and stops nothing.
    Note,
    /// Run the `before` of this step: [`Event::Prepared`].
    Prepare(usize),
    /// Let the hosts prepare: [`Event::Opened`].
    Open,
    /// Take all sessions: [`Event::Held`].
    Hold,
    /// Hold, cut and release: [`Event::Cut`].
    Cut,
    /// Ask all sessions: [`Event::Checked`].
    Check,
    /// Let all sessions go: [`Event::Released`].
    Release,
    /// Make the cut real: [`Event::Sealed`].
    Seal,
    /// Give the prepared cut up. Answers with nothing.
    Abandon,
    /// Run the `after` of this step: [`Event::Undone`].
    Undo(usize),
    /// The run has ended. Answers with nothing.
    Finish,
}

/// An event that cannot happen in a phase. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} cannot happen while {phase:?}; this is a bug of whoever sent it")]
pub struct Illegal {
    /// The phase.
    pub phase: Phase,
    /// The event's kind.
    pub event: &'static str,
}

/// The state of one run.
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
    degraded: Vec<String>,
    failures: Vec<String>,
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
            degraded: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A run that a dead process left behind: `owed` steps had been started. Nothing of the cut is continued.
    pub fn orphaned(outline: Outline, owed: usize, sealed: bool, why: String) -> (Self, Vec<Order>) {
        let mut machine = Self::new();
        let owed = owed.min(outline.steps.len());
        (machine.outline, machine.started, machine.covered, machine.sealed) = (outline, owed, owed, sealed);
        machine.failures.push(why);
        let orders = machine.undo_from(owed);
        (machine, orders)
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why the run fails; empty while it does not.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Why the level is lower than the rule promises; empty while it is not.
    pub fn degraded(&self) -> &[String] {
        &self.degraded
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
                if self.outline.questions {
                    self.enter(Phase::Choosing, vec![Order::Note, Order::Choose])
                } else {
                    self.prepare_from(0)
                }
            }
            (Phase::Choosing, Event::Chosen(Ok(()))) => self.prepare_from(0),
            (Phase::Preparing(k), Event::Prepared(done, result)) if done == k => self.prepared(k, result),
            (Phase::Opening, Event::Opened(Ok(()))) => self.opened(),
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
                    self.enter(Phase::Sealing, vec![Order::Seal])
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
                self.failures.extend(result.err());
                self.undo_from(k)
            }
            (Phase::Planning, Event::Planned(Err(why)))
            | (Phase::Choosing, Event::Chosen(Err(why)))
            | (Phase::Opening, Event::Opened(Err(why)))
            | (Phase::Cutting, Event::Cut(Err(why))) => self.fail(why),
            (Phase::Preparing(_) | Phase::Opening, Event::JournalFailed(why)) => {
                self.started = self.covered;
                self.fail(why)
            }
            (phase, Event::Cancelled(why)) if phase.can_be_cancelled() => {
                self.sessions |= phase == Phase::Holding;
                self.opened |= phase == Phase::Opening;
                self.fail(why)
            }
            (
                _,
                Event::Start
                | Event::Planned(_)
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
                | Event::Cancelled(_),
            ) => return Err(illegal),
        };
        Ok(orders)
    }

    fn enter(&mut self, phase: Phase, orders: Vec<Order>) -> Vec<Order> {
        self.phase = phase;
        orders
    }

    /// The next `before` from step `from` on, or the opening. Steps without one start as their turn passes.
    fn prepare_from(&mut self, from: usize) -> Vec<Order> {
        self.covered = self.started;
        let next = (from..self.outline.steps.len()).find(|&k| self.outline.steps[k].before);
        self.started = next.map_or(self.outline.steps.len(), |k| k + 1);
        match next {
            Some(k) => self.enter(Phase::Preparing(k), vec![Order::Owe(k + 1), Order::Prepare(k)]),
            None => self.enter(Phase::Opening, vec![Order::Owe(self.started), Order::Open]),
        }
    }

    fn prepared(&mut self, k: usize, result: Result<(), String>) -> Vec<Order> {
        let meaning = self.outline.steps[k].on_failure;
        let failures = result.err().map(|why| StepFailure { why, meaning }).into_iter().collect();
        if self.tolerate(failures) { self.prepare_from(k + 1) } else { self.let_go() }
    }

    fn opened(&mut self) -> Vec<Order> {
        self.opened = true;
        self.covered = self.started;
        self.sessions = self.outline.steps.iter().any(|step| step.hold);
        if self.sessions {
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
                OnFailure::Ignore => {}
            }
        }
        self.failures.is_empty()
    }

    fn fail(&mut self, why: String) -> Vec<Order> {
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
            orders.push(Order::Seal);
            return self.enter(Phase::Sealing, orders);
        }
        orders.extend(self.undo_from(self.started));
        orders
    }

    /// The `after` of the last started step below `from` that has one, or the end.
    fn undo_from(&mut self, from: usize) -> Vec<Order> {
        let next = (0..from).rev().find(|&k| self.outline.steps[k].after);
        if let Some(k) = next {
            return self.enter(Phase::Undoing(k), vec![Order::Note, Order::Undo(k)]);
        }
        let verdict = if self.failures.is_empty() { Phase::Succeeded } else { Phase::Failed };
        self.enter(verdict, vec![Order::Finish])
    }
}

impl Event {
    fn kind(&self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Planned(_) => "Planned",
            Self::Chosen(_) => "Chosen",
            Self::Prepared(..) => "Prepared",
            Self::Opened(_) => "Opened",
            Self::Held(_) => "Held",
            Self::Cut(_) => "Cut",
            Self::Checked(_) => "Checked",
            Self::Released(_) => "Released",
            Self::Sealed(_) => "Sealed",
            Self::Undone(..) => "Undone",
            Self::JournalFailed(_) => "JournalFailed",
            Self::Cancelled(_) => "Cancelled",
        }
    }
}

#[cfg(test)]
mod tests;
