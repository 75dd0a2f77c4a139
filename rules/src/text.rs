//! YAML text in, [`Rule`] out, and back.
//!
//! Three forms are read: the canonical one (`apiVersion: stillpoint.dev/v1alpha1`), the short form (`kind: Rule`,
//! a name, then `podSelector`, `type: command`, `value`), and Stork's (`apiVersion: stork.libopenstorage.org/…`).
//! Text goes through [`serde_json::Value`] because an enum written as a YAML map does not come through the YAML
//! deserializer, and because the same checks then serve every form.
//!
//! Whatever is wrong is said with its place (field path, line, column), what, why and how to fix it; all that can
//! be found at once is said at once.

mod canonical;
mod deeds;
mod locate;
mod node;
mod problem;
mod selector_form;
pub(crate) mod shell;
mod usage;
mod velero;
mod words;
mod write;
mod yaml;

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::api::{API_VERSION, Metadata, Rule, RuleSpec, limits};

pub(crate) use locate::Segment as PathPart;
pub(crate) use node::{Fields, Node, Sink};
pub use problem::{Problem, TextError};
pub(crate) use words::clip;
#[cfg(feature = "kube")]
pub(crate) use words::clip_to;
pub use yaml::only_document;

/// When a rule runs that was written in a form which does not say it (the short form, Stork's): those forms
/// leave it to whoever refers to the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Its commands run before the cut.
    #[default]
    Before,
    /// Its commands run after the cut.
    After,
}

/// The form that a text was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// [`API_VERSION`].
    Canonical,
    /// `podSelector`, `type`, `value` without an `apiVersion`.
    Short,
    /// Stork's `Rule`.
    Stork,
}

/// Reads a rule in any form; commands of the older forms run before the cut. One whose name tells otherwise is refused.
pub fn parse(text: &str) -> Result<Rule, TextError> {
    parse_as(text, Role::Before)
}

/// Reads a rule in any form.
pub fn parse_as(text: &str, role: Role) -> Result<Rule, TextError> {
    decode(text, limits::RULE_BYTES, |root| match form(root)? {
        Form::Canonical => canonical::rule(root),
        Form::Short | Form::Stork => {
            let rule = selector_form::rule(root, Some(role), &mut Vec::new())?;
            if role == Role::Before && selector_form::told_by(&rule.metadata.name) == Some(Role::After) {
                root.fail(
                    format!("`{}` is called as a rule that runs after the snapshot", rule.metadata.name),
                    "rules of this form do not say when they run, and here it would run before it",
                    "convert it first: `stillpoint rule convert`",
                );
                return None;
            }
            Some(rule)
        }
    })
}

/// A rule that was written in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The rule.
    pub rule: Rule,
    /// What a person should know about it: what was assumed, and what was left out and why. One line each.
    pub notes: Vec<String>,
}

/// Reads a rule in any form, or the hook annotations of Velero on some object. `role` is when a rule runs whose form
/// does not say it; without it its name decides, else it runs before the cut. Everything that the result does not say
/// is in the notes, or the text is refused.
pub fn convert(text: &str, role: Option<Role>) -> Result<Converted, TextError> {
    let mut notes = Vec::new();
    let rule = decode(text, limits::RULE_BYTES, |root| {
        if velero::has_hooks(root.value()) {
            return velero::rule(root, &mut notes);
        }
        match form(root)? {
            Form::Canonical => {
                left_out(root.at("metadata").as_ref(), &mut notes);
                canonical::rule(root)
            }
            Form::Short | Form::Stork => selector_form::rule(root, role, &mut notes),
        }
    })?;
    notes.sort();
    notes.dedup();
    Ok(Converted { rule, notes })
}

/// Names the labels and annotations that a converted rule does not have.
fn left_out(metadata: Option<&Node<'_>>, notes: &mut Vec<String>) {
    for field in ["labels", "annotations"] {
        let Some(map) = metadata.and_then(|node| node.at(field)) else { continue };
        let keys: Vec<String> =
            map.value().as_object().into_iter().flatten().map(|(key, _)| clip(key)).collect();
        if !keys.is_empty() {
            notes.push(format!(
                "{field} are left out, because rules do nothing with them: {}",
                keys.join(", ")
            ));
        }
    }
}

/// Line and column, counted from 1, of a field of a text that was read before.
pub(crate) fn place(text: &str, path: &[PathPart]) -> Option<(u32, u32)> {
    locate::locate(&only_document(text), path, locate::Part::Value)
}

