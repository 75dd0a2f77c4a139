//! Whose turn it is: an application is worked with by one run at a time. Pure.
//!
//! Two runs **meet** where both use a pod or a volume. Runs that meet take turns, from before the first `before` of a run
//! until its last `after` has ended, so that no run undoes what another one has just done.
//!
//! # Flow
//! 1. A run whose plan is made waits while a run that it meets has its turn, or has waited for longer ([`decide`]).
//! 2. It writes down its **claim**, and only then asks for the open runs of all processes.
//! 3. No other claim of a run that it meets: its turn has begun. It keeps the claim until the run has ended.
//! 4. Another claim: the run that has waited for longer keeps its claim and looks again; the other one takes its claim
//!    back and waits.
//!
//! # Guarantees
//! * Never two turns at once of runs that meet: each writes its claim before it looks, so of two claims at least one
//!   is seen by the other. This holds over several processes, and needs no clock.
//! * First come, first served, by the instants at which runs began to wait. A wrong clock costs the order, nothing else.
//! * No deadlock: a run that has its turn waits for nobody.
//! * A run that was left by a dead process keeps its turn until somebody has undone it.
//!
//! # Assumptions
//! Asking for open runs shows every claim whose writing had ended before ([`crate::ports::Journal::open_runs`]).

mod table;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::run::Run;

pub use table::OpenRuns;

/// A run's place in the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Turn {
    /// When it began to wait.
    #[cfg_attr(feature = "kube", schemars(with = "String"))]
    pub since: Timestamp,
    /// It has claimed its turn, or has it.
    pub claimed: bool,
    /// Which run it waits for, and why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

impl Turn {
    /// Of a run that begins to wait.
    pub fn waiting(since: Timestamp) -> Self {
        Self { since, claimed: false, waits_for: None }
    }
}

/// A run that has not ended, as far as others must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRun {
    /// Unique.
    pub id: String,
    /// What people know it by.
    pub name: String,
    /// When it began to wait.
    pub since: Timestamp,
    /// It has claimed its turn, or has it.
    pub claimed: bool,
    /// Somebody conducts it. A dead run that only waits is in nobody's way.
    pub is_alive: bool,
    /// Pods and volumes, see [`uses`].
    pub uses: BTreeSet<String>,
}

impl OpenRun {
    /// Of this record. One without a turn was written by a version that knew none: it is taken to have it.
    pub fn of(run: &Run, name: String, is_alive: bool) -> Self {
        let turn = run.turn.clone();
        Self {
            id: run.id.clone(),
            name,
            since: turn.as_ref().map_or(run.started_at, |turn| turn.since),
            claimed: turn.is_none_or(|turn| turn.claimed),
            is_alive,
            uses: uses(run),
        }
    }

    fn place(&self) -> (Timestamp, &str) {
        (self.since, &self.id)
    }

    fn is_before(&self, other: &Self) -> bool {
        self.place() < other.place()
    }

    /// Something that both use, for people.
    fn shared_with(&self, other: &Self) -> Option<String> {
        self.uses.intersection(&other.uses).next().cloned()
    }
}

/// What a run works with: its pods, by name and by incarnation, and the volumes of its snapshot. A run without steps
/// does nothing to an application and uses nothing.
///
/// Pods count by their names too: a pod that came back under its name has most likely the volumes of the one before.
pub fn uses(run: &Run) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let planned = run.plan.iter().flat_map(|plan| &plan.steps).flat_map(|step| &step.targets);
    let pods = planned.map(|target| &target.at).chain(run.debts.iter().map(|debt| &debt.target));
    for pod in pods {
        used.insert(format!("pod {}/{}", pod.namespace, pod.pod));
        used.insert(format!("uid {} of {}", pod.uid, pod.namespace));
    }
    if !used.is_empty() {
        let hosts = run.plan.iter().flat_map(|plan| &plan.hosts);
        used.extend(hosts.flat_map(|host| &host.volumes).map(|volume| format!("volume {}", volume.id)));
    }
    used
}

/// What a run does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nobody is in its way: it claims its turn, or begins it where it has claimed it.
    Go,
    /// It keeps its claim and looks again: the other one, named here, must take its claim back or end.
    Look(String),
    /// It takes its claim back, if it has one, and waits for the run that is named here.
    Wait(String),
}

/// What a run does next, given the open runs. Those that it does not meet have no say.
pub fn decide(mine: &OpenRun, others: &[OpenRun]) -> Decision {
    let mut met: Vec<(&OpenRun, String)> = others
        .iter()
        .filter(|other| other.id != mine.id)
        .filter_map(|other| Some((other, mine.shared_with(other)?)))
        .collect();
    // Whoever has its turn is named rather than somebody who waits for it, too.
    met.sort_by(|(a, _), (b, _)| (!a.claimed, a.place()).cmp(&(!b.claimed, b.place())));
    let words = |other: &OpenRun, shared: &str| format!("{} (both use {shared})", other.name);
    let mut look = None;
    for (other, shared) in met {
        let keeps_its_claim = mine.claimed && mine.is_before(other);
        match other.claimed {
            true if keeps_its_claim => look = look.or(Some(words(other, &shared))),
            true => return Decision::Wait(words(other, &shared)),
            false if !mine.claimed && other.is_alive && other.is_before(mine) => {
                return Decision::Wait(words(other, &shared));
            }
            false => {}
        }
    }
    look.map_or(Decision::Go, Decision::Look)
}

#[cfg(test)]
mod tests;
