//! What the model knows of the world: two controllers, two hosts with two members each, and the network between them.
//! Everything is small and `Copy`, because there are many of these.

use stillpoint::domain::round::participant::{Cause, State};

pub const HOSTS: usize = 2;
pub const MEMBERS: usize = 2;
/// The host of the home pool.
pub const HOME: usize = 0;
pub const OTHER: usize = 1;

/// Which attempt at the cut: 1 is the first controller's, 2 the second's. 0: none.
pub type Attempt = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub slots: [Slot; 2],
    pub hosts: [Host; HOSTS],
    /// By controller and host.
    pub wires: [[Wire; HOSTS]; 2],
    /// Calls that their caller does not wait for any more and that may still arrive, by controller and host.
    pub late: [[Call; HOSTS]; 2],
    /// By attempt: a member could be written after it was copied and before another was.
    pub torn: [bool; 3],
    /// By attempt: a member was let go by somebody else.
    pub lapsed: [bool; 3],
    /// By attempt: the caller was told that the cut exists.
    pub told: [bool; 3],
    /// Deaths, losses and failures that may still happen.
    pub faults: u8,
}

/// How much of the world is explored; together they are what fits in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One attempt with everything that can happen in it, then a second controller that settles what is left.
    Recovery,
    /// The same, and the second controller takes up the name again; from then on nothing more fails.
    Retry,
    /// Both controllers at once under the same name: everything that they can do to each other. Deadlines of hosts and
    /// guards do not pass, because they add nothing to what broken streams do.
    AtOnce,
}

/// A controller. The second is another replica, or the first one started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    pub phase: Phase,
    pub attempted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Dead, or not started yet.
    Off,
    Idle,
    /// Settling: what the other host has was read.
    Saw(Record),
    /// Settling: the home pool had this, and is about to be asked to void it.
    VoidHome(Attempt, Record),
    /// Settling: the home pool is void.
    RemoveOther(Attempt, Record),
    /// Settling: sealed at home, the other host is about to be told.
    Forward(Attempt),
    /// A round, by the number of its coordinator's state.
    Round(u8),
    /// The round failed; these hosts (bits) are still to be asked to void it.
    Voiding(u8),
    SealHome,
    SealOther,
    /// Has made its attempt and does nothing more.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Host {
    pub agent: Life,
    /// Number of the participant's state; `Idle` when there is no round.
    pub part: u8,
    /// The attempt of the round, also of one that is over.
    pub of: Attempt,
    pub deed: Job,
    /// A member's work has failed.
    pub bad: bool,
    pub members: [Member; MEMBERS],
    pub guard: Guard,
    /// The guard has not noticed yet that an agent's connection ended.
    pub eof: bool,
    /// The guard died during this hold.
    pub guard_lost: bool,
    pub record: Record,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life {
    Alive,
    Dead,
}

// What the kernel, the worker and the pool know of one member: a bit each.
#[allow(clippy::struct_excessive_bools)]
/// Members of one host are alike, so they are kept sorted: that is the model's symmetry reduction. Hosts are not alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Member {
    pub frozen: bool,
    /// The worker has frozen it and not thawed it.
    pub mine: bool,
    /// The worker found it thawed.
    pub lapsed: bool,
    pub copied: bool,
    /// It could be written since it was copied.
    pub written: bool,
    pub job: Job,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Job {
    #[default]
    None,
    Freeze,
    FreezeThenThaw,
    Copy,
    CopyThenThaw,
    Thaw,
    Undo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    Dead,
    Idle,
    Armed,
    /// Past its limit: goes on thawing until it is disarmed.
    Fired,
}

/// A pool's durable record of the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Record {
    None,
    Round(Attempt),
    Sealed(Attempt),
}

impl Record {
    pub fn attempt(self) -> Attempt {
        match self {
            Self::None => 0,
            Self::Round(attempt) | Self::Sealed(attempt) => attempt,
        }
    }
}

/// The stream of one round to one host. Both directions keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wire {
    pub order: Message,
    pub reports: [Message; 2],
    /// The agent will find the stream ended.
    pub agent_end: bool,
    pub controller_end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    No,
    /// After the reports.
    Graceful,
    /// At any moment: reports on the way are lost.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    None,
    Open,
    Hold,
    Cut,
    Release,
    Prepared,
    Held,
    CutDone,
    Clean,
    Lapsed,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    None,
    Seal(Attempt),
    Void(Attempt),
    Delete(Attempt),
}

/// The participant's states by number. Why it gives up is told to people and changes nothing else.
pub const PARTS: [State; 11] = [
    State::Idle,
    State::Preparing,
    State::Prepared,
    State::Freezing,
    State::Held,
    State::Copying,
    State::Copied,
    State::Releasing,
    State::Released,
    State::GivingUp(Cause::LimitPassed),
    State::Over,
];

pub fn part_number(state: State) -> u8 {
    let state = if let State::GivingUp(_) = state { State::GivingUp(Cause::LimitPassed) } else { state };
    let found = PARTS.iter().position(|part| *part == state).expect("every state is in the table");
    u8::try_from(found).expect("there are eleven")
}

