//! What sweeps found: orphans of calls that were never repeated and of controllers that died.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Shared;
use crate::controller::cuts::Swept;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Settled {
    how: &'static str,
}

struct Sweeps {
    settled: Family<Settled, Counter>,
    left: Gauge,
}

static SWEEPS: Shared<Sweeps> = Shared::new(|| {
    let settled = Family::<Settled, Counter>::default();
    for how in ["voided", "rolled_forward"] {
        drop(settled.get_or_create(&Settled { how }));
    }
    Sweeps { settled, left: Gauge::default() }
});

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        "orphan_cuts_settled",
        "Cuts without a living round that a sweep has settled, by how",
        SWEEPS.settled.clone(),
    );
    registry.register(
        "orphan_cuts",
        "Cuts without a living round that the last sweep could not settle",
        SWEEPS.left.clone(),
    );
}

/// A sweep has ended.
pub fn swept(swept: &Swept) {
    let count = |how, cuts: usize| SWEEPS.settled.get_or_create(&Settled { how }).inc_by(cuts as u64);
    count("voided", swept.voided.len());
    count("rolled_forward", swept.rolled_forward.len());
    SWEEPS.left.set(i64::try_from(swept.left.len()).unwrap_or(i64::MAX));
}
