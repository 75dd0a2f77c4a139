//! The agent's messages to domain types and back. Reading checks everything: a message that does not parse is
//! INVALID_ARGUMENT for a request and INTERNAL for an answer, and names the field.

use std::path::PathBuf;

use crate::domain::blocks::{Comparison, WalkOrder};
use crate::domain::health::Ailment;
use crate::domain::listing::{CutFilter, CutScope, Detail, Slice, SnapshotEntry};
use crate::domain::record::{CutRecord, CutState, Source, VolumeRecord};
use crate::domain::{
    Bytes, Code, CutId, CutKind, Departure, Fault, Filesystem, HostInfo, Move, Moved, NameHash, NewVolume,
    PoolInfo, VolumeId, VolumeInfo, Waiting,
};
use crate::proto::agent as proto;

/// Which side a message came from: decides the code of what does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A request: the caller must change it.
    Caller,
    /// An answer: the agent speaks another dialect.
    Agent,
}

impl Side {
    fn fault(self, field: &str, why: impl std::fmt::Display) -> Fault {
        match self {
            Self::Caller => Fault::new(Code::Invalid, format!("{field}: {why}")),
            Self::Agent => Fault::new(
                Code::Internal,
                format!(
                    "the agent answered with a {field} that cannot be read ({why}); run the same version of stillpoint on all hosts"
                ),
            ),
        }
    }

    /// Parses one field.
    pub fn parse<T>(self, field: &str, text: &str) -> Result<T, Fault>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        text.parse().map_err(|why| self.fault(field, why))
    }

    /// Parses one field that may be empty.
    fn optional<T>(self, field: &str, text: &str) -> Result<Option<T>, Fault>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        if text.is_empty() { Ok(None) } else { self.parse(field, text).map(Some) }
    }

    fn filesystem(self, text: &str) -> Result<Option<Filesystem>, Fault> {
        self.optional("filesystem", text)
    }

    /// A snapshot id or a volume id; empty for none.
    fn source(self, text: &str) -> Result<Option<Source>, Fault> {
        if text.is_empty() {
            return Ok(None);
        }
        if let Ok(snapshot) = text.parse() {
            return Ok(Some(Source::Snapshot(snapshot)));
        }
        self.parse("source", text).map(|volume| Some(Source::Volume(volume)))
    }
}

fn filesystem_text(filesystem: Option<Filesystem>) -> String {
    filesystem.map_or_else(String::new, |filesystem| filesystem.to_string())
}

fn source_text(source: Option<&Source>) -> String {
    match source {
        None => String::new(),
        Some(Source::Snapshot(id)) => id.to_string(),
        Some(Source::Volume(id)) => id.to_string(),
    }
}

/// A pool for the wire.
pub fn pool_to_proto(pool: &PoolInfo) -> proto::Pool {
    proto::Pool {
        id: pool.id.to_string(),
        backend: pool.backend.clone(),
        total_bytes: pool.total.0,
        available_bytes: pool.available.0,
        path: pool.path.display().to_string(),
        conditions: ailments_to_proto(&pool.conditions),
    }
}

fn ailments_to_proto(ailments: &[Ailment]) -> Vec<proto::Ailment> {
    let to_proto = |ailment: &Ailment| proto::Ailment {
        condition: ailment.condition.as_str().into(),
        message: ailment.message.clone(),
    };
    ailments.iter().map(to_proto).collect()
}

/// A condition that only a newer agent knows is left out: its volumes must still be listed.
fn ailments_from_proto(ailments: Vec<proto::Ailment>) -> Vec<Ailment> {
    let known = |ailment: proto::Ailment| {
        Some(Ailment { condition: ailment.condition.parse().ok()?, message: ailment.message })
    };
    ailments.into_iter().filter_map(known).collect()
}

fn pool_from_proto(pool: proto::Pool) -> Result<PoolInfo, Fault> {
    Ok(PoolInfo {
        id: Side::Agent.parse("pool id", &pool.id)?,
        backend: pool.backend,
        total: Bytes(pool.total_bytes),
        available: Bytes(pool.available_bytes),
        path: pool.path.into(),
        conditions: ailments_from_proto(pool.conditions),
    })
}

/// A host for the wire.
pub fn host_to_proto(host: &HostInfo) -> proto::DescribeResponse {
    proto::DescribeResponse {
        host: host.host.to_string(),
        version: host.version.clone(),
        pools: host.pools.iter().map(pool_to_proto).collect(),
    }
}