impl World {
    /// Nothing has happened yet; the first controller is about to open its round.
    pub fn new(faults: u8, start: u8) -> Self {
        let host = Host {
            agent: Life::Alive,
            part: 0,
            of: 0,
            deed: Job::None,
            bad: false,
            members: [Member::default(); MEMBERS],
            guard: Guard::Idle,
            eof: false,
            guard_lost: false,
            record: Record::None,
        };
        let mut world = Self {
            slots: [
                Slot { phase: Phase::Round(start), attempted: true },
                Slot { phase: Phase::Off, attempted: false },
            ],
            hosts: [host; HOSTS],
            wires: [[Wire::UNUSED; HOSTS]; 2],
            late: [[Call::None; HOSTS]; 2],
            torn: [false; 3],
            lapsed: [false; 3],
            told: [false; 3],
            faults,
        };
        world.open(0);
        world
    }

    /// Sends `Open` to all hosts; one without an agent refuses the connection.
    pub fn open(&mut self, slot: usize) {
        for (wire, host) in self.wires[slot].iter_mut().zip(&self.hosts) {
            *wire = match host.agent {
                Life::Alive => Wire { order: Message::Open, ..Wire::UNUSED },
                Life::Dead => Wire { controller_end: End::Broken, ..Wire::UNUSED },
            };
        }
    }

    /// Forgets what nothing that follows can depend on, so that worlds that differ only in it are one.
    pub fn normalise(&mut self) {
        for host in &mut self.hosts {
            host.normalise();
        }
        for attempt in [1, 2] {
            let (slot, at) = (usize::from(attempt) - 1, usize::from(attempt));
            for host in 0..HOSTS {
                self.normalise_wire(slot, host);
            }
            let opening = self.wires[slot].iter().any(|wire| wire.order == Message::Open);
            if !opening
                && self.hosts.iter().all(|host| host.record.attempt() != attempt && host.of != attempt)
            {
                (self.torn[at], self.lapsed[at]) = (false, false);
            }
        }
    }

    /// A stream that its controller does not read any more matters only as far as its agent will notice.
    fn normalise_wire(&mut self, slot: usize, at: usize) {
        let host = &self.hosts[at];
        let wire = &mut self.wires[slot][at];
        if host.agent == Life::Dead {
            (wire.order, wire.agent_end) = (Message::None, false);
        }
        if matches!(self.slots[slot].phase, Phase::Round(_)) {
            return;
        }
        let heard = host.is_live() && usize::from(host.of) == slot + 1;
        let open = wire.order == Message::Open;
        *wire = Wire {
            order: if heard || open { wire.order } else { Message::None },
            agent_end: wire.agent_end && (heard || open),
            controller_end: End::Broken,
            ..Wire::UNUSED
        };
    }

    pub fn frozen(&self) -> bool {
        self.hosts.iter().any(Host::frozen)
    }

    /// Nothing is under way on hosts, and all of them agree.
    pub fn settled(&self) -> bool {
        let [home, other] = self.hosts.map(|host| host.record);
        let agree = match home {
            Record::None => other == Record::None && !self.members().any(|member| member.copied),
            Record::Round(_) => false,
            Record::Sealed(_) => other == home,
        };
        agree && !self.frozen() && !self.hosts.iter().any(Host::is_live)
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.hosts.iter().flat_map(|host| &host.members)
    }
}

impl Host {
    /// Members of a host are alike, so they are sorted; a round that is over leaves only its record and copies.
    fn normalise(&mut self) {
        for member in &mut self.members {
            member.written |= !member.frozen;
            member.written &= member.copied;
        }
        // A freeze that is under way ends frozen also when its agent dies meanwhile.
        let may_freeze =
            self.members.iter().any(|member| matches!(member.job, Job::Freeze | Job::FreezeThenThaw));
        if !self.frozen() && !may_freeze && self.guard != Guard::Armed {
            self.guard_lost = false;
        }
        let over = !self.is_live() && !self.frozen();
        if over && matches!(self.guard, Guard::Dead | Guard::Idle) {
            self.eof = false;
            (self.of, self.part, self.deed, self.bad) = (0, 0, Job::None, false);
            for member in &mut self.members {
                (member.mine, member.lapsed, member.job) = (false, false, Job::None);
            }
        }
        self.members.sort_unstable();
    }

    pub fn state(&self) -> State {
        PARTS[usize::from(self.part)]
    }

    pub fn frozen(&self) -> bool {
        self.members.iter().any(|member| member.frozen)
    }

    /// A round is under way and has its volumes locked.
    pub fn is_live(&self) -> bool {
        self.agent == Life::Alive && !matches!(self.state(), State::Idle | State::Released | State::Over)
    }

    /// Every member of this host is copied.
    pub fn has_all(&self) -> bool {
        self.members.iter().all(|member| member.copied)
    }

    pub fn forget_cut(&mut self) {
        self.record = Record::None;
        for member in &mut self.members {
            member.copied = false;
        }
    }
}

impl Wire {
    pub const UNUSED: Self =
        Self { order: Message::None, reports: [Message::None; 2], agent_end: false, controller_end: End::No };

    pub fn push(&mut self, report: Message) {
        let free = self.reports.iter_mut().find(|slot| **slot == Message::None);
        *free.expect("a host has at most two reports on the way") = report;
    }

    pub fn pop(&mut self) -> Message {
        let [first, second] = self.reports;
        self.reports = [second, Message::None];
        first
    }
}
