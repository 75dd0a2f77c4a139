//! YAML for other readers. Ours reads YAML 1.2; kubectl, Helm and most others read YAML 1.1, where plain `on`, `y`, `no`,
//! `1_000`, `0x_0A` and `1:30` are no texts. So only what is a word in every version is written plainly, and everything
//! else in quotes.

use std::fmt::Write as _;

use serde::Serialize;
use serde_yaml::Value;

/// Words that some version of YAML takes for something else than a text, in lower case.
const NOT_TEXT: [&str; 12] =
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"];

/// Writes a value in block style.
pub(super) fn yaml(value: &impl Serialize) -> Result<String, String> {
    let value = serde_yaml::to_value(value).map_err(|error| error.to_string())?;
    let mut out = String::new();
    block(&mut out, &value, 0)?;
    Ok(out)
}

/// A value that stands alone on its lines, each begun with so many blanks.
fn block(out: &mut String, value: &Value, indent: usize) -> Result<(), String> {
    match value {
        Value::Mapping(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let key = key.as_str().ok_or("a key is no text")?;
                pad(out, indent);
                out.push_str(&scalar_text(key));
                out.push(':');
                behind(out, value, indent)?;
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            for item in items {
                pad(out, indent);
                out.push('-');
                behind_dash(out, item, indent)?;
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Sequence(_)
        | Value::Mapping(_)
        | Value::Tagged(_) => {
            pad(out, indent);
            out.push_str(&scalar(value)?);
            out.push('\n');
        }
    }
    Ok(())
}

/// What follows `key:`.
fn behind(out: &mut String, value: &Value, indent: usize) -> Result<(), String> {
    match value {
        Value::Mapping(fields) if !fields.is_empty() => {
            out.push('\n');
            block(out, value, indent + 2)
        }
        Value::Sequence(items) if !items.is_empty() => {
            out.push('\n');
            block(out, value, indent)
        }
        Value::String(text) if is_block(text) => {
            lines(out, text, indent + 2);
            Ok(())
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Sequence(_)
        | Value::Mapping(_)
        | Value::Tagged(_) => {
            // Writing to a String cannot fail.
            let _ = writeln!(out, " {}", scalar(value)?);
            Ok(())
        }
    }
}

/// What follows `-`: a collection begins on the same line.
fn behind_dash(out: &mut String, value: &Value, indent: usize) -> Result<(), String> {
    let nested = match value {
        Value::Mapping(fields) => !fields.is_empty(),
        Value::Sequence(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Tagged(_) => false,
    };
    if !nested {
        return behind(out, value, indent);
    }
    let mut inner = String::new();
    block(&mut inner, value, indent + 2)?;
    out.push(' ');
    out.push_str(inner.get(indent + 2..).unwrap_or_default());
    Ok(())
}

fn scalar(value: &Value) -> Result<String, String> {
    Ok(match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) if number.as_f64().is_some_and(|n| !n.is_finite()) => {
            return Err("a number that is not finite".to_owned());
        }
        Value::Number(number) => number.to_string(),
        Value::String(text) => scalar_text(text),
        Value::Sequence(items) if items.is_empty() => "[]".to_owned(),
        Value::Mapping(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Sequence(_) | Value::Mapping(_) => return Err("a collection is no plain value".to_owned()),
        Value::Tagged(tagged) => return Err(format!("a tag `{}`", tagged.tag)),
    })
}

fn scalar_text(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// A word, or words with single blanks between them, that every version of YAML reads as itself.
fn is_plain(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'/');
    let rest = text.bytes().all(|c| c.is_ascii_alphanumeric() || b" _-./".contains(&c));
    let blanks = text.ends_with(' ') || text.contains("  ");
    let word = first && rest && !blanks && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str());
    // As `90d` and `1m30s`.
    let length = text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(['d', 'h', 'm', 's', 'w']);
    word || (length && text.bytes().all(|c| c.is_ascii_digit() || b"dhmsw".contains(&c)))
}

/// Between double quotes, with everything escaped that some reader would change: control characters, line breaks of
/// any version, and what cannot be seen.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        let code = u32::from(c);
        // Writing to a String cannot fail.
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => write!(out, "\\n"),
            '\t' => write!(out, "\\t"),
            '\r' => write!(out, "\\r"),
            '\0'..='\x1f' | '\x7f'..='\u{a0}' => write!(out, "\\x{code:02x}"),
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
                write!(out, "\\u{code:04x}")
            }
            '\u{fffe}' | '\u{ffff}' => write!(out, "\\u{code:04x}"),
            _ => write!(out, "{c}"),
        };
    }
    out.push('"');
    out
}

