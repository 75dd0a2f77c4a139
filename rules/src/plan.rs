//! Rule + pods + volumes → [`Plan`]: who does what where, in which order, and who is left out and why.
//!
//! Pure: a plan is made from lists and executes nothing, so it can be shown before anything is done. What it
//! cannot know is the answer to `where` commands; it names the candidates, and [`Plan::answered`] narrows them
//! when the run has asked.

mod commands;
mod container;
mod error;
mod history;
mod narrow;
pub(crate) mod render;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::api::{LabelSelector, OnFailure, Pick, PodSet, Rule, Step, defaults};
use crate::ports::{Pod, PodState, PodTarget};
use crate::select::matches;

use container::NotChosen;

pub use commands::{Call, PlannedCommand, PlannedHold, PlannedRetry};
pub use container::{ChosenBy, DEFAULT_CONTAINER};
pub use error::PlanError;
pub use history::ExpectedPause;

/// A volume of the cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct CutVolume {
    /// Its id, as pods name it too.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// The host it is on.
    pub host: String,
}

/// What would be done, and what is done unless something changes in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Plan {
    /// The rule; `None` for a cut without one.
    pub rule: Option<String>,
    /// In order going in.
    pub steps: Vec<PlannedStep>,
    /// What is cut, by host.
    pub hosts: Vec<HostVolumes>,
    /// What looks unintended but is not wrong.
    pub notes: Vec<String>,
    /// How long earlier runs of the rule held, where there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<ExpectedPause>,
}

/// The volumes of the cut on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct HostVolumes {
    /// The host.
    pub host: String,
    /// Sorted by name.
    pub volumes: Vec<CutVolume>,
}

/// One step with its pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct PlannedStep {
    /// The step's name.
    pub name: String,
    /// How many of the targets are meant when there is a question.
    pub pick: Pick,
    /// Asked in every target before anything else; `None` once answered or when there is nothing to ask.
    pub question: Option<PlannedCommand>,
    /// At most so many of them at the same time; the engine's own bound when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// Sorted by namespace and name.
    pub targets: Vec<Target>,
    /// Pods that one might expect here, with the reason why they are not.
    pub left_out: Vec<LeftOut>,
    /// Runs before the cut.
    pub before: Option<PlannedCommand>,
    /// Kept open across the cut.
    pub hold: Option<PlannedHold>,
    /// Runs after the cut.
    pub after: Option<PlannedCommand>,
    /// What a failure means.
    pub on_failure: OnFailure,
}

/// A pod that is worked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Target {
    /// Pinned: another incarnation of the same name is not worked with.
    #[serde(flatten)]
    pub at: PodTarget,
    /// Its host.
    pub host: String,
    /// Why it is this container.
    #[serde(default)]
    pub container_chosen_by: ChosenBy,
    /// Actions that an earlier step does in this container already, so that this one does not.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub done_earlier: BTreeSet<Action>,
}

/// What a step can do in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The question whether this pod is meant.
    Where,
    /// The command before the cut.
    Before,
    /// The session across the cut.
    Hold,
    /// The command after the cut.
    After,
}

impl Action {
    /// As it is written in rules and records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Where => "where",
            Self::Before => "before",
            Self::Hold => "hold",
            Self::After => "after",
        }
    }
}

/// A pod that is not worked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct LeftOut {
    /// `namespace/name`.
    pub pod: String,
    /// The reason.
    pub why: String,
}

/// Makes the plan.
pub fn plan(rule: Option<&Rule>, pods: &[Pod], volumes: &[CutVolume]) -> Result<Plan, PlanError> {
    if volumes.is_empty() {
        return Err(PlanError::NoVolumes);
    }
    let members: BTreeSet<&str> = volumes.iter().map(|volume| volume.id.as_str()).collect();
    let mut sorted: Vec<&Pod> = pods.iter().collect();
    sorted.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    if let Some(namespace) = rule.and_then(|rule| rule.metadata.namespace.as_ref()) {
        sorted.retain(|pod| pod.namespace == *namespace);
    }
    let mut notes = Vec::new();
    let mut steps = Vec::new();
    for step in rule.iter().flat_map(|rule| &rule.spec.steps) {
        steps.push(plan_step(step, &sorted, &members, &mut notes)?);
    }
    let rule = rule.map(|rule| rule.metadata.name.clone());
    let mut plan = Plan { rule, steps, hosts: by_host(volumes), notes, expected: None };
    plan.never_twice();
    Ok(plan)
}

