//! Stillpoint in Kubernetes.
//!
//! [`runs`]: rules inside the CSI call, so that any tool that asks for a snapshot gets what the application needs;
//! [`lookup`]: which rule that is.

pub mod lookup;
pub mod runs;
pub mod storage;

pub use runs::RuledCuts;
