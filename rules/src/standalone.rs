//! The engine without Kubernetes: services of this machine (or of whatever `nsenter` and `ssh` reach) listed as
//! pods in a file, commands as child processes, runs as files.

pub mod exec;
pub mod inventory;
pub mod journal;
