//! The canonical form: `apiVersion: stillpoint.dev/v1alpha1`.

use crate::api::{
    Command, Expression, Hold, Invocation, LabelSelector, Metadata, OnFailure, Operator, Pick, PodSet, Probe,
    Rule, RuleSpec, Step, invocation, is_dns_label, is_dns_subdomain, limits,
};

use super::node::{Fields, Node};
use super::words::clip;

const LABEL_RULE: &str = "a name has up to 63 of a-z, 0-9 and -, and starts and ends with a letter or digit";

pub(super) fn rule(root: &Node<'_>) -> Option<Rule> {
    let top = root.fields("a rule", &["apiVersion", "kind", "metadata", "spec"])?;
    let metadata = top.required("metadata").and_then(|node| metadata(&node));
    let spec = top.required("spec").and_then(|node| spec(&node));
    Some(Rule { metadata: metadata?, spec: spec? })
}

pub(super) fn metadata(node: &Node<'_>) -> Option<Metadata> {
    let fields = node.fields("metadata", &["name", "namespace", "labels", "annotations"])?;
    let name = fields.required("name").and_then(|name| rule_name(&name));
    let namespace = fields.optional("namespace", |n| n.name(is_dns_label, LABEL_RULE));
    let labels = fields.optional("labels", Node::text_map);
    let annotations = fields.optional("annotations", Node::text_map);
    // Kept by Kubernetes, not by us; checked all the same.
    labels?;
    annotations?;
    Some(Metadata { name: name?, namespace: namespace? })
}

pub(super) fn rule_name(node: &Node<'_>) -> Option<String> {
    node.name(is_dns_subdomain, "a name has a-z, 0-9, - and . and starts and ends with a letter or digit")
}

fn spec(node: &Node<'_>) -> Option<RuleSpec> {
    let fields = node.fields("`spec`", &["steps"])?;
    let list = fields.required("steps")?;
    let nodes = list.list()?;
    if nodes.is_empty() || nodes.len() > limits::STEPS {
        list.fail(
            format!("{} steps", nodes.len()),
            format!("a rule has 1 to {} steps", limits::STEPS),
            "add what is to be done, or leave the rule away",
        );
        return None;
    }
    let steps: Vec<Option<Step>> = nodes.iter().map(step).collect();
    let steps: Vec<Step> = steps.into_iter().collect::<Option<_>>()?;
    for (index, step) in steps.iter().enumerate() {
        if steps[..index].iter().any(|earlier| earlier.name == step.name) {
            nodes[index].fail(
                format!("a second step named `{}`", step.name),
                "records and messages name steps",
                "give it a name of its own",
            );
            return None;
        }
    }
    Some(RuleSpec { steps })
}

fn step(node: &Node<'_>) -> Option<Step> {
    let fields = node.fields("a step", &["name", "pods", "before", "hold", "after", "onFailure"])?;
    let name = fields.required("name").and_then(|n| n.name(is_dns_label, LABEL_RULE));
    let pods = fields.required("pods").and_then(|n| pods(&n));
    let before = fields.optional("before", command);
    let hold = fields.optional("hold", hold);
    let after = fields.optional("after", command);
    let on_failure = fields.optional("onFailure", |n| {
        n.choice(&[
            ("abort", OnFailure::Abort),
            ("degrade", OnFailure::Degrade),
            ("ignore", OnFailure::Ignore),
        ])
    });
    let step = Step {
        name: name?,
        pods: pods?,
        before: before?,
        hold: hold?,
        after: after?,
        on_failure: on_failure?.unwrap_or_default(),
    };
    if step.before.is_none() && step.hold.is_none() && step.after.is_none() {
        node.fail("the step does nothing", "it has no `before`, `hold` or `after`", "add one of them");
        return None;
    }
    Some(step)
}

fn pods(node: &Node<'_>) -> Option<PodSet> {
    let fields = node.fields("`pods`", &["selector", "fromVolumes", "container", "min", "pick", "where"])?;
    let selector = fields.optional("selector", selector);
    let from_volumes = fields.optional("fromVolumes", Node::truth);
    let container = fields.optional("container", container);
    let min = fields.optional("min", |n| n.number(1, 10_000));
    let pick = fields
        .optional("pick", |n| n.choice(&[("all", Pick::All), ("one", Pick::One), ("leader", Pick::Leader)]));
    let where_ = fields.optional("where", command);
    let set = PodSet {
        selector: selector?,
        from_volumes: from_volumes?.unwrap_or(false),
        container: container?,
        min: min?,
        pick: pick?.unwrap_or_default(),
        where_: where_?,
    };
    if set.selector.is_none() && !set.from_volumes {
        node.fail(
            "no pods are named",
            "a rule never means every pod",
            "add `selector: {matchLabels: {…}}` or `fromVolumes: true`",
        );
        return None;
    }
    if set.pick == Pick::Leader && set.where_.is_none() {
        node.fail(
            "`pick: leader` without `where`",
            "only the application knows who leads",
            "add `where: {command: […]}` that exits 0 in the leader",
        );
        return None;
    }
    Some(set)
}

