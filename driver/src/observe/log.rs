//! Logs: lines on standard error, as text for people or JSON for collectors.
//!
//! Nothing is written while this process holds anything; see [`super::holds`]. SIGUSR1 makes a running process say
//! more (info → debug → trace), SIGUSR2 what it was started with again.

use std::io::IsTerminal;
use std::sync::OnceLock;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::holds;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A logger that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not one.
    #[error(
        "cannot use log level {text:?}: {source}; write error, warn, info, debug or trace, or target=level,…"
    )]
    Level {
        /// What was given.
        text: String,
        /// What the parser says.
        source: ParseError,
    },
    /// A logger exists already.
    #[error("a logger is installed already; set it up once, in main")]
    Twice,
}

/// What [`follow_signals`] changes.
static CONTROL: OnceLock<Control> = OnceLock::new();

/// The level of a logger that runs.
struct Control {
    handle: Handle<EnvFilter, Registry>,
    /// What the process was started with.
    given: String,
}

/// More than the given level, in this order. Only our own crates: those below would drown them.
const MORE: [&str; 2] = ["debug", "trace"];

/// Installs the process's logger. `level` is a level, or `target=level,…`.
pub fn start(format: LogFormat, level: &str) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(holds::process());
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| LogError::Twice)?;
    let _ = CONTROL.set(Control { handle, given: level.to_owned() });
    Ok(())
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(level).map_err(|source| LogError::Level { text: level.to_owned(), source })
}

/// The filter after `steps` SIGUSR1.
fn louder(given: &str, steps: usize) -> String {
    match steps.checked_sub(1) {
        None => given.to_owned(),
        Some(index) => {
            let level = MORE[index.min(MORE.len() - 1)];
            format!("{given},stillpoint={level},stillpoint_rules={level}")
        }
    }
}

/// Changes the level when told by signals; for services, until the process ends. Needs a runtime.
pub fn follow_signals() {
    let (Ok(mut more), Ok(mut back)) =
        (signal(SignalKind::user_defined1()), signal(SignalKind::user_defined2()))
    else {
        tracing::warn!("cannot receive SIGUSR1 and SIGUSR2; the log level stays as it is");
        return;
    };
    tokio::spawn(async move {
        let mut steps = 0;
        loop {
            tokio::select! {
                Some(()) = more.recv() => steps = (steps + 1).min(MORE.len()),
                Some(()) = back.recv() => steps = 0,
                else => return,
            }
            set(steps);
        }
    });
}

fn set(steps: usize) {
    let Some(control) = CONTROL.get() else { return };
    let level = louder(&control.given, steps);
    let changed = parse(&level).map(|filter| control.handle.reload(filter));
    match changed {
        Ok(Ok(())) => tracing::warn!(level, "the log level was changed by a signal"),
        Ok(Err(error)) => tracing::warn!(%error, "the log level cannot be changed"),
        Err(error) => tracing::warn!(%error, "the log level cannot be changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_refused_by_name() {
        let error = start(LogFormat::Text, "stillpoint=loud").unwrap_err();
        assert!(error.to_string().contains("stillpoint=loud"), "{error}");
    }

    #[test]
    fn each_signal_says_more_of_our_own_and_the_other_goes_back() {
        assert_eq!(louder("info", 0), "info");
        assert_eq!(louder("info", 1), "info,stillpoint=debug,stillpoint_rules=debug");
        assert_eq!(louder("warn,h2=info", 7), "warn,h2=info,stillpoint=trace,stillpoint_rules=trace");
        for steps in 0..3 {
            parse(&louder("info", steps)).unwrap();
        }
    }
}
