//! Whether a pod can run on a node, as far as that can be told without being the scheduler. Pure.
//!
//! What the scheduler looks at and this does not (pod affinity, spreading, devices, other schedulers) makes the answer
//! [`Fit::Unsure`], never [`Fit::Fits`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, Pod, PodSpec,
    Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::controller::consumers::Fit;

type Labels = BTreeMap<String, String>;
/// Amounts of resources, in thousandths.
type Amounts = BTreeMap<String, i128>;

/// Whether a pod can run on a node: `volumes` are those that it has already, `others` the pods that are on the node.
pub fn fit(pod: &Pod, node: &Node, volumes: &[PersistentVolume], others: &[Pod]) -> Fit {
    let Some(spec) = &pod.spec else { return Fit::Unsure("it has no spec".into()) };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if let Some(why) = refusal(spec, node, volumes) {
        return Fit::Refuses(format!("node {name} {why}"));
    }
    match doubt(pod, spec, node, others) {
        Some(why) => Fit::Unsure(format!("on node {name}, {why}")),
        None => Fit::Fits,
    }
}

/// Why it never can, as long as pod and node are what they are.
fn refusal(spec: &PodSpec, node: &Node, volumes: &[PersistentVolume]) -> Option<String> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let wrong_label =
        spec.node_selector.iter().flatten().find(|(key, value)| labels.get(*key) != Some(*value));
    if let Some((key, value)) = wrong_label {
        return Some(format!("lacks the label {key}={value} of its nodeSelector"));
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if required.is_some_and(|required| !selects(required, node)) {
        return Some("is not in its node affinity".into());
    }
    let elsewhere = volumes.iter().find(|volume| {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        affinity.and_then(|one| one.required.as_ref()).is_some_and(|required| !selects(required, node))
    });
    if let Some(volume) = elsewhere {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("cannot reach its volume {name}"));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let node_spec = node.spec.as_ref()?;
    let mut taints = node_spec.taints.clone().unwrap_or_default();
    if node_spec.unschedulable == Some(true) {
        let (key, effect) = ("node.kubernetes.io/unschedulable".into(), "NoSchedule".into());
        taints.push(Taint { key, effect, ..Taint::default() });
    }
    let bars = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    taints.iter().find(bars).map(|taint| format!("has the taint {}, which it does not tolerate", taint.key))
}

/// Why it is not sure that it can now.
fn doubt(pod: &Pod, spec: &PodSpec, node: &Node, others: &[Pod]) -> Option<String> {
    if spec.affinity.as_ref().is_some_and(has_pod_affinity) {
        return Some("its pod affinity may rule it out".into());
    }
    let spread = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    if spread.iter().any(|constraint| constraint.when_unsatisfiable == "DoNotSchedule") {
        return Some("its topology spread constraints may rule it out".into());
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) || spec.resources.is_some() {
        return Some("its resource claims may rule it out".into());
    }
    if spec.scheduler_name.as_deref().is_some_and(|name| !name.is_empty() && name != "default-scheduler") {
        return Some("it has a scheduler of its own".into());
    }
    let mut ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    if spec.host_network == Some(true) || ports.any(|port| port.host_port.is_some_and(|port| port != 0)) {
        return Some("its host ports may be taken".into());
    }
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    if let Some(other) = others.iter().find(|other| may_refuse(other, &labels)) {
        return Some(format!(
            "pod {} may not want it there",
            other.metadata.name.as_deref().unwrap_or_default()
        ));
    }
    lacking(spec, node, others)
}

fn has_pod_affinity(affinity: &Affinity) -> bool {
    let together = affinity.pod_affinity.as_ref();
    let apart = affinity.pod_anti_affinity.as_ref();
    let required = [
        together.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref()),
        apart.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    required.into_iter().flatten().any(|terms| !terms.is_empty())
}

/// Whether a pod that is there has an anti-affinity that may be against a pod with these labels.
fn may_refuse(other: &Pod, labels: &Labels) -> bool {
    let affinity = other.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let terms = apart.and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref());
    terms.is_some_and(|terms| {
        terms
            .iter()
            .any(|term| term.label_selector.as_ref().is_some_and(|selector| matches(selector, labels)))
    })
}

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|one| holds(&one.operator, labels.get(&one.key), one.values.as_deref().unwrap_or_default()))
}

