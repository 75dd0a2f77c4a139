//! Printing.

use std::io::{ErrorKind, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::domain::Fault;
use crate::observe::plain::{printable, printable_json, printable_lines};

/// Output of most commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Output of `timeline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TimelineFormat {
    /// A table.
    Text,
    /// For programs.
    Json,
    /// One self-contained file with a picture.
    Html,
}

/// Prints lines to standard output, with everything escaped that would steer a terminal. A reader that has seen enough
/// (`| head`) is not an error.
pub fn print(text: &str) -> Result<(), Fault> {
    write_out(&printable_lines(text))
}

fn write_out(text: &str) -> Result<(), Fault> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Fault::internal(format!("cannot write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A progress line on standard error; lost where nobody listens.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(line));
}

/// Pretty JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Fault> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Fault::internal(format!("cannot write JSON: {error}")))?;
    write_out(&printable_json(&text))
}

/// JSON text that came from the controller.
pub fn read_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| {
        Fault::internal(format!(
            "cannot read the {what} that the controller sent: {error}; use a command line of the controller's version"
        ))
    })
}
