//! The engine on Kubernetes: pods by the API, commands in them over WebSockets, runs as objects.
//!
//! * [`objects`]: the custom resources **Rule** and **Run** as types; `deploy/crds` is written from them.
//! * [`KubePods`]: lists pods with the volumes that they mount, and runs commands and sessions in them.
//! * [`KubeJournal`]: keeps each run in its `Run` object. The object is also the lease: only the controller that its
//!   status names conducts the run, and one that is silent for [`LEASE`] is taken for dead.
//! * [`report`]: what people read in a `Run`'s status; pure.
//! * [`Events`]: what people read with `kubectl describe`.

mod error;
mod events;
mod exec;
#[cfg(feature = "kube-fake")]
pub mod fake;
mod inventory;
mod journal;
pub mod objects;
pub mod report;
mod session;
mod shells;
mod stream;
mod web;
mod wrap;

pub use error::{Forbidden, KubeError};
pub use events::{EventKind, Events, ObjectRef};
pub use inventory::KubePods;
pub use journal::{Begun, KubeJournal, LEASE, RunOrder, run_object_name};

#[cfg(test)]
#[cfg(feature = "kube-fake")]
mod tests;
