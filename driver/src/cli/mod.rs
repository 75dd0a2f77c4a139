//! What people type. One file per group of commands; each asks, then prints. All errors are [`Fault`]s; the exit
//! codes that follow from them are in [`exit`].

pub mod client;
pub mod cuts;
pub mod exit;
pub mod output;
pub mod pki;
pub mod plugin;
pub mod pool;
mod rehearsal;
pub mod rule;
pub mod runs;
pub mod schedules;
pub mod snapshot;
pub mod volumes;
