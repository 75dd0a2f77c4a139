//! Volumes that arrive from another host, a part at a time.
//!
//! ```text
//! volumes/.part-<volume>/{disk.img,arrival.json}      the record says up to where the image is durable
//! ```
//! A part survives the agent: whoever asks for the same volume with the same content goes on where the record says.
//! It is published by rename, like everything else; one that nobody asked for within [`PART_KEPT`] is removed.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::claims::Claim;
use super::layout::{PART_RECORD, VOLUME_RECORD};
use super::volumes::{image_size, same_or_differs};
use super::{Pool, PoolError, Result, records};
use crate::backend::IMAGE;
use crate::domain::record::VolumeRecord;
use crate::domain::transfer::Chain;
use crate::domain::{Bytes, NewVolume, VolumeId};

/// How long a part waits for somebody to go on with it.
pub const PART_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Never the same for two contents.
    pub id: String,
    /// Size of the image.
    pub size: Bytes,
    /// About how much of it holds data.
    pub allocated: Bytes,
}

/// Up to where a part has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Everything before this offset is there.
    pub until: u64,
    /// So much data that is.
    pub data: Bytes,
    /// Proof of it.
    pub chain: Chain,
}

/// `arrival.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartRecord {
    volume: VolumeRecord,
    content: String,
    until: u64,
    data: Bytes,
    chain: String,
    touched_at: Timestamp,
}

/// A volume of which a part is there. Nobody else works with it while this lives.
#[derive(Debug)]
pub struct Arrival {
    record: PartRecord,
    tree: PathBuf,
    _claim: Claim,
}

/// What is there at the beginning.
#[derive(Debug)]
pub enum Begun {
    /// A part, perhaps nothing of it yet.
    Part(Box<Arrival>),
    /// All of it: an earlier call came to its end.
    Whole(Box<VolumeRecord>),
}

impl Arrival {
    /// The image to write to.
    pub fn image(&self) -> PathBuf {
        self.tree.join(IMAGE)
    }

    /// Up to where it has arrived durably.
    pub fn mark(&self) -> Mark {
        let (until, data) = (self.record.until, self.record.data);
        // A proof that cannot be read proves nothing: from the beginning.
        self.record.chain.parse().map_or(Mark::default(), |chain| Mark { until, data, chain })
    }
}

impl Pool {
    /// Makes or finds the part of a volume. A part with another content or other properties is removed first.
    pub fn begin_arrival(&self, new: &NewVolume, content: &Content) -> Result<Begun> {
        self.check_writable()?;
        self.check_own(&new.id, &new.id.pool)?;
        let claim = self.claims.exclusive(&new.id)?;
        if let Some(found) = self.find_published(&new.id)? {
            return same_or_differs(found, new).map(|record| Begun::Whole(Box::new(record)));
        }
        if new.capacity < content.size {
            let reason = "a copy of its source".to_owned();
            return Err(PoolError::TooSmall { want: new.capacity, minimum: content.size, reason });
        }
        self.check_promise(new.capacity, new.capacity)?;
        let tree = self.layout.part(&new.id);
        let found = self.read_part(&tree)?.filter(|record| {
            record.content == content.id
                && (&record.volume.id, &record.volume.name, record.volume.capacity)
                    == (&new.id, &new.name, new.capacity)
                && (record.volume.filesystem, &record.volume.source) == (new.filesystem, &new.source)
        });
        let record = match found {
            Some(record) => record,
            None => self.new_part(&tree, new, content)?,
        };
        let missing = content.allocated.saturating_sub(record.data);
        self.space()?.check(self.id(), missing)?;
        Ok(Begun::Part(Box::new(Arrival { record, tree, _claim: claim })))
    }

    fn new_part(&self, tree: &Path, new: &NewVolume, content: &Content) -> Result<PartRecord> {
        let host = &*self.host;
        self.backend.remove(host, tree)?;
        self.space()?.check(self.id(), content.allocated)?;
        let record = PartRecord {
            volume: VolumeRecord {
                id: new.id.clone(),
                name: new.name.clone(),
                capacity: new.capacity,
                filesystem: new.filesystem,
                source: new.source.clone(),
                created_at: Timestamp::now(),
            },
            content: content.id.clone(),
            until: 0,
            data: Bytes(0),
            chain: Chain::default().to_string(),
            touched_at: Timestamp::now(),
        };
        self.backend.create(host, tree)?;
        host.create_image(&tree.join(IMAGE), image_size(content.size))?;
        records::publish(host, tree, PART_RECORD, &record)?;
        host.sync_directory(&self.layout.volumes())?;
        Ok(record)
    }

    /// Writes down that everything before the mark is durable: the caller has synced the image. Refused where the pool
    /// has become too full to go on.
    pub fn note_arrival(&self, arrival: &mut Arrival, mark: Mark) -> Result<()> {
        arrival.record.until = mark.until;
        arrival.record.data = mark.data;
        arrival.record.chain = mark.chain.to_string();
        arrival.record.touched_at = Timestamp::now();
        records::publish(&*self.host, &arrival.tree, PART_RECORD, &arrival.record)?;
        self.space()?.check(self.id(), Bytes(1))
    }

    /// Makes a volume of a part that is whole; the caller has synced the image.
    pub fn publish_arrival(&self, arrival: Arrival) -> Result<VolumeRecord> {
        let host = &*self.host;
        let Arrival { record: PartRecord { volume: record, .. }, tree, _claim } = arrival;
        host.grow_image(&tree.join(IMAGE), image_size(record.capacity))?;
        host.write_synced(&tree.join(VOLUME_RECORD), &records::encode(&tree, &record)?)?;
        host.remove_file(&tree.join(PART_RECORD))?;
        host.sync_directory(&tree)?;
        self.backend.settle(host, self.dir())?;
        host.rename(&tree, &self.layout.volume(&record.id))?;
        host.sync_directory(&self.layout.volumes())?;
        self.index_mut().put_volume(record.clone());
        Ok(record)
    }

    /// Removes the part of a volume that nobody will go on with; none is fine.
    pub fn drop_arrival(&self, id: &VolumeId) -> Result<()> {
        self.check_writable()?;
        let _claim = self.claims.exclusive(id)?;
        self.discard_part(id)
    }

    /// As [`Pool::drop_arrival`], for who has the claim already.
    pub(super) fn discard_part(&self, id: &VolumeId) -> Result<()> {
        let tree = self.layout.part(id);
        if self.host.stat(&tree)?.is_some() { self.discard(&tree) } else { Ok(()) }
    }

    /// What is known of a part; nothing where a crash left it without a record that can be read.
    fn read_part(&self, tree: &Path) -> Result<Option<PartRecord>> {
        match records::read(&*self.host, &tree.join(PART_RECORD)) {
            Ok(record) => Ok(record),
            Err(PoolError::Torn { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether somebody may still go on with the part in this tree.
    pub(super) fn is_awaited(&self, tree: &Path, now: Timestamp) -> Result<bool> {
        let record = self.read_part(tree)?;
        Ok(record.is_some_and(|record| now.duration_since(record.touched_at) < PART_KEPT))
    }
}
