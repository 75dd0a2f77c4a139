//! Commands that Stillpoint prints, run as somebody who copies them into a shell.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use stillpoint_tests::cluster::workspace::Workspace;

/// Seconds: `kubectl delete` waits for an object that never goes.
const LIMIT: &str = "60";

/// Runs a command exactly as it is printed, in a shell whose kubectl asks this cluster.
pub fn run(space: &Workspace, command: &str) -> Result<String> {
    let tools = tempfile::tempdir()?;
    let kubectl = space.kubectl.command();
    let words: Vec<String> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let program = tools.path().join("kubectl");
    fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH").context("there is a PATH")?;
    let path = format!("{}:{path}", tools.path().display());
    let output = Command::new("timeout").args([LIMIT, "sh", "-c", command]).env("PATH", path).output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command}: {}\n{said}", output.status);
    Ok(said)
}

/// The value of a field in a line of a log, as it stands between its quotes.
pub fn field<'a>(line: &'a str, name: &str) -> Result<&'a str> {
    let begin = format!(" {name}=\"");
    let (_, rest) = line.split_once(&begin).with_context(|| format!("no {name} in {line}"))?;
    let (value, _) = rest.split_once('"').with_context(|| format!("{name} has no end in {line}"))?;
    Ok(value)
}
