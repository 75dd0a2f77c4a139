//! `target/bench/bench.json`, and docs/benchmarks.md when it is asked for.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use stillpoint_tests::harness::binaries;

use super::table::{HEADER, LEGEND, PHASE_LEGEND, Results, Row, Samples, WAYS, phase_header};

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

/// Writes docs/benchmarks.md. What people added below the mark is kept.
pub fn write_document(setting: &Setting, results: &Results) -> Result<PathBuf> {
    let path = Path::new(binaries::source_directory()).join("../docs/benchmarks.md");
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, document(setting, results, &before)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Below this line of the document nothing is written by the bench.
const MARK: &str = "<!-- below: by hand -->";

fn document(setting: &Setting, results: &Results, before: &str) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by the benchmark itself; the figures are of one run on one machine.\n\n",
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
    writeln!(text, "\n## Windows, calls, memory\n\nMilliseconds unless it says otherwise. {LEGEND}\n")?;
    markdown(&mut text, &HEADER, results.rows.iter().map(Row::cells))?;
    writeln!(text, "\n## Where the time goes\n\n{PHASE_LEGEND}\n")?;
    markdown(&mut text, &phase_header(), results.rows.iter().flat_map(Row::phase_cells))?;
    writeln!(
        text,
        "\n## Beside other ways on the same disks\n\nRatio: how many times longer the other way takes. tar holds nothing.\n"
    )?;
    markdown(&mut text, &WAYS, results.ways.iter().map(super::table::Comparison::cells))?;
    writeln!(text, "\n## Spread\n\nShortest to longest, and the number of samples.\n")?;
    let spread = |row: &Row| {
        let of = |samples: Option<&Samples>| samples.map(Samples::spread).unwrap_or_default();
        [row.title.clone(), row.own.spread(), of(row.plain.as_ref()), of(row.other.as_ref())]
    };
    markdown(&mut text, &["ms", "expedited", "plain RCU", "script"], results.rows.iter().map(spread))?;
    let by_hand = before.split_once(MARK).map_or("\n", |(_, rest)| rest);
    write!(text, "\n{MARK}{by_hand}")?;
    Ok(text)
}

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

    #[test]
    fn the_document_keeps_what_was_written_by_hand() {
        let setting = Setting::now().unwrap();
        let row = Row::times("1 volume", vec![Duration::from_millis(3)], vec![]);
        let phases = Some(Phases::default());
        let floor = Some(Samples::times(vec![Duration::from_millis(2)]));
        let results = Results { rows: vec![Row { phases, floor, ..row }], ways: vec![] };
        let first = document(&setting, &results, "").unwrap();
        assert!(first.contains("| 1 volume | 3.00 |") && first.contains(&setting.kernel), "{first}");
        assert!(first.contains("| 1 volume | 3.00 / 3.00 | 2.00 / 2.00 | 1.50x |"), "{first}");
        let edited = format!("{first}Where the time goes: …\n");
        let second = document(&setting, &results, &edited).unwrap();
        assert_eq!(second, edited);
    }
}
