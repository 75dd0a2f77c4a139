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
    print_to(&mut std::io::stdout().lock(), text)
}

fn print_to(out: &mut impl Write, text: &str) -> Result<(), Fault> {
    write_out(out, &printable_lines(text))
}

fn write_out(out: &mut impl Write, text: &str) -> Result<(), Fault> {
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
    progress_to(&mut std::io::stderr().lock(), line);
}

fn progress_to(out: &mut impl Write, line: &str) {
    let _ = writeln!(out, "{}", printable(line));
}

/// Pretty JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Fault> {
    print_json_to(&mut std::io::stdout().lock(), value)
}

fn print_json_to(out: &mut impl Write, value: &impl Serialize) -> Result<(), Fault> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Fault::internal(format!("cannot write JSON: {error}")))?;
    write_out(out, &printable_json(&text))
}

/// JSON text that came from the controller.
pub fn read_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| {
        Fault::internal(format!(
            "cannot read the {what} that the controller sent: {error}; use a command line of the controller's version"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}]0;title\u{7}\u{9b}31m\u{202e}b";

    fn printed(print: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        print(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn whatever_is_printed_cannot_steer_a_terminal() {
        let escaped = "a\\u{1b}]0;title\\u{7}\\u{9b}31m\\u{202e}b\n";
        assert_eq!(
            printed(|out| print_to(out, &format!("x\ty\n{HOSTILE}")).unwrap()),
            format!("x\ty\n{escaped}")
        );
        assert_eq!(printed(|out| progress_to(out, HOSTILE)), escaped);
        assert_eq!(printed(|out| progress_to(out, "a\nb")), "a\\u{a}b\n", "one line stays one line");
        let json = printed(|out| print_json_to(out, &[HOSTILE]).unwrap());
        assert!(!json.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{json:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [HOSTILE]);
    }
}
