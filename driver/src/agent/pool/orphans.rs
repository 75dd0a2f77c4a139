//! What is in a pool and belongs to nothing, while the pool is open. [`super::sweep`] does the same at its start, when
//! nobody can be working on anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::claims::Claim;
use super::layout::{self, Name};
use super::{Access, Pool, Result};
use crate::backend::IMAGE;
use crate::domain::{Bytes, CutId, SnapshotId, VolumeId};
use crate::host::FileKind;

/// Something that nothing refers to. It may be a call's that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub kind: OrphanKind,
    /// What is allocated in it: a call that is under way makes it larger.
    pub size: Bytes,
}

/// What an orphan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanKind {
    /// A tree or record under a half-made name.
    HalfMade,
    /// A snapshot that no cut lists.
    Snapshot,
}

impl Pool {
    /// Everything that nothing refers to now.
    pub fn orphans(&self) -> Result<Vec<Orphan>> {
        if self.access() == Access::ReadOnly {
            return Ok(vec![]);
        }
        let mut found = Vec::new();
        for directory in [self.layout.volumes(), self.layout.cuts()] {
            self.half_made_in(&directory, &mut found)?;
        }
        let listed = self.listed();
        for (name, _) in self.host.list(&self.layout.snapshots())? {
            let directory = self.layout.snapshots().join(name);
            if self.host.stat(&directory)?.is_some_and(|meta| meta.kind == FileKind::Directory) {
                self.half_made_in(&directory, &mut found)?;
                self.unlisted_in(&directory, &listed, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Removes an orphan, unless it is somebody's by now or a round is under way; says whether it did.
    pub fn collect(&self, orphan: &Orphan) -> Result<bool> {
        self.check_writable()?;
        if self.is_paused() {
            return Ok(false);
        }
        let name = orphan.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match orphan.kind {
            OrphanKind::HalfMade => {
                // Whoever makes it has claimed what it will be.
                let Ok(_claim) = self.claim_of(layout::made(name).trim_end_matches(".json")) else {
                    return Ok(false);
                };
                match self.host.stat(&orphan.path)?.map(|meta| meta.kind) {
                    None => return Ok(false),
                    Some(FileKind::Directory) => self.backend.remove(&*self.host, &orphan.path)?,
                    Some(FileKind::File | FileKind::Block | FileKind::Other) => {
                        self.host.remove_file(&orphan.path)?;
                    }
                }
            }
            OrphanKind::Snapshot => {
                let listed = name.parse().is_ok_and(|id: SnapshotId| self.listed().contains(&id));
                if listed || self.host.stat(&orphan.path)?.is_none() {
                    return Ok(false);
                }
                self.discard(&orphan.path)?;
            }
        }
        Ok(true)
    }

    /// Claims the volume or cut that is made under this name. Nobody makes anything else.
    fn claim_of(&self, object: &str) -> Result<Option<Claim>> {
        if let Ok(volume) = object.parse::<VolumeId>() {
            return self.claims.exclusive(&volume).map(Some);
        }
        object.parse::<CutId>().ok().map(|cut| self.claims.exclusive(&cut)).transpose()
    }

    /// Snapshots that a record lists, sealed or not.
    fn listed(&self) -> BTreeSet<SnapshotId> {
        let cuts = self.cuts();
        cuts.iter().flat_map(|cut| &cut.members).map(|member| member.snapshot.clone()).collect()
    }

    fn half_made_in(&self, directory: &Path, found: &mut Vec<Orphan>) -> Result<()> {
        for (name, _) in self.host.list(directory)? {
            if Name::of(&name) == Name::HalfMade {
                found.push(self.orphan(directory.join(name), OrphanKind::HalfMade)?);
            }
        }
        Ok(())
    }

    fn unlisted_in(
        &self,
        directory: &Path,
        listed: &BTreeSet<SnapshotId>,
        found: &mut Vec<Orphan>,
    ) -> Result<()> {
        for (name, _) in self.host.list(directory)? {
            if name.parse().is_ok_and(|id: SnapshotId| !listed.contains(&id)) {
                found.push(self.orphan(directory.join(name), OrphanKind::Snapshot)?);
            }
        }
        Ok(())
    }

    fn orphan(&self, path: PathBuf, kind: OrphanKind) -> Result<Orphan> {
        let image = self.host.stat(&path.join(IMAGE))?;
        Ok(Orphan { path, kind, size: image.map(|meta| meta.allocated).unwrap_or_default() })
    }
}
