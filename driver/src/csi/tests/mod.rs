//! The services over real sockets, with hosts, cuts and mounts in memory.

mod announced;
mod metadata;
mod model;
mod services;
