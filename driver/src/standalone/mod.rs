//! Stillpoint without Kubernetes: one controller with a fixed list of agents and an inventory of "pods" in a file.
//! It is wiring around the same use cases, not a second implementation.

pub mod config;
pub mod selection;
pub mod storage;

#[cfg(test)]
pub(crate) mod fixtures;
