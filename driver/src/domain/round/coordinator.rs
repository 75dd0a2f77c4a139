//! The controller's side of a round: hosts are indices into the caller's list.

use std::collections::BTreeSet;

/// Where a round stands over all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// Hosts prepare; those that have not yet.
    Opening(BTreeSet<usize>),
    /// All hosts are prepared; nothing is held.
    Ready,
    /// Hosts hold; those that do not yet.
    Holding(BTreeSet<usize>),
    /// All hosts hold and cut; those that have not cut yet.
    Cutting(BTreeSet<usize>),
    /// All hosts have cut and let go; those that have not yet, and whether any hold had lapsed.
    Releasing(BTreeSet<usize>, Lapses),
    /// All hosts have let go and no hold had lapsed: the cut may be sealed.
    Clean,
    /// Given up: the cut must be voided.
    Failed(Cause),
}

/// Hosts whose hold ended before it was released.
pub type Lapses = BTreeSet<usize>;

/// What happens to a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A host reports that it did what was ordered.
    Reported(usize, Report),
    /// A host gave up, or its stream ended.
    HostFailed(usize),
    /// The caller wants the cut now.
    Proceed,
    /// The caller does not want it any more.
    GiveUp,
    /// The limit of the present phase has passed on the controller's clock.
    LimitPassed,
}

/// What a host can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Report {
    /// Ready to hold.
    Prepared,
    /// Holding.
    Held,
    /// Snapshotted.
    Cut,
    /// Let go, and nothing had lapsed.
    ReleasedClean,
    /// Let go, but a hold had ended before.
    ReleasedLapsed,
}

/// What the machine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Order all hosts to hold, and start the soft limit.
    Hold,
    /// Order all hosts to cut.
    Cut,
    /// Order all hosts to release.
    Release,
    /// End all streams: every host lets go and removes what it cut.
    Close,
}

/// Why a round failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This host failed first.
    Host(usize),
    /// This host reported something that was not its turn.
    OutOfOrder(usize),
    /// It took too long; these hosts had not answered.
    TooLong(BTreeSet<usize>),
    /// Holds had ended early on these hosts.
    Lapsed(Lapses),
    /// The caller gave up.
    GivenUp,
}

/// A round over `hosts` hosts (at least one), all of which have been sent `Open`.
pub fn start(hosts: usize) -> State {
    State::Opening(all(hosts))
}

/// One step of the machine: all changes of state are here.
pub fn step(hosts: usize, state: State, event: Event) -> (State, Vec<Action>) {
    match (state, event) {
        (State::Clean, _) => (State::Clean, vec![]),
        (State::Failed(cause), _) => (State::Failed(cause), vec![]),

        (_, Event::HostFailed(host)) => fail(Cause::Host(host)),
        (_, Event::GiveUp) => fail(Cause::GivenUp),
        (State::Ready, Event::LimitPassed) => fail(Cause::TooLong(BTreeSet::new())),
        (State::Opening(waiting) | State::Holding(waiting) | State::Cutting(waiting), Event::LimitPassed) => {
            fail(Cause::TooLong(waiting))
        }
        (State::Releasing(waiting, _), Event::LimitPassed) => fail(Cause::TooLong(waiting)),

        (State::Opening(waiting), Event::Reported(host, Report::Prepared)) => {
            tick(waiting, host, State::Opening, || (State::Ready, vec![]))
        }
        (State::Ready, Event::Proceed) => (State::Holding(all(hosts)), vec![Action::Hold]),
        (State::Holding(waiting), Event::Reported(host, Report::Held)) => {
            tick(waiting, host, State::Holding, || (State::Cutting(all(hosts)), vec![Action::Cut]))
        }
        (State::Cutting(waiting), Event::Reported(host, Report::Cut)) => {
            let release = || (State::Releasing(all(hosts), Lapses::new()), vec![Action::Release]);
            tick(waiting, host, State::Cutting, release)
        }
        (State::Releasing(waiting, lapses), Event::Reported(host, Report::ReleasedClean)) => {
            released(waiting, lapses, host)
        }
        (State::Releasing(waiting, mut lapses), Event::Reported(host, Report::ReleasedLapsed)) => {
            lapses.insert(host);
            released(waiting, lapses, host)
        }

        (_, Event::Reported(host, _)) => fail(Cause::OutOfOrder(host)),
        // The caller asks once, when it has been told that the round is ready.
        (state, Event::Proceed) => (state, vec![]),
    }
}

fn all(hosts: usize) -> BTreeSet<usize> {
    (0..hosts).collect()
}

fn fail(cause: Cause) -> (State, Vec<Action>) {
    (State::Failed(cause), vec![Action::Close])
}

/// Takes `host` off the list of those that are waited for; the last one moves the round on.
fn tick(
    mut waiting: BTreeSet<usize>,
    host: usize,
    stay: impl Fn(BTreeSet<usize>) -> State,
    go: impl Fn() -> (State, Vec<Action>),
) -> (State, Vec<Action>) {
    if !waiting.remove(&host) {
        return fail(Cause::OutOfOrder(host));
    }
    if waiting.is_empty() { go() } else { (stay(waiting), vec![]) }
}

fn released(waiting: BTreeSet<usize>, lapses: Lapses, host: usize) -> (State, Vec<Action>) {
    let end = || if lapses.is_empty() { (State::Clean, vec![]) } else { fail(Cause::Lapsed(lapses.clone())) };
    tick(waiting, host, |waiting| State::Releasing(waiting, lapses.clone()), end)
}

#[cfg(test)]
mod tests;
