//! What is wrong on a host, and what nobody owned any more.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Shared;
use crate::domain::health::Condition;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Which {
    condition: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

struct Health {
    conditions: Family<Which, Gauge>,
    orphans: Family<Kind, Counter>,
}

static HEALTH: Shared<Health> = Shared::new(|| {
    let health = Health { conditions: Family::default(), orphans: Family::default() };
    for condition in Condition::ALL {
        drop(health.conditions.get_or_create(&Which { condition: condition.as_str() }));
    }
    for kind in [Orphan::HalfMade, Orphan::Snapshot, Orphan::Round] {
        drop(health.orphans.get_or_create(&Kind { kind: kind.as_str() }));
    }
    health
});

/// What was collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// A half-made volume or record.
    HalfMade,
    /// A snapshot that no cut listed.
    Snapshot,
    /// A cut that was never sealed.
    Round,
}

impl Orphan {
    const fn as_str(self) -> &'static str {
        match self {
            Self::HalfMade => "half_made",
            Self::Snapshot => "snapshot",
            Self::Round => "round",
        }
    }
}

pub(super) fn register(registry: &mut Registry) {
    let conditions = HEALTH.conditions.clone();
    registry.register(
        "conditions",
        "Pools and volumes with which this is wrong, at the last look",
        conditions,
    );
    registry.register(
        "orphans_collected",
        "What calls that were never repeated had left and was collected, by kind",
        HEALTH.orphans.clone(),
    );
}

/// Everything that is wrong now, each as often as it is seen.
pub fn seen(now: &[Condition]) {
    for condition in Condition::ALL {
        let count = now.iter().filter(|one| **one == condition).count();
        let gauge = HEALTH.conditions.get_or_create(&Which { condition: condition.as_str() });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Something was collected.
pub fn collected(what: Orphan) {
    HEALTH.orphans.get_or_create(&Kind { kind: what.as_str() }).inc();
}
