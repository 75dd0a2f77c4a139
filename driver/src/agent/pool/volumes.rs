//! Volumes: made under a half-made name, published by rename, deleted by rename.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use stillpoint_guard::fault::point;

use super::claims::Claim;
use super::layout::{self, Name, VOLUME_RECORD};
use super::{Pool, PoolError, Result, headroom, records};
use crate::backend::IMAGE;
use crate::domain::listing::Slice;
use crate::domain::record::{Source, VolumeRecord};
use crate::domain::{Bytes, Filesystem, NameHash, NewVolume, VolumeId};

/// The smallest volume without a filesystem.
const LEAST_CAPACITY: Bytes = Bytes::mib(1);
/// Image sizes are rounded up to this; the capacity that is told stays what was asked for.
const IMAGE_UNIT: u64 = 4096;

/// What a new volume is copied from.
struct Origin {
    tree: PathBuf,
    capacity: Bytes,
    filesystem: Option<Filesystem>,
    /// The live volume, whose filesystem is flushed before the copy.
    live: Option<VolumeId>,
    /// Keeps it from being deleted meanwhile.
    _claim: Claim,
}

impl Pool {
    /// Makes a volume, empty with its filesystem or as an instant copy. Idempotent: the same properties again give
    /// the volume of that name that is there, with the birth that it has; others are refused.
    ///
    /// A copy of a live volume is what a power failure would have left of it. A copy that is larger than its source
    /// has a larger device; its filesystem is grown when it is mounted.
    pub fn create_volume(&self, new: &NewVolume) -> Result<VolumeRecord> {
        self.check_writable()?;
        self.check_own(&new.id, &new.id.pool)?;
        let _claim = self.claims.exclusive(&new.id)?;
        if let Some(found) = self.find_namesake(&new.id)? {
            return same_or_differs(found, new);
        }
        let origin = new.source.as_ref().map(|source| self.origin(source)).transpose()?;
        check_size(new, origin.as_ref())?;
        let need = match origin {
            Some(_) => headroom::COPY_NEEDS,
            None => headroom::new_volume_needs(new.filesystem),
        };
        self.check_free(need)?;
        let _promise = self.promise(new.capacity, new.capacity)?;

        let record = VolumeRecord {
            known_as: None,
            id: new.id.clone(),
            name: new.name.clone(),
            capacity: new.capacity,
            filesystem: new.filesystem,
            source: new.source.clone(),
            created_at: Timestamp::now(),
        };
        point("agent.create.claimed");
        let tree = self.layout.half_made_volume(&new.id);
        self.remove_half_made(&new.id)?;
        if let Err(error) = self.make_tree(&tree, &record, origin.as_ref()) {
            // Told is the first failure; what is left is removed by the next attempt or at start-up.
            let _ = self.backend.remove(&*self.host, &tree);
            return Err(error);
        }
        point("agent.create.made");
        self.host.rename(&tree, &self.layout.volume(&new.id))?;
        point("agent.create.renamed");
        self.host.sync_directory(&self.layout.volumes())?;
        self.index_mut().put_volume(record.clone());
        point("agent.create.published");
        Ok(record)
    }

