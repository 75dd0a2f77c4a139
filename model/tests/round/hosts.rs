//! What happens on one host: the conductor around the real participant machine, its workers, the guard, the pool.

use stillpoint::domain::round::participant::{Action, Deed, Event, Order, State};

use super::rules::{FenceRule, GuardRule, LapseRule, Rules};
use super::world::{
    Attempt, Call, End, Guard, Host, Job, Life, MEMBERS, Message, Record, World, part_number,
};

/// How a call to a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// ABORTED, FAILED_PRECONDITION or NOT_FOUND.
    Refused,
}

impl Rules {
    /// An order arrives. A new stream is refused while another round has the volumes.
    pub fn deliver(&self, world: &mut World, slot: usize, at: usize) {
        let order = std::mem::replace(&mut world.wires[slot][at].order, Message::None);
        let attempt = attempt_of(slot);
        let host = &mut world.hosts[at];
        let order = match order {
            Message::Open if host.is_live() => {
                if world.wires[slot][at].controller_end == End::No {
                    world.wires[slot][at].push(Message::Failed);
                    world.wires[slot][at].controller_end = End::Graceful;
                }
                return;
            }
            Message::Open => {
                host.of = attempt;
                host.part = part_number(State::Idle);
                for member in &mut host.members {
                    (member.mine, member.lapsed, member.job) = (false, false, Job::None);
                }
                Order::Open
            }
            Message::Hold => Order::Hold,
            Message::Cut => Order::Cut,
            Message::Release => Order::Release,
            // Reports go the other way.
            Message::None
            | Message::Prepared
            | Message::Held
            | Message::CutDone
            | Message::Clean
            | Message::Lapsed
            | Message::Failed => return,
        };
        if world.hosts[at].of == attempt {
            self.feed(world, at, Event::Order(order));
        }
    }

    /// One event for the real machine, and what it wants done.
    pub fn feed(&self, world: &mut World, at: usize, event: Event) {
        let (state, actions) = (self.participant)(world.hosts[at].state(), event);
        world.hosts[at].part = part_number(state);
        for action in actions {
            match action {
                Action::Begin(deed) => self.begin(world, at, deed),
                Action::Report(deed) => self.report(world, at, deed),
                Action::ReportFailure(_) => send(world, at, Message::Failed),
            }
        }
        if world.hosts[at].state().is_final() && wire(world, at).controller_end == End::No {
            wire(world, at).controller_end = End::Graceful;
            world.hosts[at].bad = false;
            world.hosts[at].deed = Job::None;
        }
    }

    fn begin(&self, world: &mut World, at: usize, deed: Deed) {
        let host = &mut world.hosts[at];
        match deed {
            Deed::Prepare => {
                let done = !host.bad && host.record == Record::None;
                if done {
                    host.forget_cut();
                    host.record = Record::Round(host.of);
                }
                self.feed(world, at, if done { Event::Done(deed) } else { Event::Failed(deed) });
            }
            Deed::Freeze if host.guard != Guard::Idle => self.feed(world, at, Event::Failed(deed)),
            Deed::Freeze => {
                (host.guard, host.guard_lost) = (Guard::Armed, false);
                host.tell(Job::Freeze);
            }
            Deed::Copy => host.tell(Job::Copy),
            Deed::Release => host.tell(Job::Thaw),
            Deed::Undo => {
                host.tell(Job::Undo);
                if host.is_quiet() {
                    self.complete(world, at);
                }
            }
        }
    }

    /// A member's worker does what it was told. `fails`: the kernel does not want to.
    pub fn work(&self, world: &mut World, at: usize, index: usize, fails: bool) {
        let of = usize::from(world.hosts[at].of);
        let written_elsewhere = world.members().any(|member| member.copied && member.written);
        let member = &mut world.hosts[at].members[index];
        let job = member.job;
        member.job = match job {
            Job::FreezeThenThaw | Job::CopyThenThaw => Job::Thaw,
            Job::None | Job::Freeze | Job::Copy | Job::Thaw | Job::Undo => Job::None,
        };
        let mut done = true;
        match job {
            Job::Freeze | Job::FreezeThenThaw => {
                done = !fails && !member.frozen;
                member.frozen |= done;
                member.mine |= done;
            }
            Job::Copy | Job::CopyThenThaw => {
                done = !fails;
                if done {
                    member.copied = true;
                    world.torn[of] |= written_elsewhere;
                }
            }
            Job::Thaw | Job::Undo | Job::None => {
                member.lapsed |= member.mine && !member.frozen;
                member.frozen &= !member.mine;
                member.mine = false;
            }
        }
        world.hosts[at].bad |= !done;
        if world.hosts[at].is_quiet() {
            self.complete(world, at);
        }
    }

    /// All members have answered.
    fn complete(&self, world: &mut World, at: usize) {
        let host = &mut world.hosts[at];
        let deed = std::mem::replace(&mut host.deed, Job::None);
        let event = match deed {
            Job::Freeze => outcome(host, Deed::Freeze),
            Job::Copy => outcome(host, Deed::Copy),
            Job::Undo => {
                host.guard = if host.guard == Guard::Dead { Guard::Dead } else { Guard::Idle };
                if host.record == Record::Round(host.of) {
                    host.forget_cut();
                }
                Event::Done(Deed::Undo)
            }
            Job::None | Job::FreezeThenThaw | Job::CopyThenThaw | Job::Thaw => {
                let fired = host.guard != Guard::Armed;
                host.guard = if host.guard == Guard::Dead { Guard::Dead } else { Guard::Idle };
                host.bad = fired || host.members.iter().any(|member| member.lapsed);
                Event::Done(Deed::Release)
            }
        };
        self.feed(world, at, event);
    }

