//! Real load that can tell afterwards whether a cut was consistent.
//!
//! Each workload runs on plain directories, so that it can be tried without any volume, and each has a checker
//! that reads a restored copy and can fail.

pub mod cassandra;
pub mod etcd;
pub mod jars;
pub mod kafka;
pub mod ledger;
pub mod load;
pub mod mariadb;
pub mod place;
pub mod postgres;
pub mod redis;
pub mod stall;
