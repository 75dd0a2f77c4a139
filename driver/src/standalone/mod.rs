//! Stillpoint without Kubernetes: one controller with a fixed list of agents and an inventory of "pods" in a file.
//! It is wiring around the same use cases, not a second implementation.
//!
//! [`config`] is what people write; [`run`] puts the parts together; [`service`] is the API of the command line over
//! [`operator`], the use cases; [`schedules`] takes cuts by itself; [`crate::cutter`] connects the rules engine to the controller's cuts.

pub mod config;
pub mod fleet_storage;
pub mod operator;
mod pool_file;
pub mod run;
pub mod schedules;
pub mod selection;
pub mod service;
pub mod storage;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod fixtures;