/// A host as its agent described it.
pub fn host_from_proto(host: proto::DescribeResponse) -> Result<HostInfo, Fault> {
    Ok(HostInfo {
        host: Side::Agent.parse("host", &host.host)?,
        version: host.version,
        pools: host.pools.into_iter().map(pool_from_proto).collect::<Result<_, _>>()?,
    })
}

/// A volume for the wire.
pub fn volume_to_proto(volume: &VolumeInfo) -> proto::Volume {
    let record = &volume.record;
    proto::Volume {
        id: record.id.to_string(),
        name: record.name.clone(),
        capacity_bytes: record.capacity.0,
        filesystem: filesystem_text(record.filesystem),
        backend: volume.backend.clone(),
        source: source_text(record.source.as_ref()),
        created_at: record.created_at.to_string(),
        allocated_bytes: volume.allocated.0,
        published_at: volume
            .published_at
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string()),
        conditions: ailments_to_proto(&volume.conditions),
        known_as: record.known_as.as_ref().map(ToString::to_string).unwrap_or_default(),
        moved_to: volume.moved.as_ref().map(|moved| moved.to.to_string()).unwrap_or_default(),
        settled: volume.moved.as_ref().is_some_and(|moved| moved.is_settled),
    }
}

/// A volume as its agent described it.
pub fn volume_from_proto(volume: proto::Volume) -> Result<VolumeInfo, Fault> {
    let side = Side::Agent;
    let moved_to = side.optional("moved_to", &volume.moved_to)?;
    Ok(VolumeInfo {
        moved: moved_to.map(|to| Departure { to, is_settled: volume.settled }),
        record: VolumeRecord {
            known_as: side.optional("known_as", &volume.known_as)?,
            id: side.parse("volume id", &volume.id)?,
            name: volume.name,
            capacity: Bytes(volume.capacity_bytes),
            filesystem: side.filesystem(&volume.filesystem)?,
            source: side.source(&volume.source)?,
            created_at: side.parse("created_at", &volume.created_at)?,
        },
        backend: volume.backend,
        allocated: Bytes(volume.allocated_bytes),
        published_at: (!volume.published_at.is_empty()).then(|| PathBuf::from(volume.published_at)),
        conditions: ailments_from_proto(volume.conditions),
    })
}

/// A volume to be made, for the wire.
pub fn new_volume_to_proto(volume: &NewVolume) -> proto::CreateVolumeRequest {
    proto::CreateVolumeRequest {
        id: volume.id.to_string(),
        name: volume.name.clone(),
        capacity_bytes: volume.capacity.0,
        filesystem: filesystem_text(volume.filesystem),
        source: source_text(volume.source.as_ref()),
    }
}

/// A volume that a caller asks for.
pub fn new_volume_from_proto(volume: proto::CreateVolumeRequest) -> Result<NewVolume, Fault> {
    let side = Side::Caller;
    let id: VolumeId = side.parse("id", &volume.id)?;
    if id.hash != NameHash::of(&volume.name) {
        return Err(Fault::invalid(format!(
            "id {id} is not the id of a volume called {:?}; make it with VolumeId::new",
            volume.name
        )));
    }
    Ok(NewVolume {
        id,
        name: volume.name,
        capacity: Bytes(volume.capacity_bytes),
        filesystem: side.filesystem(&volume.filesystem)?,
        source: side.source(&volume.source)?,
    })
}

/// What a volume that moves brings with it, for the wire.
pub fn moved_to_proto(moved: &Moved) -> proto::MovedVolume {
    proto::MovedVolume {
        known_as: moved.known_as.to_string(),
        created_at: moved.created_at.to_string(),
        from: moved.from.to_string(),
    }
}

/// What a volume that moves brings with it.
pub fn moved_from_proto(moved: &proto::MovedVolume) -> Result<Moved, Fault> {
    let side = Side::Caller;
    Ok(Moved {
        known_as: side.parse("moved.known_as", &moved.known_as)?,
        from: side.parse("moved.from", &moved.from)?,
        created_at: side.parse("moved.created_at", &moved.created_at)?,
    })
}

/// A volume that leaves, for the wire.
pub fn move_to_proto(leaving: &Move) -> proto::Move {
    proto::Move {
        volume: Some(volume_to_proto(&leaving.volume)),
        to: leaving.to.to_string(),
        content: leaving.content.clone(),
        has_left: leaving.has_left,
    }
}

