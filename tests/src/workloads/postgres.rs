//! A real PostgreSQL with its WAL on another volume than its data, so that only copies of one instant can be
//! recovered: a data page that is newer than the WAL beside it is corruption.
//!
//! Connections move money between accounts; every transfer is two rows and two balances in one transaction,
//! and its id is remembered when the server has acknowledged it.

mod check;
mod load;
mod server;

pub use check::{check, check_rows};
pub use load::start_load;
pub use server::{Installation, Postgres, Volumes, connect};
