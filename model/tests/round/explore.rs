//! Breadth first over all worlds, so that the first broken property is found by a shortest way to it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use super::rules::{Coordinator, Rules};
use super::steps::{Help, Next, Step};
use super::world::{HOME, OTHER, Record, Scope, World};

/// All worlds that can be reached.
pub struct Explored {
    pub states: usize,
    pub steps: usize,
}

/// A property that does not hold, and how to get there.
pub struct Violation {
    pub property: &'static str,
    pub trace: Vec<(Step, World)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after {} steps:", self.property, self.trace.len() - 1)?;
        for (number, (step, _)) in self.trace.iter().enumerate() {
            writeln!(f, "{number:4}  {step:?}")?;
        }
        let last = self.trace.last().map(|(_, world)| world);
        writeln!(f, "      {last:#?}")
    }
}

struct Graph {
    worlds: Vec<World>,
    /// From where and how each was reached first.
    reached: Vec<(u32, Step)>,
    /// Edges backwards, and whether they need help.
    before: Vec<(u32, u32, Help)>,
}

/// Explores everything with at most this many faults.
pub fn explore(rules: &Rules, faults: u8) -> Result<Explored, Violation> {
    let start = World::new(faults, Coordinator::START);
    let mut graph = Graph { worlds: vec![start], reached: vec![(0, Step::Begin)], before: Vec::new() };
    let mut known: HashMap<World, u32, BuildHasherDefault<Mix>> = HashMap::default();
    known.insert(start, 0);
    let mut next: Next = Vec::new();
    let mut at = 0;
    while at < graph.worlds.len() {
        let world = graph.worlds[at];
        if let Some(property) = broken(&world) {
            return Err(graph.violation(property, at));
        }
        rules.next(&world, &mut next);
        let (here, from) = (number(at), world);
        for (step, help, world) in next.drain(..).filter(|(_, _, next)| *next != from) {
            let there = match known.entry(world) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    graph.worlds.push(world);
                    graph.reached.push((here, step));
                    *unknown.insert(number(graph.worlds.len() - 1))
                }
            };
            graph.before.push((there, here, help));
        }
        at += 1;
    }
    graph.check_ends(rules.scope)?;
    Ok(Explored { states: graph.worlds.len(), steps: graph.before.len() })
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than four billion worlds")
}

/// What must hold in every world.
fn broken(world: &World) -> Option<&'static str> {
    let [home, other] = [world.hosts[HOME].record, world.hosts[OTHER].record];
    if let Record::Sealed(attempt) = home {
        let at = usize::from(attempt);
        if other.attempt() != attempt || !world.hosts.iter().all(super::world::Host::has_all) {
            return Some("a sealed group has lost a member");
        }
        if world.torn[at] {
            return Some("a sealed group has members of different instants");
        }
        if world.lapsed[at] {
            return Some("a group was sealed though a hold had lapsed");
        }
    } else if matches!(other, Record::Sealed(_)) {
        return Some("a member is sealed and its home pool is not");
    }
    let told = (1..3_u8).find(|attempt| world.told[usize::from(*attempt)]);
    match told {
        Some(attempt) if home != Record::Sealed(attempt) || other != home => {
            Some("the caller was told of a group that does not exist everywhere")
        }
        _ => None,
    }
}

impl Graph {
    fn violation(&self, property: &'static str, mut at: usize) -> Violation {
        let mut trace = Vec::new();
        loop {
            let (from, step) = self.reached[at];
            trace.push((step, self.worlds[at]));
            if at == 0 {
                break;
            }
            at = from as usize;
        }
        trace.reverse();
        Violation { property, trace }
    }

    /// From every world: whatever hosts do by themselves ends with nothing frozen, and recovery can be completed.
    fn check_ends(&mut self, scope: Scope) -> Result<(), Violation> {
        self.before.sort_unstable_by_key(|(to, from, _)| (*to, *from));
        let stuck = if scope == Scope::AtOnce { None } else { self.may_stay_frozen() };
        if let Some(at) = stuck {
            return Err(self.violation("something stays frozen unless somebody helps", at));
        }
        let settles = self.can_reach(World::settled);
        match settles.iter().position(|settles| !settles) {
            Some(at) => Err(self.violation("hosts can never agree again", at)),
            None => Ok(()),
        }
    }

    fn before(&self, to: u32) -> &[(u32, u32, Help)] {
        let start = self.before.partition_point(|(edge, ..)| *edge < to);
        let end = self.before.partition_point(|(edge, ..)| *edge <= to);
        &self.before[start..end]
    }

    /// A frozen world from which some sequence of unaided steps never gets thawed: it stops, or goes round in circles.
    /// All others are found from the thawed worlds backwards: a world lets go if it has an unaided step and each of its
    /// unaided steps leads to one that does.
    fn may_stay_frozen(&self) -> Option<usize> {
        let mut waiting_for = vec![0_u32; self.worlds.len()];
        for (_, from, help) in &self.before {
            waiting_for[*from as usize] += u32::from(*help == Help::None);
        }
        let mut lets_go: Vec<bool> = self.worlds.iter().map(|world| !world.frozen()).collect();
        let mut todo: Vec<u32> = (0..).zip(&lets_go).filter(|(_, go)| **go).map(|(at, _)| at).collect();
        while let Some(at) = todo.pop() {
            for (_, from, help) in self.before(at) {
                let from_at = *from as usize;
                if *help == Help::Needed || lets_go[from_at] {
                    continue;
                }
                waiting_for[from_at] -= 1;
                if waiting_for[from_at] == 0 {
                    lets_go[from_at] = true;
                    todo.push(*from);
                }
            }
        }
        lets_go.iter().position(|go| !go)
    }

    fn can_reach(&self, goal: impl Fn(&World) -> bool) -> Vec<bool> {
        let mut can: Vec<bool> = self.worlds.iter().map(goal).collect();
        let mut todo: Vec<u32> = (0..).zip(&can).filter(|(_, can)| **can).map(|(at, _)| at).collect();
        while let Some(at) = todo.pop() {
            for (_, from, _) in self.before(at) {
                if !can[*from as usize] {
                    can[*from as usize] = true;
                    todo.push(*from);
                }
            }
        }
        can
    }
}

/// A hash that is fast on many small fields; nobody chooses our keys to collide.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, number: isize) {
        self.0 = (self.0.rotate_left(5) ^ number.cast_unsigned() as u64).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
