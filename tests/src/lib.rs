//! The demo, the benchmarks and every test that needs more than one process.
//!
//! [`harness`] starts and ends things; [`workloads`] is the load that can tell whether a cut was consistent.

pub mod harness;
pub mod workloads;
