//! `kubectl stillpoint`: what people do with a cluster. What it can do is in [`stillpoint::cli::plugin`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use stillpoint::cli::{exit, plugin};
use stillpoint::domain::Fault;

fn main() -> ExitCode {
    match run(plugin::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{}", exit::line(&fault));
            ExitCode::from(exit::code(&fault))
        }
    }
}

fn run(args: plugin::Args) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::internal(format!("cannot start: {error}")))?;
    runtime.block_on(plugin::run(args))
}
