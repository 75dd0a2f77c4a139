//! A host in memory with a fault plan.
