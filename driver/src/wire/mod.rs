//! Between the domain and gRPC: [`status`] maps faults, [`convert`] maps the agent's messages. Proto types go no
//! further inwards than this module and the services that use it.

pub mod convert;
pub mod status;

pub use status::{fault_of, status_of, transport_fault};
