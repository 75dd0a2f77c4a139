//! Where `${params.name}` may stand: as an argument, a variable, a header or a part of a path. Elsewhere a shell or a
//! database would read the value as a part of its own language.

use serde_json::Value;

use crate::api::params::used;
use crate::api::{Invocation, Param};

use super::node::Node;
use super::words::suggest;

const MARK: &str = "${params.";

/// Records every use of a parameter that is not declared or stands where it must not.
pub(super) fn check(node: &Node<'_>, declared: &[Param]) {
    match node.value() {
        Value::Array(_) => node.list().iter().flatten().for_each(|item| check(item, declared)),
        Value::Object(map) => {
            for (key, value) in map {
                let child = node.child(key, value);
                match (key.as_str(), value) {
                    ("command", Value::Array(_)) => arguments(&child, declared),
                    ("env" | "headers", Value::Array(_)) => entries(&child, declared),
                    ("path", Value::String(_)) => allowed(&child, declared),
                    ("shell", Value::String(text)) => in_script(&child, text),
                    _ => check(&child, declared),
                }
            }
        }
        Value::String(text) if text.contains(MARK) => child_text(node),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn child_text(node: &Node<'_>) {
    node.fail(
        "a parameter in a text that is not an argument",
        "its value would be read as a part of that text's own language",
        "use it in an item of `command`, the `value` of `env` or `headers`, or `path`",
    );
}

fn in_script(node: &Node<'_>, text: &str) {
    if let Some(name) = used(text).first() {
        node.fail(
            "a parameter in a shell's text",
            "its value would be read as commands",
            format!(
                "give it as a variable, `env: [{{name: VALUE, value: \"${{params.{name}}}\"}}]`, and write \"$VALUE\""
            ),
        );
    }
}

fn arguments(list: &Node<'_>, declared: &[Param]) {
    let items = list.list().unwrap_or_default();
    let argv: Vec<String> =
        items.iter().map(|item| item.value().as_str().unwrap_or_default().to_owned()).collect();
    let run = Invocation::Argv(argv);
    for (index, item) in items.iter().enumerate() {
        let Some(text) = item.value().as_str().filter(|text| text.contains(MARK)) else { continue };
        if index == 0 {
            item.fail(
                "a parameter as the program",
                "a rule says itself what it runs",
                "write the program, and use the parameter as an argument",
            );
        } else if run.shell_text() == Some(text) {
            in_script(item, text);
        } else {
            allowed(item, declared);
        }
    }
}

fn entries(list: &Node<'_>, declared: &[Param]) {
    for item in list.list().unwrap_or_default() {
        let Value::Object(map) = item.value() else { continue };
        for (key, value) in map {
            let child = item.child(key, value);
            if key == "value" { allowed(&child, declared) } else { check(&child, declared) }
        }
    }
}

fn allowed(node: &Node<'_>, declared: &[Param]) {
    let Some(text) = node.value().as_str() else { return };
    if text.matches(MARK).count() != used(text).len() {
        node.fail("`${params.` without its end", "no name can be read", "close it with `}`");
    }
    let known: Vec<&str> = declared.iter().map(|param| param.name.as_str()).collect();
    for name in used(text).into_iter().filter(|name| !known.contains(name)) {
        node.fail(
            format!("the parameter `{}` is unknown", super::words::clip(name)),
            "parameters are declared under `spec.params`",
            match suggest(name, &known) {
                fix if fix == "remove it" => format!("add `- {{name: {}}}` there", super::words::clip(name)),
                fix => fix,
            },
        );
    }
}
