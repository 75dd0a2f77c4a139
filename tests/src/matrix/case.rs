//! What is struck where.

use std::fmt;

use stillpoint_guard::fault::POINTS;

/// A process of the stack; hosts by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// The agent of a host.
    Agent(usize),
    /// The guard of a host.
    Guard(usize),
    /// The controller.
    Controller,
}

/// What is asked for while the blow falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A group snapshot of three volumes on three hosts.
    Cut,
    /// Deleting one.
    Uncut,
    /// A new volume.
    Create,
    /// A copy of a volume that is being written.
    Clone,
    /// Deleting a volume.
    Delete,
    /// Staging a volume on its node.
    Stage,
    /// A new volume from a snapshot of another host.
    Copy,
    /// A volume that goes to another host and keeps its id.
    Move,
}

/// How the process that reaches the point is struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blow {
    /// It dies there.
    Die,
    /// It waits there until these are dead; it may be one of them.
    Kill(Vec<Party>),
    /// It stands still for [`super::PAUSE`].
    Pause,
}

/// One case of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What is asked for.
    pub deed: Deed,
    /// Who reaches the point.
    pub at: Party,
    /// The point.
    pub point: &'static str,
    /// What happens there.
    pub blow: Blow,
    /// Who must die before, so that the point is reached at all.
    pub before: Option<(Party, &'static str)>,
}

/// Where two processes die together: around everything that is held.
const TOGETHER: [&str; 6] = [
    "agent.cut.armed",
    "agent.cut.frozen",
    "agent.cut.held",
    "agent.cut.copying",
    "agent.cut.cut",
    "agent.cut.thawing",
];
/// Where a process stands still: while others wait for it, while something is held, between two seals.
const STANDING: [&str; 6] = [
    "agent.cut.frozen",
    "agent.cut.copied",
    "guard.hold.armed",
    "controller.cut.held",
    "controller.cut.release-ordered",
    "controller.seal.home-sealed",
];

impl Case {
    /// Every point with the death of its process, pairs around the hold, and pauses. Hosts take turns.
    pub fn all(hosts: usize) -> Vec<Self> {
        let mut cases: Vec<Self> = points()
            .enumerate()
            .flat_map(|(turn, point)| {
                deeds(point).iter().map(move |deed| Self::single(*deed, point, turn % hosts, hosts))
            })
            .collect();
        for (turn, point) in TOGETHER.iter().enumerate() {
            let host = turn % hosts;
            let (agent, guard) = (Party::Agent(host), Party::Guard(host));
            let pairs = [vec![agent, guard], vec![agent, Party::Controller], vec![guard, Party::Controller]];
            cases.extend(
                pairs.map(|pair| Self {
                    blow: Blow::Kill(pair),
                    ..Self::single(Deed::Cut, point, host, hosts)
                }),
            );
        }
        cases.extend(STANDING.iter().enumerate().map(|(turn, point)| Self {
            blow: Blow::Pause,
            ..Self::single(Deed::Cut, point, turn % hosts, hosts)
        }));
        cases
    }

    /// One that nobody chose: any point, any host, any set of at most three dead.
    pub fn random(mut next: impl FnMut(usize) -> usize, hosts: usize) -> Self {
        let points: Vec<&'static str> = points().collect();
        let point = points[next(points.len())];
        let deeds = deeds(point);
        let host = next(hosts);
        let mut case = Self::single(deeds[next(deeds.len())], point, host, hosts);
        case.blow = match next(8) {
            0 => Blow::Pause,
            1..4 => Blow::Die,
            _ => {
                let any = [Party::Agent(next(hosts)), Party::Guard(next(hosts)), Party::Controller];
                let mut dead: Vec<Party> = any.into_iter().filter(|_| next(2) == 0).collect();
                dead.push(case.at);
                dead.sort_unstable();
                dead.dedup();
                Blow::Kill(dead)
            }
        };
        case
    }

    fn single(deed: Deed, point: &'static str, host: usize, hosts: usize) -> Self {
        let at = match point.split('.').next() {
            Some("agent") => Party::Agent(host),
            Some("guard") => Party::Guard(host),
            _ => Party::Controller,
        };
        // A cut is void where a hold lapsed: a guard that dies while it guards makes it so.
        let other = Party::Guard((host + 1) % hosts);
        let before = point.starts_with("agent.void.").then_some((other, "guard.hold.armed"));
        Self { deed, at, point, blow: Blow::Die, before }
    }
}

/// The points that these deeds pass. Those of schedules are struck by `tests/schedules.rs`.
fn points() -> impl Iterator<Item = &'static str> {
    POINTS.iter().copied().filter(|point| !point.starts_with("controller.schedule."))
}

/// What passes a point.
fn deeds(point: &str) -> &'static [Deed] {
    let mut words = point.split('.');
    match (words.next(), words.next()) {
        (_, Some("cut" | "seal" | "void" | "hold")) => &[Deed::Cut],
        (_, Some("uncut")) => &[Deed::Uncut],
        (Some("agent"), Some("create")) => &[Deed::Create, Deed::Clone],
        (_, Some("create")) => &[Deed::Create],
        (_, Some("delete")) => &[Deed::Delete],
        (_, Some("stage")) => &[Deed::Stage],
        // What is published by itself is a copy; what moves is adopted by the same steps.
        (_, Some("copy")) => &[Deed::Copy, Deed::Move],
        (_, Some("move")) => &[Deed::Move],
        _ => &[],
    }
}

/// Whether the host that reaches this point is the one that a volume comes from.
pub(super) fn is_at_the_source(point: &str) -> bool {
    match point {
        "agent.copy.sending" => true,
        "agent.copy.writing" | "agent.copy.whole" | "agent.copy.published" | "agent.move.kept" => false,
        _ => point.starts_with("agent.move.") || point.starts_with("controller."),
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(host) => write!(f, "agent {host}"),
            Self::Guard(host) => write!(f, "guard {host}"),
            Self::Controller => f.write_str("controller"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deed = format!("{:?}", self.deed).to_lowercase();
        match &self.blow {
            Blow::Die => write!(f, "{deed}: {} dies at {}", self.at, self.point)?,
            Blow::Kill(dead) => {
                let names: Vec<String> = dead.iter().map(Party::to_string).collect();
                write!(f, "{deed}: {} die with {} at {}", names.join(" and "), self.at, self.point)?;
            }
            Blow::Pause => write!(f, "{deed}: {} stands still at {}", self.at, self.point)?,
        }
        match &self.before {
            Some((party, point)) => write!(f, " (after {party} died at {point})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_case_and_there_are_enough() {
        let cases = Case::all(3);
        for point in points() {
            assert!(cases.iter().any(|case| case.point == point), "no case strikes at {point}");
        }
        assert!(cases.len() >= 60, "{}", cases.len());
        let different: std::collections::BTreeSet<String> = cases.iter().map(Case::to_string).collect();
        assert_eq!(different.len(), cases.len());
    }

    #[test]
    fn a_random_case_strikes_where_its_deed_passes() {
        let mut state = 7_usize;
        for _ in 0..1000 {
            let case = Case::random(
                |below| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) % below
                },
                3,
            );
            assert!(deeds(case.point).contains(&case.deed), "{case}");
        }
    }
}
