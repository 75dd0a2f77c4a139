//! `stillpoint-soak`: what takes too long for every day. `make soak` runs all of it, `SOAK=minutes` long each. Needs root
//! and a debug build, because processes are killed at fault points.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use stillpoint_tests::matrix::{Case, Field, Verdict, conduct, table};
use stillpoint_tests::thrasher;

/// Long tests.
#[derive(Debug, Parser)]
#[command(name = "stillpoint-soak", version)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Processes killed and stopped at random points, alone and together.
    Matrix(Length),
    /// Writers that check their own data while volumes are held, cut and deleted and processes die.
    Thrasher(Length),
    /// A writer of the thrasher, started by itself.
    #[command(name = thrasher::HIDDEN_COMMAND, hide = true)]
    Writer { directory: PathBuf, number: u64 },
}

#[derive(Debug, clap::Args)]
struct Length {
    /// How long, in minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Repeats the choices of an earlier run; empty: others every time.
    #[arg(long, env = "SEED", default_value = "")]
    seed: String,
}

impl Length {
    fn seed(&self) -> Result<u64> {
        if self.seed.is_empty() {
            return Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs()));
        }
        self.seed.parse().with_context(|| format!("SEED {:?} is not a number", self.seed))
    }

    fn time(&self) -> Duration {
        Duration::from_mins(self.minutes)
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(part: Part) -> Result<()> {
    if let Part::Writer { directory, number } = part {
        return thrasher::write_for_ever(&directory, number);
    }
    ensure!(cfg!(debug_assertions), "fault points exist in debug builds only; use `make soak`");
    ensure!(nix::unistd::geteuid().is_root(), "mounts and freezes filesystems, so it needs root");
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        match part {
            Part::Matrix(length) => Box::pin(matrix(&length)).await,
            Part::Thrasher(length) => {
                println!(
                    "{}",
                    Box::pin(thrasher::thrash("soak-thrasher", length.time(), length.seed()?)).await?
                );
                Ok(())
            }
            Part::Writer { .. } => Ok(()),
        }
    })
}

async fn matrix(length: &Length) -> Result<()> {
    let mut state = length.seed()?;
    println!("matrix: SEED={state}");
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % below.max(1)
    };
    let mut field = Field::build("soak-matrix").await?;
    let (end, mut broken, mut cases) = (Instant::now() + length.time(), Vec::new(), 0);
    while Instant::now() < end {
        let report = conduct(&mut field, Case::random(&mut next, Field::hosts())).await;
        println!("{}: {} (stall {} ms)", report.case, report.verdict, report.stall.as_millis());
        cases += 1;
        if report.verdict != Verdict::Held {
            broken.push(report);
        }
    }
    println!("{cases} random cases, {} failed", broken.len());
    ensure!(broken.is_empty(), "these failed:\n{}", table(&broken));
    let left = field.close().await?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}
