//! The timeline of one cut, for people: [`text`] as a table, [`json`] for programs, [`html`] as a picture.
//!
//! All three show the same [`Picture`]: hosts and volumes from the cut's record, pods from the run of its rule.
//! Instants are microseconds relative to the moment when the first hold was asked for.

pub mod findings;
pub mod html;
pub mod json;
pub mod pods;
mod scale;
mod svg;
pub mod text;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use serde::Serialize;
use stillpoint_rules::run::Run;

use crate::domain::Level;
use crate::domain::record::CutRecord;
use crate::domain::timeline::{Phase, Span, Timeline, VolumeLane};

/// Everything that is shown of a cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Picture {
    /// Id of the cut.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Level reached.
    pub level: Level,
    /// Why not higher.
    pub reasons: Vec<String>,
    /// Wall-clock time of the cut, RFC 3339.
    pub cut_at: String,
    /// Hosts and volumes.
    pub timeline: Timeline,
    /// Pods, in the order of the rule.
    pub pods: Vec<PodLane>,
    /// Between the first and the last session that said that it holds; nothing where there were none.
    pub session_skew_us: Option<u64>,
}

/// What was done in one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodLane {
    /// The pod's name.
    pub pod: String,
    /// Its host.
    pub host: String,
    /// Commands in the order in which they ran.
    pub commands: Vec<PodCommand>,
}

/// One command that ran in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodCommand {
    /// Step of the rule.
    pub step: String,
    /// Before or after the cut.
    pub moment: Moment,
    /// The command line, for people.
    pub command: String,
    /// Start, relative to the first hold.
    pub start_us: i64,
    /// End, relative to the first hold.
    pub end_us: i64,
    /// When a session said that it holds, relative to the first hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_us: Option<i64>,
    /// A session that held and was gone before it was let go.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Empty when it succeeded, otherwise what went wrong.
    pub failure: String,
}

/// When a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// Before anything is held.
    Before,
    /// A session that is kept open across the cut.
    Hold,
    /// After everything was let go.
    After,
}

impl Moment {
    /// The word, also the name of its colour.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Hold => "hold",
            Self::After => "after",
        }
    }
}

impl Picture {
    /// The picture of a record, without pods.
    pub fn of(record: &CutRecord) -> Self {
        Self {
            id: record.handle().to_string(),
            name: record.name.clone(),
            level: record.level,
            reasons: record.reasons.clone(),
            cut_at: record.cut_at.to_string(),
            timeline: record.timeline.clone().unwrap_or_default(),
            pods: Vec::new(),
            session_skew_us: None,
        }
    }

    /// The same picture with the pods of a run.
    #[must_use]
    pub fn with_run(self, run: &Run) -> Self {
        Self { pods: pods::lanes(run), session_skew_us: run.session_skew_us, ..self }
    }

    /// All volume lanes of all hosts.
    pub fn lanes(&self) -> impl Iterator<Item = &VolumeLane> {
        self.timeline.hosts.iter().flat_map(|host| &host.volumes)
    }

    /// All spans of one phase.
    pub fn spans(&self, phase: Phase) -> impl Iterator<Item = &Span> {
        self.lanes().flat_map(|lane| &lane.spans).filter(move |span| span.phase == phase)
    }

    /// The largest error bound of any host's clock.
    pub fn clock_error_us(&self) -> u64 {
        self.timeline.hosts.iter().map(|host| host.clock_error_us).max().unwrap_or(0)
    }
}

/// A lane's span of a phase.
pub(crate) fn span_of(lane: &VolumeLane, phase: Phase) -> Option<&Span> {
    lane.spans.iter().find(|span| span.phase == phase)
}

/// How long a span took; zero for one that ends before it starts.
pub(crate) fn length(span: &Span) -> u64 {
    u64::try_from(span.end_us.saturating_sub(span.start_us)).unwrap_or(0)
}

/// How long the member could not be written: from the call to freeze to the end of the thaw.
pub(crate) fn stall(lane: &VolumeLane) -> Option<u64> {
    let (freeze, thaw) = (span_of(lane, Phase::Freeze)?, span_of(lane, Phase::Thaw)?);
    Some(u64::try_from(thaw.end_us.saturating_sub(freeze.start_us)).unwrap_or(0))
}

/// The phase's name in a heading.
pub(crate) const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Flush => "flush",
        Phase::Freeze => "freeze",
        Phase::Cut => "cut",
        Phase::Thaw => "thaw",
    }
}
