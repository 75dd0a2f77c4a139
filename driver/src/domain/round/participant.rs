//! The agent's side of a round.

/// Where a round stands on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The stream is open, nothing was asked yet.
    Idle,
    /// Locks, checks and flushes are under way.
    Preparing,
    /// Ready to hold.
    Prepared,
    /// The guard is being armed and members are being frozen.
    Freezing,
    /// All members are held.
    Held,
    /// Members are being snapshotted.
    Copying,
    /// All members are held and snapshotted.
    Copied,
    /// Members are being thawed, and then made durable, as ordered.
    Releasing,
    /// Nothing is held; whether the cut counts is decided by a seal.
    Released,
    /// Given up; members are being thawed and what was cut is being removed.
    GivingUp(Cause),
    /// Nothing is held and nothing was cut.
    Over,
}

/// What happens to a round on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The controller's orders.
    Order(Order),
    /// What was begun by a [`Deed`] has succeeded for all members.
    Done(Deed),
    /// It failed for at least one member. Deeds of other members have ended too.
    Failed(Deed),
    /// The limit of what is under way has passed on this host's clock.
    LimitPassed,
    /// The stream has ended.
    StreamEnded,
}

/// What a controller may order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Prepare these members.
    Open,
    /// Hold them.
    Hold,
    /// Snapshot them.
    Cut,
    /// Let them go.
    Release,
}

/// What the shell is to do, for all members together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    /// Locks, checks, record, flush.
    Prepare,
    /// Arm the guard, then freeze.
    Freeze,
    /// Snapshot.
    Copy,
    /// Thaw, disarm the guard, settle. A hold that had lapsed is success: it is reported, not retried.
    Release,
    /// Thaw what is or may yet become frozen, disarm, remove what was cut. Cannot fail: what resists is left to the
    /// guard and to the start-up sweep.
    Undo,
}

/// What the machine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Begin it; answer with [`Event::Done`] or [`Event::Failed`].
    Begin(Deed),
    /// Report to the controller that the deed is done.
    Report(Deed),
    /// Report that the round is over here, and why.
    ReportFailure(Cause),
}

/// Why a round was given up on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This failed.
    Failed(Deed),
    /// A limit passed on this host's clock.
    LimitPassed,
    /// The controller is gone.
    StreamEnded,
    /// The controller ordered something that cannot come now.
    OutOfOrder(Order),
}

/// One step of the machine: all changes of state are here.
pub fn step(state: State, event: Event) -> (State, Vec<Action>) {
    use Action::{Begin, Report, ReportFailure};
    use State::{
        Copied, Copying, Freezing, GivingUp, Held, Idle, Over, Prepared, Preparing, Released, Releasing,
    };

    match (state, event) {
        // The way through.
        (Idle, Event::Order(Order::Open)) => (Preparing, vec![Begin(Deed::Prepare)]),
        (Preparing, Event::Done(Deed::Prepare)) => (Prepared, vec![Report(Deed::Prepare)]),
        (Prepared, Event::Order(Order::Hold)) => (Freezing, vec![Begin(Deed::Freeze)]),
        (Freezing, Event::Done(Deed::Freeze)) => (Held, vec![Report(Deed::Freeze)]),
        (Held, Event::Order(Order::Cut)) => (Copying, vec![Begin(Deed::Copy)]),
        (Copying, Event::Done(Deed::Copy)) => (Copied, vec![Report(Deed::Copy)]),
        (Copied, Event::Order(Order::Release)) => (Releasing, vec![Begin(Deed::Release)]),
        (Releasing, Event::Done(Deed::Release)) => (Released, vec![Report(Deed::Release)]),

        // Nothing is held and nothing has been cut before Open or after the end.
        (Idle | Over, Event::StreamEnded | Event::LimitPassed) => (Over, vec![]),
        (Idle, Event::Order(order)) => (Over, vec![ReportFailure(Cause::OutOfOrder(order))]),

        // After the release only a seal or a void counts; the stream may end.
        (Released, Event::StreamEnded | Event::LimitPassed) => (Released, vec![]),
        (Released, Event::Order(order)) => (Released, vec![ReportFailure(Cause::OutOfOrder(order))]),

        // A release that is under way ends by itself: members are already being let go.
        (Releasing, Event::LimitPassed | Event::Order(_)) => (Releasing, vec![]),

        // Giving up runs to its end, whatever else comes.
        (GivingUp(cause), Event::Done(Deed::Undo) | Event::Failed(Deed::Undo)) => {
            (Over, vec![ReportFailure(cause)])
        }
        // What is not under way cannot fail.
        (GivingUp(_) | Over, _) | (Idle | Released, Event::Failed(_)) => (state, vec![]),

        // Everything that can go wrong on the way.
        (_, Event::Failed(deed)) => give_up(Cause::Failed(deed)),
        (_, Event::LimitPassed) => give_up(Cause::LimitPassed),
        (_, Event::StreamEnded) => give_up(Cause::StreamEnded),
        (_, Event::Order(order)) => give_up(Cause::OutOfOrder(order)),

        // An answer to a deed that is not under way is a bug of the shell; it changes nothing.
        (_, Event::Done(_)) => (state, vec![]),
    }
}

fn give_up(cause: Cause) -> (State, Vec<Action>) {
    (State::GivingUp(cause), vec![Action::Begin(Deed::Undo)])
}

impl State {
    /// Whether members are, or may at any moment become, held.
    pub fn may_hold(self) -> bool {
        match self {
            Self::Freezing
            | Self::Held
            | Self::Copying
            | Self::Copied
            | Self::Releasing
            | Self::GivingUp(_) => true,
            Self::Idle | Self::Preparing | Self::Prepared | Self::Released | Self::Over => false,
        }
    }

    /// Whether nothing more will happen by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Released | Self::Over)
    }
}

#[cfg(test)]
mod tests;
