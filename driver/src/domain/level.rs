//! Consistency levels.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How consistent a cut is, from least to most. Recorded on every cut, with the reason where it is lower than
/// what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Each member is what a power failure would have left of it. Members of a group are NOT at one instant.
    Crash,
    /// All members are at one instant in the write stream; each is what a power failure would have left.
    Group,
    /// As `Group`, and every mounted member was flushed and frozen.
    Filesystem,
    /// All members are at one instant, and the application did what its rule says before the cut.
    Application,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Group => "group",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
        })
    }
}
