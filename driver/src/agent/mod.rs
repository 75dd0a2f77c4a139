//! One host: its pools, its volumes and its part in a round.

pub mod locks;
pub mod pool;
pub mod round;
