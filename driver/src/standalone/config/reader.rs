//! Reads YAML values and notes everything that is wrong, instead of stopping at the first error.

use serde_yaml::{Mapping, Value};

use crate::observe::plain::shortened;

/// More are not read by anybody.
const PROBLEMS_LIMIT: usize = 20;
/// Characters of somebody else's text in a message.
const QUOTE_LIMIT: usize = 60;
/// The YAML scanner's time grows with the square of the nesting, so deep nesting is refused before it.
const OPEN_LIMIT: usize = 64;

/// What is wrong, in the order in which it was found.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<String>,
}

impl Problems {
    pub fn note(&mut self, field: &str, why: &str) {
        if self.list.len() < PROBLEMS_LIMIT {
            self.list.push(if field.is_empty() { why.to_owned() } else { format!("{field}: {why}") });
        }
    }

    /// Notes it and gives the `None` that stands for a value that could not be read.
    pub fn none<T>(&mut self, field: &str, why: &str) -> Option<T> {
        self.note(field, why);
        None
    }

    pub fn into_list(self) -> Vec<String> {
        self.list
    }
}

/// One document. Keys that are there twice are refused by the YAML library while it reads.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    refuse_deep(text)?;
    serde_yaml::from_str(&stillpoint_rules::text::only_document(text)).map_err(|error| {
        format!("it is not well-formed YAML: {}; correct it there", shortened(&error.to_string(), 300))
    })
}

fn refuse_deep(text: &str) -> Result<(), String> {
    let mut open = 0_usize;
    for (line, number) in text.lines().zip(1_usize..) {
        let dashes = line
            .split([' ', '\t'])
            .take_while(|word| matches!(*word, "" | "-" | "?"))
            .filter(|word| !word.is_empty());
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
        }
        if open > OPEN_LIMIT || dashes.count() > OPEN_LIMIT {
            return Err(format!(
                "line {number} is nested more than {OPEN_LIMIT} deep, so it is not a configuration; give the right file"
            ));
        }
    }
    Ok(())
}

/// A mapping whose fields are all known.
#[derive(Debug)]
pub(super) struct Section<'a> {
    path: String,
    map: &'a Mapping,
}

impl<'a> Section<'a> {
    /// `None` when it is not a mapping; fields that are not known are noted.
    pub fn of(path: &str, value: &'a Value, known: &[&str], problems: &mut Problems) -> Option<Self> {
        let Value::Mapping(map) = value else {
            return problems.none(path, &format!("must have the fields {}", known.join(", ")));
        };
        let section = Self { path: path.to_owned(), map };
        for key in map.keys() {
            match key.as_str() {
                Some(key) if known.contains(&key) => {}
                Some(key) => problems.note(
                    &section.at(&shortened(key, QUOTE_LIMIT)),
                    &format!("is not a field here; the fields are {}", known.join(", ")),
                ),
                None => problems
                    .note(path, &format!("has a key that is not text; the fields are {}", known.join(", "))),
            }
        }
        Some(section)
    }

    fn at(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field)
    }

    /// Outer `None`: noted as wrong. Inner `None`: not given.
    #[expect(clippy::option_option, reason = "wrong and absent are two things")]
    pub fn text(&self, field: &str, problems: &mut Problems) -> Option<Option<&'a str>> {
        match self.get(field) {
            None => Some(None),
            Some(Value::String(text)) if text.is_empty() || text.contains('\0') => problems
                .none(&self.at(field), "is empty or has a NUL in it; give it a value, or remove the line"),
            Some(Value::String(text)) => Some(Some(text)),
            Some(
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Sequence(_)
                | Value::Mapping(_)
                | Value::Tagged(_),
            ) => problems.none(&self.at(field), "is not text; write one value, in quotes where in doubt"),
        }
    }

    pub fn required_text(&self, field: &str, problems: &mut Problems) -> Option<&'a str> {
        match self.text(field, problems)? {
            Some(text) => Some(text),
            None => problems.none(&self.at(field), "is missing"),
        }
    }

    /// A whole number within `(least, default, most)`.
    pub fn number(
        &self,
        field: &str,
        (least, default, most): (u64, u64, u64),
        problems: &mut Problems,
    ) -> Option<u64> {
        let Some(value) = self.get(field) else { return Some(default) };
        match value.as_u64() {
            Some(number) if (least..=most).contains(&number) => Some(number),
            Some(_) | None => {
                problems.none(&self.at(field), &format!("must be a whole number from {least} to {most}"))
            }
        }
    }
}
