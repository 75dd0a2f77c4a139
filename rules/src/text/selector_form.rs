//! The forms that select pods by `podSelector`: the short form and Stork's. They differ in how much is written,
//! not in what is meant, so one reader takes both:
//!
//! ```yaml
//! kind: Rule                      # short                  apiVersion: stork.libopenstorage.org/v1alpha1
//! name: cassandra-presnap-rule                             kind: Rule
//! podSelector: {app: cassandra}                            metadata: {name: cassandra-presnap-rule}
//! type: command                                            rules:
//! value: nodetool flush                                    - podSelector: {app: cassandra}
//!                                                            actions: [{type: command, value: nodetool flush}]
//! ```
//! The body stands at top level, in `spec`, or as a list under `spec`, `rules` or `spec.rules`.

use serde_json::Value;

use crate::api::{
    Command, Hold, Invocation, LabelSelector, Metadata, OnFailure, OnLost, Pick, PodSet, Probe, Rule,
    RuleSpec, Step, Take, invocation, is_dns_label, limits,
};

use super::Role;
use super::canonical::{container, metadata, rule_name, selector};
use super::node::{Fields, Node};

const TOP: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "spec",
    "rules",
    "podSelector",
    "container",
    "actions",
    "type",
    "value",
    "background",
    "runInSinglePod",
];
const ITEM: &[&str] =
    &["podSelector", "container", "actions", "type", "value", "background", "runInSinglePod"];
const ACTION: &[&str] = &["type", "value", "background", "runInSinglePod"];

/// Reads it with the role that is given, or with the one that its name tells.
pub(super) fn rule(root: &Node<'_>, role: Option<Role>, notes: &mut Vec<String>) -> Option<Rule> {
    let top = root.fields("a rule", TOP)?;
    let metadata = identity(&top);
    let role = role.unwrap_or_else(|| {
        let role = metadata.as_ref().and_then(|metadata| told_by(&metadata.name)).unwrap_or(Role::Before);
        notes.push(match role {
            Role::Before => "taken for a rule that runs before the snapshot; if it runs after it (postExecRule), convert it with `--role post`",
            Role::After => "taken for a rule that runs after the snapshot, by its name; if it runs before it, convert it with `--role pre`",
        }.to_owned());
        role
    });
    super::left_out(root.at("metadata").as_ref(), notes);
    let items = items(&top)?;
    let mut steps = Vec::new();
    let mut complete = true;
    for item in &items {
        match item_steps(item, role) {
            Some(more) => steps.extend(more),
            None => complete = false,
        }
    }
    let metadata = metadata?;
    if !complete {
        return None;
    }
    if steps.is_empty() || steps.len() > limits::STEPS {
        root.fail(
            format!("{} actions", steps.len()),
            format!("a rule has 1 to {}", limits::STEPS),
            "add `podSelector`, `type: command` and `value`",
        );
        return None;
    }
    if steps.iter().any(|step| step.hold.is_some()) {
        notes.push(
            "the background action became a session; check with `rule lint` that the server itself limits it"
                .to_owned(),
        );
    }
    make_names_unique(&mut steps);
    if role == Role::After {
        // What comes after the snapshot is done from the last step to the first.
        steps.reverse();
    }
    Some(Rule { metadata, spec: RuleSpec { params: Vec::new(), redact: Vec::new(), steps } })
}

/// The role that a name tells: the form itself does not, only whoever refers to the rule.
pub(super) fn told_by(name: &str) -> Option<Role> {
    const NOUNS: [&str; 9] = ["", "snap", "snapshot", "exec", "rule", "backup", "hook", "action", "script"];
    let is = |word: &str, half: &str| word.strip_prefix(half).is_some_and(|noun| NOUNS.contains(&noun));
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| match word {
        word if is(word, "post") || word == "after" => Some(Role::After),
        word if is(word, "pre") || word == "before" => Some(Role::Before),
        _ => None,
    })
}

