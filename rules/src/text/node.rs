//! A value in a text together with its place, and the ways to read it. What is wrong goes into the sink, so that
//! one reading finds everything; `None` means that the sink holds the reason.

use std::cell::RefCell;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::api::{Length, parse_length};

use super::Problem;
use super::locate::{Part, Segment, locate};
use super::words::{clip, did_you_mean, list_words, one_of, suggest};

/// More problems than this are not read by anybody.
const MAX_PROBLEMS: usize = 10;

/// Collects problems.
#[derive(Default)]
pub(crate) struct Sink {
    problems: RefCell<Vec<(Vec<Segment>, Part, Problem)>>,
}

impl Sink {
    fn push(&self, path: &[Segment], part: Part, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        let known = problems.iter().any(|(at, _, said)| at == path && said.what == problem.what);
        if !known && problems.len() < MAX_PROBLEMS {
            problems.push((path.to_vec(), part, problem));
        }
    }

    pub(super) fn into_problems(self, text: &str) -> Vec<Problem> {
        let place = |(path, part, mut problem): (Vec<Segment>, Part, Problem)| {
            problem.field = show(&path);
            problem.at(locate(text, &path, part))
        };
        self.problems.into_inner().into_iter().map(place).collect()
    }
}

/// `spec.steps[0].before`.
fn show(path: &[Segment]) -> String {
    let one = |(index, segment): (usize, &Segment)| match segment {
        Segment::Field(name) if index == 0 => clip(name),
        Segment::Field(name) => format!(".{}", clip(name)),
        Segment::Item(index) => format!("[{index}]"),
    };
    path.iter().enumerate().map(one).collect()
}