/// The resource of which too little is left.
fn lacking(spec: &PodSpec, node: &Node, others: &[Pod]) -> Option<String> {
    let unclear = || Some("what it needs cannot be told".to_owned());
    let Some(needed) = requests(spec) else { return unclear() };
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let mut left = Amounts::new();
    for (name, quantity) in allocatable.into_iter().flatten() {
        let Some(amount) = thousandths(quantity) else { return unclear() };
        left.insert(name.clone(), amount);
    }
    let there = others.iter().filter_map(|other| other.spec.as_ref());
    for taken in there.map(requests) {
        let Some(taken) = taken else { return unclear() };
        for (name, amount) in taken {
            *left.entry(name).or_default() -= amount;
        }
    }
    let short =
        needed.into_iter().find(|(name, amount)| left.get(name).copied().unwrap_or_default() < *amount);
    short.map(|(name, _)| format!("too little {name} is left"))
}

/// What a pod asks for, itself included; `None` where that cannot be read.
fn requests(spec: &PodSpec) -> Option<Amounts> {
    let mut sum = Amounts::from([("pods".to_owned(), 1000)]);
    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &asked(container.resources.as_ref().and_then(|one| one.requests.as_ref()))?);
    }
    for container in spec.init_containers.iter().flatten() {
        let wanted = asked(container.resources.as_ref().and_then(|one| one.requests.as_ref()))?;
        let mut at_once = sidecars.clone();
        add(&mut at_once, &wanted);
        for (name, amount) in at_once {
            let most = starting.entry(name).or_default();
            *most = (*most).max(amount);
        }
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &wanted);
        }
    }
    add(&mut sum, &sidecars);
    for (name, amount) in starting {
        let most = sum.entry(name).or_default();
        *most = (*most).max(amount);
    }
    add(&mut sum, &asked(spec.overhead.as_ref())?);
    Some(sum)
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let total = sum.entry(name.clone()).or_default();
        *total = total.saturating_add(*amount);
    }
}

fn asked(quantities: Option<&BTreeMap<String, Quantity>>) -> Option<Amounts> {
    quantities.into_iter().flatten().map(|(name, one)| Some((name.clone(), thousandths(one)?))).collect()
}

/// A quantity in thousandths, rounded up: `100m`, `1.5`, `2Gi`, `1e3`.
fn thousandths(quantity: &Quantity) -> Option<i128> {
    const SUFFIXES: [(&str, i128, i128); 16] = [
        ("Ki", 1 << 10, 1),
        ("Mi", 1 << 20, 1),
        ("Gi", 1 << 30, 1),
        ("Ti", 1 << 40, 1),
        ("Pi", 1 << 50, 1),
        ("Ei", 1 << 60, 1),
        ("n", 1, 1_000_000_000),
        ("u", 1, 1_000_000),
        ("m", 1, 1_000),
        ("k", 1_000, 1),
        ("M", 1_000_000, 1),
        ("G", 1_000_000_000, 1),
        ("T", 1_000_000_000_000, 1),
        ("P", 1_000_000_000_000_000, 1),
        ("E", 1_000_000_000_000_000_000, 1),
        ("", 1, 1),
    ];
    let text = quantity.0.trim();
    let (number, times, divided) = SUFFIXES
        .iter()
        .find_map(|(suffix, times, divided)| Some((text.strip_suffix(suffix)?, *times, *divided)))?;
    let (digits, exponent) = match number.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<u32>().ok().filter(|power| *power <= 18)?),
        None => (number, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() > 9 || whole.len() > 19 || whole.is_empty() {
        return None;
    }
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value = format!("{whole}{fraction}").parse::<i128>().ok()?;
    let top = value.checked_mul(times)?.checked_mul(10_i128.checked_pow(exponent)?)?.checked_mul(1000)?;
    let bottom = scale.checked_mul(divided)?;
    Some(top.div_euclid(bottom) + i128::from(top.rem_euclid(bottom) != 0))
}

fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_selects(term, node))
}

/// A term that says nothing selects nothing.
fn term_selects(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let by_label = |one: &NodeSelectorRequirement| {
        let value = labels.and_then(|labels| labels.get(&one.key));
        holds(&one.operator, value, one.values.as_deref().unwrap_or_default())
    };
    let by_field = |one: &NodeSelectorRequirement| {
        let value = node.metadata.name.as_ref().filter(|_| one.key == "metadata.name");
        holds(&one.operator, value, one.values.as_deref().unwrap_or_default())
    };
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(by_label)
        && fields.iter().all(by_field)
}

/// An operator that is not known holds for nothing.
fn holds(operator: &str, value: Option<&String>, values: &[String]) -> bool {
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(number(values.first())).is_some_and(|(have, than)| have > than),
        "Lt" => number(value).zip(number(values.first())).is_some_and(|(have, than)| have < than),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let effect = empty(&toleration.effect) || toleration.effect.as_ref() == Some(&taint.effect);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = toleration.key.as_ref() == Some(&taint.key) || (exists && empty(&toleration.key));
    let value = toleration.value.as_deref().unwrap_or_default();
    effect && key && (exists || value == taint.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests;
