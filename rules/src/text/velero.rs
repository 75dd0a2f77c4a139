//! Velero's hook annotations, on a pod or on what makes pods (Deployment, StatefulSet, DaemonSet, …):
//!
//! ```yaml
//! pre.hook.backup.velero.io/command: '["/bin/sh", "-c", "flush"]'     post.hook.backup.velero.io/…
//! pre.hook.backup.velero.io/container: db
//! pre.hook.backup.velero.io/on-error: Fail | Continue
//! pre.hook.backup.velero.io/timeout: 30s
//! ```
//! The object is somebody else's: only labels, selector and these annotations are read.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::api::{
    Command, Invocation, LabelSelector, Length, Metadata, OnFailure, Pick, PodSet, Rule, RuleSpec, Step,
    is_dns_label, limits,
};

use super::canonical::{rule_name, selector};
use super::node::Node;
use super::words::{clip, suggest};

const GROUP: &str = ".hook.backup.velero.io/";
const KNOWN: &[&str] = &["command", "container", "on-error", "timeout"];
/// Velero's own default.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Labels that one pod gets from what made it: they do not select its siblings.
const OF_ONE_POD: &[&str] = &[
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "job-name",
];

/// Whether some object carries hooks.
pub(super) fn has_hooks(root: &Value) -> bool {
    let of = |metadata: &Value| {
        metadata
            .get("annotations")
            .and_then(Value::as_object)
            .is_some_and(|all| all.keys().any(|key| key.contains(GROUP)))
    };
    root.get("metadata").is_some_and(of) || template(root).and_then(|t| t.get("metadata")).is_some_and(of)
}

fn template(root: &Value) -> Option<&Value> {
    root.get("spec")?.get("template")
}

/// One half of the hooks.
struct Hook {
    run: Invocation,
    container: Option<String>,
    on_failure: OnFailure,
    timeout: Length,
}

/// The rule that does what the hooks do, with what a person should know about it.
pub(super) fn rule(root: &Node<'_>, notes: &mut Vec<String>) -> Option<Rule> {
    let metadata = root.at("metadata")?;
    let name = metadata.at("name").and_then(|name| rule_name(&name));
    let namespace = metadata.at("namespace").and_then(|node| node.text());
    let place = root.at("spec").and_then(|spec| spec.at("template")).and_then(|t| t.at("metadata"));
    let carrier = [Some(metadata.again()), place]
        .into_iter()
        .flatten()
        .find(|metadata| metadata.at("annotations").is_some_and(|node| has_group(node.value())))?;
    let annotations = carrier.at("annotations")?;
    refuse_strangers(&annotations);
    let pods = selected(root, &carrier)?;
    let (pre, post) = (hook(&annotations, "pre")?, hook(&annotations, "post")?);
    let (pre, post) = (without_freeze(pre, notes), without_freeze(post, notes));
    let steps = steps(&pods, pre, post);
    if steps.is_empty() {
        annotations.fail(
            "the hooks only freeze a filesystem",
            "Stillpoint freezes and thaws every member of a cut itself, and refuses one that is frozen already",
            "remove the hooks; no rule is needed",
        );
        return None;
    }
    Some(Rule {
        metadata: Metadata { name: name?, namespace: namespace.filter(|text| is_dns_label(text)) },
        spec: RuleSpec { params: Vec::new(), redact: Vec::new(), steps },
    })
}

fn has_group(annotations: &Value) -> bool {
    annotations.as_object().is_some_and(|all| all.keys().any(|key| key.contains(GROUP)))
}

/// A misspelt annotation is one that Velero ignores: the hook that somebody believes in does not exist.
fn refuse_strangers(annotations: &Node<'_>) {
    let Value::Object(all) = annotations.value() else { return };
    for (key, value) in all {
        let Some((half, word)) = key.split_once(GROUP) else { continue };
        if !matches!(half, "pre" | "post") || !KNOWN.contains(&word) {
            let fix = match suggest(word, KNOWN) {
                fix if matches!(half, "pre" | "post") => fix,
                _ => "begin it with `pre` or `post`".to_owned(),
            };
            annotations.child(key, value).fail(
                format!("`{}` is no hook", clip(key)),
                "Velero ignores it in silence",
                fix,
            );
        }
    }
}

