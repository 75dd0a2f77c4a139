//! Cuts as the controller sees them.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Shared, short_times};

/// Why a cut is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "they are the words of a label")]
pub enum Reason {
    /// A host said that it could not do its part.
    host,
    /// A host or the controller took longer than the limit.
    deadline,
    /// A hold had ended before its release.
    lapse,
    /// A host said something that was not its turn.
    order,
    /// Whoever asked for the cut gave it up: a rule failed, the caller went away.
    given_up,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: Reason,
}

struct Cuts {
    window: Histogram,
    skew: Histogram,
    sealed: Counter,
    voids: Family<Why, Counter>,
    unknown: Counter,
    last_sealed: Gauge,
}

static CUTS: Shared<Cuts> = Shared::new(|| {
    let voids = Family::<Why, Counter>::default();
    // Known from the start, so that the first void is a step and not the birth of a series.
    for reason in [Reason::host, Reason::deadline, Reason::lapse, Reason::order, Reason::given_up] {
        drop(voids.get_or_create(&Why { reason }));
    }
    Cuts {
        window: short_times(),
        skew: short_times(),
        sealed: Counter::default(),
        voids,
        unknown: Counter::default(),
        last_sealed: Gauge::default(),
    }
});

pub(super) fn register(registry: &mut Registry) {
    let cuts = &*CUTS;
    registry.register_with_unit(
        "cut_window",
        "First hold requested to last release of a cut that was taken",
        Unit::Seconds,
        cuts.window.clone(),
    );
    registry.register_with_unit(
        "cut_skew",
        "Between the first and the last member's snapshot of a cut that was taken",
        Unit::Seconds,
        cuts.skew.clone(),
    );
    registry.register("cuts_sealed", "Cuts that were made real", cuts.sealed.clone());
    registry.register("cuts_void", "Cuts that were given up, by reason", cuts.voids.clone());
    registry.register(
        "cuts_undecided",
        "Cuts whose seal could not be confirmed on every host; a retry or a sweep decides",
        cuts.unknown.clone(),
    );
    registry.register_with_unit(
        "cut_last_sealed_timestamp",
        "When this controller last sealed a cut; 0: not since it started",
        Unit::Seconds,
        cuts.last_sealed.clone(),
    );
}

/// All members were cut and released.
pub fn taken(window: Duration, skew: Duration) {
    CUTS.window.observe(window.as_secs_f64());
    CUTS.skew.observe(skew.as_secs_f64());
}

/// A cut is real on every host.
pub fn sealed() {
    CUTS.sealed.inc();
    CUTS.last_sealed.set(jiff::Timestamp::now().as_second());
}

/// A seal was not confirmed.
pub fn undecided() {
    CUTS.unknown.inc();
}

/// A cut is void.
pub fn void(reason: Reason) {
    CUTS.voids.get_or_create(&Why { reason }).inc();
}
