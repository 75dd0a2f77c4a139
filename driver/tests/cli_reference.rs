//! docs/cli.md is generated from the command line's definition. `STILLPOINT_WRITE=1 cargo test --test cli_reference`
//! writes it; without that the test fails when the two differ.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory};

fn reference() -> String {
    let mut out = "# Command line\n\nGenerated from the code (`driver/src/args.rs`); do not edit. \
        `STILLPOINT_WRITE=1 cargo test --test cli_reference` writes it anew.\n"
        .to_owned();
    let mut root = stillpoint::args::Args::command().term_width(100);
    root.build();
    describe(&root, "stillpoint", &mut out);
    out
}

fn describe(command: &Command, name: &str, out: &mut String) {
    let help = command.clone().render_long_help().to_string();
    let help: Vec<_> = help.lines().map(str::trim_end).collect();
    writeln!(out, "\n## `{name}`\n\n```text\n{}\n```", help.join("\n").trim_end()).unwrap();
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        describe(sub, &format!("{name} {}", sub.get_name()), out);
    }
}

#[test]
fn the_reference_in_the_docs_is_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    if std::env::var_os("STILLPOINT_WRITE").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == reference(),
        "docs/cli.md is out of date: STILLPOINT_WRITE=1 cargo test --test cli_reference"
    );
}
