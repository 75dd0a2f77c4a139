//! What can be wrong with a pool or a volume that exists.

use std::fmt;
use std::str::FromStr;

/// A condition that somebody should look at. Absent: nothing of it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Little is free above the reserve: soon nothing new can be made.
    PoolNearlyFull,
    /// The reserve is touched: nothing new is made, so that existing volumes can go on being written.
    PoolFull,
    /// The pool's filesystem is mounted read-only.
    PoolReadOnly,
    /// The pool cannot be looked at.
    PoolFailed,
    /// The file that holds the volume is gone.
    ImageMissing,
    /// The device of a volume that is mounted for writing does not take writes.
    DeviceReadOnly,
    /// The filesystem of the volume has become read-only by itself, after an error.
    FilesystemReadOnly,
    /// The filesystem of the volume has shut itself down: it is mounted, and every access fails.
    FilesystemShutDown,
    /// The filesystem of the volume has recorded errors; it still works.
    FilesystemErrors,
    /// The filesystem of the volume has errors that are not repaired without a person; it is not mounted.
    FilesystemDamaged,
    /// The filesystem of the volume is smaller than the volume.
    FilesystemNotGrown,
    /// An earlier agent may have left the volume quiesced, and it could not be resumed.
    ResumeFailed,
    /// The volume cannot be looked at.
    VolumeFailed,
}

/// How bad a condition is for whoever uses a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but not for long or not in full.
    Degraded,
    /// It cannot be used.
    Inaccessible,
    /// What was written is gone.
    DataLoss,
}

/// A condition that was seen, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ailment {
    /// Which.
    pub condition: Condition,
    /// What, why and how to fix it.
    pub message: String,
}

/// A name of a condition that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("condition {0:?} is not known")]
pub struct UnknownCondition(String);

impl Condition {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::PoolNearlyFull,
        Self::PoolFull,
        Self::PoolReadOnly,
        Self::PoolFailed,
        Self::ImageMissing,
        Self::DeviceReadOnly,
        Self::FilesystemReadOnly,
        Self::FilesystemShutDown,
        Self::FilesystemErrors,
        Self::FilesystemDamaged,
        Self::FilesystemNotGrown,
        Self::ResumeFailed,
        Self::VolumeFailed,
    ];

    /// The name on the wire, in lists and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PoolNearlyFull => "PoolNearlyFull",
            Self::PoolFull => "PoolFull",
            Self::PoolReadOnly => "PoolReadOnly",
            Self::PoolFailed => "PoolFailed",
            Self::ImageMissing => "ImageMissing",
            Self::DeviceReadOnly => "DeviceReadOnly",
            Self::FilesystemReadOnly => "FilesystemReadOnly",
            Self::FilesystemShutDown => "FilesystemShutDown",
            Self::FilesystemErrors => "FilesystemErrors",
            Self::FilesystemDamaged => "FilesystemDamaged",
            Self::FilesystemNotGrown => "FilesystemNotGrown",
            Self::ResumeFailed => "ResumeFailed",
            Self::VolumeFailed => "VolumeFailed",
        }
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::PoolNearlyFull | Self::PoolFull => Severity::Degraded,
            Self::PoolReadOnly | Self::DeviceReadOnly | Self::FilesystemReadOnly => Severity::Degraded,
            Self::FilesystemErrors | Self::FilesystemNotGrown => Severity::Degraded,
            Self::PoolFailed | Self::FilesystemShutDown | Self::FilesystemDamaged => Severity::Inaccessible,
            Self::ResumeFailed | Self::VolumeFailed => Severity::Inaccessible,
            Self::ImageMissing => Severity::DataLoss,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Condition {
    type Err = UnknownCondition;

    fn from_str(text: &str) -> Result<Self, UnknownCondition> {
        let known = Self::ALL.into_iter().find(|condition| condition.as_str() == text);
        known.ok_or_else(|| UnknownCondition(text.chars().take(64).collect()))
    }
}

impl Ailment {
    /// A condition in words.
    pub fn new(condition: Condition, message: impl Into<String>) -> Self {
        Self { condition, message: message.into() }
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.condition, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_conditions_are_read_back() {
        for condition in Condition::ALL {
            assert_eq!(condition.as_str().parse(), Ok(condition));
        }
        assert!("Rusty".parse::<Condition>().is_err());
    }
}