    fn report(&self, world: &mut World, at: usize, deed: Deed) {
        let lapsed = world.hosts[at].bad && self.lapses == LapseRule::Reported;
        send(
            world,
            at,
            match deed {
                Deed::Prepare => Message::Prepared,
                Deed::Freeze => Message::Held,
                Deed::Copy => Message::CutDone,
                Deed::Release | Deed::Undo if lapsed => Message::Lapsed,
                Deed::Release | Deed::Undo => Message::Clean,
            },
        );
    }

    /// The guard lets go because its limit passed, or looks again after that.
    pub fn guard_fires(world: &mut World, at: usize) {
        world.hosts[at].guard = Guard::Fired;
        lapse(world, at);
    }

    /// The guard sees that an agent's connection has ended.
    pub fn guard_sees_end(&self, world: &mut World, at: usize) {
        world.hosts[at].eof = false;
        if self.guard == GuardRule::Thaws {
            lapse(world, at);
        }
    }

    /// SIGKILL. `freezes`: members whose FIFREEZE is under way end up frozen; `copies`: snapshots under way exist.
    pub fn agent_dies(world: &mut World, at: usize, freezes: [bool; MEMBERS], copies: bool) {
        let host = &mut world.hosts[at];
        let was_at_work = host.is_live();
        for (member, freezes) in host.members.iter_mut().zip(freezes) {
            match member.job {
                Job::Freeze | Job::FreezeThenThaw => member.frozen |= freezes,
                Job::Copy | Job::CopyThenThaw => member.copied |= copies,
                Job::None | Job::Thaw | Job::Undo => {}
            }
            (member.mine, member.lapsed, member.job) = (false, false, Job::None);
        }
        if matches!(host.guard, Guard::Armed | Guard::Fired) {
            (host.guard, host.eof) = (Guard::Idle, true);
        }
        (host.agent, host.part, host.deed, host.bad) =
            (Life::Dead, part_number(State::Idle), Job::None, false);
        if was_at_work {
            // Nobody will release it cleanly any more.
            world.lapsed[usize::from(host.of)] = true;
        }
        for slot in &mut world.wires {
            let wire = &mut slot[at];
            if wire.controller_end == End::No {
                wire.controller_end = End::Broken;
            }
            (wire.order, wire.agent_end) = (Message::None, false);
        }
    }

    /// The agent starts: an unsealed cut whose home is here is void, what is frozen is thawed.
    pub fn agent_starts(world: &mut World, at: usize) {
        world.hosts[at].agent = Life::Alive;
        if at == super::world::HOME && matches!(world.hosts[at].record, Record::Round(_)) {
            world.hosts[at].forget_cut();
        }
        lapse(world, at);
    }

    /// A call is carried out on a host.
    pub fn carry_out(&self, world: &mut World, at: usize, call: Call) -> Answer {
        let host = &mut world.hosts[at];
        let of_other = |attempt| host.record.attempt() != attempt && self.fence == FenceRule::ByAttempt;
        match call {
            Call::Void(attempt) if of_other(attempt) => Answer::Done,
            Call::Delete(attempt) if of_other(attempt) => Answer::Done,
            Call::Void(_) if host.record == Record::None => Answer::Done,
            Call::Void(_) if host.is_live() || matches!(host.record, Record::Sealed(_)) => Answer::Refused,
            Call::Delete(_) if matches!(host.record, Record::Round(_)) => Answer::Refused,
            Call::Void(_) | Call::Delete(_) => {
                host.forget_cut();
                Answer::Done
            }
            Call::Seal(attempt) if host.record == Record::Sealed(attempt) => Answer::Done,
            Call::Seal(attempt) if host.record == Record::Round(attempt) && host.has_all() => {
                host.record = Record::Sealed(attempt);
                Answer::Done
            }
            Call::Seal(_) => Answer::Refused,
            Call::None => Answer::Done,
        }
    }
}

impl Host {
    fn tell(&mut self, job: Job) {
        self.deed = job;
        for member in &mut self.members {
            member.job = match (job, member.job) {
                (Job::Undo, Job::Freeze) => Job::FreezeThenThaw,
                (Job::Undo, Job::Copy) => Job::CopyThenThaw,
                (Job::Undo, Job::None) if !member.mine => Job::None,
                (Job::Undo, _) => Job::Thaw,
                (job, _) => job,
            };
        }
    }

    fn is_quiet(&self) -> bool {
        self.members.iter().all(|member| member.job == Job::None)
    }
}

pub fn attempt_of(slot: usize) -> Attempt {
    if slot == 0 { 1 } else { 2 }
}

fn outcome(host: &Host, deed: Deed) -> Event {
    if host.bad { Event::Failed(deed) } else { Event::Done(deed) }
}

fn wire(world: &mut World, at: usize) -> &mut super::world::Wire {
    let slot = usize::from(world.hosts[at].of) - 1;
    &mut world.wires[slot][at]
}

/// A report to the controller, if it still listens.
fn send(world: &mut World, at: usize, report: Message) {
    if wire(world, at).controller_end != End::Broken {
        wire(world, at).push(report);
    }
}

/// Somebody other than the worker lets go of whatever is frozen.
fn lapse(world: &mut World, at: usize) {
    let host = &mut world.hosts[at];
    if host.frozen() {
        // Only a round freezes, so there is one.
        world.lapsed[usize::from(host.of)] = true;
    }
    for member in &mut host.members {
        member.frozen = false;
    }
}
