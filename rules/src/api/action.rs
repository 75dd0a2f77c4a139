//! What is done in a pod: commands, calls over HTTP, waiting.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::env::EnvEntry;
use super::http::HttpCall;
use super::{Length, defaults, limits};

/// One action that runs to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(try_from = "RawCommand", into = "RawCommand")]
pub struct Command {
    /// What is done.
    pub run: Deed,
    /// Environment of a command.
    pub env: Vec<EnvEntry>,
    /// It is ended after this; a default applies when absent.
    pub timeout: Option<Length>,
    /// Bytes of output kept; a default applies when absent.
    pub output_limit: Option<u32>,
    /// Whether and how it is tried again; never when absent (an `after` is always tried again).
    pub retry: Option<Retry>,
    /// Whether doing it twice is doing it once. Only then is it repeated when its outcome is not known.
    pub idempotent: Option<bool>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A command.
    Run(Invocation),
    /// A request to the pod.
    Http(HttpCall),
    /// Something is asked again and again until it is true.
    Wait(Wait),
}

/// What is asked again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(try_from = "RawWait", into = "RawWait")]
pub struct Wait {
    /// The question: exit 0, or the expected status, means yes.
    pub until: Check,
    /// Pause between two questions; a default applies when absent.
    pub every: Option<Length>,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Exit 0 means yes.
    Run(Invocation),
    /// The expected status means yes.
    Http(HttpCall),
}

/// How something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// How often, after the first time.
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 10)))]
    pub times: u32,
    /// Pause before the first repetition, doubled each time; a default applies when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Length>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Invocation {
    /// Program and arguments, no shell in between.
    Argv(Vec<String>),
    /// One line for `/bin/sh -c`.
    Shell(String),
}

/// Why something is not an action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// More than one of them.
    #[error("{0} are given; keep one of them")]
    Several(String),
    /// None of them.
    #[error(
        "nothing to do; give `command: [program, argument]`, `shell: \"…\"`, `http: {{…}}` or `wait: {{…}}`"
    )]
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

    /// The text that a shell would read, where there is one: `shell`, or `command: [sh, -c, text]`.
    pub fn shell_text(&self) -> Option<&str> {
        const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"];
        match self {
            Self::Shell(line) => Some(line),
            Self::Argv(argv) => {
                let is_shell = |word: &String| SHELLS.contains(&word.rsplit('/').next().unwrap_or_default());
                let shell = argv.iter().position(is_shell)?;
                let rest = argv.get(shell + 1..)?;
                let flag = rest.iter().position(|word| {
                    word.starts_with('-') && !word.starts_with("--") && word.contains('c')
                })?;
                rest.get(flag + 1).map(String::as_str)
            }
        }
    }
}

impl Command {
    /// A command with default limits.
    pub fn new(run: Invocation) -> Self {
        Self::of(Deed::Run(run))
    }

    /// Any action with default limits.
    pub fn of(run: Deed) -> Self {
        Self { run, env: Vec::new(), timeout: None, output_limit: None, retry: None, idempotent: None }
    }

    /// The timeout, or `default`.
    pub fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.map_or(default, Length::get)
    }

    /// Bytes of output kept.
    pub fn output_bytes(&self) -> usize {
        self.output_limit.unwrap_or(defaults::OUTPUT_BYTES) as usize
    }

    /// What is started as a process, where something is.
    pub fn invocation(&self) -> Option<&Invocation> {
        match &self.run {
            Deed::Run(run) | Deed::Wait(Wait { until: Check::Run(run), .. }) => Some(run),
            Deed::Http(_) | Deed::Wait(Wait { until: Check::Http(_), .. }) => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.command) ? 1 : 0) + (has(self.shell) ? 1 : 0) + (has(self.http) ? 1 : 0) + (has(self.wait) ? 1 : 0) == 1",
        "message": "give one of `command: [program, argument]`, `shell: \"…\"`, `http: {…}` and `wait: {…}`"
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
    /// A request to the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpCall>,
    /// Something is asked again and again until it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait: Option<Wait>,
    /// Environment of the command. Needs a shell in the container where the pod is one of Kubernetes.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    env: Vec<EnvEntry>,
    /// It is ended after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<Length>,
    /// Bytes of output kept.
    #[cfg_attr(feature = "kube", schemars(range(max = 262_144)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_limit: Option<u32>,
    /// Whether and how it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
    /// Whether doing it twice is doing it once: only then is it repeated when its outcome is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotent: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.command) ? 1 : 0) + (has(self.shell) ? 1 : 0) + (has(self.http) ? 1 : 0) == 1",
        "message": "give one of `command: [program, argument]`, `shell: \"…\"` and `http: {…}`"
    }]))
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawWait {
    /// Program and arguments; exit 0 means yes.
    #[cfg_attr(feature = "kube", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    /// One line for `/bin/sh -c`; exit 0 means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    /// A request to the pod; the expected status means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpCall>,
    /// Pause between two questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<Length>,
}

