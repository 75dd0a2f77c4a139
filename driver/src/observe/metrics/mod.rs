//! Metrics in Prometheus' text format (OpenMetrics 1.0); docs/metrics.md lists each with unit and meaning, and a test
//! compares.
//!
//! One file per subject: a static with its metrics, recorded where it happens (atomics; nothing here blocks, so it may
//! also be done while writers are held), and a `register`. What is asked for only when somebody looks (space of pools)
//! is a collector. A new subject is a new file and a line in [`of_agent`] or [`of_controller`].

pub mod cuts;
pub mod health;
pub mod holds;
pub mod orphans;
pub mod pools;
pub mod rounds;
pub mod rpcs;
pub mod runs;
pub mod schedules;
pub mod serve;
pub mod sweeps;
pub mod transfers;

use std::sync::{Arc, LazyLock};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::agent::pools::Pools;
use crate::agent::transfer::counters::Counters;
use crate::controller::transfers::Transfers;

/// Every name begins with this.
const PREFIX: &str = "stillpoint";

/// Everything that a process exports. Cheap to clone.
#[derive(Clone)]
pub struct Exposition {
    registry: Arc<Registry>,
}

impl Exposition {
    /// As text. May block for as long as the pools' filesystems take to tell their space.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing to a string fails only where a collector gave up.
            tracing::warn!("metrics could not be written as text");
        }
        text
    }
}

/// What an agent exports.
pub fn of_agent(pools: Pools, copies: Arc<Counters>) -> Exposition {
    let mut registry = Registry::with_prefix(PREFIX);
    rpcs::register(&mut registry);
    holds::register(&mut registry);
    rounds::register(&mut registry);
    health::register(&mut registry);
    pools::register(&mut registry, pools);
    transfers::register_agent(&mut registry, copies);
    Exposition { registry: Arc::new(registry) }
}

/// What a controller exports.
pub fn of_controller(copies: Arc<Transfers>) -> Exposition {
    let mut registry = Registry::with_prefix(PREFIX);
    rpcs::register(&mut registry);
    holds::register(&mut registry);
    cuts::register(&mut registry);
    runs::register(&mut registry);
    schedules::register(&mut registry);
    sweeps::register(&mut registry);
    orphans::register(&mut registry);
    transfers::register_controller(&mut registry, copies);
    Exposition { registry: Arc::new(registry) }
}

/// Seconds, from a hundred microseconds to ten seconds: an expedited freeze takes one millisecond, a hold ten seconds
/// at most by default.
fn short_times() -> Histogram {
    Histogram::new([
        0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56,
        5.12, 10.24,
    ])
}

/// A static that nobody has to pass around: there is one process.
type Shared<T> = LazyLock<T>;

#[cfg(test)]
mod tests;
