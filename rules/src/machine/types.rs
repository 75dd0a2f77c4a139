//! What the machine is told and what it orders.

use serde::{Deserialize, Serialize};

use crate::api::{OnFailure, Take};
use crate::failure::Failure;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing was done.
    Pending,
    /// Pods and volumes are being listed.
    Planning,
    /// Another run uses the same pods or volumes, or it is looked whether one does.
    Waiting,
    /// `where` commands are being asked.
    Choosing,
    /// The `before` of this step runs.
    Preparing(usize),
    /// Hosts prepare the cut; nothing is held.
    Opening,
    /// Sessions of this step are being taken before later steps are prepared.
    Taking(usize),
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
    /// Something did not; the reasons are in the run's failures.
    Failed,
    /// Everything is over but something is still owed to the application; it is tried again from time to time.
    Overdue,
}

/// Phases as people tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was done.
    Pending,
    /// It waits for another run, or looks whether it must.
    Waiting,
    /// It plans, prepares, cuts, seals.
    Running,
    /// What was done is being undone.
    Undoing,
    /// Something is still owed.
    Overdue,
    /// Everything went as the rule says.
    Succeeded,
    /// Something did not.
    Failed,
}

impl Stage {
    /// As it is written in records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Waiting => "Waiting",
            Self::Running => "Running",
            Self::Undoing => "Undoing",
            Self::Overdue => "Overdue",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

impl Phase {
    /// What people call it.
    pub fn stage(self) -> Stage {
        match self {
            Self::Pending => Stage::Pending,
            Self::Waiting => Stage::Waiting,
            Self::Planning
            | Self::Choosing
            | Self::Preparing(_)
            | Self::Taking(_)
            | Self::Opening
            | Self::Holding
            | Self::Cutting
            | Self::Checking
            | Self::Releasing
            | Self::Sealing => Stage::Running,
            Self::Undoing(_) => Stage::Undoing,
            Self::Overdue => Stage::Overdue,
            Self::Succeeded => Stage::Succeeded,
            Self::Failed => Stage::Failed,
        }
    }

    /// Whether a run in this phase has ended: nothing is owed any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// Whether its caller waits for nothing any more.
    pub fn is_over(self) -> bool {
        self.is_final() || self == Self::Overdue
    }

    /// Whether a run can be told to stop here. Later it only lets go, which is what stopping means.
    pub fn can_be_cancelled(self) -> bool {
        match self {
            Self::Pending
            | Self::Planning
            | Self::Waiting
            | Self::Choosing
            | Self::Preparing(_)
            | Self::Taking(_)
            | Self::Opening
            | Self::Holding
            | Self::Cutting => true,
            Self::Checking
            | Self::Releasing
            | Self::Sealing
            | Self::Undoing(_)
            | Self::Succeeded
            | Self::Failed
            | Self::Overdue => false,
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
    /// When its sessions are taken; `None` without any.
    pub hold: Option<Take>,
    /// It has an `after`.
    pub after: bool,
    /// What its failure means.
    pub on_failure: OnFailure,
}

/// A failure of a step and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StepFailure {
    /// What happened.
    pub why: Failure,
    /// What it means for the run.
    pub meaning: OnFailure,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The run shall begin.
    Start,
    /// The plan is made.
    Planned(Result<Outline, Failure>),
    /// The run's turn has come, with its plan as it is now, or it has not come in time.
    Turn(Result<Outline, Failure>),
    /// The questions are answered.
    Chosen(Result<(), Failure>),
    /// Every `before` of the step has ended.
    Prepared(usize, Result<(), Failure>),
    /// The hosts are prepared, or not.
    Opened(Result<(), Failure>),
    /// The sessions hold, or these do not.
    Held(Vec<StepFailure>),
    /// Hosts have held, cut and released.
    Cut(Result<(), Failure>),
    /// These sessions could not prove that they held all along.
    Checked(Vec<StepFailure>),
    /// All sessions are let go; these did not end well.
    Released(Vec<Failure>),
    /// The cut is real, or void.
    Sealed(Result<(), Failure>),
    /// Every `after` of the step has ended.
    Undone(usize, Result<(), Failure>),
    /// The journal could not be written; the deed that was to follow was not begun.
    JournalFailed(Failure),
    /// What is overdue shall be tried again.
    Collect,
    /// The run shall stop: asked for, or out of time. The order under way was given up.
    Cancelled(Failure),
}

/// What shall be done, in order. The last order of a list answers with an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Order {
    /// Make the plan: [`Event::Planned`].
    Plan,
    /// Wait until no other run uses the same pods or volumes, and keep others away from then on: [`Event::Turn`].
    TakeTurn,
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
    /// Take the sessions of this step: [`Event::Held`].
    Take(usize),
    /// Take all sessions that are taken last: [`Event::Held`].
    Hold,
    /// Hold, cut and release: [`Event::Cut`].
    Cut,
    /// Ask all sessions: [`Event::Checked`].
    Check,
    /// Let all sessions go: [`Event::Released`].
    Release,
    /// Persist the run, which proves that it is still this process's and that nobody has undone what it did. When that
    /// fails nothing of the rest of the list is done: [`Event::JournalFailed`].
    Confirm,
    /// Make the cut real: [`Event::Sealed`].
    Seal,
    /// Give the prepared cut up. Answers with nothing.
    Abandon,
    /// Run the `after` of this step: [`Event::Undone`].
    Undo(usize),
    /// The run is over, but its application is still owed something. Answers with nothing;
    /// [`Event::Collect`] goes on.
    Wait,
    /// The run has ended. Answers with nothing.
    Finish,
}

impl Order {
    /// Whether the run goes back from here on: nothing more is prepared or cut.
    pub fn lets_go(&self) -> bool {
        match self {
            Self::Check | Self::Release | Self::Confirm | Self::Seal | Self::Abandon | Self::Undo(_) => true,
            Self::Plan
            | Self::TakeTurn
            | Self::Choose
            | Self::Owe(_)
            | Self::Note
            | Self::Prepare(_)
            | Self::Open
            | Self::Take(_)
            | Self::Hold
            | Self::Cut
            | Self::Wait
            | Self::Finish => false,
        }
    }
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

impl Event {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Planned(_) => "Planned",
            Self::Turn(_) => "Turn",
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
            Self::Collect => "Collect",
            Self::Cancelled(_) => "Cancelled",
        }
    }
}
