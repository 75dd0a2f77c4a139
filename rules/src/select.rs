//! Which pods a selector means.

mod parse;

use std::collections::BTreeMap;

use crate::api::{Expression, LabelSelector, Operator};
use crate::ports::Pod;

pub use parse::parse_selector;

/// Why something is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It would match every pod.
    #[error("the selector is empty; it would mean every pod; name at least one label, as in `app=db`")]
    Empty,
    /// A label's name is not one.
    #[error("`{0}` cannot be the name of a label: [prefix/]name of up to 63 letters, digits, -, _ and .")]
    Key(String),
    /// A label's value is not one.
    #[error(
        "`{0}` cannot be the value of a label: up to 63 letters, digits, -, _ and ., starting and ending with a letter or digit"
    )]
    Value(String),
    /// `In` and `NotIn` compare with something.
    #[error("`{key}` {operator:?} needs at least one value")]
    NoValues {
        /// The label.
        key: String,
        /// The operator.
        operator: Operator,
    },
    /// `Exists` and `DoesNotExist` compare with nothing.
    #[error("`{key}` {operator:?} takes no values")]
    SuperfluousValues {
        /// The label.
        key: String,
        /// The operator.
        operator: Operator,
    },
    /// Text that is not a selector.
    #[error(
        "cannot read the selector at character {at}: {what}; write for example `app=db,tier!=cache,env in (a,b),!legacy`"
    )]
    Syntax {
        /// Character, counted from 1.
        at: usize,
        /// What was found or missed there.
        what: String,
    },
    /// More text than a selector has.
    #[error("a selector of {0} bytes is longer than 4096; shorten it")]
    TooLong(usize),
}

/// Whether a pod's labels satisfy everything in the selector. An empty selector matches nothing.
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        return false;
    }
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|expression| satisfies(expression, labels))
}

fn satisfies(expression: &Expression, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&expression.key);
    let listed = value.is_some_and(|value| expression.values.contains(value));
    match expression.operator {
        Operator::In => listed,
        Operator::NotIn => !listed,
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

/// The volumes of all pods that the selector means, finished pods left out: what `snapshot --selector` cuts.
/// Sorted, each once.
pub fn volumes_of(pods: &[Pod], selector: &LabelSelector) -> Vec<String> {
    let finished = |pod: &&Pod| pod.state != crate::ports::PodState::Finished;
    let mut volumes: Vec<String> = pods
        .iter()
        .filter(finished)
        .filter(|pod| matches(selector, &pod.labels))
        .flat_map(|pod| pod.volumes.iter().cloned())
        .collect();
    volumes.sort();
    volumes.dedup();
    volumes
}

/// The name of a label: `[prefix/]name`.
pub fn check_label(key: &str) -> Result<(), SelectorError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let good = prefix.is_none_or(crate::api::is_dns_subdomain) && !name.is_empty() && is_label_word(name);
    if good { Ok(()) } else { Err(SelectorError::Key(crate::text::clip(key))) }
}

/// The value of a label; it may be empty.
pub fn check_value(value: &str) -> Result<(), SelectorError> {
    if value.is_empty() || is_label_word(value) {
        return Ok(());
    }
    Err(SelectorError::Value(crate::text::clip(value)))
}

/// What an expression must be to mean something.
pub fn check_expression(expression: &Expression) -> Result<(), SelectorError> {
    let Expression { key, operator, values } = expression;
    check_label(key)?;
    values.iter().try_for_each(|value| check_value(value))?;
    match (operator, values.is_empty()) {
        (Operator::In | Operator::NotIn, true) => {
            Err(SelectorError::NoValues { key: key.clone(), operator: *operator })
        }
        (Operator::Exists | Operator::DoesNotExist, false) => {
            Err(SelectorError::SuperfluousValues { key: key.clone(), operator: *operator })
        }
        (Operator::In | Operator::NotIn, false) | (Operator::Exists | Operator::DoesNotExist, true) => Ok(()),
    }
}

fn is_label_word(word: &str) -> bool {
    let edge = |c: u8| c.is_ascii_alphanumeric();
    let bytes = word.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|&c| edge(c) || matches!(c, b'-' | b'_' | b'.'))
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
}

#[cfg(test)]
mod tests;