    /// Deletes a volume; one that does not exist is fine. Its snapshots stay. Refused while it is attached or in a
    /// round.
    pub fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        self.check_own(id, &id.pool)?;
        self.check_writable()?;
        let _claim = self.claims.exclusive(id)?;
        self.check_not_left(id)?;
        let tree = self.layout.volume(id);
        if let Some(cut) = self.index().round_of(id) {
            return Err(PoolError::Busy(format!("volume {id} (cut {cut})")));
        }
        // One that was still arriving will not be gone on with.
        self.discard_part(id)?;
        let image = tree.join(IMAGE);
        if self.host.stat(&image)?.is_some()
            && let Some(device) = self.host.attached(&image)?.into_iter().next()
        {
            return Err(PoolError::Attached { id: id.clone(), device: device.path });
        }
        if self.host.stat(&tree)?.is_none() {
            // Put away by a call that failed afterwards; this makes it durable.
            self.index_mut().drop_volume(id);
            self.remove_empty(&self.layout.snapshots_of(id));
            self.host.sync_directory(&self.layout.volumes())?;
            return self.drop_move(id);
        }
        point("agent.delete.begun");
        self.count_as_coming(id, &tree)?;
        let away = self.put_away(&tree)?;
        point("agent.delete.renamed");
        self.index_mut().drop_volume(id);
        self.finish_discard(&tree, away)?;
        self.remove_empty(&self.layout.snapshots_of(id));
        self.drop_move(id)?;
        point("agent.delete.gone");
        Ok(())
    }

    /// The record of a volume.
    pub fn volume(&self, id: &VolumeId) -> Result<VolumeRecord> {
        let index = self.index();
        index.volume(id).cloned().ok_or_else(|| match index.unreadable(id) {
            Some((path, why)) => PoolError::Torn { path: path.clone(), why: why.clone() },
            None => PoolError::NoVolume(id.clone()),
        })
    }

    /// Volumes whose record cannot be read, each with the reason. What they are is not known; their images are there.
    pub fn unreadable_volumes(&self) -> Vec<(VolumeId, PoolError)> {
        let torn = |(id, (path, why)): (&VolumeId, &(PathBuf, String))| {
            (id.clone(), PoolError::Torn { path: path.clone(), why: why.clone() })
        };
        self.index().all_unreadable().map(torn).collect()
    }

    /// The image of a volume, also of one whose record cannot be read. It may not exist.
    pub fn image_path(&self, id: &VolumeId) -> PathBuf {
        self.layout.volume(id).join(IMAGE)
    }

    /// All volumes, sorted by id.
    pub fn volumes(&self) -> Vec<VolumeRecord> {
        self.index().volumes().cloned().collect()
    }

    /// The volumes of a slice, ascending by id.
    pub fn volumes_in(&self, slice: &Slice<VolumeId>) -> Vec<VolumeRecord> {
        self.index().volumes_in(slice).cloned().collect()
    }

    /// The volume whose name has this hash.
    pub fn find_volume_by_hash(&self, hash: &NameHash) -> Option<VolumeRecord> {
        self.index().volume_named(hash).cloned()
    }

    /// Grows a volume: image, attached loop devices, record. Never shrinks; a smaller capacity changes nothing. The
    /// filesystem is grown by whoever has it mounted.
    pub fn expand_volume(&self, id: &VolumeId, capacity: Bytes) -> Result<VolumeRecord> {
        self.check_writable()?;
        let _claim = self.claims.exclusive(id)?;
        let mut record = self.volume(id)?;
        if let Some(cut) = self.index().round_of(id) {
            return Err(PoolError::Busy(format!("volume {id} (cut {cut})")));
        }
        self.stay(id)?;
        if capacity > record.capacity {
            self.check_free(headroom::COPY_NEEDS)?;
        }
        let _promise = self.promise(capacity.saturating_sub(record.capacity), capacity)?;
        let image = self.image(id)?;
        // Also when the capacity is reached already: an earlier call may have failed half-way.
        if capacity >= record.capacity {
            self.host.grow_image(&image, image_size(capacity))?;
            for device in self.host.attached(&image)? {
                self.host.refresh_size(&device.path)?;
            }
        }
        if capacity > record.capacity {
            record.capacity = capacity;
            records::publish(&*self.host, &self.layout.volume(id), VOLUME_RECORD, &record)?;
            self.index_mut().put_volume(record.clone());
        }
        Ok(record)
    }

    /// The id here of the volume that orchestrators know by this id.
    pub fn own_id(&self, known_as: &VolumeId) -> Option<VolumeId> {
        self.index().own_id(known_as).cloned()
    }

    /// The image of a volume.
    pub fn image(&self, id: &VolumeId) -> Result<PathBuf> {
        self.volume(id)?;
        Ok(self.image_path(id))
    }

    /// Bytes that a volume has allocated, those shared with snapshots included.
    pub fn allocated(&self, id: &VolumeId) -> Result<Bytes> {
        self.volume(id)?;
        Ok(self.backend.allocated(&*self.host, &self.layout.volume(id))?)
    }

    /// A volume that is there, also one that was published by a call that failed afterwards.
    pub(super) fn find_published(&self, id: &VolumeId) -> Result<Option<VolumeRecord>> {
        if let Some(found) = self.index().volume(id) {
            return Ok(Some(found.clone()));
        }
        self.check_not_left(id)?;
        let tree = self.layout.volume(id);
        if self.host.stat(&tree)?.is_none() {
            return Ok(None);
        }
        let path = tree.join(VOLUME_RECORD);
        let record: VolumeRecord = records::read(&*self.host, &path)?
            .ok_or_else(|| PoolError::Torn { path, why: "it is missing".to_owned() })?;
        self.host.sync_directory(&self.layout.volumes())?;
        self.index_mut().put_volume(record.clone());
        Ok(Some(record))
    }

    /// The volume of the same name, whatever its birth, also one that was published by a call that failed afterwards.
    /// For who has a claim on the name.
    pub(super) fn find_namesake(&self, id: &VolumeId) -> Result<Option<VolumeRecord>> {
        if let Some(found) = self.index().volume_named(&id.hash) {
            return Ok(Some(found.clone()));
        }
        for (name, _) in self.host.list(&self.layout.volumes())? {
            let there: Option<VolumeId> = name.parse().ok();
            if let Some(there) = there.filter(|there| (&there.pool, &there.hash) == (&id.pool, &id.hash)) {
                return self.find_published(&there);
            }
        }
        self.check_none_left(&id.hash)?;
        Ok(None)
    }

    /// Removes what attempts that failed have left of volumes of the same name, whatever their birth. For who has a claim
    /// on the name.
    fn remove_half_made(&self, id: &VolumeId) -> Result<()> {
        for (name, _) in self.host.list(&self.layout.volumes())? {
            let half_made = Some(name.as_str()).filter(|name| Name::of(name) == Name::HalfMade);
            let left: Option<VolumeId> = half_made.and_then(|name| layout::made(name).parse().ok());
            if left.is_some_and(|left| (&left.pool, &left.hash) == (&id.pool, &id.hash)) {
                self.backend.remove(&*self.host, &self.layout.volumes().join(name))?;
            }
        }
        Ok(())
    }

    fn origin(&self, source: &Source) -> Result<Origin> {
        match source {
            Source::Snapshot(id) => {
                self.check_own(id, &id.volume.pool)?;
                let (cut, member) = self.sealed_member(id)?;
                let claim = self.claims.shared(&cut)?;
                // Once more: it may have been deleted before the claim.
                self.sealed_member(id)?;
                let tree = self.layout.snapshot(id);
                Ok(Origin {
                    tree,
                    capacity: member.capacity,
                    filesystem: member.filesystem,
                    live: None,
                    _claim: claim,
                })
            }
            Source::Volume(known_as) => {
                let Some(id) = self.own_id(known_as) else {
                    self.check_own(known_as, &known_as.pool)?;
                    return Err(PoolError::NoVolume(known_as.clone()));
                };
                let claim = self.claims.shared(&id)?;
                let record = self.volume(&id)?;
                Ok(Origin {
                    tree: self.layout.volume(&id),
                    capacity: record.capacity,
                    filesystem: record.filesystem,
                    live: Some(id),
                    _claim: claim,
                })
            }
        }
    }

    /// Makes everything of a volume under its half-made name, durably.
    fn make_tree(&self, tree: &Path, record: &VolumeRecord, origin: Option<&Origin>) -> Result<()> {
        let host = &*self.host;
        match origin {
            Some(origin) => self.copy_tree(tree, record.capacity, origin)?,
            None => self.format_tree(tree, record)?,
        }
        // A btrfs copy brings the source's record with it: this one replaces it before anybody can see the tree.
        host.write_synced(&tree.join(VOLUME_RECORD), &records::encode(tree, record)?)?;
        host.sync_directory(tree)?;
        if origin.is_some() {
            self.backend.settle(host, self.dir())?;
        }
        Ok(())
    }

    fn copy_tree(&self, tree: &Path, capacity: Bytes, origin: &Origin) -> Result<()> {
        if let Some(live) = &origin.live {
            self.flush(live)?;
        }
        self.backend.copy(&*self.host, &origin.tree, tree, false)?;
        if capacity > origin.capacity {
            self.host.grow_image(&tree.join(IMAGE), image_size(capacity))?;
        }
        Ok(())
    }

    fn format_tree(&self, tree: &Path, record: &VolumeRecord) -> Result<()> {
        let image = tree.join(IMAGE);
        self.backend.create(&*self.host, tree)?;
        self.host.create_image(&image, image_size(record.capacity))?;
        if let Some(filesystem) = record.filesystem {
            self.host.make_filesystem(&image, filesystem)?;
        }
        Ok(())
    }

    /// Flushes a volume that is mounted on this host, so that a copy of it has what was written before.
    fn flush(&self, id: &VolumeId) -> Result<()> {
        let devices = self.host.attached(&self.layout.volume(id).join(IMAGE))?;
        if devices.is_empty() {
            return Ok(());
        }
        let mounts = self.host.mounts()?;
        let mounted = mounts.iter().find(|m| devices.iter().any(|d| d.device == m.device));
        match mounted {
            Some(mounted) => Ok(self.host.sync_filesystem(&mounted.target)?),
            None => Ok(()),
        }
    }
}

