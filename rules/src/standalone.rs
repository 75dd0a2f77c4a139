//! The engine without Kubernetes: services of this machine (or of whatever `nsenter` and `ssh` reach) listed as
//! pods in a file, commands as child processes, runs as files.

mod exec;
mod inventory;
mod journal;
mod leftovers;
mod process;
mod secrets;
mod session;
mod supervisor;

pub use inventory::{
    NamesAreIds, PodDefinition, StandalonePods, VolumeNames, parse_inventory, pods_from_value,
};
pub use journal::FileJournal;
pub use secrets::FileSecrets;

#[cfg(test)]
mod tests;
