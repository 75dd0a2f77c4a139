//! What the demo says.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use stillpoint::domain::Level;
use stillpoint::domain::timeline::{HostLane, Phase, Span, Timeline};

use super::cuts::Taken;
use super::proof::{Failed, Proven};
use super::scene::HOSTS;

/// Everything that was seen.
pub struct Findings {
    /// The cuts.
    pub taken: Vec<Taken>,
    /// What they held.
    pub proven: Proven,
    /// How the check failed without the barrier.
    pub failed: Failed,
    /// The picture of the hardest cut.
    pub timeline: PathBuf,
}

/// First lines.
pub fn title(has_ring: bool) {
    let ring = if has_ring { "a three-node Cassandra ring, " } else { "" };
    println!("Stillpoint: {ring}PostgreSQL and a causal ledger on three hosts, cut at one instant\n");
}

/// Between two parts.
pub fn heading(text: &str) {
    println!("\n{text}");
}

/// Above the cuts.
pub fn table_head(count: u32, volumes: usize, rule: &str) {
    heading(&format!("{count} cuts of {volumes} volumes on {} hosts under load, rule {rule}", HOSTS.len()));
    let mut first = format!("  {:>3}  {:>8} {:>8}  {:^15}", "", "", "", "writer waits");
    let mut second = format!("  {:>3}  {:>8} {:>8}  {:>7} {:>7}", "cut", "window", "skew", "usual", "now");
    for host in HOSTS {
        let _infallible = write!(first, "  {:^20}", format!("host {host}"));
        let _infallible = write!(second, "  {:>6} {:>6} {:>6}", "freeze", "cut", "thaw");
    }
    println!("{first}\n{second}  level");
}

/// One cut.
pub fn table_row(number: u32, cut: &Taken) -> Result<()> {
    let timeline = cut.record.timeline.as_ref().context("a sealed cut has no timeline")?;
    let mut row = format!(
        "  {number:>3}  {:>8} {:>8}  {:>7} {:>7}",
        ms(timeline.window_us),
        ms(timeline.skew_us),
        cut.usual.as_millis(),
        cut.felt.as_millis()
    );
    for host in HOSTS {
        let lane = lane(timeline, host)?;
        let [freeze, cut, thaw] = [Phase::Freeze, Phase::Cut, Phase::Thaw].map(|phase| longest(lane, phase));
        let _infallible = write!(row, "  {:>6} {:>6} {:>6}", ms(freeze), ms(cut), ms(thaw));
    }
    println!("{row}  {}", cut.record.level);
    for reason in &cut.record.reasons {
        println!("       {reason}");
    }
    Ok(())
}

/// Below the cuts.
pub fn table_foot(taken: &[Taken]) {
    let windows = sorted_windows(taken);
    println!("  window p50 {} ms, max {} ms", ms(middle(&windows)), ms(windows.last().copied().unwrap_or(0)));
    println!(
        "  All in ms. freeze, cut, thaw: slowest volume of the host. writer waits: longest time for one number of\n  \
         the ledger, usually and while this cut was taken, which includes the rule's commands and the flush before."
    );
}

fn lane<'a>(timeline: &'a Timeline, host: &str) -> Result<&'a HostLane> {
    let found = timeline.hosts.iter().find(|lane| lane.host.as_str() == host);
    found.with_context(|| format!("the timeline has no host {host}"))
}

/// The longest span of a phase on a host.
fn longest(lane: &HostLane, phase: Phase) -> u64 {
    let spans = lane.volumes.iter().flat_map(|volume| &volume.spans).filter(|span| span.phase == phase);
    let length = |span: &Span| u64::try_from(span.end_us - span.start_us).unwrap_or(0);
    spans.map(length).max().unwrap_or(0)
}

fn sorted_windows(taken: &[Taken]) -> Vec<u64> {
    let mut windows: Vec<u64> = taken.iter().map(Taken::window_us).collect();
    windows.sort_unstable();
    windows
}

/// The upper median.
fn middle(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// Microseconds as milliseconds.
fn ms(micros: u64) -> String {
    format!("{}.{:02}", micros / 1000, micros % 1000 / 10)
}

/// Last lines: exactly what was seen, nothing more.
pub fn verdict(findings: &Findings) {
    let Findings { taken, proven, failed, timeline } = findings;
    let windows = sorted_windows(taken);
    let lowest = taken.iter().map(|cut| cut.record.level).min().unwrap_or(Level::Crash);
    println!("\nProven");
    println!(
        "  ledger      {} of {} restored cuts are of one instant on three hosts",
        proven.ledgers,
        taken.len()
    );
    println!(
        "  PostgreSQL  {}: recovered; all {} transactions acknowledged before the cut are there ({} in all), none half",
        proven.cut, proven.postgres.required, proven.postgres.present
    );
    if let Some(ring) = &proven.ring {
        println!(
            "  Cassandra   {}: opened; the ring has all {} rows acknowledged before the flush, read with consistency ALL",
            proven.cut, ring.required
        );
    }
    println!("  no barrier  the same check fails (try {}): {}", failed.tries, failed.audit);
    println!("  timeline    {}", timeline.display());
    println!(
        "\n{} cuts, level {lowest}; window p50 {} ms, max {} ms. Nothing was left behind.",
        taken.len(),
        ms(middle(&windows)),
        ms(windows.last().copied().unwrap_or(0))
    );
}
