//! Volumes that arrive from another host, a part at a time.
//!
//! ```text
//! volumes/.part-<volume>/{disk.img,arrival.json}      the record says up to where the image is durable
//! ```
//! A part survives the agent: whoever asks for the same volume with the same content goes on where the record says.
//! It is published by rename, like everything else; one that nobody asked for within [`PART_KEPT`] is removed.
//!
//! A volume that *moves* is kept aside when it is whole ([`Pool::keep_arrival`]) and published when its source has let go
//! ([`Pool::adopt`]): who has a whole part does not have the volume. It waits until somebody who has asked the source says
//! that it is not needed ([`Pool::abandon`]).

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use stillpoint_guard::fault::point;

use super::claims::Claim;
use super::layout::{self, Name, PART_RECORD, VOLUME_RECORD};
use super::volumes::{image_size, same_or_differs};
use super::{Pool, PoolError, Result, records};
use crate::backend::IMAGE;
use crate::domain::record::VolumeRecord;
use crate::domain::transfer::Chain;
use crate::domain::{Bytes, Moved, NameHash, NewVolume, VolumeId, Waiting};

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
    /// Where it moves from: its id in that pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moves_from: Option<VolumeId>,
    /// All of it is there, and it waits to be adopted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_whole: bool,
}

impl PartRecord {
    fn moves(&self) -> Option<(&VolumeId, &VolumeId, Timestamp)> {
        let from = self.moves_from.as_ref()?;
        Some((self.volume.known_as(), from, self.volume.created_at))
    }
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
    /// All of it, of a volume that moves and waits to be adopted.
    Kept(Box<VolumeRecord>),
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
    /// Makes or finds the part of a volume. A part with another content, other properties or another birth is removed first.
    pub fn begin_arrival(&self, new: &NewVolume, content: &Content, moved: Option<&Moved>) -> Result<Begun> {
        self.check_writable()?;
        self.check_own(&new.id, &new.id.pool)?;
        let claim = self.claims.exclusive(&new.id)?;
        if let Some(found) = self.find_namesake(&new.id)? {
            let found = same_or_differs(found, new)?;
            if let Some(moved) = moved.filter(|moved| moved.known_as != *found.known_as()) {
                let (have, want) = (found.known_as().to_string(), moved.known_as.to_string());
                return Err(PoolError::Differs { id: found.id, property: "identity", have, want });
            }
            return Ok(Begun::Whole(Box::new(found)));
        }
        if new.capacity < content.size {
            let reason = "a copy of its source".to_owned();
            return Err(PoolError::TooSmall { want: new.capacity, minimum: content.size, reason });
        }
        self.make_way(&new.id, moved)?;
        let tree = self.layout.part(&new.id);
        let found = self.read_part(&tree)?.filter(|record| {
            record.content == content.id
                && (&record.volume.id, &record.volume.name, record.volume.capacity)
                    == (&new.id, &new.name, new.capacity)
                && (record.volume.filesystem, &record.volume.source) == (new.filesystem, &new.source)
                && record.moves() == moved.map(|moved| (&moved.known_as, &moved.from, moved.created_at))
        });
        if let Some(record) = found.as_ref().filter(|record| record.is_whole) {
            return Ok(Begun::Kept(Box::new(record.volume.clone())));
        }
        let record = match found {
            Some(record) => record,
            None => self.new_part(&tree, new, content, moved)?,
        };
        self.check_free(content.allocated.saturating_sub(record.data))?;
        Ok(Begun::Part(Box::new(Arrival { record, tree, _claim: claim })))
    }

    /// Removes the part of an earlier volume of the same name. One that is whole and moves here is kept: its source may
    /// have let go of it, and it is all that is left.
    fn make_way(&self, id: &VolumeId, moved: Option<&Moved>) -> Result<()> {
        let Some(there) = self.part_named(&id.hash)? else { return Ok(()) };
        let is_other = there != *id;
        let is_whole = self.read_part(&self.layout.part(&there))?.is_some_and(|part| part.is_whole);
        if is_whole && (is_other || moved.is_none()) {
            return Err(PoolError::Busy(there.to_string()));
        }
        if is_other { self.discard_part(&there) } else { Ok(()) }
    }

    fn new_part(
        &self,
        tree: &Path,
        new: &NewVolume,
        content: &Content,
        moved: Option<&Moved>,
    ) -> Result<PartRecord> {
        let host = &*self.host;
        self.backend.remove(host, tree)?;
        self.index_mut().drop_part(&new.id);
        self.check_free(content.allocated)?;
        let _promise = self.promise(new.capacity, new.capacity)?;
        let record = PartRecord {
            volume: VolumeRecord {
                known_as: moved.map(|moved| moved.known_as.clone()).filter(|known_as| *known_as != new.id),
                id: new.id.clone(),
                name: new.name.clone(),
                capacity: new.capacity,
                filesystem: new.filesystem,
                source: new.source.clone(),
                created_at: moved.map_or_else(Timestamp::now, |moved| moved.created_at),
            },
            content: content.id.clone(),
            until: 0,
            data: Bytes(0),
            chain: Chain::default().to_string(),
            touched_at: Timestamp::now(),
            moves_from: moved.map(|moved| moved.from.clone()),
            is_whole: false,
        };
        self.backend.create(host, tree)?;
        host.create_image(&tree.join(IMAGE), image_size(content.size))?;
        records::publish(host, tree, PART_RECORD, &record)?;
        host.sync_directory(&self.layout.volumes())?;
        self.index_mut().put_part(&new.id, new.capacity, Bytes(0));
        Ok(record)
    }

