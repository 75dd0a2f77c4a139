//! A cut's timeline in the words of a `Run`.

use std::collections::BTreeMap;

use stillpoint_rules::kube::objects::{Lane, LaneSpan};

use crate::domain::record::CutRecord;
use crate::domain::timeline::{HostLane, Phase, VolumeLane};

/// What hosts did, for the run's timeline. Volumes are called by their claims, which people know.
pub(super) fn lanes(record: &CutRecord, claims: &BTreeMap<String, String>) -> Vec<Lane> {
    let hosts = record.timeline.iter().flat_map(|timeline| &timeline.hosts);
    let lane = |(host, volume): (&HostLane, &VolumeLane)| Lane {
        of: format!("volume {}", claims.get(&volume.volume.to_string()).unwrap_or(&volume.name)),
        node: host.host.to_string(),
        spans: volume
            .spans
            .iter()
            .map(|span| LaneSpan {
                what: phase_word(span.phase).to_owned(),
                start_micros: span.start_us,
                end_micros: span.end_us,
                failed: false,
            })
            .collect(),
    };
    hosts.flat_map(|host| host.volumes.iter().map(move |volume| (host, volume))).map(lane).collect()
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Flush => "flush",
        Phase::Freeze => "freeze",
        Phase::Cut => "cut",
        Phase::Thaw => "thaw",
    }
}