/// A volume that leaves, as its agent described it.
pub fn move_from_proto(leaving: Option<proto::Move>) -> Result<Move, Fault> {
    let side = Side::Agent;
    let leaving = leaving.ok_or_else(|| side.fault("move", "it is missing"))?;
    let volume = leaving.volume.ok_or_else(|| side.fault("volume", "it is missing"))?;
    Ok(Move {
        volume: volume_from_proto(volume)?,
        to: side.parse("to", &leaving.to)?,
        content: leaving.content,
        has_left: leaving.has_left,
    })
}

/// A volume that waits to be adopted, for the wire.
pub fn waiting_to_proto(waiting: &Waiting) -> proto::list_moves_response::Waiting {
    proto::list_moves_response::Waiting {
        volume_id: waiting.volume.to_string(),
        content: waiting.content.clone(),
        from: waiting.from.to_string(),
    }
}

/// A volume that waits to be adopted, as its agent described it.
pub fn waiting_from_proto(waiting: proto::list_moves_response::Waiting) -> Result<Waiting, Fault> {
    let side = Side::Agent;
    Ok(Waiting {
        volume: side.parse("volume_id", &waiting.volume_id)?,
        content: waiting.content,
        from: side.parse("from", &waiting.from)?,
    })
}

/// A cut record for the wire.
pub fn record_to_proto(record: &CutRecord) -> Result<proto::CutRecord, Fault> {
    serde_json::to_string(record)
        .map(|json| proto::CutRecord { json })
        .map_err(|why| Fault::internal(format!("the record of cut {} cannot be written: {why}", record.id)))
}

/// A cut record, read and checked.
pub fn record_from_proto(side: Side, record: Option<proto::CutRecord>) -> Result<CutRecord, Fault> {
    let record = record.ok_or_else(|| side.fault("record", "it is missing"))?;
    serde_json::from_str(&record.json).map_err(|why| side.fault("record", why))
}

/// A stored cut for the wire; its state is in the record too, and shown beside it.
pub fn cut_to_proto(record: &CutRecord) -> Result<proto::GetCutResponse, Fault> {
    let state = match record.state {
        CutState::Round => proto::CutState::Round,
        CutState::Sealed => proto::CutState::Sealed,
    };
    Ok(proto::GetCutResponse {
        state: state.into(),
        record: Some(record_to_proto(record)?),
        under_way: false,
    })
}

/// A stored cut as its agent described it.
pub fn cut_from_proto(cut: proto::GetCutResponse) -> Result<CutRecord, Fault> {
    record_from_proto(Side::Agent, cut.record)
}

/// A slice for the wire.
pub fn slice_to_proto<K: ToString>(slice: &Slice<K>) -> proto::Slice {
    proto::Slice {
        after: slice.after.as_ref().map(K::to_string).unwrap_or_default(),
        limit: u32::try_from(slice.limit).unwrap_or(u32::MAX),
    }
}

