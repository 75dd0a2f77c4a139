//! A real MariaDB with its redo log on another volume than its data, so that only copies of one instant can be
//! recovered, and with a table of MyISAM, which has no log: only a server that was told to write it out leaves it whole.
//!
//! Connections write pairs of rows in one transaction of InnoDB, and others single rows of MyISAM; an id is remembered
//! when the server has acknowledged it.

mod check;
mod load;
mod server;

pub use crate::workloads::load::Checked;
pub use check::{check, recovers};
pub use load::{MYISAM, Row};
pub use server::{MariaDb, Volumes, why_not};