/// `metadata.name`, or a plain `name`.
fn identity(top: &Fields<'_>) -> Option<Metadata> {
    match (top.get("metadata"), top.get("name")) {
        (Some(node), None) => {
            if let Some(namespace) = top.get("namespace") {
                namespace.fail("`namespace` beside `metadata`", "it stands in `metadata`", "move it there");
                return None;
            }
            metadata(&node)
        }
        (Some(_), Some(name)) => {
            name.fail("a second name", "`metadata` has one already", "keep one of them");
            None
        }
        (None, _) => {
            let name = top.required("name").and_then(|node| rule_name(&node));
            let namespace = top.optional("namespace", container);
            Some(Metadata { name: name?, namespace: namespace? })
        }
    }
}

/// Where the body stands.
fn items<'a>(top: &Fields<'a>) -> Option<Vec<Node<'a>>> {
    let inline = || ITEM.iter().any(|key| top.get(key).is_some());
    match (top.get("rules"), top.get("spec")) {
        (Some(_), Some(spec)) => {
            spec.fail("`spec` beside `rules`", "only one of them is the body", "keep one of them");
            None
        }
        (Some(body), None) | (None, Some(body)) if inline() => {
            body.fail(
                "a second body",
                "`podSelector`, `value` and the like at top level are one already",
                "keep one of them",
            );
            None
        }
        (Some(rules), None) => rules.list(),
        (None, Some(spec)) if spec.value().is_array() => spec.list(),
        (None, Some(spec)) if spec.value().get("rules").is_some() => {
            spec.fields("`spec`", &["rules"])?.required("rules")?.list()
        }
        (None, Some(spec)) => Some(vec![spec]),
        (None, None) => Some(vec![root_item(top)]),
    }
}

/// The whole text is the only item.
fn root_item<'a>(top: &Fields<'a>) -> Node<'a> {
    top.node().again()
}

fn item_steps(node: &Node<'_>, role: Role) -> Option<Vec<Step>> {
    let is_root = node.value().get("kind").is_some();
    let fields = node.fields("an item", if is_root { TOP } else { ITEM })?;
    let selector = fields.required("podSelector").and_then(|n| pod_selector(&n));
    let container = fields.optional("container", container);
    let actions = match fields.get("actions") {
        Some(list) if ACTION.iter().any(|key| fields.get(key).is_some()) => {
            list.fail(
                "`actions` beside `type`, `value`, `background` or `runInSinglePod`",
                "one of them is the action",
                "keep one of them, or move the fields into each action",
            );
            None
        }
        Some(list) => {
            let nodes = if list.value().is_object() { vec![list] } else { list.list()? };
            let all: Vec<Option<Action>> = nodes
                .iter()
                .map(|n| n.fields("an action", ACTION).and_then(|fields| action(&fields, role)))
                .collect();
            all.into_iter().collect::<Option<Vec<Action>>>()
        }
        None => action(&fields, role).map(|one| vec![one]),
    };
    let (selector, container) = (selector?, container?);
    let base = base_name(&selector);
    let step = |action: Action| {
        let command = Some(Command::new(action.run));
        let (before, hold, after) = match (action.held, role) {
            (Some(hold), _) => (None, Some(hold), None),
            (None, Role::Before) => (command, None, None),
            (None, Role::After) => (None, None, command),
        };
        let pods = PodSet {
            selector: Some(selector.clone()),
            from_volumes: false,
            container: container.clone(),
            min: None,
            parallel: None,
            pick: action.pick,
            where_: None,
        };
        Step { name: base.clone(), pods, before, hold, after, on_failure: OnFailure::Abort }
    };
    Some(actions?.into_iter().map(step).collect())
}

