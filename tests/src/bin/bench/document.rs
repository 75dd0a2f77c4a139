//! `target/bench/bench.json`, and docs/benchmarks.md when it is asked for.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use stillpoint_tests::harness::binaries;

use super::stalls;
use super::table::{HEADER, Row, Samples};
use super::tables::{
    LEGEND, PHASE_LEGEND, RIVAL_LEGEND, Results, TOGETHER, WAYS, phase_header, rival_header, together_cells,
};

/// Where and when it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    command: String,
    date: String,
    revision: String,
    profile: String,
    kernel: String,
    processor: String,
    processors: usize,
    memory_mib: u64,
    /// Others that ran when it began: a busy machine is slower.
    load_at_begin: String,
}

impl Setting {
    /// Looks around, at the beginning.
    pub fn now() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let named = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|rest| rest.trim_start_matches([':', ' ', '\t']).to_owned()).unwrap_or_default()
        };
        let memory = named(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        Ok(Self {
            command: command_line(),
            date: Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            revision: revision(),
            profile: binaries::profile()?,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: named(&cpu, "model name"),
            processors: cpu.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: kib >> 10,
            load_at_begin: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

/// What was really run, with its options: they decide how many samples there are.
fn command_line() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    ["target/release/stillpoint-bench".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn revision() -> String {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "describe", "--always", "--dirty"])
        .current_dir(binaries::source_directory())
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(_) | Err(_) => "unknown".into(),
    }
}

/// Writes the JSON; where it is.
pub fn write_json(setting: &Setting, results: &Results) -> Result<PathBuf> {
    let directory = binaries::target_directory()?.join("bench");
    fs::create_dir_all(&directory)?;
    let path = directory.join("bench.json");
    let all = serde_json::json!({"setting": setting, "results": results});
    fs::write(&path, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Writes the whole of docs/benchmarks.md.
pub fn write_document(setting: &Setting, results: &Results) -> Result<PathBuf> {
    let path = Path::new(binaries::source_directory()).join("../docs/benchmarks.md");
    fs::write(&path, document(setting, results)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn document(setting: &Setting, results: &Results) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by the benchmark itself, all of it; the figures are of one run on one machine.\n\n",
    );
    writeln!(text, "| | |\n|---|---|")?;
    for (what, value) in [
        ("Command", format!("`{}` (`make bench` builds and runs it)", setting.command)),
        ("Date", setting.date.clone()),
        ("Revision", format!("{} ({} build)", setting.revision, setting.profile)),
        ("Machine", format!("{} × {}, {} MiB", setting.processors, setting.processor, setting.memory_mib)),
        ("Kernel", setting.kernel.clone()),
        ("Load at the beginning", setting.load_at_begin.clone()),
        ("Disks", "sparse files of one disk: btrfs pools in loop devices, XFS volumes in them".into()),
    ] {
        writeln!(text, "| {what} | {value} |")?;
    }
    writeln!(text, "\n## Pauses, calls, memory\n\nMilliseconds unless it says otherwise. {LEGEND}\n")?;
    markdown(&mut text, &HEADER, results.rows.iter().map(Row::cells))?;
    writeln!(text, "\n## Beside scripts, and beside the kernel alone\n\n{RIVAL_LEGEND}\n")?;
    markdown(&mut text, &rival_header(), results.rows.iter().filter_map(Row::rival_cells))?;
    writeln!(text, "\n## What an application feels: the longest write stall\n\n{}\n", stalls::LEGEND)?;
    markdown(&mut text, &stalls::HEADER, results.stalls.iter().map(stalls::Stalls::cells))?;
    writeln!(text, "\n## Where the time goes\n\n{PHASE_LEGEND}\n")?;
    markdown(&mut text, &phase_header(), results.rows.iter().flat_map(Row::phase_cells))?;
    writeln!(
        text,
        "\n## Single calls beside other ways on the same disks\n\nIn turns. Ratio: how many times longer the other way takes. tar freezes nothing.\n"
    )?;
    markdown(&mut text, &WAYS, results.ways.iter().map(super::tables::Comparison::cells))?;
    writeln!(text, "\n## What images of several volumes in one subvolume would cost\n")?;
    markdown(&mut text, &TOGETHER, results.together.iter().map(together_cells))?;
    writeln!(text, "\n## Spread\n\nShortest to longest, and the number of samples.\n")?;
    let spread = |row: &Row| {
        let of = |samples: Option<&Samples>| samples.map(Samples::spread).unwrap_or_default();
        [row.title.clone(), row.own.spread(), of(row.plain.as_ref()), of(row.other.as_ref())]
    };
    markdown(&mut text, &["ms", "expedited", "plain RCU", "best script"], results.rows.iter().map(spread))?;
    writeln!(text, "\n## Goals that this run missed\n")?;
    for line in missed(results) {
        writeln!(text, "* {line}")?;
    }
    write!(text, "\n{NOTES}")?;
    Ok(text)
}

/// Every goal that was missed, with what the kernel alone took in the same rounds: nothing can be faster than that.
fn missed(results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for row in &results.rows {
        let kernel = |samples: Option<&Samples>| {
            samples
                .map_or(String::new(), |kernel| format!("; the kernel alone: {}", kernel.middle_and_tail()))
        };
        let of = |goals: String, own: &Samples, kernel: String, how: &str| {
            let goals: Vec<_> =
                goals.split(", ").filter(|goal| goal.ends_with('✗')).map(str::to_owned).collect();
            let measured = own.middle_and_tail();
            (!goals.is_empty())
                .then(|| format!("**{}{how}**: {}; measured {measured}{kernel}", row.title, goals.join(", ")))
        };
        lines.extend(of(row.goals(), &row.own, kernel(row.rival(super::rival::Rival::Kernel)), ""));
        if let Some(plain) = &row.plain {
            lines.extend(of(row.plain_goals(), plain, kernel(row.plain_floor.as_ref()), ", plain RCU"));
        }
    }
    let stalls = results.stalls.iter().filter(|row| row.goal().contains('✗'));
    lines.extend(stalls.map(|row| format!("**write stall, {}**: {}", row.title, row.goal())));
    if lines.is_empty() {
        lines.push("None.".into());
    }
    lines
}

/// What holds without figures: what the idea of a rival would cost, and what was learned.
const NOTES: &str = include_str!("notes.md");

fn markdown(
    text: &mut String,
    header: &[&str],
    rows: impl Iterator<Item = impl AsRef<[String]>>,
) -> Result<()> {
    writeln!(text, "| {} |\n|{}", header.join(" | "), "---|".repeat(header.len()))?;
    for row in rows {
        writeln!(text, "| {} |", row.as_ref().join(" | "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::phases::Phases;
    use crate::rival::Rival;
    use crate::table::Goal;

    #[test]
    fn the_document_shows_every_table_and_names_missed_goals() {
        let setting = Setting::now().unwrap();
        let samples = |ms| Samples::times(vec![Duration::from_millis(ms)]);
        let goals = vec![Goal::MiddleMs(2), Goal::MiddleMs(5)];
        let row = Row {
            phases: Some(Phases::default()),
            rivals: vec![(Rival::Kernel, samples(2)), (Rival::Parallel, samples(6))],
            ..Row::times("1 volume", vec![Duration::from_millis(3)], goals)
        };
        let results = Results { rows: vec![row], ..Results::default() };
        let text = document(&setting, &results).unwrap();
        assert!(text.contains("| 1 volume | 3.00 | max 3.00 |") && text.contains(&setting.kernel), "{text}");
        assert!(text.contains("| 1 volume | 3.00 / max 3.00 | 2.00 / max 2.00 | 0.67x |"), "{text}");
        let missed =
            "* **1 volume**: p50 ≤ 2 ✗; measured 3.00 / max 3.00; the kernel alone: 2.00 / max 2.00\n";
        assert!(text.contains(missed) && text.ends_with(NOTES), "{text}");
    }
}
