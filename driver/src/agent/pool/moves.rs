//! Volumes that leave for another pool and keep their id: the source's side.
//!
//! ```text
//! moves/<volume>.json        to which pool, and how far it is
//! ```
//! | state | the volume is | ended by |
//! |---|---|---|
//! | `leaving` | here, and nobody has used it since: its image stands still | [`Pool::stay`], which every use calls first |
//! | `left` | the other pool's: **this record is the commit point**, whatever is still in `volumes/` | [`Pool::finish_move`] |
//! | `gone` | the other pool's; the record says where to ask | deleting the volume, or its return |
//!
//! Snapshots of the volume stay where they are: they belong to their cuts. A volume that lives wins over `gone`, and
//! `left` over what is in `volumes/`.

use stillpoint_guard::fault::point;

use super::arrivals::Content;
use super::claims::Claim;
use super::layout::move_file;
use super::{Pool, PoolError, Result, records};
use crate::backend::IMAGE;
use crate::domain::record::{MoveRecord, MoveState};
use crate::domain::{NameHash, VolumeId};
use crate::host::blocks::BlockAccess;

use std::path::PathBuf;

/// The image of a volume that leaves. Until this is dropped the volume can neither be deleted nor leave.
#[derive(Debug)]
pub struct LeavingImage {
    /// The image.
    pub image: PathBuf,
    /// What is in it.
    pub content: Content,
    pub(super) _claim: Claim,
}

