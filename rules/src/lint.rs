//! What is wrong or unsafe in a rule, told before anything runs. Pure.
//!
//! Errors are what cannot be read, and habits that have left databases locked or backups worthless elsewhere; warnings
//! are worth a look; notes say how what is left open will be decided. Each finding has a place, a reason and a fix.

mod habits;

use std::fmt;

use serde::Serialize;

use crate::text::{self, PathPart, Problem};

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A word for programs.
    pub code: &'static str,
    /// Where, what, why, fix.
    #[serde(flatten)]
    pub problem: Problem,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The rule is refused, or does not do what it seems to.
    Error,
    /// Worth a look.
    Warning,
    /// How something that is left open will be decided.
    Note,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, "{word} [{}]: {}", self.code, self.problem)
    }
}

/// Everything that is found in a text; errors first, then by place.
pub fn lint(rule_text: &str) -> Vec<Finding> {
    let rule = match text::convert(rule_text, None) {
        Ok(converted) => converted.rule,
        Err(error) => {
            let refused = |problem| Finding { severity: Severity::Error, code: "refused", problem };
            return error.problems.into_iter().map(refused).collect();
        }
    };
    let canonical = text::detect(rule_text) == Ok(text::Form::Canonical);
    let mut findings = Vec::new();
    for (index, step) in rule.spec.steps.iter().enumerate() {
        for habit in habits::of(step) {
            let path = [
                PathPart::Field("spec".to_owned()),
                PathPart::Field("steps".to_owned()),
                PathPart::Item(index),
                PathPart::Field(habit.field.to_owned()),
            ];
            // Other forms have other paths; the step's name says which it is.
            let place = if canonical { text::place(rule_text, &path) } else { None };
            findings.push(Finding {
                severity: habit.severity,
                code: habit.code,
                problem: Problem {
                    field: format!("spec.steps[{index}].{}", habit.field),
                    line: place.map(|(line, _)| line),
                    column: place.map(|(_, column)| column),
                    what: format!("step `{}`: {}", step.name, habit.what),
                    why: habit.why.to_owned(),
                    fix: habit.fix.to_owned(),
                },
            });
        }
    }
    findings.sort_by_key(|finding| (finding.severity, finding.problem.line));
    findings
}

#[cfg(test)]
mod tests;
