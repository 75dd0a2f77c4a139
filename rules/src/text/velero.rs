//! Velero's hook annotations, on a pod or on what makes pods (Deployment, StatefulSet, DaemonSet, …):
//!
//! ```yaml
//! pre.hook.backup.velero.io/command: '["/bin/sh", "-c", "flush"]'     post.hook.backup.velero.io/…
//! pre.hook.backup.velero.io/container: db
//! pre.hook.backup.velero.io/on-error: Fail | Continue
//! pre.hook.backup.velero.io/timeout: 30s
//! ```
//! Without a phase (`hook.backup.velero.io/command`) it is a `pre` hook. The object is somebody else's: only its name,
//! labels, selector, containers and these annotations are read. Hooks of restores (`….hook.restore.velero.io/…`) run when
//! Velero restores; a rule has no place for them, so each is named.

use std::time::Duration;

use serde_json::Value;

use crate::api::{
    Command, Invocation, LabelSelector, Length, Metadata, OnFailure, Pick, PodSet, Rule, RuleSpec, Step,
    is_dns_label, limits,
};

use super::canonical::{rule_name, selector};
use super::node::Node;
use super::words::{clip, suggest};

const GROUP: &str = ".hook.backup.velero.io/";
/// As [`GROUP`], of the old spelling without a phase.
const OLD: &str = "hook.backup.velero.io/";
const RESTORE: &str = ".hook.restore.velero.io/";
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
    let of = |metadata: &Value| metadata.get("annotations").is_some_and(has_group);
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
    let namespace = match metadata.at("namespace") {
        None => Some(None),
        Some(node) => node.name(is_dns_label, NAMESPACE).map(Some),
    };
    let pod = root.at("spec").and_then(|spec| spec.at("template"));
    let place = pod.as_ref().and_then(|pod| pod.at("metadata"));
    let of_owner = metadata.at("annotations").filter(|node| has_group(node.value()));
    if let (Some(hooks), true) = (&of_owner, pod.is_some()) {
        hooks.fail(
            "hooks on what makes the pods",
            "Velero reads them on pods only, so it ignores these",
            "move them to `spec.template.metadata.annotations`, or remove them",
        );
        return None;
    }
    let carrier = if pod.is_some() { place? } else { metadata.again() };
    let annotations = carrier.at("annotations")?;
    refuse_strangers(&annotations);
    name_restore_hooks(&annotations, notes);
    let pods = selected(root, &carrier, notes)?;
    let (pre, post) = (pre_hook(&annotations), hook(&annotations, "post."));
    let (pre, post) =
        (without_freeze(&annotations, pre?, notes)?, without_freeze(&annotations, post?, notes)?);
    let first = first_container(root, pod.as_ref());
    let (pre, post) = (
        pre.map(|hook| hook.in_container(first.as_ref())),
        post.map(|hook| hook.in_container(first.as_ref())),
    );
    if pre.iter().chain(&post).any(|hook| hook.container.is_none()) {
        notes.push("no container is named, and Velero takes the first one: name it, because here the choice may be another one".to_owned());
    }
    if post.as_ref().is_some_and(|post| post.on_failure == OnFailure::Degrade) {
        notes.push("`on-error: Continue` of the post hook is left out: what comes after the snapshot is repeated until it succeeds, and never fails the snapshot".to_owned());
    }
    let steps = steps(&pods, pre, post);
    if steps.is_empty() {
        let (why, fix) = nothing_left(&annotations);
        annotations.fail("nothing is left for a rule to do", why, fix);
        return None;
    }
    Some(Rule {
        metadata: Metadata { name: name?, namespace: namespace? },
        spec: RuleSpec { params: Vec::new(), redact: Vec::new(), steps },
    })
}

const NAMESPACE: &str = "a namespace has up to 63 of a-z, 0-9 and -";

/// Why there are hooks and no step.
fn nothing_left(annotations: &Node<'_>) -> (&'static str, &'static str) {
    let backs_up = |key: &String| key.contains(GROUP) || key.starts_with(OLD);
    if annotations.value().as_object().is_some_and(|all| all.keys().any(backs_up)) {
        return (
            "the hooks only freeze a filesystem; Stillpoint freezes and thaws every member of a snapshot itself, and refuses one that is frozen already",
            "remove the hooks; no rule is needed",
        );
    }
    (
        "the hooks are for restores, and a rule runs around a snapshot",
        "run them by hand after `stillpoint restore`, or in an init container",
    )
}

fn has_group(annotations: &Value) -> bool {
    let ours = |key: &String| key.contains(GROUP) || key.starts_with(OLD) || key.contains(RESTORE);
    annotations.as_object().is_some_and(|all| all.keys().any(ours))
}

/// Every hook of a restore, by its whole name.
fn name_restore_hooks(annotations: &Node<'_>, notes: &mut Vec<String>) {
    let Value::Object(all) = annotations.value() else { return };
    let of_restores = all.keys().filter(|key| key.contains(RESTORE));
    notes.extend(of_restores.map(|key| {
        format!("{} is left out: a rule runs around a snapshot, and nothing of it at a restore", clip(key))
    }));
}

/// The container that Velero takes where none is named.
fn first_container(root: &Node<'_>, pod: Option<&Node<'_>>) -> Option<String> {
    let spec = pod.map_or_else(|| root.at("spec"), |pod| pod.at("spec"))?;
    let containers = spec.at("containers")?;
    let name = containers.value().as_array()?.first()?.get("name")?.as_str()?;
    is_dns_label(name).then(|| name.to_owned())
}

