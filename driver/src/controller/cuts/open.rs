//! A cut from the moment when all hosts are prepared to its seal.

use std::time::Duration;

use jiff::Timestamp;
use stillpoint_guard::fault::point;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::BusyName;
use crate::controller::fleet::Agent;
use crate::controller::lanes;
use crate::controller::round::Round;
use crate::domain::record::{CutRecord, CutState};
use crate::domain::timeline::Timeline;
use crate::domain::{Fault, HostName, Level};
use crate::observe::metrics;
use crate::observe::request::carried;
use crate::wire;

/// Without the barrier: what a tool that goes from host to host needs at least. Without it a writer that was held on
/// one host may not have come to the next before that is cut, and the check that is to fail would pass.
const ONE_HOST_TO_THE_NEXT: Duration = Duration::from_millis(100);

/// A prepared cut. Dropping it without [`OpenCut::seal`] gives it up: hosts let go, and what was cut is removed.
pub struct OpenCut {
    record: CutRecord,
    base: Instant,
    wall_clock: fn() -> Timestamp,
    /// `None` once it was sealed or given up.
    live: Option<Live>,
}

/// The hosts' part of a cut that is neither sealed nor given up.
struct Live {
    agents: Vec<Agent>,
    /// One round over all hosts; without the barrier one per host.
    rounds: Vec<Round>,
    _busy: BusyName,
}

/// What was cut and does not count yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// The level that storage reached by itself.
    pub level: Level,
    /// Why it is not higher.
    pub reasons: Vec<String>,
    /// What happened when.
    pub timeline: Timeline,
    /// Wall-clock time when the first hold was requested.
    pub hold_requested_at: Timestamp,
}

impl OpenCut {
    pub(super) fn new(
        record: CutRecord,
        agents: Vec<Agent>,
        (base, wall_clock): (Instant, fn() -> Timestamp),
        busy: BusyName,
    ) -> Self {
        Self { record, base, wall_clock, live: Some(Live { agents, rounds: Vec::new(), _busy: busy }) }
    }

    pub(super) fn add(&mut self, round: Round) {
        if let Some(live) = &mut self.live {
            live.rounds.push(round);
        }
    }

    /// The record as it will be sealed, so far.
    pub fn record(&self) -> &CutRecord {
        &self.record
    }

    /// Holds, cuts and releases. After an error nothing is held and the cut is void.
    pub async fn cut(&mut self) -> Result<Taken, Fault> {
        let live = self.live.as_mut().ok_or_else(given_up)?;
        let zero_us = u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX);
        let hold_requested_at = (self.wall_clock)();
        for (index, round) in live.rounds.iter_mut().enumerate() {
            if index > 0 {
                tokio::time::sleep(ONE_HOST_TO_THE_NEXT).await;
            }
            if let Err(fault) = round.cut().await {
                return Err(self.give_up(fault).await);
            }
        }
        point("controller.cut.released");
        let one_instant = live.rounds.len() == 1;
        let views: Vec<_> = live.rounds.iter().flat_map(Round::views).collect();
        let (level, reasons) = lanes::level(&views, one_instant);
        let timeline = lanes::timeline(live.rounds.iter().flat_map(|round| round.lanes(zero_us)).collect());
        metrics::cuts::taken(
            Duration::from_micros(timeline.window_us),
            Duration::from_micros(timeline.skew_us),
        );
        self.record.cut_at = hold_requested_at;
        self.record.timeline = Some(timeline.clone());
        Ok(Taken { level, reasons, timeline, hold_requested_at })
    }

    /// Makes the cut exist. UNAVAILABLE: its fate is unknown or not all hosts know of it yet; a retry under the same
    /// name finds out. Any other error: it is void.
    pub async fn seal(mut self: Box<Self>, level: Level, reasons: Vec<String>) -> Result<CutRecord, Fault> {
        if self.record.timeline.is_none() {
            let fault = Fault::internal("a cut cannot be sealed before it was taken");
            return Err(self.give_up(fault).await);
        }
        // From here on it is sealed or its fate is unknown; in neither case may it be given up.
        let live = self.live.take().ok_or_else(given_up)?;
        self.record.state = CutState::Sealed;
        self.record.level = level;
        self.record.reasons = reasons;
        point("controller.seal.begun");
        live.seal(&self.record).await.inspect_err(|_| metrics::cuts::undecided())?;
        metrics::cuts::sealed();
        tracing::info!(
            cut = %self.record.id,
            attempt = %self.record.attempt,
            name = self.record.name,
            %level,
            window_us = self.record.timeline.as_ref().map_or(0, |timeline| timeline.window_us),
            "sealed"
        );
        point("controller.seal.sealed");
        Ok(self.record.clone())
    }

    /// Lets go everywhere and removes what was cut. Gives back what to tell the caller.
    pub async fn give_up(&mut self, fault: Fault) -> Fault {
        match self.live.take() {
            Some(live) => live.give_up(&self.record, fault).await,
            None => fault,
        }
    }
}

impl Drop for OpenCut {
    fn drop(&mut self) {
        let (Some(live), Ok(runtime)) = (self.live.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        metrics::cuts::void(metrics::cuts::Reason::given_up);
        let record = self.record.clone();
        runtime.spawn(carried(async move { live.give_up(&record, given_up()).await }));
    }
}

/// Whether this host has the home pool, in a record that was made for this attempt: its members say where pools are now.
fn is_home(record: &CutRecord, host: &HostName) -> bool {
    record.members.iter().any(|member| member.volume.pool == record.id.home && member.host == *host)
}

fn given_up() -> Fault {
    Fault::aborted("the cut was given up")
}

impl Live {
    async fn seal(&self, record: &CutRecord) -> Result<(), Fault> {
        let home = self.agents.iter().find(|agent| is_home(record, agent.host()));
        let home = home.ok_or_else(|| Fault::internal("no host has the home pool"))?;
        let text = wire::convert::record_to_proto(record).map_err(|fault| unknown_fate(&fault))?;
        home.seal_as(text.clone()).await.map_err(|fault| unknown_fate(&fault))?;
        point("controller.seal.home-sealed");
        let mut others = JoinSet::new();
        for agent in self.agents.iter().filter(|agent| agent.host() != home.host()) {
            let (agent, text) = (agent.clone(), text.clone());
            others.spawn(carried(async move { agent.seal_as(text).await }));
        }
        for answer in others.join_all().await {
            answer.map_err(|fault| unknown_fate(&fault))?;
        }
        Ok(())
    }

    /// This attempt is nobody else's to seal, so the order of hosts does not matter.
    async fn give_up(mut self, record: &CutRecord, fault: Fault) -> Fault {
        for round in &mut self.rounds {
            round.close().await;
        }
        let mut voids = JoinSet::new();
        for agent in self.agents {
            let (id, attempt) = (record.id.clone(), record.attempt);
            voids.spawn(carried(async move { agent.void(&id, attempt).await }));
        }
        let left: Vec<String> =
            voids.join_all().await.into_iter().filter_map(Result::err).map(|fault| fault.message).collect();
        if left.is_empty() {
            return fault;
        }
        Fault::unavailable(format!(
            "{fault}; what was cut could not be removed everywhere ({}): try again under the same name",
            left.join("; ")
        ))
    }
}

fn unknown_fate(fault: &Fault) -> Fault {
    Fault::unavailable(format!(
        "the cut could not be sealed on every host ({fault}); try again under the same name"
    ))
}
