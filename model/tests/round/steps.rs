//! Everything that can happen next in a world.

use stillpoint::domain::round::coordinator::{Action, Event as Told, Report, State as Standing};
use stillpoint::domain::round::participant::{Event, State};

use super::hosts::{Answer, attempt_of};
use super::rules::{Coordinator, ReadRule, Recovery, Rules};
use super::world::{
    Call, End, Guard, HOME, HOSTS, Job, Life, MEMBERS, Message, OTHER, Phase, Record, Scope, World,
};

/// What happened, for the trace of a counter-example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    Works { host: usize, fails: bool },
    AgentLimitPasses { host: usize },
    GuardLimitPasses { host: usize },
    GuardSeesEnd { host: usize },
    AgentDies { host: usize },
    AgentStarts { host: usize },
    GuardDies { host: usize },
    GuardStarts { host: usize },
    OrderArrives { host: usize, controller: usize },
    PrepareFails { host: usize },
    AgentSeesEnd { host: usize },
    StreamBreaks { host: usize, controller: usize },
    ReportArrives { host: usize, controller: usize },
    ControllerSeesEnd { host: usize, controller: usize },
    ControllerLimitPasses { controller: usize },
    Proceeds { controller: usize },
    ControllerStarts,
    ControllerDies { controller: usize },
    LateCallArrives { host: usize },
    Calls { controller: usize, host: usize, lost: bool },
    Reads { host: usize },
}

/// Whether a step needs anybody's help: what a host does by itself is enough to let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Help {
    None,
    Needed,
}

pub type Next = Vec<(Step, Help, World)>;

impl Rules {
    pub fn next(&self, world: &World, out: &mut Next) {
        out.clear();
        for host in 0..HOSTS {
            self.on_host(world, host, out);
            Self::starts_and_deaths(world, host, out);
        }
        for controller in 0..2 {
            for host in 0..HOSTS {
                self.on_wire(world, controller, host, out);
                self.late_call(world, controller, host, out);
            }
            self.in_controller(world, controller, out);
        }
        for (_, _, world) in out {
            world.normalise();
        }
    }

    fn on_host(&self, world: &World, host: usize, out: &mut Next) {
        let here = &world.hosts[host];
        let mut local = |step, change: &dyn Fn(&mut World)| push(world, (step, Help::None, 0), change, out);
        for index in 0..MEMBERS {
            // Two members in the same state: one of them will do.
            let twin = index > 0 && here.members[index] == here.members[index - 1];
            let job = here.members[index].job;
            if job == Job::None || twin {
                continue;
            }
            local(Step::Works { host, fails: false }, &|w| self.work(w, host, index, false));
        }
        let waits = matches!(
            here.state(),
            State::Prepared | State::Freezing | State::Held | State::Copying | State::Copied
        );
        let timed = self.scope != Scope::AtOnce;
        let waits = waits && timed;
        if waits && here.agent == Life::Alive {
            local(Step::AgentLimitPasses { host }, &|w| self.feed(w, host, Event::LimitPassed));
        }
        let armed = here.guard == Guard::Armed && timed;
        if armed || (here.guard == Guard::Fired && here.frozen()) {
            local(Step::GuardLimitPasses { host }, &|w| Self::guard_fires(w, host));
        }
        if here.eof {
            local(Step::GuardSeesEnd { host }, &|w| self.guard_sees_end(w, host));
        }
        for index in 0..MEMBERS {
            let job = here.members[index].job;
            if matches!(job, Job::Freeze | Job::FreezeThenThaw | Job::Copy | Job::CopyThenThaw) {
                let fault = (Step::Works { host, fails: true }, Help::Needed, 1);
                push(world, fault, &|w| self.work(w, host, index, true), out);
            }
        }
    }

