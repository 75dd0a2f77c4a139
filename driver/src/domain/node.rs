//! What an orchestrator asks of one host about one volume: stage it (once per host), publish it (once per
//! consumer), measure it, grow it. Parsed from CSI by `csi::parse`, done by `agent::volumes`.

use std::path::PathBuf;

use super::{Bytes, Filesystem, VolumeId};

/// How a consumer sees a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// As a mounted filesystem.
    Mount {
        /// The filesystem that was asked for; `None` takes the one that the volume has.
        filesystem: Option<Filesystem>,
        /// Further mount options.
        options: Vec<String>,
    },
    /// As a raw block device.
    Block,
}

impl Access {
    /// A mount with nothing special asked for.
    pub const fn mount() -> Self {
        Self::Mount { filesystem: None, options: Vec::new() }
    }

    /// Whether it is [`Access::Block`].
    pub const fn is_block(&self) -> bool {
        matches!(self, Self::Block)
    }
}

/// Makes a volume ready on this host. Idempotent; the same target with another access is ALREADY_EXISTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRequest {
    /// The volume.
    pub volume: VolumeId,
    /// Staging directory, made by the orchestrator. Absolute, without `..`.
    pub target: PathBuf,
    /// Filesystem or device.
    pub access: Access,
    /// The access mode allows no writing.
    pub read_only: bool,
}

/// Gives a staged volume to one consumer. Idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    /// The volume.
    pub volume: VolumeId,
    /// Where it was staged.
    pub staging: PathBuf,
    /// Where the consumer wants it: a directory for a mount, a file for a device. Made by us and removed by
    /// unpublish.
    pub target: PathBuf,
    /// Filesystem or device.
    pub access: Access,
    /// This consumer may not write.
    pub read_only: bool,
    /// At most one target at a time on this host (SINGLE_NODE_SINGLE_WRITER): a second one is
    /// FAILED_PRECONDITION.
    pub single_writer: bool,
}

/// Makes a staged or published volume as large as its device has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrowRequest {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is staged or published.
    pub path: PathBuf,
    /// The size that is expected, where the orchestrator says one.
    pub capacity: Option<Bytes>,
    /// How it is used there, where the orchestrator says so; else it is looked up.
    pub access: Option<Access>,
}

/// What a volume has in use, measured at a path where it is staged or published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A mounted filesystem.
    Filesystem {
        /// Size.
        total: Bytes,
        /// Free for unprivileged users.
        available: Bytes,
        /// Inodes.
        inodes: u64,
        /// Free inodes.
        inodes_free: u64,
    },
    /// A raw device: nobody but its user knows what is in use.
    Device {
        /// Size.
        total: Bytes,
    },
}
