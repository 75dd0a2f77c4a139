//! `stillpoint-bench`: what a cut costs, beside the script that an administrator would write, in the same run.
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
mod rules;
mod serial;
mod table;
mod ways;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Stack, Step};
use tokio::signal::unix::{SignalKind, signal};

use document::Setting;
use field::{Field, Group};
use table::{Results, Row};

/// Whatever happens, the benchmark ends after this.
const LIMIT: Duration = Duration::from_mins(20);

/// Windows, volume operations and memory, beside a serial script in the same run.
#[derive(Debug, Parser)]
#[command(name = "stillpoint-bench", version)]
struct Arguments {
    /// Cuts per line of the table (one idle volume: five times as many).
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
    /// Windows of real volumes, beside scripts and the kernel alone.
    Windows,
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
        Some(part) => Results { rows: only(part, arguments.rounds, groups).await?, ways: vec![] },
    };
    println!("{}", table::render(&results));
    println!("{}", document::write_json(&setting, &results)?.display());
    if arguments.write {
        println!("{}", document::write_document(&setting, &results)?.display());
    }
    Ok(())
}

/// Everything with expedited grace periods; then the windows without, as nothing else depends on them.
async fn all(rounds: u32, groups: &[Group]) -> Result<Results> {
    let field = Field::build(Stack::directory("bench")?, Rcu::Auto, groups).await?;
    let mut rows = measure::windows(&field, Rcu::Auto, rounds).await?;
    rows.push(measure::loaded(&field, rounds).await?);
    rows.extend(overhead::coordinator(rounds).await?);
    rows.extend(lists::rows().await?);
    rows.extend(measure::volumes(&field, rounds).await?);
    let ways = ways::all(&field, rounds).await?;
    rows.extend(measure::memory(&field)?);
    close(field)?;
    measure::beside(&mut rows, plain(rounds, groups).await?);
    rows.extend(rules::all(rounds).await?);
    Ok(Results { rows, ways })
}

async fn plain(rounds: u32, groups: &[Group]) -> Result<Vec<Row>> {
    let field = Field::build(Stack::directory("bench")?, Rcu::Never, groups).await?;
    let plain = measure::windows(&field, Rcu::Never, rounds).await?;
    close(field)?;
    Ok(plain)
}

async fn only(part: Part, rounds: u32, groups: &[Group]) -> Result<Vec<Row>> {
    match part {
        Part::Overhead => overhead::coordinator(rounds).await,
        Part::Lists => lists::rows().await,
        Part::Rules => rules::all(rounds).await,
        Part::Windows => {
            let field = Field::build(Stack::directory("bench")?, Rcu::Auto, groups).await?;
            let mut rows = measure::windows(&field, Rcu::Auto, rounds).await?;
            close(field)?;
            measure::beside(&mut rows, plain(rounds, groups).await?);
            Ok(rows)
        }
        Part::Calls => {
            let field = Field::build(Stack::directory("bench")?, Rcu::Auto, &[Group::One]).await?;
            let mut rows = measure::volumes(&field, rounds).await?;
            rows.extend(measure::memory(&field)?);
            close(field)?;
            Ok(rows)
        }
    }
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