/// The slice that a caller asks for; none is the first piece.
pub fn slice_from_proto<K>(slice: Option<proto::Slice>) -> Result<Slice<K>, Fault>
where
    K: std::str::FromStr,
    K::Err: std::fmt::Display,
{
    let proto::Slice { after, limit } = slice.unwrap_or_default();
    let after = (!after.is_empty()).then(|| Side::Caller.parse("after", &after)).transpose()?;
    Ok(Slice { after, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
}

/// Cuts to be asked for.
pub fn cuts_wanted_to_proto(slice: &Slice<CutId>, filter: &CutFilter) -> proto::ListCutsRequest {
    let scope = match filter.scope {
        CutScope::All => proto::CutScope::Unspecified,
        CutScope::Existing => proto::CutScope::Existing,
        CutScope::Unsettled => proto::CutScope::Unsettled,
    };
    proto::ListCutsRequest {
        slice: Some(slice_to_proto(slice)),
        scope: scope.into(),
        name_prefix: filter.name_prefix.clone(),
        only_home: filter.detail == Detail::Home,
    }
}

/// Which cuts a caller asks for.
pub fn cuts_wanted(request: proto::ListCutsRequest) -> Result<(Slice<CutId>, CutFilter), Fault> {
    let scope = match proto::CutScope::try_from(request.scope) {
        Ok(proto::CutScope::Unspecified) => CutScope::All,
        Ok(proto::CutScope::Existing) => CutScope::Existing,
        Ok(proto::CutScope::Unsettled) => CutScope::Unsettled,
        Err(why) => return Err(Side::Caller.fault("scope", why)),
    };
    let detail = if request.only_home { Detail::Home } else { Detail::Members };
    Ok((slice_from_proto(request.slice)?, CutFilter { scope, name_prefix: request.name_prefix, detail }))
}

/// A snapshot for the wire.
pub fn snapshot_to_proto(entry: &SnapshotEntry) -> proto::Snapshot {
    proto::Snapshot {
        id: entry.id.to_string(),
        cut_id: entry.cut.to_string(),
        cut_name: entry.cut_name.clone(),
        cut_at: entry.cut_at.to_string(),
        capacity_bytes: entry.capacity.0,
        known_as: entry.known_as.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// A snapshot as its agent described it.
pub fn snapshot_from_proto(snapshot: proto::Snapshot) -> Result<SnapshotEntry, Fault> {
    let side = Side::Agent;
    Ok(SnapshotEntry {
        id: side.parse("snapshot id", &snapshot.id)?,
        known_as: side.optional("known_as", &snapshot.known_as)?,
        cut: side.parse("cut_id", &snapshot.cut_id)?,
        cut_name: snapshot.cut_name,
        cut_at: side.parse("cut_at", &snapshot.cut_at)?,
        capacity: Bytes(snapshot.capacity_bytes),
    })
}

/// `s<hash>` or `g<hash>`: how a cut is asked for by name.
pub fn kind_and_hash(kind: CutKind, hash: &NameHash) -> String {
    match kind {
        CutKind::Single => format!("s{hash}"),
        CutKind::Group => format!("g{hash}"),
    }
}

/// Which cut a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutKey {
    /// By id.
    Id(CutId),
    /// By kind and hash of its name, over all pools.
    Name(CutKind, NameHash),
}

/// Which cut a caller asks for.
pub fn cut_key(request: proto::GetCutRequest) -> Result<CutKey, Fault> {
    use proto::get_cut_request::By;
    let side = Side::Caller;
    match request.by {
        Some(By::CutId(id)) => side.parse("cut_id", &id).map(CutKey::Id),
        Some(By::KindAndNameHash(text)) => {
            let kind = match text.get(..1) {
                Some("s") => CutKind::Single,
                Some("g") => CutKind::Group,
                Some(_) | None => {
                    return Err(side.fault("kind_and_name_hash", "it must start with s or g"));
                }
            };
            side.parse("kind_and_name_hash", &text[1..]).map(|hash| CutKey::Name(kind, hash))
        }
        None => Err(side.fault("by", "cut_id or kind_and_name_hash must be set")),
    }
}

/// Which volume a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeKey {
    /// By id.
    Id(VolumeId),
    /// By the hash of its name, over all pools.
    Name(NameHash),
}

/// Which volume a caller asks for.
pub fn volume_key(request: proto::GetVolumeRequest) -> Result<VolumeKey, Fault> {
    use proto::get_volume_request::By;
    let side = Side::Caller;
    match request.by {
        Some(By::Id(id)) => side.parse("id", &id).map(VolumeKey::Id),
        Some(By::NameHash(hash)) => side.parse("name_hash", &hash).map(VolumeKey::Name),
        None => Err(side.fault("by", "id or name_hash must be set")),
    }
}

/// Which blocks a caller asks for.
pub fn walk_order(request: &proto::WalkRequest) -> Result<WalkOrder, Fault> {
    let side = Side::Caller;
    let base = (!request.base.is_empty()).then(|| side.parse("base", &request.base)).transpose()?;
    let comparison = if request.compare_bytes { Comparison::Bytes } else { Comparison::Addresses };
    Ok(WalkOrder { base, target: side.parse("target", &request.target)?, start: request.start, comparison })
}

/// Blocks to be asked for.
pub fn walk_order_to_proto(order: &WalkOrder) -> proto::WalkRequest {
    proto::WalkRequest {
        base: order.base.as_ref().map(ToString::to_string).unwrap_or_default(),
        target: order.target.to_string(),
        start: order.start,
        compare_bytes: order.comparison == Comparison::Bytes,
    }
}

#[cfg(test)]
mod tests;