    fn starts_and_deaths(world: &World, host: usize, out: &mut Next) {
        let here = &world.hosts[host];
        if here.agent == Life::Dead {
            // Only where the guard died too is a restart what lets go.
            let help = if here.guard_lost { Help::None } else { Help::Needed };
            push(world, (Step::AgentStarts { host }, help, 0), &|w| Self::agent_starts(w, host), out);
        } else {
            for (first, second) in [(false, false), (true, false), (false, true), (true, true)] {
                let dies = |w: &mut World| Self::agent_dies(w, host, [first, second], first);
                push(world, (Step::AgentDies { host }, Help::Needed, 1), &dies, out);
            }
        }
        if here.guard == Guard::Dead {
            let starts = |w: &mut World| w.hosts[host].guard = Guard::Idle;
            push(world, (Step::GuardStarts { host }, Help::Needed, 0), &starts, out);
        } else {
            let dies = |w: &mut World| {
                let here = &mut w.hosts[host];
                here.guard_lost |= here.eof || here.guard != Guard::Idle;
                (here.guard, here.eof) = (Guard::Dead, false);
            };
            push(world, (Step::GuardDies { host }, Help::Needed, 1), &dies, out);
        }
    }

    fn on_wire(&self, world: &World, controller: usize, host: usize, out: &mut Next) {
        let (wire, here) = (&world.wires[controller][host], &world.hosts[host]);
        let mut then = |step, faults, change: &dyn Fn(&mut World)| {
            push(world, (step, Help::Needed, faults), change, out);
        };
        if wire.order != Message::None && here.agent == Life::Alive {
            then(Step::OrderArrives { host, controller }, 0, &|w| self.deliver(w, controller, host));
            if wire.order == Message::Open && !here.is_live() {
                then(Step::PrepareFails { host }, 1, &|w| {
                    w.hosts[host].bad = true;
                    self.deliver(w, controller, host);
                });
            }
        }
        let ours = here.of == attempt_of(controller) && here.is_live();
        if wire.agent_end && ours {
            then(Step::AgentSeesEnd { host }, 0, &|w| {
                w.wires[controller][host].agent_end = false;
                w.wires[controller][host].order = Message::None;
                self.feed(w, host, Event::StreamEnded);
            });
        }
        let Phase::Round(_) = world.slots[controller].phase else { return };
        if wire.controller_end == End::No {
            then(Step::StreamBreaks { host, controller }, 1, &|w| {
                let wire = &mut w.wires[controller][host];
                (wire.agent_end, wire.controller_end) = (true, End::Broken);
            });
        }
        if wire.reports[0] != Message::None {
            then(Step::ReportArrives { host, controller }, 0, &|w| {
                let report = w.wires[controller][host].pop();
                self.told(w, controller, told(host, report));
            });
        }
        let over = wire.controller_end == End::Broken || wire.reports[0] == Message::None;
        if wire.controller_end != End::No && over && !self.has_said_its_last(world, controller, host) {
            then(Step::ControllerSeesEnd { host, controller }, 0, &|w| {
                w.wires[controller][host].reports = [Message::None; 2];
                self.told(w, controller, Told::HostFailed(host));
            });
        }
    }

    /// The end of a stream is no news after its host has released.
    fn has_said_its_last(&self, world: &World, controller: usize, host: usize) -> bool {
        let Phase::Round(number) = world.slots[controller].phase else { return false };
        matches!(self.coordinator.state(number), Standing::Releasing(waiting, _) if !waiting.contains(&host))
    }

    /// One event for the real coordinator, and what it wants done.
    fn told(&self, world: &mut World, controller: usize, event: Told) {
        let Phase::Round(number) = world.slots[controller].phase else { return };
        let (next, actions) = self.coordinator.step(number, event);
        world.slots[controller].phase = match self.coordinator.state(next) {
            Standing::Clean => Phase::SealHome,
            Standing::Failed(_) => Phase::Voiding((1 << HOSTS) - 1),
            Standing::Opening(_)
            | Standing::Ready
            | Standing::Holding(_)
            | Standing::Cutting(_)
            | Standing::Releasing(..) => Phase::Round(next),
        };
        for action in actions {
            let order = match action {
                Action::Hold => Message::Hold,
                Action::Cut => Message::Cut,
                Action::Release => Message::Release,
                Action::Close => {
                    hang_up(world, controller);
                    continue;
                }
            };
            for wire in &mut world.wires[controller] {
                if wire.controller_end == End::No {
                    wire.order = order;
                }
            }
        }
    }

    fn late_call(&self, world: &World, controller: usize, host: usize, out: &mut Next) {
        if world.late[controller][host] != Call::None && world.hosts[host].agent == Life::Alive {
            let arrives = |w: &mut World| {
                let call = std::mem::replace(&mut w.late[controller][host], Call::None);
                self.carry_out(w, host, call);
            };
            push(world, (Step::LateCallArrives { host }, Help::Needed, 0), &arrives, out);
        }
    }