/// Whether a text can be written line by line as it is: every line is visible and begins and ends with something.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let visible = |c: char| c == '\n' || (' '..='~').contains(&c);
    let good = |line: &str| !line.ends_with(' ');
    body.contains('\n')
        && body.chars().all(visible)
        && body.split('\n').all(good)
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
}

fn lines(out: &mut String, text: &str, indent: usize) {
    out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in text.lines() {
        if !line.is_empty() {
            pad(out, indent);
        }
        out.push_str(line);
        out.push('\n');
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Texts that some version of YAML, or some reader, takes for something else.
    pub(crate) const TRICKY: [&str; 74] = [
        "",
        " ",
        "a ",
        " a",
        "y",
        "Y",
        "n",
        "N",
        "yes",
        "Yes",
        "NO",
        "on",
        "On",
        "OFF",
        "true",
        "TRUE",
        "False",
        "null",
        "Null",
        "~",
        "1",
        "-1",
        "+1",
        "1_000",
        "0x_0A",
        "0x1F",
        "0o7",
        "007",
        "0b1",
        "1:30",
        "1:30:00",
        "1e3",
        "1.5",
        ".5",
        "-.5",
        ".inf",
        "-.inf",
        ".NaN",
        "nan",
        "2026-12-01",
        "2026-12-01T04:00:00Z",
        "=",
        "<<",
        "-",
        "- a",
        "?",
        "? a",
        ":",
        "a: b",
        "a:",
        "#",
        "a #b",
        "&a",
        "*a",
        "!a",
        "!!binary aGk=",
        "|",
        ">",
        "%a",
        "@a",
        "`a`",
        "'",
        "\"",
        "{}",
        "[]",
        "a,b",
        "a\nb",
        "a\n b\n",
        "a\n\nb\n\n",
        "\ttab",
        "\u{feff}bom",
        "\u{85}next",
        "é😀\u{2028}",
        "\u{7f}\u{1b}[31m",
    ];

    fn read(text: &str) -> Value {
        super::super::yaml::parse(text, 1024 * 1024).unwrap_or_else(|problem| panic!("{problem}:\n{text}"))
    }

    #[test]
    fn every_text_and_key_is_read_back_as_it_was() {
        for text in TRICKY {
            let value = json!({ "plain": text, "list": [text, [text], { text: text }], "map": { text: [] }, "none": {} });
            assert_eq!(read(&yaml(&value).unwrap()), value, "{text:?}");
        }
    }

    #[test]
    fn what_is_a_word_everywhere_stays_plain_and_scripts_keep_their_lines() {
        let value = json!({ "command": ["nodetool", "flush"], "shell": "set -e\n\nflush\n", "value": "on" });
        let text = yaml(&value).unwrap();
        assert_eq!(text, "command:\n- nodetool\n- flush\nshell: |\n  set -e\n\n  flush\nvalue: \"on\"\n");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~\n\t]{0,30}".prop_map(Value::from),
            "[0-9_.:eExXoObB+-]{1,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5).prop_map(
                    |map: BTreeMap<String, Value>| map.into_iter().collect::<serde_json::Map<_, _>>().into()
                ),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(value in values().prop_filter("a document", |value| !value.is_null())) {
            let text = yaml(&value).unwrap();
            prop_assert_eq!(read(&text), value, "{}", text);
        }
    }
}
