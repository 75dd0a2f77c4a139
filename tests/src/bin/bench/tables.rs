//! All tables: their heads, what they mean, and how a terminal shows them.

use serde::Serialize;
use stillpoint::observe::table::{right_align, with_header};

use super::phases::PARTS;
use super::rival::Rival;
use super::stalls::{self, Stalls};
use super::table::{HEADER, Row, Samples, factor, time};

/// One thing done in four ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// What.
    pub title: String,
    /// Ours.
    pub own: Samples,
    /// fsfreeze and a subvolume snapshot.
    pub subvolume: Option<Samples>,
    /// fsfreeze and a reflink.
    pub reflink: Option<Samples>,
    /// An archive of the live directory.
    pub tar: Option<Samples>,
    /// What the caller gets besides, that the scripts do not give.
    pub besides: &'static str,
}

impl Comparison {
    /// Everything, for a table.
    pub fn cells(&self) -> [String; 6] {
        let other = |samples: &Option<Samples>| match samples {
            None => "–".to_owned(),
            Some(samples) => {
                let ratio =
                    factor(&self.own, samples).map_or(String::new(), |factor| format!(" ({factor:.1}x)"));
                format!("{}{ratio}", time(samples.percentile(50)))
            }
        };
        [
            self.title.clone(),
            time(self.own.percentile(50)),
            other(&self.subvolume),
            other(&self.reflink),
            other(&self.tar),
            self.besides.into(),
        ]
    }
}

/// Heads of [`Comparison::cells`].
pub const WAYS: [&str; 6] = [
    "ms, p50",
    "Stillpoint",
    "fsfreeze + subvolume snapshot",
    "fsfreeze + cp --reflink",
    "tar, not consistent",
    "what the caller also gets",
];

/// Heads of [`Row::rival_cells`].
pub fn rival_header() -> Vec<&'static str> {
    let rivals = Rival::ALL.map(Rival::title);
    [["ms, p50 / p99", "Stillpoint"].as_slice(), &rivals, &["best script"]].concat()
}

/// What the columns of the table of rivals mean.
pub const RIVAL_LEGEND: &str = "From the first freeze to the last thaw. All take turns, in each round everybody once and another one first each time, after the same rest and after the cleaner of the pools has ended. parallel script: fsfreeze of all volumes of all nodes at once, then a btrfs snapshot of each, then the thaw, with expedited grace periods and a flush before; here without the network between nodes, which it has in reality. one subvolume per node: the images of all volumes of a node are in one subvolume, which is snapshotted once. serial script: one volume after another. kernel alone: the system calls in one process, a thread per volume; no script, but what nobody can be faster than.";

/// Heads of [`Row::phase_cells`].
pub fn phase_header() -> Vec<&'static str> {
    [["ms", "pause p50 / p99", "kernel alone p50 / p99", "ratio p50"].as_slice(), &PARTS].concat()
}

/// What the columns of the table of phases mean.
pub const PHASE_LEGEND: &str = "Parts of a pause, one after another: p50 / p99 (below a hundred samples: max) / that part of the \
longest pause. Each kind of work lasts from the first member that begins to the last one that ends; what is called after orders is \
messages, threads, the guard and the state machines between two kinds of work.";

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Results {
    /// Pauses, calls, memory.
    pub rows: Vec<Row>,
    /// Side by side with scripts.
    pub ways: Vec<Comparison>,
    /// What writers feel.
    pub stalls: Vec<Stalls>,
    /// What images of several volumes in one subvolume would cost.
    pub together: Vec<Row>,
}

/// What the columns mean.
pub const LEGEND: &str = "pause: from the first quiesce requested to the last resume done. Below a hundred samples the longest \
is shown instead of a 99th percentile. freeze / snapshot / thaw: medians of the slowest member. best script: the one with the \
shortest median of the scripts in the next table; in other rows what the row says.";

/// The tables for a terminal.
pub fn render(results: &Results) -> String {
    let lines = |header: &[&str], rows: Vec<Vec<String>>| {
        let mut table = with_header(header);
        for row in rows {
            table.add_row(row);
        }
        right_align(&mut table, 1..header.len());
        table
    };
    let rows = lines(&HEADER, results.rows.iter().map(|row| row.cells().to_vec()).collect());
    let rivals = lines(&rival_header(), results.rows.iter().filter_map(Row::rival_cells).collect());
    let phases = lines(&phase_header(), results.rows.iter().flat_map(Row::phase_cells).collect());
    let stalls = lines(&stalls::HEADER, results.stalls.iter().map(|row| row.cells().to_vec()).collect());
    let ways = lines(&WAYS, results.ways.iter().map(|way| way.cells().to_vec()).collect());
    let together = lines(&TOGETHER, results.together.iter().map(together_cells).collect());
    format!(
        "{rows}\n{LEGEND}\n{rivals}\n{RIVAL_LEGEND}\n{phases}\n{PHASE_LEGEND}\n{stalls}\n{}\n{ways}\n{together}",
        stalls::LEGEND
    )
}

/// Heads of [`together_cells`].
pub const TOGETHER: [&str; 4] = ["ms, p50 / p99", "a subvolume for each", "one subvolume", "ratio p50"];

/// A line of the table of what one subvolume for several volumes costs.
pub fn together_cells(row: &Row) -> Vec<String> {
    let other = row.other.as_ref().map_or(String::new(), Samples::middle_and_tail);
    vec![row.title.clone(), row.own.middle_and_tail(), other, row.ratio()]
}