fn by_host(volumes: &[CutVolume]) -> Vec<HostVolumes> {
    let mut hosts: BTreeMap<&str, Vec<CutVolume>> = BTreeMap::new();
    for volume in volumes {
        let on_host = hosts.entry(&volume.host).or_default();
        if on_host.iter().all(|known| known.id != volume.id) {
            on_host.push(volume.clone());
        }
    }
    let sorted = |(host, mut volumes): (&str, Vec<CutVolume>)| {
        volumes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        HostVolumes { host: host.to_owned(), volumes }
    };
    hosts.into_iter().map(sorted).collect()
}

fn plan_step(
    step: &Step,
    pods: &[&Pod],
    members: &BTreeSet<&str>,
    notes: &mut Vec<String>,
) -> Result<PlannedStep, PlanError> {
    let wanted = |pod: &&&Pod| is_meant(&step.pods, pod, members);
    let (finished, meant): (Vec<&Pod>, Vec<&Pod>) =
        pods.iter().filter(wanted).partition(|pod| pod.state == PodState::Finished);
    let mut left_out: Vec<LeftOut> =
        finished.iter().map(|pod| leave(pod, "it has finished and is never selected")).collect();
    if meant.is_empty() {
        return Err(no_match(step, pods));
    }
    let min = step.pods.min.unwrap_or(defaults::MIN_PODS);
    if meant.len() < min as usize {
        let names = names(&meant);
        return Err(PlanError::TooFew { step: step.name.clone(), found: meant.len(), min, names });
    }
    let ready = ready_ones(step, &meant, &mut left_out)?;
    let mut targets = Vec::new();
    for pod in ready {
        targets.push(target(step, pod)?);
        if !pod.volumes.iter().any(|volume| members.contains(volume.as_str())) {
            notes.push(format!("step `{}`: {} mounts no volume of this cut", step.name, full_name(pod)));
        }
    }
    let question = step.pods.where_.as_ref().map(|c| PlannedCommand::of(c, Action::Where));
    if step.pods.pick == Pick::One && question.is_none() {
        for extra in targets.split_off(1) {
            let why = "`pick: one` takes the first by namespace and name".to_owned();
            left_out.push(LeftOut { pod: extra.name(), why });
        }
    }
    Ok(PlannedStep {
        name: step.name.clone(),
        pick: step.pods.pick,
        question,
        parallel: step.pods.parallel,
        targets,
        left_out,
        before: step.before.as_ref().map(|c| PlannedCommand::of(c, Action::Before)),
        hold: step.hold.as_ref().map(PlannedHold::of),
        after: step.after.as_ref().map(|c| PlannedCommand::of(c, Action::After)),
        on_failure: step.on_failure,
    })
}

fn is_meant(set: &PodSet, pod: &Pod, members: &BTreeSet<&str>) -> bool {
    let mounts = || pod.volumes.iter().any(|volume| members.contains(volume.as_str()));
    set.selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
        && (!set.from_volumes || mounts())
}

