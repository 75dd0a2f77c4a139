//! `stillpoint-demo`: real databases on three hosts, flushed, held, cut and released together; restored from
//! the cut and checked; and the same without the barrier, where the check must fail.
//!
//! `DEMO=small` leaves Cassandra out. Needs root. Exit status 0 means that everything above was seen.

mod cuts;
mod proof;
mod report;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use stillpoint_tests::harness::{RunDir, Stack, Step};
use stillpoint_tests::workloads::ledger;
use tokio::signal::unix::{SignalKind, signal};

use scene::Scene;

/// Real databases on three hosts under load, cut at one instant, restored and checked.
#[derive(Debug, Parser)]
#[command(name = "stillpoint-demo", version)]
struct Arguments {
    /// Without Cassandra, or with everything [default: what the environment's DEMO says, else full].
    #[arg(long, value_enum)]
    size: Option<Size>,
    /// Group snapshots to take.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    cuts: u32,
    #[command(subcommand)]
    hidden: Option<Hidden>,
}

/// How much to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    /// PostgreSQL and the ledger.
    Small,
    /// And a Cassandra ring.
    Full,
}

impl Size {
    /// From the environment; `make demo` sets an empty DEMO when it is given none.
    fn from_environment() -> Result<Self> {
        match std::env::var("DEMO").unwrap_or_default().as_str() {
            "" => Ok(Self::Full),
            text => Self::from_str(text, true).map_err(|_| anyhow!("DEMO={text} is neither small nor full")),
        }
    }

    /// Whatever happens, the demo ends after this.
    const fn limit(self) -> Duration {
        match self {
            Self::Small => Duration::from_mins(5),
            Self::Full => Duration::from_mins(20),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// The ledger's writer, started by the demo itself.
    #[command(name = ledger::HIDDEN_COMMAND, hide = true)]
    LedgerWriter { directories: Vec<PathBuf> },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.hidden {
        Some(Hidden::LedgerWriter { directories }) => ledger::write_for_ever(&directories),
        None => {
            arguments.size.map_or_else(Size::from_environment, Ok).and_then(|size| demo(size, arguments.cuts))
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(size: Size, cuts: u32) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the demo mounts and freezes filesystems, so it needs root");
    report::title(size == Size::Full);
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let run = Stack::directory("demo")?;
        tokio::select! {
            ended = play(run, size, cuts) => ended,
            why = interrupted(size.limit()) => why,
        }
    })
}

/// Everything from the first volume to the last mount. When this future is dropped (Ctrl-C), everything that it
/// owns is ended, thawed, unmounted and removed.
async fn play(run: RunDir, size: Size, count: u32) -> Result<()> {
    let mut scene = Scene::build(run, size).await?;
    let played = acts(&mut scene, count).await;
    if played.is_err() {
        // Dropping instead of closing keeps the logs.
        drop(scene);
        return played.map(|_| ());
    }
    let step = Step::begin("ending everything and giving everything back");
    let closed = scene.close();
    let findings = played?;
    let left = closed?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    step.done();
    report::verdict(&findings);
    Ok(())
}

async fn acts(scene: &mut Scene, count: u32) -> Result<report::Findings> {
    let taken = cuts::take(scene, count).await?;
    let timeline = cuts::write_timelines(scene, &taken).await?;
    let proven = proof::of_the_cuts(scene, &taken).await?;
    let failed = proof::without_barrier(scene).await?;
    Ok(report::Findings { taken, proven, failed, timeline })
}

/// Ends with an error at Ctrl-C, at SIGTERM or after the limit.
async fn interrupted(limit: Duration) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => bail!("interrupted; everything was cleaned up"),
        _ = terminate.recv() => bail!("terminated; everything was cleaned up"),
        () = tokio::time::sleep(limit) => bail!("not done after {limit:?}, which is too long; everything was cleaned up"),
    }
}
