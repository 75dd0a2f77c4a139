//! A real three-node Cassandra ring, one node per host, every row on all three.
//!
//! The rows that were acknowledged (QUORUM) before `nodetool flush` began must all be readable (ALL) from a
//! ring that is opened on restored volumes. Nodes know each other by address and token, so the restored ring
//! takes the addresses of the original, which is stopped first.

// Counts of nodes and rows are far below any limit of their types.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

pub mod cql;
mod load;
mod node;
mod ring;

pub use super::jars::Jars;
pub use load::{Checked, Load, check};
pub use node::{LOGBACK, Layout, NODES, java_options};
pub use ring::{Ring, wait_until_whole};