/// Labels as they are, or a full selector.
fn pod_selector(node: &Node<'_>) -> Option<LabelSelector> {
    let full = match node.value() {
        Value::Object(map) => ["matchLabels", "matchExpressions"]
            .iter()
            .any(|key| map.get(*key).is_some_and(|value| value.is_object() || value.is_array())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    };
    if full {
        return selector(node);
    }
    let pairs = node.labels()?;
    if pairs.is_empty() {
        node.fail(
            "an empty podSelector",
            "it would match every pod, which is never meant",
            "name at least one label",
        );
        return None;
    }
    Some(LabelSelector { match_labels: pairs.into_iter().collect(), match_expressions: Vec::new() })
}

/// Stork puts a program here that waits until the snapshot is taken.
const WAIT: &str = "${WAIT_CMD}";
/// What the session says, and answers, when its waiting has begun.
const SIGN: &str = "stillpoint-held";

/// A background action as a session. Its waiting program is `cat`: it answers a line with the same line, so the answer
/// proves that everything before the waiting was done, and it ends with the session's input.
fn held(run: &Invocation) -> Option<Hold> {
    let Invocation::Shell(line) = run else { return None };
    if !line.contains(WAIT) {
        return None;
    }
    Some(Hold {
        run: Invocation::Shell(line.replace(WAIT, "cat")),
        env: Vec::new(),
        send: vec![SIGN.to_owned()],
        ready: SIGN.to_owned(),
        probe: Some(Probe { send: format!("{SIGN}-still"), expect: format!("{SIGN}-still") }),
        finish: Vec::new(),
        limit: None,
        heartbeat: None,
        on_lost: OnLost::Abort,
        take: Take::Last,
    })
}

struct Action {
    run: Invocation,
    held: Option<Hold>,
    pick: Pick,
}

fn action(fields: &Fields<'_>, role: Role) -> Option<Action> {
    let kind = fields.optional("type", |n| n.choice(&[("command", ())]));
    let background = fields.optional("background", Node::truth);
    let single = fields.optional("runInSinglePod", Node::truth);
    let value = fields.required("value").and_then(|n| {
        let line = n.text()?;
        check_waiting(&n, &line, background.flatten().unwrap_or(false), role)?;
        match invocation(None, Some(line)) {
            Ok(run) => Some(run),
            Err(error) => {
                n.fail(error.to_string(), "there is nothing to run", "write the command");
                None
            }
        }
    });
    let held = value.as_ref().and_then(held);
    kind?;
    background?;
    let pick = if single?.unwrap_or(false) { Pick::One } else { Pick::All };
    Some(Action { run: value?, held, pick })
}

/// Whether what waits for the snapshot can become a session: it must be said to wait, once, before the snapshot, and
/// with the session's own input and output.
fn check_waiting(node: &Node<'_>, line: &str, background: bool, role: Role) -> Option<()> {
    const CANONICAL: &str = "write it as `hold` in the canonical form";
    let (what, why, fix) = match (background, line.matches(WAIT).count()) {
        (false, 0) => return Some(()),
        (true, 0) => (
            "a background action without `${WAIT_CMD}`",
            "nothing tells when it holds, nor when it may let go",
            "put `${WAIT_CMD}` where it waits for the snapshot, or write it as `hold` in the canonical form",
        ),
        (false, _) => (
            "`${WAIT_CMD}` without `background: true`",
            "Stork replaces it in background actions only, so this action does not wait",
            "add `background: true`, or remove it",
        ),
        (true, _) if role == Role::After => (
            "a background action in a rule that runs after the snapshot",
            "there is nothing left that it could wait for",
            "make it a plain action, or convert the rule with `--role pre`",
        ),
        (true, 1) => match super::shell::cut_off(line, WAIT) {
            None => return Some(()),
            Some(why) => ("`${WAIT_CMD}` where a session cannot reach it", why, CANONICAL),
        },
        (true, _) => ("`${WAIT_CMD}` more than once", "a session waits once", CANONICAL),
    };
    node.fail(what, why, fix);
    None
}

/// A step is called after the first label value that can be a name.
fn base_name(selector: &LabelSelector) -> String {
    let named = selector.match_labels.values().find(|value| is_dns_label(value) && value.len() <= 58);
    named.cloned().unwrap_or_else(|| "step".to_owned())
}

fn make_names_unique(steps: &mut [Step]) {
    for index in 1..steps.len() {
        let base = steps[index].name.clone();
        let mut number = 2;
        while steps[..index].iter().any(|earlier| earlier.name == steps[index].name) {
            steps[index].name = format!("{base}-{number}");
            number += 1;
        }
    }
}