    /// Counts a part that an earlier agent has left: it is promised what it may come to need.
    pub(super) fn count_part(&self, tree: &Path) -> Result<()> {
        if let Some(record) = self.read_part(tree)? {
            self.index_mut().put_part(&record.volume.id, record.volume.capacity, record.data);
        }
        Ok(())
    }

    /// Writes down that everything before the mark is durable: the caller has synced the image. Refused where the pool
    /// has become too full to go on.
    pub fn note_arrival(&self, arrival: &mut Arrival, mark: Mark) -> Result<()> {
        arrival.record.until = mark.until;
        arrival.record.data = mark.data;
        arrival.record.chain = mark.chain.to_string();
        arrival.record.touched_at = Timestamp::now();
        records::publish(&*self.host, &arrival.tree, PART_RECORD, &arrival.record)?;
        let volume = &arrival.record.volume;
        self.index_mut().put_part(&volume.id, volume.capacity, mark.data);
        self.check_free(Bytes(1))
    }

    /// Makes a volume of a part that is whole; the caller has synced the image.
    pub fn publish_arrival(&self, arrival: Arrival) -> Result<VolumeRecord> {
        let host = &*self.host;
        let Arrival { record: PartRecord { volume: record, .. }, tree, _claim } = arrival;
        host.grow_image(&tree.join(IMAGE), image_size(record.capacity))?;
        host.write_synced(&tree.join(VOLUME_RECORD), &records::encode(&tree, &record)?)?;
        host.sync_directory(&tree)?;
        self.backend.settle(host, self.dir())?;
        let published = self.layout.volume(&record.id);
        point("agent.copy.whole");
        host.rename(&tree, &published)?;
        host.sync_directory(&self.layout.volumes())?;
        {
            let mut index = self.index_mut();
            index.put_volume(record.clone());
            index.drop_part(&record.id);
        }
        point("agent.copy.published");
        // Before the rename it is what the part is known by.
        host.remove_file(&published.join(PART_RECORD))?;
        Ok(record)
    }

    /// Keeps aside a volume that moves and has arrived whole; the caller has synced the image.
    pub fn keep_arrival(&self, arrival: Arrival) -> Result<VolumeRecord> {
        let Arrival { mut record, tree, _claim } = arrival;
        record.is_whole = true;
        record.touched_at = Timestamp::now();
        records::publish(&*self.host, &tree, PART_RECORD, &record)?;
        point("agent.move.kept");
        Ok(record.volume)
    }

    /// Makes the volume of what was kept aside, because its source has let go. Idempotent.
    pub fn adopt(&self, id: &VolumeId, content: &str) -> Result<VolumeRecord> {
        self.check_writable()?;
        self.check_own(id, &id.pool)?;
        let claim = self.claims.exclusive(id)?;
        let record = if let Some(found) = self.find_published(id)? {
            self.host.remove_file(&self.layout.volume(id).join(PART_RECORD))?;
            found
        } else {
            let tree = self.layout.part(id);
            let record = self.read_part(&tree)?.filter(|record| record.is_whole && record.content == content);
            let record = record.ok_or_else(|| PoolError::NotWaiting(id.clone()))?;
            self.publish_arrival(Arrival { record, tree, _claim: claim })?
        };
        // It may be back where it once was.
        self.drop_move(id)?;
        Ok(record)
    }

    /// Removes what has arrived of a volume: of this content, or of any that is not kept for a move. Says whether there
    /// was something.
    pub fn abandon(&self, id: &VolumeId, content: Option<&str>) -> Result<bool> {
        self.check_writable()?;
        self.check_own(id, &id.pool)?;
        let _claim = self.claims.exclusive(id)?;
        let tree = self.layout.part(id);
        if self.host.stat(&tree)?.is_none() {
            return Ok(false);
        }
        let is_meant = match (self.read_part(&tree)?, content) {
            (Some(record), Some(content)) => record.content == content,
            (Some(record), None) => !record.is_whole,
            (None, _) => true,
        };
        if is_meant {
            self.index_mut().drop_part(id);
            self.discard(&tree)?;
        }
        Ok(is_meant)
    }

    /// The part of a volume of this name, as the volume will be called.
    pub fn part_named(&self, name: &NameHash) -> Result<Option<VolumeId>> {
        let parts = self.host.list(&self.layout.volumes())?;
        let parts = parts.iter().filter_map(|(entry, _)| layout::arriving(entry)?.parse::<VolumeId>().ok());
        Ok(parts.into_iter().find(|id| (&id.pool, &id.hash) == (self.id(), name)))
    }

    /// Volumes that move, have arrived whole and wait.
    pub fn waiting(&self) -> Result<Vec<Waiting>> {
        let mut waiting = Vec::new();
        for (name, _) in self.host.list(&self.layout.volumes())? {
            if Name::of(&name) != Name::Part {
                continue;
            }
            let record = self.read_part(&self.layout.volumes().join(name))?;
            let Some(record) = record.filter(|record| record.is_whole) else { continue };
            if let Some(from) = record.moves_from {
                waiting.push(Waiting { volume: record.volume.id, content: record.content, from });
            }
        }
        Ok(waiting)
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
        self.index_mut().drop_part(id);
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
        // A clock that was set back does not keep a part for ever.
        let is_recent = |record: &PartRecord| now.duration_since(record.touched_at).abs() < PART_KEPT;
        Ok(record.is_some_and(|record| record.is_whole || is_recent(&record)))
    }
}