/// Length of an image for this capacity.
pub(super) fn image_size(capacity: Bytes) -> Bytes {
    Bytes(capacity.0.div_ceil(IMAGE_UNIT).saturating_mul(IMAGE_UNIT))
}

pub(super) fn same_or_differs(found: VolumeRecord, new: &NewVolume) -> Result<VolumeRecord> {
    let filesystem = |fs: Option<Filesystem>| fs.map_or("raw block", Filesystem::as_str).to_owned();
    let source = |source: &Option<Source>| match source {
        Some(Source::Snapshot(id)) => id.to_string(),
        Some(Source::Volume(id)) => id.to_string(),
        None => "none".to_owned(),
    };
    let properties = [
        ("name", found.name.clone(), new.name.clone()),
        ("capacity", found.capacity.0.to_string(), new.capacity.0.to_string()),
        ("filesystem", filesystem(found.filesystem), filesystem(new.filesystem)),
        ("source", source(&found.source), source(&new.source)),
    ];
    match properties.into_iter().find(|(_, have, want)| have != want) {
        Some((property, have, want)) => Err(PoolError::Differs { id: found.id, property, have, want }),
        None => Ok(found),
    }
}

fn check_size(new: &NewVolume, origin: Option<&Origin>) -> Result<()> {
    let (minimum, reason) = match (new.filesystem, origin) {
        (_, Some(origin)) => (origin.capacity, "a copy of its source".to_owned()),
        (Some(filesystem), None) => (filesystem.minimum(), filesystem.to_string()),
        (None, None) => (LEAST_CAPACITY, "a volume".to_owned()),
    };
    if new.capacity < minimum {
        return Err(PoolError::TooSmall { want: new.capacity, minimum, reason });
    }
    match (new.filesystem, origin) {
        (Some(want), Some(origin)) if origin.filesystem != Some(want) => Err(PoolError::OtherFilesystem {
            have: origin.filesystem.map_or("no filesystem (raw block)", Filesystem::as_str).to_owned(),
            want,
        }),
        _ => Ok(()),
    }
}
