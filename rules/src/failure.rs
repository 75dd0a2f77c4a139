//! Why a run did not go as its rule says, typed: what a caller may conclude comes from the kind, not from words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Failure {
    /// What failed.
    pub kind: FailureKind,
    /// The step, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Whether the same request may succeed when it is made again at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
    /// What, why, fix.
    pub message: String,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// Pods could not be listed.
    Inventory,
    /// The rule does not fit the pods, the volumes or its parameters.
    Plan,
    /// Another run used the same pods or volumes for too long.
    Waiting,
    /// A `where` could not be asked, or was not answered as wanted.
    Where,
    /// A `before`.
    Before,
    /// A session could not be taken.
    Hold,
    /// A session could not prove that it held during the cut.
    Lost,
    /// A session did not end well.
    Release,
    /// Hosts could not be prepared.
    Open,
    /// Hosts did not hold, cut and release.
    Cut,
    /// The cut could not be made real.
    Seal,
    /// An `after`: the application is still owed it.
    After,
    /// A pod that is owed an `after` is gone, and what is owed to it with it.
    Gone,
    /// The run could not be written down.
    Journal,
    /// Somebody stopped the run.
    Stopped,
    /// The run used up its time.
    Budget,
    /// The process that conducted it died.
    Orphaned,
    /// Ours.
    Bug,
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Ask again.
    Retry,
    /// People must put something right first.
    Fix,
    /// It is a defect of this program.
    Bug,
}

impl Failure {
    /// A failure of the run as a whole.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, step: None, retry: false, message: message.into() }
    }

    /// A failure of one step.
    pub fn of_step(kind: FailureKind, step: &str, message: impl Into<String>) -> Self {
        Self { step: Some(step.to_owned()), ..Self::new(kind, message) }
    }

    /// The same, which may pass by itself.
    #[must_use]
    pub fn passing(self, retry: bool) -> Self {
        Self { retry, ..self }
    }

    /// What can be done about it.
    pub fn class(&self) -> Class {
        match self.kind {
            FailureKind::Bug => Class::Bug,
            FailureKind::Inventory
            | FailureKind::Waiting
            | FailureKind::Journal
            | FailureKind::Stopped
            | FailureKind::Orphaned
            | FailureKind::Open
            | FailureKind::Cut
            | FailureKind::Seal => Class::Retry,
            FailureKind::Plan
            | FailureKind::Where
            | FailureKind::Before
            | FailureKind::Hold
            | FailureKind::Lost
            | FailureKind::Release
            | FailureKind::After
            | FailureKind::Gone
            | FailureKind::Budget => Class::Fix,
        }
    }
}

impl FailureKind {
    /// As it is written in records and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Plan => "plan",
            Self::Waiting => "waiting",
            Self::Where => "where",
            Self::Before => "before",
            Self::Hold => "hold",
            Self::Lost => "lost",
            Self::Release => "release",
            Self::Open => "open",
            Self::Cut => "cut",
            Self::Seal => "seal",
            Self::After => "after",
            Self::Gone => "gone",
            Self::Journal => "journal",
            Self::Stopped => "stopped",
            Self::Budget => "budget",
            Self::Orphaned => "orphaned",
            Self::Bug => "bug",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// All messages in one line.
pub fn in_words(failures: &[Failure]) -> String {
    failures.iter().map(|failure| failure.message.as_str()).collect::<Vec<_>>().join("; ")
}
