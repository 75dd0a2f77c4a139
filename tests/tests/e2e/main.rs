//! Stillpoint in a real Kubernetes of three nodes, by plain kubectl. `make e2e` brings the cluster up, runs these tests
//! one after the other, and takes the cluster down.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod annotations;
mod capacity;
mod client;
mod containers;
mod databases;
mod deaths;
mod device_nodes;
mod enrolment;
mod figures;
mod fsgroup;
mod group;
mod hopeless;
mod journal;
mod ledger;
mod manifests;
mod orphans;
mod overlap;
mod permissions;
mod printed;
mod raw;
mod restore_together;
mod restored_namespace;
mod rude;
mod rules;
mod sick_pool;
mod three;
mod upkeep;
mod volumes;

/// The cluster that `make e2e` makes.
fn cluster() -> String {
    std::env::var("CLUSTER").unwrap_or_else(|_| "e2e".into())
}
