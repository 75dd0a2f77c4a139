//! Tests that cannot run on this machine: printed, counted, and failed where a complete run was asked for.

use std::env;
use std::fs::File;
use std::io::Write;

/// Environment variable with the file that collects skipped tests, a line `name: reason` each.
const COUNTED_IN: &str = "STILLPOINT_SKIPS";
/// Environment variable that asks for a complete run: a missing tool then fails its test. CI sets it.
const COMPLETE: &str = "STILLPOINT_COMPLETE";

/// Why a test cannot run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// The machine or its kernel cannot do it, and no package changes that: the test is skipped.
    Machine(String),
    /// A tool is missing that `make setup` installs: the test is skipped, or fails in a complete run.
    Tool(String),
}

impl Lack {
    /// The reason, for people.
    pub fn reason(&self) -> &str {
        match self {
            Self::Machine(reason) | Self::Tool(reason) => reason,
        }
    }

    /// Whether this run must fail because of it: a complete run was asked for, and `make setup` could have helped.
    pub fn fails_this_run(&self) -> bool {
        self.is_failure(env::var_os(COMPLETE).is_some_and(|value| !value.is_empty()))
    }

    fn is_failure(&self, complete: bool) -> bool {
        match self {
            Self::Machine(_) => false,
            Self::Tool(_) => complete,
        }
    }

    /// A tool that could not be found, if the search failed.
    pub fn of_tools<T>(found: anyhow::Result<T>) -> Option<Self> {
        found.err().map(|error| Self::Tool(format!("{error:#}").replace('\n', " ")))
    }

    /// That this process is not root, if it is not.
    pub fn of_root() -> Option<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        (!is_root).then(|| Self::Machine("needs root for loop devices, mounts and users of servers".into()))
    }
}

impl From<&Lack> for Lack {
    fn from(lack: &Lack) -> Self {
        lack.clone()
    }
}

/// A reason in words is one of the machine.
impl From<&str> for Lack {
    fn from(reason: &str) -> Self {
        Self::Machine(reason.into())
    }
}

/// Records that a test is skipped: printed, and counted where `STILLPOINT_SKIPS` names a file.
///
/// # Panics
/// In a complete run, when a tool is missing: a test that did not run must not look like one that passed.
pub fn skip(test: &str, why: impl Into<Lack>) {
    let why = why.into();
    assert!(
        !why.fails_this_run(),
        "{test} cannot run: {}; a complete run was asked for by {COMPLETE}; run: make setup",
        why.reason()
    );
    println!("SKIPPED {test}: {}", why.reason());
    let Some(path) = env::var_os(COUNTED_IN) else { return };
    let file = File::options().append(true).create(true).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{test}: {}", why.reason()));
    assert!(written.is_ok(), "the skip of {test} could not be counted: {written:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_tool_fails_a_complete_run() {
        for (lack, complete, fails) in [
            (Lack::Tool("no mvn".into()), true, true),
            (Lack::Tool("no mvn".into()), false, false),
            (Lack::Machine("no loop devices".into()), true, false),
        ] {
            assert_eq!(lack.is_failure(complete), fails, "{lack:?}, {complete}");
        }
        assert_eq!(Lack::of_tools(Ok(())), None);
        let lost = Lack::of_tools::<()>(Err(anyhow::anyhow!("no java\nno mvn")));
        assert_eq!(lost, Some(Lack::Tool("no java no mvn".into())), "one line, so that it is counted once");
    }
}
