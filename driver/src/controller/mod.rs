//! Many hosts: [`fleet`] reaches their agents.

pub mod fleet;