impl Hook {
    fn in_container(self, first: Option<&String>) -> Self {
        Self { container: self.container.or_else(|| first.cloned()), ..self }
    }
}

/// A misspelt annotation is one that Velero ignores: the hook that somebody believes in does not exist.
fn refuse_strangers(annotations: &Node<'_>) {
    let Value::Object(all) = annotations.value() else { return };
    for (key, value) in all {
        let (half, word) = match (key.split_once(GROUP), key.strip_prefix(OLD)) {
            (Some(parts), _) => parts,
            (None, Some(word)) => ("pre", word),
            (None, None) => continue,
        };
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

fn selected(root: &Node<'_>, carrier: &Node<'_>, notes: &mut Vec<String>) -> Option<LabelSelector> {
    if let Some(node) = root.at("spec").and_then(|spec| spec.at("selector")) {
        let full = ["matchLabels", "matchExpressions"].iter().any(|key| node.value().get(*key).is_some());
        if full {
            return selector(&node);
        }
        // A ReplicationController selects by plain labels.
        let match_labels = node.labels()?.into_iter().collect();
        return Some(LabelSelector { match_labels, match_expressions: Vec::new() });
    }
    let labels = match carrier.at("labels") {
        Some(node) => node.labels()?,
        None => Vec::new(),
    };
    let (of_one, own): (Vec<_>, Vec<_>) =
        labels.into_iter().partition(|(key, _)| OF_ONE_POD.contains(&key.as_str()));
    if !of_one.is_empty() {
        let keys: Vec<String> = of_one.into_iter().map(|(key, _)| key).collect();
        notes.push(format!("labels that only this one pod has do not select it: {}", keys.join(", ")));
    }
    if own.is_empty() {
        carrier.fail(
            "the pod has no labels",
            "a rule selects pods by label",
            "give it one, as `app: …`, or write `fromVolumes: true` into the converted rule",
        );
        return None;
    }
    Some(LabelSelector { match_labels: own.into_iter().collect(), match_expressions: Vec::new() })
}

/// The `pre` hook, or the one of the old spelling, which Velero takes where there is no other.
#[expect(clippy::option_option, reason = "absent and wrong are two things; wrong is already in the sink")]
fn pre_hook(annotations: &Node<'_>) -> Option<Option<Hook>> {
    let old = |key: &String| key.starts_with(OLD);
    let new = |key: &String| key.starts_with("pre.") && key.contains(GROUP);
    let all = || annotations.value().as_object().into_iter().flatten().map(|(key, _)| key);
    if all().any(old) && all().any(new) {
        annotations.fail(
            "two spellings of the pre hook",
            "Velero ignores `hook.backup.velero.io/…` beside `pre.hook.backup.velero.io/…`",
            "keep one of them",
        );
        return None;
    }
    hook(annotations, if all().any(old) { "" } else { "pre." })
}

/// `Some(None)`: there is none.
#[expect(clippy::option_option, reason = "absent and wrong are two things; wrong is already in the sink")]
fn hook(annotations: &Node<'_>, half: &str) -> Option<Option<Hook>> {
    let get = |word: &str| annotations.at(&format!("{half}{OLD}{word}"));
    let Some(command) = get("command") else {
        let rest: Vec<&&str> = KNOWN.iter().filter(|word| get(word).is_some()).collect();
        if let Some(word) = rest.first() {
            annotations.fail(
                format!("`{half}{OLD}{word}` without a command"),
                "Velero runs nothing then",
                format!("add `{half}{OLD}command`, or remove it"),
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

/// Nothing is left of a hook that only freezes or thaws; one that does something else besides is refused. `Some(None)`:
/// there is none.
#[expect(clippy::option_option, reason = "absent and wrong are two things; wrong is already in the sink")]
fn without_freeze(
    annotations: &Node<'_>,
    hook: Option<Hook>,
    notes: &mut Vec<String>,
) -> Option<Option<Hook>> {
    let Some(found) = hook else { return Some(None) };
    let argv = found.run.argv();
    if !argv.iter().any(|word| word.contains("fsfreeze")) {
        return Some(Some(found));
    }
    if !only_freezes(&argv) {
        annotations.fail(
            "a hook that freezes a filesystem and does something else",
            "Stillpoint freezes and thaws every member of a snapshot itself, and refuses one that is frozen already",
            "take fsfreeze out of the hook",
        );
        return None;
    }
    notes.push(
        "fsfreeze is left out: Stillpoint freezes and thaws the members of a snapshot itself, all together"
            .to_owned(),
    );
    Some(None)
}

/// `fsfreeze -f PATH`, also behind `sh -c`, and nothing besides.
fn only_freezes(argv: &[String]) -> bool {
    let words: Vec<&str> = match argv {
        [shell, flag, line] if shell.ends_with("sh") && flag == "-c" => line.split_whitespace().collect(),
        argv => argv.iter().map(String::as_str).collect(),
    };
    let plain = |word: &&str| word.bytes().all(|c| c.is_ascii_alphanumeric() || b"/._-".contains(&c));
    match words.as_slice() {
        [program, rest @ ..] => program.rsplit('/').next() == Some("fsfreeze") && rest.iter().all(plain),
        [] => false,
    }
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
