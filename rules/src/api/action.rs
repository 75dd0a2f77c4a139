//! Commands and sessions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Length, defaults, limits};

/// One command that runs to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(try_from = "RawCommand", into = "RawCommand")]
pub struct Command {
    /// What runs.
    pub run: Invocation,
    /// It is ended after this; a default applies when absent.
    pub timeout: Option<Length>,
    /// Bytes of output kept; a default applies when absent.
    pub output_limit: Option<u32>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Invocation {
    /// Program and arguments, no shell in between.
    Argv(Vec<String>),
    /// One line for `/bin/sh -c`.
    Shell(String),
}

/// Why something is not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// `command` and `shell` together.
    #[error("both `command` and `shell` are given; keep one of them")]
    Both,
    /// Neither of them.
    #[error("nothing to run; give `command: [program, argument]` or `shell: \"…\"`")]
    Neither,
    /// No program.
    #[error("the program is empty; the first item of `command` names it")]
    Empty,
    /// Too much of it.
    #[error("{0} bytes of command are more than the {max} that a process can be started with; put it in a script", max = limits::ARGV_BYTES)]
    TooLong(usize),
    /// Too many arguments.
    #[error("{0} arguments are more than {max}; put the command in a script", max = limits::ARGV_ITEMS)]
    TooMany(usize),
    /// A byte that cannot be passed to a program.
    #[error("a NUL character cannot be passed to a program; remove it")]
    Nul,
    /// Too much output.
    #[error("an output limit of {0} is not between 0 and {max} bytes", max = limits::OUTPUT_BYTES)]
    Output(u32),
}

impl Invocation {
    /// Checks what the kernel would refuse later.
    pub fn check(&self) -> Result<(), CommandError> {
        let parts: Vec<&str> = match self {
            Self::Argv(argv) => argv.iter().map(String::as_str).collect(),
            Self::Shell(line) => vec![line],
        };
        if parts.first().is_none_or(|program| program.trim().is_empty()) {
            return Err(CommandError::Empty);
        }
        let bytes = parts.iter().map(|part| part.len() + 1).sum();
        if bytes > limits::ARGV_BYTES {
            return Err(CommandError::TooLong(bytes));
        }
        if parts.len() > limits::ARGV_ITEMS {
            return Err(CommandError::TooMany(parts.len()));
        }
        if parts.iter().any(|part| part.contains('\0')) {
            return Err(CommandError::Nul);
        }
        Ok(())
    }

    /// Program and arguments.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Argv(argv) => argv.clone(),
            Self::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        }
    }
}

impl Command {
    /// A command with default limits.
    pub fn new(run: Invocation) -> Self {
        Self { run, timeout: None, output_limit: None }
    }

    /// The timeout, or `default`.
    pub fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.map_or(default, Length::get)
    }

    /// Bytes of output kept.
    pub fn output_bytes(&self) -> usize {
        self.output_limit.unwrap_or(defaults::OUTPUT_BYTES) as usize
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [{
        "rule": "has(self.command) != has(self.shell)",
        "message": "give one of `command: [program, argument]` and `shell: \"…\"`"
    }]))
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCommand {
    /// Program and arguments; no shell in between.
    #[cfg_attr(feature = "kube", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    /// One line for `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    /// It is ended after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<Length>,
    /// Bytes of output kept.
    #[cfg_attr(feature = "kube", schemars(range(max = 262_144)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_limit: Option<u32>,
}

/// The one of `command` and `shell` that was given.
pub(crate) fn invocation(
    command: Option<Vec<String>>,
    shell: Option<String>,
) -> Result<Invocation, CommandError> {
    let run = match (command, shell) {
        (Some(argv), None) => Invocation::Argv(argv),
        (None, Some(line)) => Invocation::Shell(line),
        (Some(_), Some(_)) => return Err(CommandError::Both),
        (None, None) => return Err(CommandError::Neither),
    };
    run.check()?;
    Ok(run)
}

impl TryFrom<RawCommand> for Command {
    type Error = CommandError;

    fn try_from(raw: RawCommand) -> Result<Self, CommandError> {
        let run = invocation(raw.command, raw.shell)?;
        match raw.output_limit {
            Some(bytes) if bytes > limits::OUTPUT_BYTES => Err(CommandError::Output(bytes)),
            output_limit => Ok(Self { run, timeout: raw.timeout, output_limit }),
        }
    }
}

impl From<Command> for RawCommand {
    fn from(command: Command) -> Self {
        let (argv, shell) = match command.run {
            Invocation::Argv(argv) => (Some(argv), None),
            Invocation::Shell(line) => (None, Some(line)),
        };
        Self { command: argv, shell, timeout: command.timeout, output_limit: command.output_limit }
    }
}

/// A session kept open across the cut. Its standard input reaching its end must make it let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(try_from = "RawHold", into = "RawHold")]
pub struct Hold {
    /// What is kept open.
    pub run: Invocation,
    /// Lines sent to it at the start.
    pub send: Vec<String>,
    /// It holds once a line of its output contains this.
    pub ready: String,
    /// Asked after the cut: was it held all along?
    pub probe: Option<Probe>,
    /// Lines sent after the cut, before its input is closed.
    pub finish: Vec<String>,
    /// From start to end; it is ended after this.
    pub limit: Option<Length>,
}

/// A question to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The line sent.
    pub send: String,
    /// What a line of the answer must contain.
    pub expect: String,
}

impl Hold {
    /// The limit, or its default.
    pub fn limit_or_default(&self) -> Duration {
        self.limit.map_or(defaults::HOLD_LIMIT, Length::get)
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [{
        "rule": "has(self.command) != has(self.shell)",
        "message": "give one of `command: [program, argument]` and `shell: \"…\"`"
    }]))
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawHold {
    /// Program and arguments; no shell in between.
    #[cfg_attr(feature = "kube", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    /// One line for `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    /// Lines sent to it at the start.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    send: Vec<String>,
    /// It holds once a line of its output contains this.
    ready: String,
    /// Asked after the cut: was it held all along?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<Probe>,
    /// Lines sent after the cut, before its input is closed.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    finish: Vec<String>,
    /// From start to end; it is ended after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<Length>,
}

impl TryFrom<RawHold> for Hold {
    type Error = CommandError;

    fn try_from(raw: RawHold) -> Result<Self, CommandError> {
        let run = invocation(raw.command, raw.shell)?;
        Ok(Self {
            run,
            send: raw.send,
            ready: raw.ready,
            probe: raw.probe,
            finish: raw.finish,
            limit: raw.limit,
        })
    }
}

impl From<Hold> for RawHold {
    fn from(hold: Hold) -> Self {
        let (command, shell) = match hold.run {
            Invocation::Argv(argv) => (Some(argv), None),
            Invocation::Shell(line) => (None, Some(line)),
        };
        Self {
            command,
            shell,
            send: hold.send,
            ready: hold.ready,
            probe: hold.probe,
            finish: hold.finish,
            limit: hold.limit,
        }
    }
}
