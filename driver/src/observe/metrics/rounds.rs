//! One host's part of rounds: how long each phase took for each member.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Shared, short_times};

/// A phase of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "they are the words of a label")]
pub enum Phase {
    /// Writing back what is dirty, before the hold.
    flush,
    /// Until the member is held.
    freeze,
    /// The snapshot.
    cut,
    /// Letting go.
    thaw,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    phase: Phase,
}

struct Rounds {
    phases: Family<Of, Histogram>,
    lapses: Counter,
    guard_fired: Counter,
}

static ROUNDS: Shared<Rounds> = Shared::new(|| {
    let phases = Family::<Of, Histogram>::new_with_constructor(short_times);
    for phase in [Phase::flush, Phase::freeze, Phase::cut, Phase::thaw] {
        drop(phases.get_or_create(&Of { phase }));
    }
    Rounds { phases, lapses: Counter::default(), guard_fired: Counter::default() }
});

pub(super) fn register(registry: &mut Registry) {
    let rounds = &*ROUNDS;
    registry.register_with_unit(
        "member_phase",
        "How long a phase of a round took for one member",
        Unit::Seconds,
        rounds.phases.clone(),
    );
    registry.register(
        "hold_lapses",
        "Members whose hold had ended, or may have, before it was released",
        rounds.lapses.clone(),
    );
    registry.register(
        "guard_fired",
        "Rounds in which the guard had let go by itself, or was not there to say",
        rounds.guard_fired.clone(),
    );
}

/// A member's phase has ended.
pub fn phase(phase: Phase, start_us: u64, end_us: u64) {
    let us = u32::try_from(end_us.saturating_sub(start_us)).unwrap_or(u32::MAX);
    ROUNDS.phases.get_or_create(&Of { phase }).observe(f64::from(us) / 1e6);
}

/// Members whose hold was not there until its release.
pub fn lapsed(members: usize) {
    ROUNDS.lapses.inc_by(members as u64);
}

/// The guard let go, or nobody knows.
pub fn guard_fired() {
    ROUNDS.guard_fired.inc();
}