/// All must be ready where all are meant; where one is chosen, the others may be away.
fn ready_ones<'a>(
    step: &Step,
    meant: &[&'a Pod],
    left_out: &mut Vec<LeftOut>,
) -> Result<Vec<&'a Pod>, PlanError> {
    let mut ready = Vec::new();
    let mut waiting = Vec::new();
    for &pod in meant {
        match &pod.state {
            PodState::Ready => ready.push(pod),
            PodState::NotReady(why) => waiting.push((pod, why)),
            PodState::Finished => {}
        }
    }
    let choosy = match step.pods.pick {
        Pick::All => false,
        Pick::One | Pick::Leader => true,
    };
    if waiting.is_empty() || (choosy && !ready.is_empty()) {
        left_out.extend(waiting.iter().map(|(pod, why)| leave(pod, &format!("it is not ready: {why}"))));
        return Ok(ready);
    }
    let words: Vec<String> =
        waiting.iter().map(|(pod, why)| format!("pod {} is not ready: {why}", full_name(pod))).collect();
    Err(PlanError::NotReady { step: step.name.clone(), pods: words.join(", ") })
}

fn target(step: &Step, pod: &Pod) -> Result<Target, PlanError> {
    let (container, container_chosen_by) =
        container::choose(step.pods.container.as_deref(), pod).map_err(|why| not_chosen(step, pod, why))?;
    Ok(Target {
        at: PodTarget {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            container,
        },
        host: pod.host.clone(),
        container_chosen_by,
        done_earlier: BTreeSet::new(),
    })
}

fn not_chosen(step: &Step, pod: &Pod, why: NotChosen) -> PlanError {
    let (step, pod_name) = (step.name.clone(), full_name(pod));
    let names: Vec<&str> =
        pod.containers.ordinary.iter().chain(&pod.containers.sidecars).map(String::as_str).collect();
    let existing = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    match why {
        NotChosen::Unknown(container) => PlanError::NoContainer { step, pod: pod_name, container, existing },
        NotChosen::UnknownInAnnotation(container) => {
            PlanError::WrongAnnotation { step, pod: pod_name, container, existing }
        }
        NotChosen::NotNamed => PlanError::ContainerNotNamed { step, pod: pod_name, existing },
    }
}

fn no_match(step: &Step, pods: &[&Pod]) -> PlanError {
    let wanted = match (&step.pods.selector, step.pods.from_volumes) {
        (Some(selector), false) => format!("matches {}", render::selector(selector)),
        (Some(selector), true) => {
            format!("matches {} and mounts a volume of this cut", render::selector(selector))
        }
        (None, _) => "mounts a volume of this cut".to_owned(),
    };
    let hint =
        step.pods.selector.as_ref().and_then(|selector| label_hint(selector, pods)).unwrap_or_default();
    let looked_at = if pods.len() == 1 { "1 pod".to_owned() } else { format!("{} pods", pods.len()) };
    PlanError::NoMatch { step: step.name.clone(), wanted, looked_at, hint }
}

/// The values that the first label of the selector has in the pods that exist.
fn label_hint(selector: &LabelSelector, pods: &[&Pod]) -> Option<String> {
    let key = selector.match_labels.keys().next()?;
    let values: BTreeSet<&str> =
        pods.iter().filter_map(|pod| pod.labels.get(key)).map(String::as_str).take(200).collect();
    if values.is_empty() {
        return Some(format!(", none has a label `{key}`"));
    }
    let shown: Vec<String> = values.iter().take(5).map(|value| format!("{key}={value}")).collect();
    let more = if values.len() > 5 { ", …" } else { "" };
    Some(format!(", they have {}{more}", shown.join(", ")))
}

fn leave(pod: &Pod, why: &str) -> LeftOut {
    LeftOut { pod: full_name(pod), why: why.to_owned() }
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn names(pods: &[&Pod]) -> String {
    pods.iter().map(|pod| full_name(pod)).collect::<Vec<_>>().join(", ")
}

impl Target {
    /// `namespace/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.at.namespace, self.at.pod)
    }
}

impl PlannedStep {
    /// The targets in which this step does `action` itself.
    pub fn doing(&self, action: Action) -> impl Iterator<Item = &Target> {
        let does = match action {
            Action::Where => self.question.is_some(),
            Action::Before => self.before.is_some(),
            Action::Hold => self.hold.is_some(),
            Action::After => self.after.is_some(),
        };
        self.targets.iter().filter(move |target| does && !target.done_earlier.contains(&action))
    }
}

#[cfg(test)]
mod tests;
