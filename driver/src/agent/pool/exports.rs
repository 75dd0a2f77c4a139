//! Images of snapshots, for those who read them.

use std::path::PathBuf;

use super::claims::Claim;
use super::{Content, Pool, Result};
use crate::backend::IMAGE;
use crate::domain::SnapshotId;
use crate::domain::record::CutMember;

/// The image of a snapshot. Until this is dropped the snapshot cannot be deleted.
#[derive(Debug)]
pub struct SnapshotImage {
    /// The image.
    pub image: PathBuf,
    /// What its cut has recorded of it.
    pub member: CutMember,
    /// Never the same for two snapshots, also not of the same name one after the other.
    pub content: Content,
    _claim: Claim,
}

impl Pool {
    /// Keeps a snapshot and says where its image is.
    pub fn open_snapshot(&self, id: &SnapshotId) -> Result<SnapshotImage> {
        self.check_own(id, &id.volume.pool)?;
        let (cut, _) = self.sealed_member(id)?;
        let claim = self.claims.shared(&cut)?;
        // Once more: it may have been deleted before the claim.
        let (_, member) = self.sealed_member(id)?;
        let allocated = self.backend.allocated(&*self.host, &self.layout.snapshot(id))?;
        let content = Content { id: id.to_string(), size: member.capacity, allocated };
        Ok(SnapshotImage { image: self.layout.snapshot(id).join(IMAGE), member, content, _claim: claim })
    }
}
