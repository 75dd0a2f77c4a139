//! The rule library against real servers under write load: cut with the rule as it is in its file, restored to new volumes,
//! checked; and the same checks where they must fail. Needs root, btrfs, XFS and the servers; says so when it skips.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod deaths;
mod etcd;
mod kafka;
mod mariadb;
mod postgres;
mod redis;
mod rude;
mod scene;
