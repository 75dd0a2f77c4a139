//! Text → tree, with bounds and without silent losses.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Problem;

/// Nesting of a rule is below ten.
const MAX_DEPTH: u32 = 32;
/// Values in a text, aliases counted each time that they are used: bounds what a few bytes can blow up to.
const MAX_VALUES: u32 = 50_000;
/// Text has at most one `[` or `{` in so many bytes of what it may be long: 4096 in a rule.
const BYTES_PER_OPENER: usize = 64;
/// Bytes of text values, aliases counted each time.
const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn too_long(limit: usize) -> Problem {
    Problem::new(
        format!("more than {} KiB of text", limit / 1024),
        "this is not what a person writes",
        "check that it is the right file",
    )
}

/// The text of the only document, with everything where it was: without the byte-order mark that some editors write
/// first, and with the marks of empty documents before and after it blanked out.
pub fn only_document(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<&str> = text.split('\n').collect();
    let says_nothing = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let is_mark = |line: &str| {
        let mut words = line.split_whitespace();
        let first = line.starts_with(['-', '.']) && matches!(words.next(), Some("---" | "..."));
        first && words.next().is_none_or(|word| word.starts_with('#'))
    };
    let mut changed = false;
    loop {
        let mut speaking = (0..lines.len()).filter(|at| !says_nothing(&lines[*at]));
        let (first, second) = (speaking.next(), speaking.next());
        let last = speaking.next_back().or(second);
        let empty = match (first, second, last) {
            (Some(first), Some(second), _) if is_mark(lines[first]) && is_mark(lines[second]) => first,
            (_, Some(_), Some(last)) if is_mark(lines[last]) => last,
            (_, _, _) => break,
        };
        lines[empty] = "";
        changed = true;
    }
    if changed { Cow::Owned(lines.join("\n")) } else { Cow::Borrowed(text) }
}

/// A value whose type is not one of JSON: the library reads it as plain text, which is not what it says.
fn refuse_foreign_tags(text: &str) -> Result<(), Problem> {
    const KNOWN: [&str; 7] = ["str", "int", "float", "bool", "null", "map", "seq"];
    for (line, number) in text.lines().zip(1_u32..) {
        for (at, _) in line.match_indices("!!") {
            let before = line[..at].trim_end();
            let begins = before.is_empty() || before.ends_with([':', '-', ',', '[', '{', '?']);
            let apart = at == 0 || line[..at].ends_with([' ', '\t', '[', '{', ',']);
            let name: String = line[at + 2..].chars().take_while(char::is_ascii_alphanumeric).collect();
            if begins && apart && !name.is_empty() && !KNOWN.contains(&name.as_str()) {
                let column = u32::try_from(line[..at].chars().count()).unwrap_or(u32::MAX).saturating_add(1);
                return Err(Problem::new(
                    format!("a value of the type `!!{}`", super::clip(&name)),
                    "it would be taken as the text that it is written as",
                    "write the value itself, without a tag; put it in quotes where it is meant as text",
                )
                .at(Some((number, column))));
            }
        }
    }
    Ok(())
}

/// Reads exactly one document.
pub(super) fn parse(text: &str, limit: usize) -> Result<Value, Problem> {
    if text.len() > limit {
        return Err(too_long(limit));
    }
    refuse_deep_nesting(text, limit / BYTES_PER_OPENER)?;
    refuse_foreign_tags(text)?;
    let budget = Budget { values: Cell::new(MAX_VALUES), bytes: Cell::new(MAX_VALUE_BYTES) };
    let mut found = None;
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Tree { budget: &budget, depth: 0 }.deserialize(document).map_err(syntax)?;
        if found.is_some() {
            return Err(Problem::new(
                "several documents",
                "exactly one is expected here",
                "split the file at the `---` lines",
            ));
        }
        found = Some(value);
    }
    match found {
        None | Some(Value::Null) => Err(Problem::new(
            "the text is empty",
            "there is nothing to read",
            "check that it is the right file",
        )),
        Some(value) => Ok(value),
    }
}

/// The library's scanner takes time with the square of the nesting and refuses none, so what could be nested too
/// deeply is refused before it. Text in quotes is counted as well: telling it apart needs the scanner.
fn refuse_deep_nesting(text: &str, max_openers: usize) -> Result<(), Problem> {
    let openers = text.bytes().filter(|c| matches!(c, b'[' | b'{')).count();
    let indicators = |line: &str| {
        let words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        words.take_while(|word| matches!(*word, "-" | "?")).count()
    };
    if openers > max_openers || text.lines().any(|line| indicators(line) > MAX_DEPTH as usize) {
        return Err(too_deep());
    }
    Ok(())
}

fn too_deep() -> Problem {
    Problem::new(
        "nested too deeply, or too many brackets",
        "nothing that is read here needs that",
        format!("keep nesting below {MAX_DEPTH}, and long scripts in files of their own"),
    )
}

/// Words from the YAML library become a problem with a place.
fn syntax(error: serde_yaml::Error) -> Problem {
    let place = super::locate::place(&error);
    let full = error.to_string();
    let words = full.split(" at line ").next().unwrap_or(&full);
    let (why, fix) = match words {
        w if w.contains(DUPLICATE) => ("one of the two would silently be dropped", "keep one of them"),
        w if w.contains("recursion limit") => return too_deep().at(place),
        w if w.contains(TOO_MUCH) || w.contains("repetition limit") => (
            "aliases repeat too much or there is too much of it",
            "write it out, or check that it is the right file",
        ),
        w if w.contains("invalid type") => (
            "only plain mappings, lists and values are read",
            "remove tags, and quote keys that are not text",
        ),
        _ => ("it is not well-formed YAML", "check indentation, colons and quotes near that place"),
    };
    Problem::new(words.to_owned(), why, fix).at(place)
}

const DUPLICATE: &str = "is given twice";
const TOO_MUCH: &str = "too much text";

struct Budget {
    values: Cell<u32>,
    bytes: Cell<usize>,
}

/// Deserializes any document into a [`Value`] without silent losses.
#[derive(Clone, Copy)]
struct Tree<'a> {
    budget: &'a Budget,
    depth: u32,
}

impl Tree<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("recursion limit"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn spend<E: Error>(self, bytes: usize) -> Result<(), E> {
        let values = self.budget.values.get().checked_sub(1).ok_or_else(|| E::custom(TOO_MUCH))?;
        let left = self.budget.bytes.get().checked_sub(bytes).ok_or_else(|| E::custom(TOO_MUCH))?;
        self.budget.values.set(values);
        self.budget.bytes.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list or a plain value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }

    /// An empty document, not an empty value.
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(FreshKey { seen: &map, budget: self })? {
            let value = entries.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key that was not there before. Checked while it is read, so that the error has the key's place.
struct FreshKey<'a> {
    seen: &'a Map<String, Value>,
    budget: Tree<'a>,
}

impl<'de> DeserializeSeed<'de> for FreshKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for FreshKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        self.budget.spend(key.len())?;
        if self.seen.contains_key(key) {
            return Err(E::custom(format!("`{key}` {DUPLICATE}")));
        }
        Ok(key.to_owned())
    }
}