/// A value and its place.
pub(crate) struct Node<'a> {
    value: &'a Value,
    path: Vec<Segment>,
    sink: &'a Sink,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value, sink: &'a Sink) -> Self {
        Self { value, path: Vec::new(), sink }
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn child(&self, key: &str, value: &'a Value) -> Self {
        let mut path = self.path.clone();
        path.push(Segment::Field(key.to_owned()));
        Self { value, path, sink: self.sink }
    }

    /// The value of a key of a mapping that somebody else defines.
    pub(super) fn at(&self, key: &str) -> Option<Self> {
        self.value.get(key).filter(|value| !value.is_null()).map(|value| self.child(key, value))
    }

    /// The same value at the same place.
    pub(super) fn again(&self) -> Self {
        Self { value: self.value, path: self.path.clone(), sink: self.sink }
    }

    /// Records a problem at this value.
    pub(crate) fn fail(&self, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        self.sink.push(&self.path, Part::Value, Problem::new(what, why, fix));
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "empty",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        }
    }

    fn wrong_kind(&self, wanted: &str, example: &str) {
        self.fail(format!("this is {}", self.kind()), format!("{wanted} is expected here"), example);
    }

    pub(crate) fn text(&self) -> Option<String> {
        match self.value {
            Value::String(text) if text.contains('\0') => {
                self.fail("a NUL character", "it cannot be passed on", "remove it");
                None
            }
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => {
                self.wrong_kind("text", &format!("put it in quotes: \"{}\"", self.value));
                None
            }
            Value::Null | Value::Array(_) | Value::Object(_) => {
                self.wrong_kind("text", "write one value, in quotes where in doubt");
                None
            }
        }
    }

    /// Text that passes `check`; `rule` says what that is.
    pub(crate) fn name(&self, check: fn(&str) -> bool, rule: &str) -> Option<String> {
        let text = self.text()?;
        if check(&text) {
            return Some(text);
        }
        self.fail(format!("`{}` is not a valid name", clip(&text)), rule.to_owned(), "choose another name");
        None
    }

    pub(crate) fn truth(&self) -> Option<bool> {
        if let Value::Bool(truth) = self.value {
            return Some(*truth);
        }
        self.wrong_kind("true or false", "write `true` or `false` without quotes");
        None
    }

    pub(crate) fn number(&self, min: u32, max: u32) -> Option<u32> {
        let number = self.value.as_u64().and_then(|n| u32::try_from(n).ok());
        match number {
            Some(n) if (min..=max).contains(&n) => Some(n),
            _ if self.value.is_number() => {
                self.fail(
                    format!("{} is out of bounds", self.value),
                    format!("a whole number from {min} to {max} is expected"),
                    "choose one in between",
                );
                None
            }
            _ => {
                self.wrong_kind("a whole number", "write digits without quotes");
                None
            }
        }
    }

    pub(crate) fn length(&self, max: Duration) -> Option<Length> {
        let text = match self.value.as_number() {
            Some(number) => number.to_string(),
            None => self.text()?,
        };
        match parse_length(&text, max) {
            Ok(length) => Some(length),
            Err(error) => {
                let words = error.to_string();
                let (what, fix) = words.split_once("; ").unwrap_or((&words, "choose one in between"));
                self.fail(what, "every wait has a bound", fix);
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.fail(format!("`{}` is unknown", clip(&text)), one_of(&known), suggest(&text, &known));
        None
    }

    pub(crate) fn list(&self) -> Option<Vec<Node<'a>>> {
        let Value::Array(items) = self.value else {
            self.wrong_kind("a list", "write `- item` lines or `[item, item]`");
            return None;
        };
        let child = |(index, value)| {
            let mut path = self.path.clone();
            path.push(Segment::Item(index));
            Node { value, path, sink: self.sink }
        };
        Some(items.iter().enumerate().map(child).collect())
    }

    /// A list of texts with at most `max` items.
    pub(crate) fn texts(&self, max: usize) -> Option<Vec<String>> {
        let items = self.list()?;
        if items.len() > max {
            self.fail(
                format!("{} items", items.len()),
                format!("at most {max} are allowed"),
                "shorten the list",
            );
            return None;
        }
        // Read every item before giving up, so that every problem is found.
        let texts: Vec<Option<String>> = items.iter().map(Node::text).collect();
        texts.into_iter().collect()
    }

    /// Key → text, as labels are written.
    pub(crate) fn text_map(&self) -> Option<Vec<(String, String)>> {
        let Value::Object(map) = self.value else {
            self.wrong_kind("a mapping of text", "write `{key: value}`");
            return None;
        };
        let pairs: Vec<_> =
            map.iter().map(|(key, value)| Some((key.clone(), self.child(key, value).text()?))).collect();
        pairs.into_iter().collect()
    }

    /// Label = value pairs, each checked as Kubernetes does.
    pub(crate) fn labels(&self) -> Option<Vec<(String, String)>> {
        let pairs = self.text_map()?;
        for (key, value) in &pairs {
            if let Err(error) =
                crate::select::check_label(key).and_then(|()| crate::select::check_value(value))
            {
                self.fail(error.to_string(), "no pod can carry such a label", "correct it");
                return None;
            }
        }
        Some(pairs)
    }

    /// A mapping that knows only these keys. Unknown ones are recorded at once.
    pub(crate) fn fields(&self, noun: &'static str, known: &'static [&'static str]) -> Option<Fields<'a>> {
        let Value::Object(map) = self.value else {
            self.wrong_kind(&format!("{noun} (a mapping)"), &format!("write it with {}", list_words(known)));
            return None;
        };
        for key in map.keys().filter(|key| !known.contains(&key.as_str())).take(MAX_PROBLEMS) {
            let mut path = self.path.clone();
            path.push(Segment::Field(key.clone()));
            self.sink.push(
                &path,
                Part::Key,
                Problem::new(
                    format!("unknown field `{}`", clip(key)),
                    format!("{noun} knows {}", list_words(known)),
                    suggest(key, known),
                ),
            );
        }
        Some(Fields { map, noun, at: Node { value: self.value, path: self.path.clone(), sink: self.sink } })
    }
}

/// The fields of a mapping.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    noun: &'static str,
    at: Node<'a>,
}

impl<'a> Fields<'a> {
    /// The mapping itself.
    pub(crate) fn node(&self) -> &Node<'a> {
        &self.at
    }

    /// A field that may be absent. Present but empty is a problem: somebody stopped writing.
    pub(crate) fn get(&self, key: &str) -> Option<Node<'a>> {
        let node = self.at.child(key, self.map.get(key)?);
        if node.value.is_null() {
            node.fail(
                format!("`{key}` is empty"),
                "nothing can be meant by it",
                "give it a value or remove it",
            );
        }
        Some(node)
    }

    /// A field that must be there.
    pub(crate) fn required(&self, key: &str) -> Option<Node<'a>> {
        let node = self.get(key);
        if node.is_none() {
            self.at.fail(
                format!("`{key}` is missing"),
                format!("{} needs it", self.noun),
                did_you_mean(key, self.map),
            );
        }
        node.filter(|node| !node.value.is_null())
    }

    /// Reads an optional field: `Some(None)` when absent, `None` when it is wrong.
    #[expect(clippy::option_option, reason = "absent and wrong are two things; wrong is already in the sink")]
    pub(crate) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.get(key) {
            None => Some(None),
            Some(node) if node.value.is_null() => None,
            Some(node) => read(&node).map(Some),
        }
    }
}
