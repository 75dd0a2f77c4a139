//! xfs trees.
