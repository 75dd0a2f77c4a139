//! Snapshots that the cluster does not know, and contents without a snapshot.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Shared;

/// What an orphan lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "they are the words of a label")]
enum Missing {
    content,
    snapshot,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    missing: Missing,
}

struct Orphans {
    found: Family<Of, Gauge>,
    checked: Gauge,
}

static ORPHANS: Shared<Orphans> = Shared::new(|| {
    let found = Family::<Of, Gauge>::default();
    for missing in [Missing::content, Missing::snapshot] {
        drop(found.get_or_create(&Of { missing }));
    }
    Orphans { found, checked: Gauge::default() }
});

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        "orphan_snapshots",
        "Snapshots without a content in the cluster, and contents without a snapshot",
        ORPHANS.found.clone(),
    );
    registry.register_with_unit(
        "orphan_check_timestamp",
        "When orphans were last looked for with a result; 0: not since the start",
        Unit::Seconds,
        ORPHANS.checked.clone(),
    );
}

/// A check has come to its end.
pub fn found(without_content: usize, without_snapshot: usize) {
    let set = |missing, count: usize| {
        ORPHANS.found.get_or_create(&Of { missing }).set(i64::try_from(count).unwrap_or(i64::MAX));
    };
    set(Missing::content, without_content);
    set(Missing::snapshot, without_snapshot);
    ORPHANS.checked.set(jiff::Timestamp::now().as_second());
}
