//! What is owed to an application.

use serde::{Deserialize, Serialize};

use crate::plan::PlannedCommand;
use crate::ports::PodTarget;

/// An `after` command that is owed because its step was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Debt {
    /// Index of the step in the plan.
    pub step: usize,
    /// Its name.
    pub step_name: String,
    /// Where it runs.
    #[serde(flatten)]
    pub target: PodTarget,
    /// The pod's host.
    pub host: String,
    /// What runs.
    pub command: PlannedCommand,
    /// Whether it was paid.
    pub state: DebtState,
}

/// Whether a debt was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DebtState {
    /// Not yet.
    Owed,
    /// Its command succeeded.
    Paid,
    /// Tried and failed; it is tried again.
    Unpaid,
    /// Whether it was paid is not known, and it may not be repeated: somebody must look at the application.
    Unknown,
    /// Its pod is gone, and what was to be undone with it.
    Gone,
    /// People have said that nothing more is to be done about it.
    GivenUp,
}

impl DebtState {
    /// Whether nothing is owed any more.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Paid | Self::Gone | Self::GivenUp => true,
            Self::Owed | Self::Unpaid | Self::Unknown => false,
        }
    }

    /// Whether it is tried (again) by itself.
    pub fn is_collectable(self) -> bool {
        match self {
            Self::Owed | Self::Unpaid => true,
            Self::Paid | Self::Unknown | Self::Gone | Self::GivenUp => false,
        }
    }

    /// As it is written in records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Paid => "paid",
            Self::Unpaid => "unpaid",
            Self::Unknown => "unknown",
            Self::Gone => "gone",
            Self::GivenUp => "givenup",
        }
    }
}

impl Debt {
    /// `` `command` in namespace/pod ``.
    pub fn in_words(&self) -> String {
        format!("`{}` in {}/{}", self.command, self.target.namespace, self.target.pod)
    }
}
