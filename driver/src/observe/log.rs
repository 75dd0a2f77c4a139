//! Logs: lines on standard error, as text for people or JSON for collectors.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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

/// Installs the process's logger. `level` is a level, or `target=level,…`.
pub fn start(format: LogFormat, level: &str) -> Result<(), LogError> {
    let filter =
        EnvFilter::try_new(level).map_err(|source| LogError::Level { text: level.to_owned(), source })?;
    let colours = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_refused_by_name() {
        let error = start(LogFormat::Text, "stillpoint=loud").unwrap_err();
        assert!(error.to_string().contains("stillpoint=loud"), "{error}");
    }
}
