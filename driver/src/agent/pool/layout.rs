//! Where things are. All names below come from parsed ids, so no name can lead out of the pool.

use std::path::{Path, PathBuf};

use crate::domain::{CutId, SnapshotId, VolumeId};

/// The pool's own record.
pub(super) const POOL_RECORD: &str = "stillpoint.json";
/// The record inside a volume's tree.
pub(super) const VOLUME_RECORD: &str = "volume.json";
/// Directories that every pool has.
pub(super) const DIRECTORIES: [&str; 3] = ["volumes", "snapshots", "cuts"];
/// The record inside the tree of a volume that arrives.
pub(super) const PART_RECORD: &str = "arrival.json";
const HALF_MADE: &str = ".new-";
const PART: &str = ".part-";
const GONE: &str = ".gone-";

/// What a name in one of the pool's directories stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// An object, by its id.
    Object(&'a str),
    /// A volume that arrives from another host, to be gone on with.
    Part,
    /// Something half made when its maker died or failed.
    HalfMade,
    /// Something deleted, with its number.
    Gone(u64),
}

impl<'a> Name<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        if let Some(number) = name.strip_prefix(GONE) {
            return Self::Gone(number.parse().unwrap_or_default());
        }
        if name.starts_with(PART) {
            return Self::Part;
        }
        if name.starts_with('.') { Self::HalfMade } else { Self::Object(name) }
    }
}

/// The name of something while it is made.
pub(super) fn half_made(name: &str) -> String {
    format!("{HALF_MADE}{name}")
}

/// What something half made will be called.
pub(super) fn made(name: &str) -> &str {
    name.strip_prefix(HALF_MADE).unwrap_or(name)
}

/// What a part will be called, when this is the name of one.
pub(super) fn arriving(name: &str) -> Option<&str> {
    name.strip_prefix(PART)
}

/// The name of something deleted.
pub(super) fn gone(number: u64) -> String {
    format!("{GONE}{number}")
}

/// The directory that a path of this module is in.
pub(super) fn parent(path: &Path) -> &Path {
    // Every path made here is below the pool's root.
    path.parent().unwrap_or(path)
}

#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn pool_record(&self) -> PathBuf {
        self.root.join(POOL_RECORD)
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(super) fn volume(&self, id: &VolumeId) -> PathBuf {
        self.volumes().join(id.to_string())
    }

    pub(super) fn half_made_volume(&self, id: &VolumeId) -> PathBuf {
        self.volumes().join(half_made(&id.to_string()))
    }

    pub(super) fn part(&self, id: &VolumeId) -> PathBuf {
        self.volumes().join(format!("{PART}{id}"))
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn snapshots_of(&self, volume: &VolumeId) -> PathBuf {
        self.snapshots().join(volume.to_string())
    }

    pub(super) fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots_of(&id.volume).join(id.to_string())
    }

    /// Made when the first volume leaves.
    pub(super) fn moves(&self) -> PathBuf {
        self.root.join("moves")
    }

    pub(super) fn cuts(&self) -> PathBuf {
        self.root.join("cuts")
    }

    pub(super) fn cut(&self, id: &CutId) -> PathBuf {
        self.cuts().join(cut_file(id))
    }
}

/// File name of the record of a volume that leaves.
pub(super) fn move_file(id: &VolumeId) -> String {
    format!("{id}.json")
}

/// File name of a cut's record.
pub(super) fn cut_file(id: &CutId) -> String {
    format!("{id}.json")
}
