//! The rules engine: what is done to an application around a cut.

pub mod ports;
