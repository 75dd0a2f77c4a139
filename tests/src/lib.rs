//! The demo, the benchmarks and every test that needs more than one process.
//!
//! [`cluster`] is a whole Kubernetes, [`harness`] starts and ends things, [`scratch`] makes real filesystems; [`workloads`] is the load that can tell whether a cut was consistent.

pub mod cluster;
pub mod harness;
pub mod scratch;
pub mod workloads;