/// The one that was given of these.
fn only_one(given: &[(&str, bool)]) -> Result<(), CommandError> {
    let names: Vec<String> =
        given.iter().filter(|(_, there)| *there).map(|(name, _)| format!("`{name}`")).collect();
    match names.len() {
        0 => Err(CommandError::Neither),
        1 => Ok(()),
        2 => Err(CommandError::Several(format!("both {}", names.join(" and ")))),
        _ => Err(CommandError::Several(names.join(" and "))),
    }
}

/// The one of `command` and `shell` that was given.
pub(crate) fn invocation(
    command: Option<Vec<String>>,
    shell: Option<String>,
) -> Result<Invocation, CommandError> {
    only_one(&[("command", command.is_some()), ("shell", shell.is_some())])?;
    let run = match (command, shell) {
        (Some(argv), _) => Invocation::Argv(argv),
        (None, line) => Invocation::Shell(line.unwrap_or_default()),
    };
    run.check()?;
    Ok(run)
}

/// The one of three that was given.
pub(crate) fn check(
    command: Option<Vec<String>>,
    shell: Option<String>,
    http: Option<HttpCall>,
) -> Result<Check, CommandError> {
    let Some(call) = http else { return invocation(command, shell).map(Check::Run) };
    only_one(&[("command", command.is_some()), ("shell", shell.is_some()), ("http", true)])?;
    Ok(Check::Http(call))
}

/// The one of all that was given.
pub(crate) fn deed(
    command: Option<Vec<String>>,
    shell: Option<String>,
    http: Option<HttpCall>,
    wait: Option<Wait>,
) -> Result<Deed, CommandError> {
    let Some(wait) = wait else { return check(command, shell, http).map(Deed::from) };
    only_one(&[
        ("command", command.is_some()),
        ("shell", shell.is_some()),
        ("http", http.is_some()),
        ("wait", true),
    ])?;
    Ok(Deed::Wait(wait))
}

impl From<Check> for Deed {
    fn from(check: Check) -> Self {
        match check {
            Check::Run(run) => Self::Run(run),
            Check::Http(call) => Self::Http(call),
        }
    }
}

impl TryFrom<RawCommand> for Command {
    type Error = CommandError;

    fn try_from(raw: RawCommand) -> Result<Self, CommandError> {
        let run = deed(raw.command, raw.shell, raw.http, raw.wait)?;
        if let Some(bytes) = raw.output_limit.filter(|bytes| *bytes > limits::OUTPUT_BYTES) {
            return Err(CommandError::Output(bytes));
        }
        Ok(Self {
            run,
            env: raw.env,
            timeout: raw.timeout,
            output_limit: raw.output_limit,
            retry: raw.retry,
            idempotent: raw.idempotent,
        })
    }
}

/// As `command` and `shell`.
pub(super) fn spelled(run: Invocation) -> (Option<Vec<String>>, Option<String>) {
    match run {
        Invocation::Argv(argv) => (Some(argv), None),
        Invocation::Shell(line) => (None, Some(line)),
    }
}

impl From<Command> for RawCommand {
    fn from(command: Command) -> Self {
        let mut raw = Self {
            command: None,
            shell: None,
            http: None,
            wait: None,
            env: command.env,
            timeout: command.timeout,
            output_limit: command.output_limit,
            retry: command.retry,
            idempotent: command.idempotent,
        };
        match command.run {
            Deed::Run(run) => (raw.command, raw.shell) = spelled(run),
            Deed::Http(call) => raw.http = Some(call),
            Deed::Wait(wait) => raw.wait = Some(wait),
        }
        raw
    }
}

impl TryFrom<RawWait> for Wait {
    type Error = CommandError;

    fn try_from(raw: RawWait) -> Result<Self, CommandError> {
        Ok(Self { until: check(raw.command, raw.shell, raw.http)?, every: raw.every })
    }
}

impl From<Wait> for RawWait {
    fn from(wait: Wait) -> Self {
        let mut raw = Self { command: None, shell: None, http: None, every: wait.every };
        match wait.until {
            Check::Run(run) => (raw.command, raw.shell) = spelled(run),
            Check::Http(call) => raw.http = Some(call),
        }
        raw
    }
}
