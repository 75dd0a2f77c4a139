//! Parameters of a rule: declared with a type and perhaps a default, used as `${params.name}`.
//!
//! A value becomes one argument of a command, one environment variable, one header or one part of a path, never a
//! part of a text that a shell or a database reads: there it could say something else than it should.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::action::{Check, Command, Deed, Invocation};
use super::env::EnvEntry;
use super::hold::Hold;
use super::http::HttpCall;
use super::{Rule, Step};

/// A parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Param {
    /// Its name.
    #[cfg_attr(
        feature = "kube",
        schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))
    )]
    pub name: String,
    /// What its values are; text when absent.
    #[serde(default, rename = "type", skip_serializing_if = "super::is_default")]
    pub kind: ParamKind,
    /// Its value where none is given; without a default one must be given.
    #[cfg_attr(feature = "kube", schemars(length(max = 4096)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// What the values of a parameter are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ParamKind {
    /// Any text without control characters that does not begin with `-`: it must not be taken for an option.
    #[default]
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A length of time, as `10s`.
    Duration,
}

/// Why parameters do not fit a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// Not declared.
    #[error(
        "the rule has no parameter `{0}`; it has {1}; correct the name or declare it under `spec.params`"
    )]
    Unknown(String, String),
    /// No value.
    #[error("the parameter `{0}` has no value and no default; give one")]
    Missing(String),
    /// Not of its type.
    #[error("the parameter `{name}` cannot be {value:?}: {why}; give another value")]
    Unfit {
        /// The parameter.
        name: String,
        /// The value.
        value: String,
        /// The reason.
        why: &'static str,
    },
}

impl ParamKind {
    /// Whether a value is of this type.
    pub fn check(self, value: &str) -> Result<(), &'static str> {
        match self {
            Self::Text if value.starts_with('-') => Err("a text that begins with `-` is taken for an option"),
            Self::Text if value.len() > 4096 => Err("it is longer than 4096 bytes"),
            Self::Text if value.chars().any(char::is_control) => Err("it has control characters"),
            Self::Text => Ok(()),
            Self::Integer => value.parse::<i64>().map(drop).map_err(|_| "it is no whole number"),
            Self::Boolean => {
                if matches!(value, "true" | "false") {
                    Ok(())
                } else {
                    Err("it is neither true nor false")
                }
            }
            Self::Duration => value.parse::<super::Length>().map(drop).map_err(|_| "it is no length of time"),
        }
    }
}

/// The values of all parameters of a rule.
fn values(
    params: &[Param],
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ParamError> {
    if let Some(stranger) = given.keys().find(|name| params.iter().all(|param| param.name != **name)) {
        let known: Vec<&str> = params.iter().map(|param| param.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(ParamError::Unknown(stranger.chars().take(60).collect(), known));
    }
    let mut values = BTreeMap::new();
    for param in params {
        let value = given.get(&param.name).or(param.default.as_ref());
        let value = value.ok_or_else(|| ParamError::Missing(param.name.clone()))?;
        param.kind.check(value).map_err(|why| ParamError::Unfit {
            name: param.name.clone(),
            value: value.chars().take(60).collect(),
            why,
        })?;
        values.insert(param.name.clone(), value.clone());
    }
    Ok(values)
}

/// The names of parameters that a text uses.
pub fn used(text: &str) -> Vec<&str> {
    text.split("${params.").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).collect()
}

/// The rule with every `${params.name}` replaced.
pub fn resolve(mut rule: Rule, given: &BTreeMap<String, String>) -> Result<Rule, ParamError> {
    let values = values(&rule.spec.params, given)?;
    let filler = Filler { values: &values };
    for step in &mut rule.spec.steps {
        filler.step(step);
    }
    Ok(rule)
}

struct Filler<'a> {
    values: &'a BTreeMap<String, String>,
}

