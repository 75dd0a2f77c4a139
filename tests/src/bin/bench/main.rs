//! `stillpoint-bench`: what a cut costs, beside the script that an administrator would write, in the same run.
//!
//! Prints a table; nothing is asserted, because a busy machine is no defect. Needs root.

mod field;
mod measure;
mod overhead;
mod serial;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Stack, Step};
use tokio::signal::unix::{SignalKind, signal};

use field::Field;
use table::Row;

/// Whatever happens, the benchmark ends after this.
const LIMIT: Duration = Duration::from_mins(15);

/// Windows, volume operations and memory, beside a serial script in the same run.
#[derive(Debug, Parser)]
#[command(name = "stillpoint-bench", version)]
struct Arguments {
    /// Cuts per line of the table (one idle volume: five times as many).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

fn main() -> ExitCode {
    match bench(Arguments::parse().rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(rounds: u32) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark mounts and freezes filesystems, so it needs root"
    );
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        tokio::select! {
            rows = all(rounds) => {
                println!("{}", table::render(&rows?));
                Ok(())
            }
            why = interrupted() => why,
        }
    })
}

async fn all(rounds: u32) -> Result<Vec<Row>> {
    let mut rows = with_rcu(Rcu::Auto, rounds).await?;
    rows.extend(with_rcu(Rcu::Never, rounds).await?);
    Ok(rows)
}

/// Everything with hurried grace periods; only the windows without, as nothing else depends on them.
async fn with_rcu(rcu: Rcu, rounds: u32) -> Result<Vec<Row>> {
    let field = Field::build(Stack::directory("bench")?, rcu).await?;
    let mut rows = measure::windows(&field, rcu, rounds).await?;
    if rcu == Rcu::Auto {
        rows.extend(measure::volumes(&field, rounds).await?);
        rows.extend(measure::memory(&field)?);
        rows.push(overhead::coordinator(rounds).await?);
    }
    let step = Step::begin("giving everything back");
    let left = field.close()?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    step.done();
    Ok(rows)
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
