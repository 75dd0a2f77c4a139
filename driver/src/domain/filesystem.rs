//! Filesystems that a volume may carry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Bytes;

/// Filesystem inside a volume. A raw block volume has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// The default: freezes about ten times faster than ext4 under fsync load.
    Xfs,
    /// For small volumes and for those who want it.
    Ext4,
}

impl Filesystem {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Xfs, Self::Ext4];

    /// The name that `mount` and CSI use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
        }
    }

    /// How much smaller than its device a filesystem that has grown to it may be: each leaves out a last group that is
    /// too small to be worth its tables.
    pub const fn growth_slack(self) -> Bytes {
        Bytes::mib(16)
    }

    /// Smallest volume on which the filesystem can be made. mkfs.xfs refuses less than 300 MiB.
    pub const fn minimum(self) -> Bytes {
        match self {
            Self::Xfs => Bytes::mib(300),
            Self::Ext4 => Bytes::mib(8),
        }
    }
}

/// A filesystem name that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filesystem {0:?} is not supported; use xfs or ext4")]
pub struct UnknownFilesystem(String);

impl FromStr for Filesystem {
    type Err = UnknownFilesystem;
    fn from_str(text: &str) -> Result<Self, UnknownFilesystem> {
        match text {
            "xfs" => Ok(Self::Xfs),
            "ext4" => Ok(Self::Ext4),
            other => Err(UnknownFilesystem(other.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
