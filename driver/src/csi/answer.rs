//! Domain values to CSI answers.

use std::collections::HashMap;

use jiff::Timestamp;
use stillpoint_csi_proto::v1;
use v1::volume_content_source::{SnapshotSource, Type as SourceType, VolumeSource};

use super::parse::TOPOLOGY_KEY;
use crate::controller::volumes::Placed;
use crate::domain::health::{Ailment, Severity};
use crate::domain::listing::SnapshotEntry;
use crate::domain::node::Usage;
use crate::domain::record::{CutMember, CutRecord, Source};
use crate::domain::{Bytes, CutKind, HostName, VolumeId};

/// CSI counts in signed numbers; beyond them is as good as their largest.
pub fn bytes(bytes: Bytes) -> i64 {
    number(bytes.0)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The place that a host is.
pub fn topology(host: &HostName) -> v1::Topology {
    v1::Topology { segments: HashMap::from([(TOPOLOGY_KEY.to_owned(), host.to_string())]) }
}

/// A volume.
pub fn volume(placed: &Placed) -> v1::Volume {
    let record = &placed.info.record;
    v1::Volume {
        capacity_bytes: bytes(record.capacity),
        volume_id: record.known_as().to_string(),
        volume_context: HashMap::new(),
        content_source: record.source.as_ref().map(source),
        accessible_topology: vec![topology(&placed.host)],
    }
}

fn source(source: &Source) -> v1::VolumeContentSource {
    let kind = match source {
        Source::Snapshot(id) => SourceType::Snapshot(SnapshotSource { snapshot_id: id.to_string() }),
        Source::Volume(id) => SourceType::Volume(VolumeSource { volume_id: id.to_string() }),
    };
    v1::VolumeContentSource { r#type: Some(kind) }
}

/// The hosts on which a volume is in use.
pub fn used_on(placed: &Placed) -> Vec<String> {
    placed.info.published_at.iter().map(|_| placed.host.to_string()).collect()
}

/// One member of a cut.
pub fn snapshot(cut: &CutRecord, member: &CutMember) -> v1::Snapshot {
    listed(&cut.entry_of(member))
}

/// A snapshot. A cut exists only when it is sealed, so it is always ready.
pub fn listed(entry: &SnapshotEntry) -> v1::Snapshot {
    v1::Snapshot {
        size_bytes: bytes(entry.capacity),
        snapshot_id: entry.id.to_string(),
        source_volume_id: entry.known_as().to_string(),
        creation_time: Some(time(entry.cut_at)),
        ready_to_use: true,
        group_snapshot_id: match entry.kind() {
            CutKind::Single => String::new(),
            CutKind::Group => entry.cut.to_string(),
        },
        // Only for plugins that announce snapshot topology.
        accessible_topology: vec![],
    }
}

/// A group.
pub fn group(cut: &CutRecord) -> v1::VolumeGroupSnapshot {
    v1::VolumeGroupSnapshot {
        group_snapshot_id: cut.handle().to_string(),
        snapshots: cut.members.iter().map(|member| snapshot(cut, member)).collect(),
        creation_time: Some(time(cut.cut_at)),
        ready_to_use: true,
    }
}

fn time(at: Timestamp) -> prost_types::Timestamp {
    // jiff lets seconds and nanoseconds have the same sign, protobuf wants the second one positive.
    let (seconds, nanos) = (at.as_second(), at.subsec_nanosecond());
    if nanos < 0 {
        prost_types::Timestamp { seconds: seconds - 1, nanos: nanos + 1_000_000_000 }
    } else {
        prost_types::Timestamp { seconds, nanos }
    }
}

/// What is in use.
pub fn usage(usage: Usage) -> Vec<v1::VolumeUsage> {
    use v1::volume_usage::Unit;
    let entry = |unit: Unit, total: u64, available: u64| v1::VolumeUsage {
        available: number(available),
        total: number(total),
        used: number(total.saturating_sub(available)),
        unit: unit.into(),
    };
    match usage {
        Usage::Filesystem { total, available, inodes, inodes_free } => {
            vec![entry(Unit::Bytes, total.0, available.0), entry(Unit::Inodes, inodes, inodes_free)]
        }
        // What is used of a device only its user knows.
        Usage::Device { total } => {
            vec![v1::VolumeUsage { total: bytes(total), unit: Unit::Bytes.into(), ..Default::default() }]
        }
    }
}

/// What is wrong with a volume; nothing listed: nothing was seen.
pub fn health(volume: &VolumeId, found: &[Ailment]) -> v1::VolumeHealth {
    use v1::VolumeHealthErrorType as Kind;

    let entry = |ailment: &Ailment| {
        let status = match ailment.condition.severity() {
            Severity::Degraded => Kind::Degraded,
            Severity::Inaccessible => Kind::Inaccessible,
            Severity::DataLoss => Kind::DataLoss,
        };
        v1::volume_health::VolumeHealthEntry {
            status: status.into(),
            reason: ailment.condition.as_str().into(),
            message: ailment.message.clone(),
        }
    };
    let health_statuses = found.iter().map(entry).collect();
    v1::VolumeHealth { volume_id: volume.to_string(), health_statuses }
}

/// What is wrong with what volumes are stored on.
pub fn storage_health(found: &[Ailment]) -> Vec<v1::node_get_storage_health_response::StorageBackendHealth> {
    use v1::StorageHealthErrorType as Kind;

    let entry = |ailment: &Ailment| {
        let status = match ailment.condition.severity() {
            Severity::Degraded => Kind::StorageDegraded,
            Severity::Inaccessible | Severity::DataLoss => Kind::StorageUnreachable,
        };
        v1::node_get_storage_health_response::StorageBackendHealth {
            status: status.into(),
            reason: ailment.condition.as_str().into(),
            message: ailment.message.clone(),
            volume_capability: None,
        }
    };
    found.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_positive_nanoseconds() {
        let before = Timestamp::new(-1, -250_000_000).unwrap();
        assert_eq!(time(before), prost_types::Timestamp { seconds: -2, nanos: 750_000_000 });
        let after = Timestamp::new(1, 5).unwrap();
        assert_eq!(time(after), prost_types::Timestamp { seconds: 1, nanos: 5 });
    }

    #[test]
    fn sizes_beyond_what_csi_can_say_become_its_largest() {
        assert_eq!(bytes(Bytes(u64::MAX)), i64::MAX);
        assert_eq!(bytes(Bytes(5)), 5);
    }

    #[test]
    fn a_filesystem_reports_bytes_and_inodes_and_a_device_only_its_size() {
        let usage_of = |given| usage(given).iter().map(|u| (u.unit, u.total, u.used)).collect::<Vec<_>>();
        let filesystem =
            Usage::Filesystem { total: Bytes(100), available: Bytes(30), inodes: 10, inodes_free: 9 };
        assert_eq!(usage_of(filesystem), [(1, 100, 70), (2, 10, 1)]);
        assert_eq!(usage_of(Usage::Device { total: Bytes(7) }), [(1, 7, 0)]);
    }
}
