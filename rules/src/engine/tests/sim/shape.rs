//! Rules that are made up: `do` and `undo` name their step, sessions too.

use std::fmt::Write as _;

use crate::api::Rule;
use crate::text::parse;

use super::fate::Dice;

/// What one step has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepShape {
    pub(super) before: bool,
    /// Whether its `after` may be repeated.
    pub(super) after: Option<Repeatable>,
    pub(super) hold: Option<&'static str>,
    /// Its session is taken in its turn.
    pub(super) in_turn: bool,
    pub(super) on_failure: &'static str,
    /// Its `before` is tried again.
    pub(super) retries: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeatable {
    Yes,
    No,
}

pub(super) const PLAIN: StepShape = StepShape {
    before: true,
    after: Some(Repeatable::Yes),
    hold: None,
    in_turn: false,
    on_failure: "abort",
    retries: false,
};

pub(super) fn rule(steps: &[StepShape]) -> Rule {
    let mut text =
        "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {name: r}\nspec:\n  steps:\n".to_owned();
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    };
    for (index, step) in steps.iter().enumerate() {
        line(format!("  - name: s{index}"));
        line(format!("    onFailure: {}", step.on_failure));
        line("    pods: {selector: {matchLabels: {app: db}}}".to_owned());
        let nothing = !step.before && step.after.is_none() && step.hold.is_none();
        if step.before || nothing {
            let retry = if step.retries { ", retry: {times: 2}, idempotent: true" } else { "" };
            line(format!("    before: {{command: [do, s{index}], timeout: 5s{retry}}}"));
        }
        if let Some(on_lost) = step.hold {
            let take = if step.in_turn { "inTurn" } else { "last" };
            line(format!(
                "    hold: {{command: [lock, s{index}, {on_lost}], ready: held, limit: 5s, onLost: {on_lost}, take: {take}, probe: {{send: a, expect: b}}}}"
            ));
        }
        if let Some(repeatable) = step.after {
            let idempotent = repeatable == Repeatable::Yes;
            line(format!("    after: {{command: [undo, s{index}], timeout: 5s, idempotent: {idempotent}}}"));
        }
    }
    parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// One to three steps.
pub(super) fn thrown(dice: &mut Dice) -> Vec<StepShape> {
    (0..=dice.roll(3)).map(|_| one(dice)).collect()
}

fn one(dice: &mut Dice) -> StepShape {
    StepShape {
        before: !dice.one_in(6),
        after: match dice.roll(4) {
            0 => None,
            1 => Some(Repeatable::No),
            _ => Some(Repeatable::Yes),
        },
        hold: match dice.roll(6) {
            0 => Some("abort"),
            1 => Some("degrade"),
            _ => None,
        },
        in_turn: dice.one_in(3),
        on_failure: match dice.roll(3) {
            0 => "degrade",
            1 => "ignore",
            _ => "abort",
        },
        retries: dice.one_in(3),
    }
}
