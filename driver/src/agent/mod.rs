//! One host.

pub mod pool;
