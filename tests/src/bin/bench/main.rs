//! `stillpoint-bench`: what a group snapshot costs, beside scripts that administrators would write, in the same rounds.
//!
//! Prints a table; nothing is asserted, because a busy machine is no defect. Needs root.

mod afar;
mod document;
mod field;
mod floor;
mod lists;
mod load;
mod measure;
mod overhead;
mod phases;
mod rival;
mod rules;
mod scripts;
mod stall;
mod stalls;
mod table;
mod tables;
mod target;
mod together;
mod ways;
mod windows;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Stack, Step};
use tokio::signal::unix::{SignalKind, signal};

use document::Setting;
use field::{Field, Group};
use table::Row;
use tables::Results;

/// Whatever happens, the benchmark ends after this.
const LIMIT: Duration = Duration::from_hours(1);

/// Pauses, write stalls, volume operations and memory, beside scripts in the same run.
#[derive(Debug, Parser)]
#[command(name = "stillpoint-bench", version)]
struct Arguments {
    /// Snapshots per line of the table (one idle volume: five times as many).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write docs/benchmarks.md, too.
    #[arg(long, conflicts_with = "small")]
    write: bool,
    /// Without the groups of 64 volumes, to see quickly whether everything works.
    #[arg(long)]
    small: bool,
    /// Only this part.
    #[arg(long, value_enum, conflicts_with = "write")]
    only: Option<Part>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pauses of real volumes, beside scripts and the kernel alone.
    Windows,
    /// The longest write stall that an application sees.
    Stalls,
    /// What images of several volumes in one subvolume would cost.
    Together,
    /// Single calls beside scripts.
    Ways,
    /// Calls for volumes, copies between hosts, memory afterwards.
    Calls,
    /// A round over many agents in this process.
    Overhead,
    /// Lists of a large fleet, and the controller's memory.
    Lists,
    /// What rules cost.
    Rules,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark mounts and freezes filesystems, so it needs root"
    );
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        tokio::select! {
            done = measured(arguments) => done,
            why = interrupted() => why,
        }
    })
}

async fn measured(arguments: &Arguments) -> Result<()> {
    let setting = Setting::now()?;
    let groups = if arguments.small { &Group::SMALL[..] } else { &Group::ALL[..] };
    let results = match arguments.only {
        None => all(arguments.rounds, groups).await?,
        Some(part) => only(part, arguments.rounds, groups).await?,
    };
    println!("{}", tables::render(&results));
    println!("{}", document::write_json(&setting, &results)?.display());
    if arguments.write {
        println!("{}", document::write_document(&setting, &results)?.display());
    }
    Ok(())
}

/// Everything with expedited grace periods; then the pauses without, as nothing else depends on them.
async fn all(rounds: u32, groups: &[Group]) -> Result<Results> {
    let field = Field::build(Stack::directory("bench")?, Rcu::Auto, groups).await?;
    let mut rows = windows::windows(&field, Rcu::Auto, rounds).await?;
    rows.push(windows::loaded(&field, rounds).await?);
    let stalls = stall::all(&field, rounds).await?;
    let together = together::costs(&field)?;
    rows.extend(overhead::coordinator(rounds).await?);
    rows.extend(lists::rows().await?);
    rows.extend(measure::volumes(&field, rounds).await?);
    let ways = ways::all(&field, rounds).await?;
    rows.extend(measure::memory(&field)?);
    close(field)?;
    windows::beside(&mut rows, plain(rounds, groups).await?);
    rows.extend(rules::all(rounds).await?);
    Ok(Results { rows, ways, stalls, together })
}

async fn plain(rounds: u32, groups: &[Group]) -> Result<Vec<Row>> {
    let field = Field::build(Stack::directory("bench")?, Rcu::Never, groups).await?;
    let plain = windows::windows(&field, Rcu::Never, rounds).await?;
    close(field)?;
    Ok(plain)
}

async fn only(part: Part, rounds: u32, groups: &[Group]) -> Result<Results> {
    let rows = |rows| Results { rows, ..Results::default() };
    match part {
        Part::Overhead => return Ok(rows(overhead::coordinator(rounds).await?)),
        Part::Lists => return Ok(rows(lists::rows().await?)),
        Part::Rules => return Ok(rows(rules::all(rounds).await?)),
        Part::Windows | Part::Stalls | Part::Together | Part::Ways | Part::Calls => {}
    }
    let groups = match part {
        Part::Windows => groups,
        Part::Calls => &[Group::One],
        Part::Ways => &[Group::One, Group::Eight],
        Part::Stalls | Part::Together | Part::Overhead | Part::Lists | Part::Rules => &[Group::Sixteen],
    };
    let field = Field::build(Stack::directory("bench")?, Rcu::Auto, groups).await?;
    let mut results = Results::default();
    match part {
        Part::Windows => {
            results.rows = windows::windows(&field, Rcu::Auto, rounds).await?;
            results.rows.push(windows::loaded(&field, rounds).await?);
        }
        Part::Stalls => results.stalls = stall::all(&field, rounds).await?,
        Part::Together => results.together = together::costs(&field)?,
        Part::Ways => results.ways = ways::all(&field, rounds).await?,
        Part::Calls | Part::Overhead | Part::Lists | Part::Rules => {
            results.rows = measure::volumes(&field, rounds).await?;
            results.rows.extend(measure::memory(&field)?);
        }
    }
    close(field)?;
    if part == Part::Windows {
        windows::beside(&mut results.rows, plain(rounds, groups).await?);
    }
    Ok(results)
}

fn close(field: Field) -> Result<()> {
    let step = Step::begin("giving everything back");
    let left = field.close()?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    step.done();
    Ok(())
}

async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => bail!("interrupted; everything was cleaned up"),
        _ = terminate.recv() => bail!("terminated; everything was cleaned up"),
        () = tokio::time::sleep(LIMIT) => bail!("not done after {LIMIT:?}; everything was cleaned up"),
    }
}