/// Reads a rule from a file, never more of it than a rule may be long.
pub fn parse_file(path: &Path, role: Role) -> Result<Rule, TextError> {
    let text = read_bounded(path, limits::RULE_BYTES)?;
    parse_as(&text, role).map_err(|error| error.in_file(path))
}

/// Writes the canonical form.
pub fn to_yaml(rule: &Rule) -> Result<String, TextError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        api_version: &'static str,
        kind: &'static str,
        metadata: &'a Metadata,
        spec: &'a RuleSpec,
    }
    let document =
        Document { api_version: API_VERSION, kind: "Rule", metadata: &rule.metadata, spec: &rule.spec };
    write_yaml(&document)
}

/// Reads at most `limit` bytes of UTF-8; a longer file is refused without reading on.
pub(crate) fn read_bounded(path: &Path, limit: usize) -> Result<String, TextError> {
    use std::io::Read;

    let fail = |why: String, fix: &str| {
        TextError::single(Problem::new("cannot be read", why, fix.to_owned())).in_file(path)
    };
    let file = std::fs::File::open(path).map_err(|e| fail(e.to_string(), "check path and permissions"))?;
    let mut bytes = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut bytes).map_err(|e| fail(e.to_string(), "check the file"))?;
    if bytes.len() > limit {
        return Err(TextError::single(yaml::too_long(limit)).in_file(path));
    }
    String::from_utf8(bytes).map_err(|e| fail(e.to_string(), "save it as UTF-8"))
}

/// Text → tree → `T`, with every problem put in its place in the text.
pub(crate) fn decode<T>(
    text: &str,
    limit: usize,
    read: impl FnOnce(&Node<'_>) -> Option<T>,
) -> Result<T, TextError> {
    let text = &*only_document(text);
    let tree = yaml::parse(text, limit).map_err(TextError::single)?;
    let sink = Sink::default();
    let value = read(&Node::root(&tree, &sink));
    let problems = sink.into_problems(text);
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ if problems.is_empty() => Err(TextError::single(Problem::new(
            "cannot be read",
            "no reason was recorded".to_owned(),
            "report this text as a bug",
        ))),
        _ => Err(TextError { file: None, problems }),
    }
}

/// Tree → `T`, for what was read by another reader and has no places.
pub(crate) fn decode_value<T>(
    tree: &Value,
    read: impl FnOnce(&Node<'_>) -> Option<T>,
) -> Result<T, TextError> {
    let sink = Sink::default();
    let value = read(&Node::root(tree, &sink));
    let problems = sink.into_problems("");
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(TextError { file: None, problems }),
    }
}

/// Writes a value so that every reader of YAML, of version 1.1 or 1.2, reads the same.
pub fn write_yaml<T: Serialize>(value: &T) -> Result<String, TextError> {
    write::yaml(value)
        .map_err(|why| TextError::single(Problem::new("cannot be written as YAML", why, "report this")))
}

/// Which form the text is in.
pub fn detect(text: &str) -> Result<Form, TextError> {
    decode(text, limits::RULE_BYTES, form)
}

fn form(root: &Node<'_>) -> Option<Form> {
    let Value::Object(top) = root.value() else {
        root.fail(
            format!("a rule is a mapping, this is {}", root.kind()),
            "it must say what it is and what it is called",
            "start with `apiVersion: stillpoint.dev/v1alpha1`, `kind: Rule`",
        );
        return None;
    };
    if let Some(kind) = top.get("kind")
        && kind != "Rule"
    {
        root.child("kind", kind).fail(
            format!("`kind` is {kind}, not Rule"),
            "only rules are read here",
            "write `kind: Rule`",
        );
        return None;
    }
    if !top.contains_key("kind") {
        root.fail("`kind` is missing", "the text must say what it is", words::did_you_mean("kind", top));
        return None;
    }
    match top.get("apiVersion") {
        Some(Value::String(version)) if version == API_VERSION => Some(Form::Canonical),
        Some(Value::String(version)) if version.starts_with("stork.libopenstorage.org/") => Some(Form::Stork),
        Some(other) => {
            root.child("apiVersion", other).fail(
                format!("`apiVersion` {other} is unknown"),
                "its fields would be guessed",
                format!("write `apiVersion: {API_VERSION}`, or Stork's `stork.libopenstorage.org/v1alpha1`, or none at all for the short form"),
            );
            None
        }
        None if top.get("spec").and_then(|spec| spec.get("steps")).is_some() => {
            root.fail(
                "`apiVersion` is missing",
                "a rule with `spec.steps` says which version of this form it is written in",
                format!("add `apiVersion: {API_VERSION}`"),
            );
            None
        }
        None => Some(Form::Short),
    }
}

#[cfg(test)]
mod tests;