impl Filler<'_> {
    fn step(&self, step: &mut Step) {
        for command in [&mut step.pods.where_, &mut step.before, &mut step.after].into_iter().flatten() {
            self.command(command);
        }
        if let Some(Hold { run, env, .. }) = &mut step.hold {
            self.invocation(run);
            self.entries(env);
        }
    }

    fn command(&self, command: &mut Command) {
        self.entries(&mut command.env);
        match &mut command.run {
            Deed::Run(run) => self.invocation(run),
            Deed::Http(call) => self.call(call),
            Deed::Wait(wait) => match &mut wait.until {
                Check::Run(run) => self.invocation(run),
                Check::Http(call) => self.call(call),
            },
        }
    }

    /// A text that a shell reads is left alone: [`crate::text`] has refused parameters in it.
    fn invocation(&self, run: &mut Invocation) {
        let script = run.shell_text().map(str::to_owned);
        if let Invocation::Argv(argv) = run {
            for arg in argv.iter_mut().skip(1).filter(|arg| script.as_deref() != Some(arg)) {
                *arg = self.fill(arg, |value| value.to_owned());
            }
        }
    }

    fn call(&self, call: &mut HttpCall) {
        self.entries(&mut call.headers);
        call.path = self.fill(&call.path, percent_encoded);
    }

    fn entries(&self, entries: &mut [EnvEntry]) {
        for value in entries.iter_mut().filter_map(|entry| entry.value.as_mut()) {
            *value = self.fill(value, |value| value.to_owned());
        }
    }

    /// Once over the text: a value that looks like a parameter is a value.
    fn fill(&self, text: &str, quote: impl Fn(&str) -> String) -> String {
        let mut parts = text.split("${params.");
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match part.split_once('}').and_then(|(name, rest)| Some((self.values.get(name)?, rest))) {
                Some((value, rest)) => {
                    filled.push_str(&quote(value));
                    filled.push_str(rest);
                }
                None => {
                    filled.push_str("${params.");
                    filled.push_str(part);
                }
            }
        }
        filled
    }
}

fn percent_encoded(value: &str) -> String {
    use std::fmt::Write;

    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn rule(action: &str) -> Rule {
        let text = format!(
            "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {{name: r}}\nspec:\n  params:\n  - {{name: db, default: shop}}\n  - {{name: count, type: integer}}\n  steps:\n  - name: a\n    pods: {{selector: {{matchLabels: {{a: b}}}}}}\n    before: {action}\n"
        );
        crate::text::parse(&text).unwrap()
    }

    #[test]
    fn a_value_becomes_one_argument_whatever_it_contains() {
        let rule = rule(r#"{command: [dump, "--db=${params.db}", "${params.count}"]}"#);
        let hostile = "x; rm -rf / $(id) ${params.count} \"'";
        let resolved = resolve(rule, &given(&[("db", hostile), ("count", "7")])).unwrap();
        let run = resolved.spec.steps[0].before.as_ref().unwrap().invocation().unwrap();
        assert_eq!(run.argv(), ["dump".to_owned(), format!("--db={hostile}"), "7".to_owned()]);
    }

    #[test]
    fn a_value_in_a_path_is_one_part_of_it() {
        let rule = rule(r#"{http: {port: 80, path: "/db/${params.db}/flush"}}"#);
        let resolved = resolve(rule, &given(&[("db", "a/../b?c=d e"), ("count", "1")])).unwrap();
        let Deed::Http(call) = &resolved.spec.steps[0].before.as_ref().unwrap().run else { panic!() };
        assert_eq!(call.path, "/db/a%2F..%2Fb%3Fc%3Dd%20e/flush");
    }

    #[test]
    fn values_are_checked_by_type_and_name() {
        let table = [
            (vec![], "`count` has no value"),
            (vec![("count", "many")], "it is no whole number"),
            (vec![("count", "1"), ("bd", "x")], "no parameter `bd`; it has db, count"),
            (vec![("count", "1"), ("db", "--drop")], "taken for an option"),
            (vec![("count", "1"), ("db", "a\nb")], "control characters"),
        ];
        for (pairs, words) in table {
            let error = resolve(rule("{command: [x]}"), &given(&pairs)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(ParamKind::Boolean.check("yes").is_err() && ParamKind::Duration.check("10").is_err());
        assert!(ParamKind::Boolean.check("true").is_ok() && ParamKind::Duration.check("10s").is_ok());
    }
}