pub(super) fn container(node: &Node<'_>) -> Option<String> {
    node.name(is_dns_label, LABEL_RULE)
}

pub(super) fn selector(node: &Node<'_>) -> Option<LabelSelector> {
    let fields = node.fields("a selector", &["matchLabels", "matchExpressions"])?;
    let labels = fields.optional("matchLabels", Node::labels);
    let expressions = fields.optional("matchExpressions", |n| {
        let all: Vec<Option<Expression>> = n.list()?.iter().map(expression).collect();
        all.into_iter().collect::<Option<Vec<_>>>()
    });
    let selector = LabelSelector {
        match_labels: labels?.unwrap_or_default().into_iter().collect(),
        match_expressions: expressions?.unwrap_or_default(),
    };
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        node.fail(
            "an empty selector",
            "it would match every pod, which is never meant",
            "add `matchLabels: {app: …}`, or use `fromVolumes: true`",
        );
        return None;
    }
    Some(selector)
}

fn expression(node: &Node<'_>) -> Option<Expression> {
    let fields = node.fields("an expression", &["key", "operator", "values"])?;
    let key = fields.required("key").and_then(|n| n.text());
    let operator = fields.required("operator").and_then(|n| {
        n.choice(&[
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ])
    });
    let values = fields.optional("values", |n| n.texts(1000));
    let expression = Expression { key: key?, operator: operator?, values: values?.unwrap_or_default() };
    if let Err(error) = crate::select::check_expression(&expression) {
        node.fail(error.to_string(), "it could never mean anything", "correct it");
        return None;
    }
    Some(expression)
}

pub(super) fn command(node: &Node<'_>) -> Option<Command> {
    let fields = node.fields("a command", &["command", "shell", "timeout", "outputLimit"])?;
    let run = run(&fields);
    let timeout = fields.optional("timeout", |n| n.length(limits::COMMAND_TIMEOUT));
    let output_limit = fields.optional("outputLimit", |n| n.number(0, limits::OUTPUT_BYTES));
    Some(Command { run: run?, timeout: timeout?, output_limit: output_limit? })
}

fn run(fields: &Fields<'_>) -> Option<Invocation> {
    let argv = fields.optional("command", |n| n.texts(limits::ARGV_ITEMS));
    let shell = fields.optional("shell", Node::text);
    match invocation(argv?, shell?) {
        Ok(run) => Some(run),
        Err(error) => {
            let words = error.to_string();
            let (what, fix) = words.split_once("; ").unwrap_or((&words, "correct it"));
            fields.node().fail(what, "exactly one program is started", fix);
            None
        }
    }
}

fn hold(node: &Node<'_>) -> Option<Hold> {
    let fields = node.fields("a hold", &["command", "shell", "send", "ready", "probe", "finish", "limit"])?;
    let run = run(&fields);
    let send = fields.optional("send", lines);
    let ready = fields.required("ready").and_then(|n| expected(&n));
    let probe = fields.optional("probe", probe);
    let finish = fields.optional("finish", lines);
    let limit = fields.optional("limit", |n| n.length(limits::HOLD_LIMIT));
    Some(Hold {
        run: run?,
        send: send?.unwrap_or_default(),
        ready: ready?,
        probe: probe?,
        finish: finish?.unwrap_or_default(),
        limit: limit?,
    })
}

fn probe(node: &Node<'_>) -> Option<Probe> {
    let fields = node.fields("a probe", &["send", "expect"])?;
    let send = fields.required("send").and_then(|n| line(&n));
    let expect = fields.required("expect").and_then(|n| expected(&n));
    Some(Probe { send: send?, expect: expect? })
}

fn lines(node: &Node<'_>) -> Option<Vec<String>> {
    let texts = node.texts(limits::SESSION_LINES)?;
    match texts.iter().find(|text| text.contains('\n')) {
        None => Some(texts),
        Some(text) => {
            node.fail(format!("`{}` has a line break", clip(text)), "each item is one line", "split it");
            None
        }
    }
}

fn line(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    if text.contains('\n') {
        node.fail("a line break", "one line is sent", "put it on one line");
        return None;
    }
    Some(text)
}

fn expected(node: &Node<'_>) -> Option<String> {
    let text = line(node)?;
    if text.trim().is_empty() {
        node.fail("empty text", "every output would count as the answer", "write what the session prints");
        return None;
    }
    Some(text)
}