impl Pool {
    /// Begins a move, or finds the one for the same target that nobody has ended since. Refused while the volume is
    /// attached. The caller keeps others from attaching it meanwhile.
    pub fn begin_move(&self, id: &VolumeId, to: &VolumeId) -> Result<MoveRecord> {
        self.check_writable()?;
        self.check_own(id, &id.pool)?;
        let _claim = self.claims.shared(id)?;
        let known = self.index().a_move(id).cloned();
        match known {
            Some(known) if known.state == MoveState::Left => return Err(has_left(&known)),
            Some(known) if known.state == MoveState::Leaving && known.to == *to => return Ok(known),
            Some(_) | None => {}
        }
        let volume = self.volume(id)?;
        self.check_unattached(id)?;
        let image = self.layout.volume(id).join(IMAGE);
        // What was written through the page cache has no place yet, and would be missed.
        self.host.open_blocks(&image, BlockAccess::Write)?.sync()?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|why| {
            crate::host::HostError::new("getrandom", image.display(), std::io::Error::other(why.to_string()))
        })?;
        let record = MoveRecord {
            content: format!("{id}/{:016x}", u64::from_be_bytes(random)),
            to: to.clone(),
            state: MoveState::Leaving,
            began_at: jiff::Timestamp::now(),
            volume,
        };
        point("agent.move.begun");
        self.publish_move(record.clone())?;
        point("agent.move.leaving");
        Ok(record)
    }

    /// The image of a volume whose move has begun.
    pub fn open_leaving(&self, id: &VolumeId) -> Result<LeavingImage> {
        self.check_own(id, &id.pool)?;
        let claim = self.claims.shared(id)?;
        let record = self.index().a_move(id).filter(|record| record.state == MoveState::Leaving).cloned();
        let record = record.ok_or_else(|| PoolError::NotLeaving(id.clone()))?;
        let tree = self.layout.volume(id);
        let allocated = self.backend.allocated(&*self.host, &tree)?;
        let content = Content { id: record.content, size: record.volume.capacity, allocated };
        Ok(LeavingImage { image: tree.join(IMAGE), content, _claim: claim })
    }

    /// Ends a move that has not come to its commit point; none is fine. Durable before this returns, so that what is
    /// written to the volume afterwards is never lost to a move.
    pub fn stay(&self, id: &VolumeId) -> Result<()> {
        let state = self.index().a_move(id).map(|record| record.state);
        match state {
            Some(MoveState::Leaving) => self.drop_move(id),
            Some(MoveState::Left) => {
                Err(self.index().a_move(id).map_or_else(|| PoolError::NoVolume(id.clone()), has_left))
            }
            Some(MoveState::Gone) | None => Ok(()),
        }
    }

    /// The commit point: from here on the volume is the target's. Idempotent. The caller keeps others from attaching it
    /// meanwhile.
    pub fn leave(&self, id: &VolumeId, to: &VolumeId, content: &str) -> Result<()> {
        self.check_writable()?;
        let _claim = self.claims.exclusive(id)?;
        let known =
            self.index().a_move(id).filter(|known| known.to == *to && known.content == content).cloned();
        let mut record = known.ok_or_else(|| PoolError::NotLeaving(id.clone()))?;
        if record.state != MoveState::Leaving {
            return Ok(());
        }
        if let Some(cut) = self.index().round_of(id) {
            return Err(PoolError::Busy(format!("volume {id} (cut {cut})")));
        }
        self.check_unattached(id)?;
        record.state = MoveState::Left;
        point("agent.move.checked");
        self.publish_move(record)?;
        self.index_mut().drop_volume(id);
        point("agent.move.left");
        Ok(())
    }

    /// Removes what is left of a volume that the target has; keeps the way there where others may ask for it here.
    /// Idempotent; refused before the commit point.
    pub fn finish_move(&self, id: &VolumeId) -> Result<()> {
        self.check_writable()?;
        let _claim = self.claims.exclusive(id)?;
        let known = self.index().a_move(id).cloned();
        let mut record = match known {
            Some(record) if record.state == MoveState::Left => record,
            Some(record) if record.state == MoveState::Leaving => {
                return Err(PoolError::NotLeaving(id.clone()));
            }
            Some(_) | None => return Ok(()),
        };
        let tree = self.layout.volume(id);
        if self.host.stat(&tree)?.is_some() {
            self.discard(&tree)?;
        }
        point("agent.move.discarded");
        if record.volume.known_as() == id {
            record.state = MoveState::Gone;
            self.publish_move(record)?;
        } else {
            self.drop_move(id)?;
        }
        self.remove_empty(&self.layout.snapshots_of(id));
        point("agent.move.gone");
        Ok(())
    }

    /// Where a volume has moved to that is not here any more.
    pub fn departed(&self, id: &VolumeId) -> Option<MoveRecord> {
        let index = self.index();
        index.a_move(id).filter(|record| record.state != MoveState::Leaving).cloned()
    }

    /// Moves that are under way or not settled.
    pub fn moves(&self) -> Vec<MoveRecord> {
        self.index().moves().filter(|record| record.state != MoveState::Gone).cloned().collect()
    }

    pub(super) fn check_unattached(&self, id: &VolumeId) -> Result<()> {
        let image = self.layout.volume(id).join(IMAGE);
        match self.host.attached(&image)?.into_iter().next() {
            Some(device) => Err(PoolError::Attached { id: id.clone(), device: device.path }),
            None => Ok(()),
        }
    }

    /// Refuses what would take what is left of a volume for the volume.
    pub(super) fn check_not_left(&self, id: &VolumeId) -> Result<()> {
        let index = self.index();
        match index.a_move(id).filter(|record| record.state == MoveState::Left) {
            Some(record) => Err(has_left(record)),
            None => Ok(()),
        }
    }

    /// Refuses a new volume of a name whose volume has left and may not be settled anywhere else yet.
    pub(super) fn check_none_left(&self, name: &NameHash) -> Result<()> {
        let index = self.index();
        let left = |record: &&MoveRecord| record.volume.id.hash == *name && record.state == MoveState::Left;
        index.moves().find(left).map_or(Ok(()), |record| Err(has_left(record)))
    }

    fn publish_move(&self, record: MoveRecord) -> Result<()> {
        let directory = self.layout.moves();
        if self.host.stat(&directory)?.is_none() {
            self.host.make_directory(&directory)?;
            self.host.sync_directory(self.dir())?;
        }
        records::publish(&*self.host, &directory, &move_file(&record.volume.id), &record)?;
        self.index_mut().put_move(record);
        Ok(())
    }

    /// Removes the record of a move, durably; none is fine.
    pub(super) fn drop_move(&self, id: &VolumeId) -> Result<()> {
        if self.index().a_move(id).is_none() {
            return Ok(());
        }
        self.host.remove_file(&self.layout.moves().join(move_file(id)))?;
        self.host.sync_directory(&self.layout.moves())?;
        self.index_mut().drop_move(id);
        Ok(())
    }
}

fn has_left(record: &MoveRecord) -> PoolError {
    PoolError::HasLeft { id: record.volume.id.clone(), to: record.to.clone() }
}
