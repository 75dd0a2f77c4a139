//! What a rule says. These types are the canonical form; [`crate::text`] reads every other form into them.
//!
//! All types refuse unknown fields. Limits are named in [`limits`] and checked when text is read.

mod action;
mod duration;
mod env;
mod hold;
mod http;
pub mod params;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use action::{Check, Command, CommandError, Deed, Invocation, Retry, Wait};
pub(crate) use action::{check, deed, invocation};
pub use duration::{DurationError, Length, parse_length};
pub use env::{EnvEntry, SecretRef, is_secret_key, is_variable};
pub use hold::{Hold, OnLost, Probe, Take};
pub use http::{HttpCall, Method, Tls};
pub use params::{Param, ParamKind};

/// `apiVersion` of the canonical form.
pub const API_VERSION: &str = "stillpoint.dev/v1alpha1";

/// Bounds on what a rule may ask for, each with its reason.
pub mod limits {
    use std::time::Duration;

    /// A rule is written by people; more text than this is not a rule.
    pub const RULE_BYTES: usize = 256 * 1024;
    /// More steps than this cannot be overlooked in a plan.
    pub const STEPS: usize = 64;
    /// Longest command timeout: a run must end while the one who asked for it still waits.
    pub const COMMAND_TIMEOUT: Duration = Duration::from_hours(1);
    /// Longest hold: an application that stands still for longer is down.
    pub const HOLD_LIMIT: Duration = Duration::from_mins(1);
    /// Shortest time that is not a slip of the pen.
    pub const SHORTEST: Duration = Duration::from_millis(10);
    /// Most output kept per command; a run's record stays readable and below the API server's object limit.
    pub const OUTPUT_BYTES: u32 = 256 * 1024;
    /// Most output kept of one run; beyond it only a little of each command that succeeds. A record is kept in memory,
    /// written to disk several times, and read whenever runs are listed.
    pub const RUN_OUTPUT_BYTES: usize = 2 * 1024 * 1024;
    /// That little.
    pub const SCANT_OUTPUT_BYTES: usize = 1024;
    /// The kernel's limit on a single argument is 128 KiB; all together stay below it.
    pub const ARGV_BYTES: usize = 64 * 1024;
    /// Arguments in one command.
    pub const ARGV_ITEMS: usize = 512;
    /// Lines that a session sends or finishes with.
    pub const SESSION_LINES: usize = 64;
    /// Variables of one command, headers of one request.
    pub const ENTRIES: usize = 64;
    /// Body of one request.
    pub const BODY_BYTES: usize = 64 * 1024;
    /// Parameters of one rule.
    pub const PARAMS: usize = 64;
    /// Patterns of text that is not shown.
    pub const PATTERNS: usize = 16;
    /// Pods of one step at the same time: each is a connection or a process of this controller.
    pub const PARALLEL_PODS: u32 = 1000;
    /// How often something is tried again.
    pub const RETRIES: u32 = 10;
    /// A secret is a password or a certificate, not a file of data.
    pub const SECRET_BYTES: usize = 64 * 1024;
}

/// What applies where a rule says nothing.
pub mod defaults {
    use std::time::Duration;

    /// Timeout of `before` and `after`.
    pub const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);
    /// Timeout of a `where` command: it asks a question.
    pub const WHERE_TIMEOUT: Duration = Duration::from_secs(10);
    /// Limit of a hold.
    pub const HOLD_LIMIT: Duration = Duration::from_secs(5);
    /// Output kept per command.
    pub const OUTPUT_BYTES: u32 = 16 * 1024;
    /// Pods that must match.
    pub const MIN_PODS: u32 = 1;
    /// Pods of one step that are worked with at the same time.
    pub const PARALLEL_PODS: usize = 64;
    /// Between two questions of a `wait`.
    pub const WAIT_EVERY: Duration = Duration::from_secs(1);
    /// Before something is tried again; doubled each time.
    pub const RETRY_PAUSE: Duration = Duration::from_secs(1);
    /// The longest such pause.
    pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
    /// How often an `after` that failed is tried again while its run lives.
    pub const AFTER_RETRIES: u32 = 2;
    /// Before an overdue `after` is tried again; doubled each time.
    pub const OVERDUE_PAUSE: Duration = Duration::from_secs(10);
    /// The longest such pause.
    pub const OVERDUE_PAUSE_MAX: Duration = Duration::from_mins(10);
    /// Reading one secret.
    pub const SECRET_TIMEOUT: Duration = Duration::from_secs(10);
    /// Ending what a step left running in one pod, and the proof of it.
    pub const END_TIMEOUT: Duration = Duration::from_secs(10);
}

/// What to do to an application around a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Name and namespace.
    pub metadata: Metadata,
    /// The steps.
    pub spec: RuleSpec,
}

/// Name and namespace of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name; a DNS subdomain.
    pub name: String,
    /// Where its pods are; all namespaces that the caller names when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The body of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// Values that the one who asks may choose.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Param>,
    /// Regular expressions: what they match in outputs is not shown.
    #[cfg_attr(feature = "kube", schemars(length(max = 16)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
    /// In order going in, in reverse order coming out.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 64)))]
    pub steps: Vec<Step>,
}

/// One step: some pods and what is done in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [
        { "rule": "has(self.before) || has(self.hold) || has(self.after)", "message": "the step does nothing; add `before`, `hold` or `after`" }
    ]))
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// Unique in the rule; a DNS label.
    #[cfg_attr(
        feature = "kube",
        schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    pub name: String,
    /// Where.
    pub pods: PodSet,
    /// Runs to its end before anything is held, in all pods in parallel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Command>,
    /// Kept open across the cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Runs after the cut whenever the step was started, also on failure and on restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Command>,
    /// What a failing `before` or `hold` means for the run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
}

/// What a failing step means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The run fails and nothing is cut.
    #[default]
    Abort,
    /// The cut is taken at the level that storage reaches by itself, with the reason recorded.
    Degrade,
    /// The cut is taken as if the step had succeeded; the failure is in the record.
    Ignore,
}

/// Which pods, and which container in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [
        { "rule": "has(self.selector) || (has(self.fromVolumes) && self.fromVolumes)", "message": "no pods are meant; give `selector` or `fromVolumes: true`" },
        { "rule": "!has(self.pick) || self.pick != 'leader' || has(self.where)", "message": "`pick: leader` needs `where` to ask who the leader is" }
    ]))
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSet {
    /// By label. Together with `fromVolumes` it narrows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// The pods that mount volumes of the cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_volumes: bool,
    /// Container. When absent: the one that the pod's annotation `kubectl.kubernetes.io/default-container` names, else the
    /// only ordinary one; a pod with several is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Fewer matching pods than this fail the run; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// At most so many are worked with at the same time; 64 when absent.
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1000)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// How many of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pick: Pick,
    /// Asked in every candidate: exit 0 means yes.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub where_: Option<Command>,
}

/// How many of the matching pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// All of them (with `where`: all that answer yes).
    #[default]
    All,
    /// The first by namespace and name (with `where`: the first that answers yes).
    One,
    /// The only one that answers yes to `where`; none or several fail the run.
    Leader,
}

/// Which labels a pod must have. Everything listed must hold; an empty selector is refused where text is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Label = value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Everything else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Expression>,
}

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; empty for `Exists` and `DoesNotExist`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Operator {
    /// Present with one of the values.
    In,
    /// Absent, or present with none of the values.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A DNS label: what Kubernetes allows as the name of a container, namespace or step.
pub fn is_dns_label(text: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&c| edge(c) || c == b'-')
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
}

/// A DNS subdomain: labels with dots between them, at most 253 characters.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}
