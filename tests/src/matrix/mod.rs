//! The kill matrix: real agents, guards and a controller on real pools, ended or stopped at every fault point.
//!
//! # One case
//! 1. A point is armed in one process ([`stillpoint_guard::fault`]) and a call is made that passes it.
//! 2. The blow falls there: SIGKILL of that process, of it and others, or SIGSTOP for five seconds.
//! 3. What died is started again, as a supervisor would.
//! 4. The call is repeated as an orchestrator does, until it succeeds; a final code is a failure of the case.
//!
//! # What must hold after each
//! * No writer stood still for longer than the hard limit and a second, and all three volumes are written again.
//! * A first answer that was a success is the answer of the retry, too.
//! * A group is of one instant: the causal ledger, restored from it, says so; its record is the same on all hosts.
//! * A group has everything that was acknowledged before it was asked for the first time.
//! * A volume that was copied or moved has every byte, and no part of it waits anywhere.
//! * After the thing was deleted, no loop device, mount, record, volume or snapshot is there that was not before.

mod calls;
mod carry;
mod case;
mod conduct;
mod extras;
mod field;
mod traces;

pub use case::{Blow, Case, Deed, Party};
pub use conduct::{Report, Verdict, conduct};
pub use field::{Field, HARD_LIMIT, PAUSE};
use stillpoint::observe::table::with_header;

/// The table of all cases, and what the slowest stall was.
pub fn table(reports: &[Report]) -> String {
    let mut table = with_header(&["case", "first answer", "tries", "longest stall", "took", "result"]);
    for report in reports {
        table.add_row([
            report.case.to_string(),
            report.first.clone(),
            report.tries.to_string(),
            format!("{} ms", report.stall.as_millis()),
            format!("{} ms", report.took.as_millis()),
            report.verdict.to_string(),
        ]);
    }
    let failed = reports.iter().filter(|report| report.verdict != Verdict::Held).count();
    let longest = reports.iter().map(|report| report.stall.as_millis()).max().unwrap_or(0);
    format!("{table}\n{} cases, {failed} failed; longest stall of any writer {longest} ms", reports.len())
}