fn selected(root: &Node<'_>, carrier: &Node<'_>) -> Option<LabelSelector> {
    if let Some(node) = root.at("spec").and_then(|spec| spec.at("selector")) {
        return selector(&node);
    }
    let labels = carrier.at("labels");
    let own: Map<String, Value> = labels
        .as_ref()
        .and_then(|node| node.value().as_object())
        .into_iter()
        .flatten()
        .filter(|(key, _)| !OF_ONE_POD.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if own.is_empty() {
        carrier.fail(
            "the pod has no labels",
            "a rule selects pods by label",
            "give it one, as `app: …`, or write `fromVolumes: true` into the converted rule",
        );
        return None;
    }
    let match_labels =
        own.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect();
    Some(LabelSelector { match_labels, match_expressions: Vec::new() })
}

/// `Some(None)`: there is none.
#[expect(clippy::option_option, reason = "absent and wrong are two things; wrong is already in the sink")]
fn hook(annotations: &Node<'_>, half: &str) -> Option<Option<Hook>> {
    let get = |word: &str| annotations.at(&format!("{half}{GROUP}{word}"));
    let Some(command) = get("command") else {
        let rest: Vec<&&str> = KNOWN.iter().filter(|word| get(word).is_some()).collect();
        if let Some(word) = rest.first() {
            annotations.fail(
                format!("`{half}{GROUP}{word}` without a command"),
                "Velero runs nothing then",
                format!("add `{half}{GROUP}command`, or remove it"),
            );
            return None;
        }
        return Some(None);
    };
    let run = argv(&command);
    let container = get("container").map(|node| super::canonical::container(&node));
    let on_failure = get("on-error")
        .map(|node| node.choice(&[("Fail", OnFailure::Abort), ("Continue", OnFailure::Degrade)]));
    let timeout = get("timeout").map(|node| node.length(limits::COMMAND_TIMEOUT));
    let default = Length::new(TIMEOUT, limits::COMMAND_TIMEOUT).ok()?;
    Some(Some(Hook {
        run: run?,
        container: container.map_or(Some(None), |read| read.map(Some))?,
        on_failure: on_failure.unwrap_or(Some(OnFailure::Abort))?,
        timeout: timeout.unwrap_or(Some(default))?,
    }))
}

/// A JSON list, or else one program without arguments: that is how Velero reads it.
fn argv(node: &Node<'_>) -> Option<Invocation> {
    let text = node.text()?;
    let argv = if text.trim_start().starts_with('[') {
        match serde_json::from_str::<Vec<String>>(&text) {
            Ok(argv) => argv,
            Err(error) => {
                node.fail(error.to_string(), "it begins like a JSON list of texts", "correct the list");
                return None;
            }
        }
    } else if text.contains(char::is_whitespace) {
        node.fail(
            format!("`{}` is one program with spaces in its name", clip(&text)),
            "Velero takes a text that is no JSON list for the program alone",
            "write it as a list: '[\"/bin/sh\", \"-c\", \"…\"]'",
        );
        return None;
    } else {
        vec![text]
    };
    let run = Invocation::Argv(argv);
    match run.check() {
        Ok(()) => Some(run),
        Err(error) => {
            node.fail(error.to_string(), "there is nothing to run", "write the command");
            None
        }
    }
}

fn without_freeze(hook: Option<Hook>, notes: &mut Vec<String>) -> Option<Hook> {
    let freezes = |hook: &Hook| hook.run.argv().iter().any(|word| word.contains("fsfreeze"));
    if hook.as_ref().is_some_and(freezes) {
        notes.push(
            "fsfreeze is left out: Stillpoint freezes and thaws the members of a cut itself, all together"
                .to_owned(),
        );
        return None;
    }
    hook
}

fn steps(selector: &LabelSelector, pre: Option<Hook>, post: Option<Hook>) -> Vec<Step> {
    let step = |name: &str, container: Option<String>, on_failure| Step {
        name: name.to_owned(),
        pods: PodSet {
            selector: Some(selector.clone()),
            from_volumes: false,
            container,
            min: None,
            parallel: None,
            pick: Pick::All,
            where_: None,
        },
        before: None,
        hold: None,
        after: None,
        on_failure,
    };
    let command = |hook: &Hook| Command { timeout: Some(hook.timeout), ..Command::new(hook.run.clone()) };
    match (pre, post) {
        (Some(pre), Some(post)) if pre.container == post.container => vec![Step {
            before: Some(command(&pre)),
            after: Some(command(&post)),
            ..step("hooks", pre.container.clone(), pre.on_failure)
        }],
        (pre, post) => {
            // The step with the `after` begins first, so that it is undone whatever the other does.
            let post = post.map(|hook| Step {
                after: Some(command(&hook)),
                ..step("post-hook", hook.container.clone(), OnFailure::Abort)
            });
            let pre = pre.map(|hook| Step {
                before: Some(command(&hook)),
                ..step("pre-hook", hook.container.clone(), hook.on_failure)
            });
            post.into_iter().chain(pre).collect()
        }
    }
}
