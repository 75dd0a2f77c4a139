//! The timeline as a table for a terminal.

use std::fmt::Write as _;

use comfy_table::Table;

use crate::domain::timeline::{Phase, VolumeLane};
use crate::observe::duration::{human, human_instant};
use crate::observe::plain::shortened;
use crate::observe::table::{right_align, with_header};

use super::{Picture, findings, length, span_of, stall};

/// Longest name shown in full.
const NAME_LIMIT: usize = 40;
const PHASES: [Phase; 4] = [Phase::Flush, Phase::Freeze, Phase::Cut, Phase::Thaw];

/// Head line, one row per host and volume, one row per command in a pod, then what is seen in words.
pub fn render(picture: &Picture) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(format!("cut {}  {}", shortened(&picture.name, NAME_LIMIT), picture.id));
    line(format!(
        "level {} · at {} · window {} · skew {} · longest stall {} · clock ±{}",
        picture.level,
        picture.cut_at,
        human(picture.timeline.window_us),
        human(picture.timeline.skew_us),
        human(picture.timeline.longest_stall_us),
        human(picture.clock_error_us())
    ));
    if picture.lanes().next().is_some() {
        line(volumes(picture).to_string());
        line("start + length of each; starts are relative to the first hold requested".to_owned());
    }
    if !picture.pods.is_empty() {
        line(pods(picture).to_string());
    }
    for sentence in findings::sentences(picture) {
        line(format!("- {sentence}"));
    }
    out
}

fn volumes(picture: &Picture) -> Table {
    let mut table = with_header(&["HOST", "VOLUME", "FLUSH", "FREEZE", "CUT", "THAW", "STALL", "CLOCK"]);
    for host in &picture.timeline.hosts {
        for lane in &host.volumes {
            let mut row = vec![shortened(host.host.as_str(), NAME_LIMIT), shortened(&lane.name, NAME_LIMIT)];
            row.extend(PHASES.map(|phase| span_text(lane, phase)));
            row.push(stall(lane).map_or_else(|| "-".to_owned(), human));
            row.push(format!("±{}", human(host.clock_error_us)));
            table.add_row(row);
        }
    }
    right_align(&mut table, 2..8);
    table
}

fn pods(picture: &Picture) -> Table {
    let mut table =
        with_header(&["POD", "HOST", "STEP", "WHEN", "START", "LENGTH", "HELD", "RESULT", "COMMAND"]);
    for pod in &picture.pods {
        for command in &pod.commands {
            let took = u64::try_from(command.end_us.saturating_sub(command.start_us)).unwrap_or(0);
            let result = match (command.failure.as_str(), command.lost) {
                ("", _) => "ok".to_owned(),
                (why, false) => why.to_owned(),
                (why, true) => format!("LOST: {why}"),
            };
            table.add_row([
                shortened(&pod.pod, NAME_LIMIT),
                shortened(&pod.host, NAME_LIMIT),
                shortened(&command.step, NAME_LIMIT),
                command.moment.word().to_owned(),
                human_instant(command.start_us),
                human(took),
                command.held_us.map_or_else(|| "-".to_owned(), human_instant),
                shortened(&result, 60),
                shortened(&command.command, 60),
            ]);
        }
    }
    right_align(&mut table, 4..7);
    table
}

fn span_text(lane: &VolumeLane, phase: Phase) -> String {
    span_of(lane, phase).map_or_else(
        || "-".to_owned(),
        |span| format!("{} + {}", human_instant(span.start_us), human(length(span))),
    )
}
