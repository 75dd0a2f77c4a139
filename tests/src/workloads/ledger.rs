//! The causal ledger: one writer puts the number n on volume A and fsyncs, then on B, then on C, for ever.
//!
//! At every instant B is A or A − 1 and C is B or B − 1, so copies of the three volumes were taken at one
//! instant only if these numbers say so. Nothing has to be known about the time of the snapshot, but that it was asked for
//! after a number was on all three volumes: then the copies have at least this number.
//!
//! Each volume holds one file of [`SLOTS`] slots of one sector; number n goes to slot n mod [`SLOTS`]. A slot
//! carries a checksum, so the audit also sees a torn or a lost write within one volume.

// Offsets within a file of 2 MiB.
#![allow(clippy::cast_possible_truncation)]

mod audit;
mod record;
mod writer;

pub use audit::{Audit, Reading, audit, read};
pub use record::{SLOT_BYTES, SLOTS};
pub use writer::{HIDDEN_COMMAND, Ledger, Mark, write_for_ever};

/// Name of the file on each volume.
pub const FILE: &str = "ledger";
