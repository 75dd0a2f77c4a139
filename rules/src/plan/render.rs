//! A plan as text.

use std::fmt;

use crate::api::{LabelSelector, Operator, Pick, Take};

use super::{Action, ExpectedPause, Plan, PlannedCommand, PlannedStep};

/// A selector as it would be written on a command line.
pub(super) fn selector(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().map(|e| {
        let values = e.values.join(",");
        match e.operator {
            Operator::In => format!("{} in ({values})", e.key),
            Operator::NotIn => format!("{} notin ({values})", e.key),
            Operator::Exists => e.key.clone(),
            Operator::DoesNotExist => format!("!{}", e.key),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

/// A command line that a person could paste: arguments quoted where a shell would split or change them.
pub(crate) fn command_line(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    let quote = |arg: &String| {
        if !arg.is_empty() && arg.chars().all(plain) {
            return arg.clone();
        }
        let visible: String = arg.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        format!("'{}'", visible.replace('\'', r"'\''"))
    };
    argv.iter().map(quote).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => writeln!(f, "rule {rule}")?,
            None => writeln!(f, "no rule")?,
        }
        for (index, step) in self.steps.iter().enumerate() {
            going_in(f, index, step)?;
        }
        let volumes: usize = self.hosts.iter().map(|host| host.volumes.len()).sum();
        writeln!(f, "cut: {} on {}", count(volumes, "volume"), count(self.hosts.len(), "host"))?;
        for host in &self.hosts {
            let names: Vec<&str> = host.volumes.iter().map(|volume| volume.name.as_str()).collect();
            writeln!(f, "  host {}: {}", host.host, names.join(", "))?;
        }
        for (index, step) in self.steps.iter().enumerate().rev() {
            if let Some(after) = &step.after {
                action(f, index, step, Action::After, after)?;
            }
        }
        if let Some(expected) = &self.expected {
            expectation(f, expected)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

fn expectation(f: &mut fmt::Formatter<'_>, expected: &ExpectedPause) -> fmt::Result {
    let ms = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
    write!(
        f,
        "expected pause: {} (p50) to {} (longest), as in {}",
        ms(expected.window_us_p50),
        ms(expected.window_us_max),
        count(expected.runs, "earlier run"),
    )?;
    match expected.session_us_max {
        Some(us) => writeln!(f, "; sessions up to {}", ms(us)),
        None => writeln!(f),
    }
}

fn going_in(f: &mut fmt::Formatter<'_>, index: usize, step: &PlannedStep) -> fmt::Result {
    if let Some(question) = &step.question {
        let meaning = match step.pick {
            Pick::All => "all that answer yes",
            Pick::One => "the first that answers yes",
            Pick::Leader => "the only one that answers yes",
        };
        action(f, index, step, Action::Where, question)?;
        writeln!(f, "    then with {meaning}:")?;
    }
    if let Some(before) = &step.before {
        action(f, index, step, Action::Before, before)?;
    }
    if let Some(hold) = &step.hold {
        let pods = count(step.doing(Action::Hold).count(), "pod");
        writeln!(
            f,
            "step {} {}: hold in {pods}: {} (at most {} ms{})",
            index + 1,
            step.name,
            command_line(&hold.argv),
            hold.limit_ms,
            if hold.take == Take::InTurn { ", taken before later steps" } else { "" }
        )?;
        targets(f, step, Action::Hold)?;
    }
    for left in &step.left_out {
        writeln!(f, "    left out: {}: {}", left.pod, left.why)?;
    }
    Ok(())
}

fn action(
    f: &mut fmt::Formatter<'_>,
    index: usize,
    step: &PlannedStep,
    action: Action,
    command: &PlannedCommand,
) -> fmt::Result {
    let word = match action {
        Action::Where => "ask",
        Action::Before => "before, in",
        Action::Hold => "hold in",
        Action::After => "after, in",
    };
    let pods = count(step.doing(action).count(), "pod");
    writeln!(
        f,
        "step {} {}: {word} {pods}: {command} (at most {} ms)",
        index + 1,
        step.name,
        command.timeout_ms
    )?;
    targets(f, step, action)
}

fn targets(f: &mut fmt::Formatter<'_>, step: &PlannedStep, action: Action) -> fmt::Result {
    for target in step.doing(action) {
        let (container, why) = (&target.at.container, target.container_chosen_by.words());
        writeln!(f, "    {}  container {container} ({why})  host {}", target.name(), target.host)?;
    }
    Ok(())
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
