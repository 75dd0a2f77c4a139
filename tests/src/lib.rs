//! The demo, the benchmarks and every test that needs more than one process.
//!
//! [`cluster`] is a whole Kubernetes, [`harness`] starts and ends things, [`matrix`] kills them at every step, [`thrasher`] does it to writers that check themselves, [`scratch`] makes real filesystems; [`workloads`] is the load that can tell whether a cut was consistent.

pub mod cluster;
pub mod crashing;
pub mod harness;
pub mod matrix;
pub mod scratch;
pub mod thrasher;
pub mod workloads;
