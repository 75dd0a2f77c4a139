//! The canonical form: `apiVersion: stillpoint.dev/v1alpha1`.

use crate::api::{
    Expression, LabelSelector, Metadata, OnFailure, Operator, Param, ParamKind, Pick, PodSet, Rule, RuleSpec,
    Step, is_dns_label, is_dns_subdomain, is_variable, limits,
};

use super::deeds::{command, hold};
use super::node::Node;
use super::usage;

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
    let fields = node.fields("`spec`", &["steps", "params", "redact"])?;
    let params = fields.optional("params", params);
    let redact = fields.optional("redact", patterns);
    let list = fields.required("steps")?;
    let steps = steps(&list);
    let params = params?.unwrap_or_default();
    usage::check(&list, &params);
    Some(RuleSpec { params, redact: redact?.unwrap_or_default(), steps: steps? })
}

fn params(node: &Node<'_>) -> Option<Vec<Param>> {
    let nodes = node.list()?;
    if nodes.len() > limits::PARAMS {
        node.fail(
            format!("{} parameters", nodes.len()),
            format!("at most {} are allowed", limits::PARAMS),
            "shorten the list",
        );
        return None;
    }
    let all: Vec<Option<Param>> = nodes.iter().map(param).collect();
    let all: Vec<Param> = all.into_iter().collect::<Option<_>>()?;
    for (index, param) in all.iter().enumerate() {
        if all[..index].iter().any(|earlier| earlier.name == param.name) {
            nodes[index].fail(
                format!("a second parameter `{}`", param.name),
                "a name means one value",
                "give it a name of its own",
            );
            return None;
        }
    }
    Some(all)
}

fn param(node: &Node<'_>) -> Option<Param> {
    let fields = node.fields("a parameter", &["name", "type", "default"])?;
    let name = fields.required("name").and_then(|n| {
        n.name(is_variable, "a parameter has letters, digits and _, and does not begin with a digit")
    });
    let kind = fields.optional("type", |n| {
        n.choice(&[
            ("text", ParamKind::Text),
            ("integer", ParamKind::Integer),
            ("boolean", ParamKind::Boolean),
            ("duration", ParamKind::Duration),
        ])
    });
    let kind = kind?.unwrap_or_default();
    let default = fields.optional("default", |n| {
        let text = n.text()?;
        match kind.check(&text) {
            Ok(()) => Some(text),
            Err(why) => {
                n.fail(why, "a default is a value like any other", "correct it, or change `type`");
                None
            }
        }
    });
    Some(Param { name: name?, kind, default: default? })
}

fn patterns(node: &Node<'_>) -> Option<Vec<String>> {
    let texts = node.texts(limits::PATTERNS)?;
    for (item, text) in node.list()?.iter().zip(&texts) {
        if let Err(why) = crate::redact::pattern(text) {
            item.fail("this is no regular expression", why, "correct it, or remove it");
            return None;
        }
    }
    Some(texts)
}

fn steps(list: &Node<'_>) -> Option<Vec<Step>> {
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
    Some(steps)
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
    let fields =
        node.fields("`pods`", &["selector", "fromVolumes", "container", "min", "parallel", "pick", "where"])?;
    let selector = fields.optional("selector", selector);
    let from_volumes = fields.optional("fromVolumes", Node::truth);
    let container = fields.optional("container", container);
    let min = fields.optional("min", |n| n.number(1, 10_000));
    let parallel = fields.optional("parallel", |n| n.number(1, limits::PARALLEL_PODS));
    let pick = fields
        .optional("pick", |n| n.choice(&[("all", Pick::All), ("one", Pick::One), ("leader", Pick::Leader)]));
    let where_ = fields.optional("where", command);
    let set = PodSet {
        selector: selector?,
        from_volumes: from_volumes?.unwrap_or(false),
        container: container?,
        min: min?,
        parallel: parallel?,
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