    fn in_controller(&self, world: &World, controller: usize, out: &mut Next) {
        let slot = &world.slots[controller];
        let mut then = |step, faults, change: &dyn Fn(&mut World)| {
            push(world, (step, Help::Needed, faults), change, out);
        };
        match slot.phase {
            Phase::Off if self.scope != Scope::AtOnce && world.slots[0].phase != Phase::Ended => return,
            Phase::Off => {
                then(Step::ControllerStarts, 0, &|w| w.slots[controller].phase = Phase::Idle);
                return;
            }
            Phase::Ended => return,
            Phase::Round(number) => {
                then(Step::ControllerLimitPasses { controller }, 0, &|w| {
                    self.told(w, controller, Told::LimitPassed);
                });
                if *self.coordinator.state(number) == Standing::Ready {
                    then(Step::Proceeds { controller }, 0, &|w| self.told(w, controller, Told::Proceed));
                }
            }
            Phase::Idle => self.read_other(world, controller, out),
            Phase::Saw(other) => self.read_home(world, controller, other, out),
            Phase::Voiding(_)
            | Phase::VoidHome(..)
            | Phase::RemoveOther(..)
            | Phase::Forward(_)
            | Phase::SealHome
            | Phase::SealOther => self.calls(world, controller, out),
        }
        let dies = |w: &mut World| {
            if matches!(w.slots[controller].phase, Phase::Round(_)) {
                hang_up(w, controller);
            }
            w.slots[controller].phase = end_of(controller);
        };
        push(world, (Step::ControllerDies { controller }, Help::Needed, 1), &dies, out);
    }

    fn read_other(&self, world: &World, controller: usize, out: &mut Next) {
        // Nothing left to do: looking again would find the same.
        let [home, other] = world.hosts.map(|host| host.record);
        let agreed = home == other && !matches!(home, Record::Round(_));
        if world.hosts[OTHER].agent == Life::Dead || (world.slots[controller].attempted && agreed) {
            return;
        }
        // A round that is under way there is left alone.
        let busy = world.hosts[OTHER].is_live() && self.reading == ReadRule::SeesRounds;
        let reads = |w: &mut World| {
            w.slots[controller].phase = if busy { Phase::Idle } else { Phase::Saw(other) };
        };
        push(world, (Step::Reads { host: OTHER }, Help::Needed, 0), &reads, out);
    }

    fn read_home(&self, world: &World, controller: usize, other: Record, out: &mut Next) {
        if world.hosts[HOME].agent == Life::Dead {
            return;
        }
        let reads = |w: &mut World| {
            let home = w.hosts[HOME].record;
            let sealed = matches!(home, Record::Sealed(_)) && self.recovery != Recovery::VoidsSealed;
            if sealed {
                w.slots[controller].phase = Phase::Forward(home.attempt());
            } else if home == Record::None && other == Record::None {
                self.attempt(w, controller);
            } else {
                let attempt = if home == Record::None { other.attempt() } else { home.attempt() };
                w.slots[controller].phase = match self.recovery {
                    Recovery::OtherFirst => Phase::RemoveOther(attempt, other),
                    Recovery::HomeFirst | Recovery::VoidsSealed => Phase::VoidHome(attempt, other),
                };
            }
        };
        push(world, (Step::Reads { host: HOME }, Help::Needed, 0), &reads, out);
    }

    /// Nothing is left of earlier attempts: the retry, once.
    fn attempt(&self, world: &mut World, controller: usize) {
        let slot = &mut world.slots[controller];
        if slot.attempted {
            slot.phase = Phase::Idle;
            return;
        }
        slot.attempted = true;
        if self.scope == Scope::Recovery {
            slot.phase = Phase::Idle;
            return;
        }
        slot.phase = Phase::Round(Coordinator::START);
        world.faults = if self.scope == Scope::Retry { 0 } else { world.faults };
        world.open(controller);
    }

