//! `stillpoint rule`.

use std::path::Path;

use stillpoint_rules::lint::{self, Finding, Severity};
use stillpoint_rules::text;

use crate::args::{RuleCommand, RuleRole, SnapshotArgs};
use crate::domain::Fault;

use super::output::{Format, print, print_json};
use super::snapshot;

/// Runs one of them.
pub async fn run(command: RuleCommand) -> Result<(), Fault> {
    match command {
        RuleCommand::Convert { file, role, output } => convert(&file, role, output),
        RuleCommand::Plan(args) => snapshot::run(SnapshotArgs { plan: true, ..args }).await,
        RuleCommand::Lint { file, output } => check(&file, output),
        RuleCommand::Test(args) => snapshot::rehearse(args).await,
    }
}

/// Prints a rule of any accepted form in the canonical one.
fn convert(file: &Path, role: Option<RuleRole>, output: Format) -> Result<(), Fault> {
    let role = role.map(|role| match role {
        RuleRole::Pre => text::Role::Before,
        RuleRole::Post => text::Role::After,
    });
    let converted = text::convert(&snapshot::read_rule(file)?, role)
        .map_err(|error| Fault::invalid(format!("cannot use the rule {}: {error}", file.display())))?;
    match output {
        Format::Text => {
            let mut lines: Vec<String> = converted.notes.iter().map(|note| format!("# {note}")).collect();
            lines.push(text::to_yaml(&converted.rule).map_err(|error| Fault::internal(error.to_string()))?);
            print(&lines.join("\n"))
        }
        Format::Json => {
            converted.notes.iter().for_each(|note| super::output::progress(note));
            print_json(&converted.rule)
        }
    }
}

/// Prints what was found; an error in it fails the command.
fn check(file: &Path, output: Format) -> Result<(), Fault> {
    let findings = lint::lint(&snapshot::read_rule(file)?);
    match output {
        Format::Json => print_json(&findings)?,
        Format::Text => {
            let lines: Vec<String> =
                findings.iter().map(|finding| format!("{}: {finding}", file.display())).collect();
            if lines.is_empty() {
                print("nothing was found")?;
            } else {
                print(&lines.join("\n"))?;
            }
        }
    }
    let errors = findings.iter().filter(|finding: &&Finding| finding.severity == Severity::Error).count();
    if errors == 0 {
        return Ok(());
    }
    Err(Fault::invalid(format!("{}: {errors} errors", file.display())))
}
