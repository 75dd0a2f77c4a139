//! `stillpoint`: one binary for hosts, controllers and people. What it can do is in [`stillpoint::args`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use stillpoint::agent;
use stillpoint::args::{Args, Command};
use stillpoint::cli::{cuts, exit, pki, pool, rule, runs, schedules, snapshot, volumes};
use stillpoint::domain::Fault;
use stillpoint::kube;
use stillpoint::observe::log;
use stillpoint::standalone;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{}", exit::line(&fault));
            ExitCode::from(exit::code(&fault))
        }
    }
}

fn run(args: Args) -> Result<(), Fault> {
    let level = args.log.as_deref().unwrap_or(args.command.log_level());
    log::start(args.log_format, level).map_err(|error| Fault::invalid(error.to_string()))?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Fault::internal(format!("cannot start threads: {error}")))?;
    runtime.block_on(async {
        if args.command.is_service() {
            log::follow_signals();
        }
        dispatch(args.command).await
    })
}

async fn dispatch(command: Command) -> Result<(), Fault> {
    match command {
        Command::Agent(args) => agent::run::run(&args.config).await,
        Command::NodeAgent(args) => kube::agent::run(args).await,
        Command::Controller(args) => kube::controller::run(args).await,
        Command::Standalone(args) => standalone::run::run(&args.config).await,
        Command::Pool(command) => pool::run(command).await,
        Command::Pki(command) => pki::run(command),
        Command::Snapshot(args) => snapshot::run(args).await,
        Command::Snapshots(args) => cuts::list(args).await,
        Command::Volumes(args) => volumes::list(args).await,
        Command::Restore(args) => volumes::restore(args).await,
        Command::Move(args) => volumes::relocate(args).await,
        Command::CancelCopy(args) => volumes::cancel_copy(args).await,
        Command::Delete(args) => cuts::delete(args).await,
        Command::Timeline(args) => cuts::timeline(args).await,
        Command::Cancel(args) => runs::cancel(args).await,
        Command::Overdue(args) => runs::overdue(args).await,
        Command::Schedules(args) => schedules::run(args).await,
        Command::Rule(command) => rule::run(command).await,
    }
}