    /// The calls that a controller may make now, each answered, or lost and perhaps late.
    fn calls(&self, world: &World, controller: usize, out: &mut Next) {
        for host in 0..HOSTS {
            let Some(call) = self.call(world, controller, host) else { continue };
            if world.hosts[host].agent == Life::Alive {
                let answered = |w: &mut World| {
                    let answer = self.carry_out(w, host, call);
                    self.answered(w, controller, host, answer);
                };
                let step = Step::Calls { controller, host, lost: false };
                push(world, (step, Help::Needed, 0), &answered, out);
            }
            let lost = |w: &mut World| {
                w.late[controller][host] = call;
                self.answered(w, controller, host, Answer::Refused);
            };
            // A host that is dead refuses the connection, which is no fault of the network.
            let faults = u8::from(world.hosts[host].agent == Life::Alive);
            push(world, (Step::Calls { controller, host, lost: true }, Help::Needed, faults), &lost, out);
        }
    }

    fn call(&self, world: &World, controller: usize, host: usize) -> Option<Call> {
        let own = attempt_of(controller);
        match (world.slots[controller].phase, host) {
            (Phase::Voiding(todo), _) if todo & (1 << host) != 0 => Some(Call::Void(own)),
            (Phase::SealHome, HOME) | (Phase::SealOther, OTHER) => Some(Call::Seal(own)),
            (Phase::Forward(attempt), OTHER) => Some(Call::Seal(attempt)),
            (Phase::VoidHome(attempt, _), HOME) if self.recovery == Recovery::VoidsSealed => {
                Some(Call::Delete(attempt))
            }
            (Phase::VoidHome(attempt, _), HOME) => Some(Call::Void(attempt)),
            (Phase::RemoveOther(_, left), OTHER) => Some(match left {
                Record::Sealed(attempt) => Call::Delete(attempt),
                // A host that had nothing is asked nothing; a void of nothing changes nothing.
                Record::Round(attempt) => Call::Void(attempt),
                Record::None => Call::None,
            }),
            _ => None,
        }
    }

    fn answered(&self, world: &mut World, controller: usize, host: usize, answer: Answer) {
        let failed = end_of_call(controller);
        let phase = world.slots[controller].phase;
        let next = match (phase, answer) {
            (Phase::Voiding(todo), _) => match todo & !(1 << host) {
                0 => failed,
                todo => Phase::Voiding(todo),
            },
            (_, Answer::Refused) => failed,
            (Phase::SealHome, Answer::Done) => Phase::SealOther,
            (Phase::SealOther, Answer::Done) => {
                world.told[usize::from(attempt_of(controller))] = true;
                failed
            }
            (Phase::Forward(attempt), Answer::Done) => {
                world.told[usize::from(attempt)] = true;
                failed
            }
            (Phase::VoidHome(attempt, left), Answer::Done) if self.recovery != Recovery::OtherFirst => {
                Phase::RemoveOther(attempt, left)
            }
            (Phase::RemoveOther(attempt, left), Answer::Done) if self.recovery == Recovery::OtherFirst => {
                Phase::VoidHome(attempt, left)
            }
            _ => {
                self.attempt(world, controller);
                return;
            }
        };
        world.slots[controller].phase = next;
    }
}

/// The controller's ends of all streams are gone.
fn hang_up(world: &mut World, controller: usize) {
    for wire in &mut world.wires[controller] {
        wire.agent_end = true;
        wire.controller_end = End::Broken;
        wire.reports = [Message::None; 2];
    }
}

/// The first controller makes one attempt; the second goes on looking.
fn end_of_call(controller: usize) -> Phase {
    if controller == 0 { Phase::Ended } else { Phase::Idle }
}

fn end_of(controller: usize) -> Phase {
    if controller == 0 { Phase::Ended } else { Phase::Off }
}

fn told(host: usize, report: Message) -> Told {
    match report {
        Message::Prepared => Told::Reported(host, Report::Prepared),
        Message::Held => Told::Reported(host, Report::Held),
        Message::CutDone => Told::Reported(host, Report::Cut),
        Message::Clean => Told::Reported(host, Report::ReleasedClean),
        Message::Lapsed => Told::Reported(host, Report::ReleasedLapsed),
        Message::None | Message::Open | Message::Hold | Message::Cut | Message::Release | Message::Failed => {
            Told::HostFailed(host)
        }
    }
}

/// Adds a step, if the world still has as many faults in it.
fn push(world: &World, (step, help, faults): (Step, Help, u8), change: &dyn Fn(&mut World), out: &mut Next) {
    let Some(left) = world.faults.checked_sub(faults) else { return };
    let mut next = *world;
    next.faults = left;
    change(&mut next);
    out.push((step, help, next));
}
