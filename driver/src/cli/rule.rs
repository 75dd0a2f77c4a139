//! `stillpoint rule`.

use std::path::Path;

use stillpoint_rules::text;

use crate::args::{RuleCommand, SnapshotArgs};
use crate::domain::Fault;

use super::output::{Format, print, print_json};
use super::snapshot;

/// Runs one of them.
pub async fn run(command: RuleCommand) -> Result<(), Fault> {
    match command {
        RuleCommand::Convert { file, output } => convert(&file, output),
        RuleCommand::Plan(args) => snapshot::run(SnapshotArgs { plan: true, ..args }).await,
    }
}

/// Prints a rule of any accepted form in the canonical one.
fn convert(file: &Path, output: Format) -> Result<(), Fault> {
    let rule = text::parse(&snapshot::read_rule(file)?)
        .map_err(|error| Fault::invalid(format!("cannot use the rule {}: {error}", file.display())))?;
    match output {
        Format::Text => print(&text::to_yaml(&rule).map_err(|error| Fault::internal(error.to_string()))?),
        Format::Json => print_json(&rule),
    }
}
