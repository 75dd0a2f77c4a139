//! Runs of rules, and what they owe.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stillpoint_rules::run::{DebtState, Run};

use super::Shared;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    verdict: &'static str,
}

struct Runs {
    ended: Family<Ended, Counter>,
    unpaid: Gauge,
}

static RUNS: Shared<Runs> = Shared::new(|| {
    let ended = Family::<Ended, Counter>::default();
    for verdict in ["succeeded", "failed", "failed_after_cut"] {
        drop(ended.get_or_create(&Ended { verdict }));
    }
    Runs { ended, unpaid: Gauge::default() }
});

pub(super) fn register(registry: &mut Registry) {
    registry.register("runs", "Runs of rules that have ended, by verdict", RUNS.ended.clone());
    registry.register(
        "debts_unpaid",
        "After commands that failed in runs that are still on record: somebody must look at the application",
        RUNS.unpaid.clone(),
    );
}

/// A run has ended.
pub fn ended(run: &Run) {
    let verdict = match (run.succeeded(), run.cut.as_ref().is_some_and(|cut| cut.sealed)) {
        (true, _) => "succeeded",
        (false, true) => "failed_after_cut",
        (false, false) => "failed",
    };
    RUNS.ended.get_or_create(&Ended { verdict }).inc();
}

/// What a run tried to pay and still owes.
pub fn unpaid_of(run: &Run) -> usize {
    run.debts.iter().filter(|debt| matches!(debt.state, DebtState::Unpaid | DebtState::Unknown)).count()
}

/// What all runs on record owe.
pub fn unpaid(debts: usize) {
    RUNS.unpaid.set(i64::try_from(debts).unwrap_or(i64::MAX));
}
