//! btrfs trees.
