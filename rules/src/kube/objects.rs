//! The custom resources of group `stillpoint.dev`. These types are what the API server stores: their schemas are
//! structural, so no internally tagged enums, and lengths of time are texts.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{API_VERSION, Param, Step};

/// The annotation on VolumeSnapshots, VolumeGroupSnapshots and PersistentVolumeClaims, and the parameter of snapshot
/// classes, that names a Rule in the snapshot's namespace.
pub const RULE_ANNOTATION: &str = "stillpoint.dev/rule";

/// The label of Runs that have not ended: by it they are found.
pub const OPEN_LABEL: &str = "stillpoint.dev/open";
/// The finalizer of Runs that have not ended: what they did to an application is undone before they vanish.
pub const CLEANUP_FINALIZER: &str = "stillpoint.dev/pending-cleanup";
/// The annotation by which people give up the pending cleanup of a Run; its value says why.
pub const GIVE_UP_ANNOTATION: &str = "stillpoint.dev/give-up-cleanup";
/// The label by which Velero leaves an object out of its backups.
pub const BACKUP_LABEL: &str = "velero.io/exclude-from-backup";

/// What to do to an application around a cut.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "stillpoint.dev",
    version = "v1alpha1",
    kind = "Rule",
    plural = "rules",
    category = "stillpoint",
    namespaced,
    doc = "What to do to an application around a cut: commands in its pods before, during and after it.",
    printcolumn = r#"{"name":"First step","type":"string","jsonPath":".spec.steps[0].name"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RuleObjectSpec {
    /// Values that may be chosen where the rule is run by hand; in a cluster their defaults are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub params: Vec<Param>,
    /// Regular expressions: what they match in outputs is not shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub redact: Vec<String>,
    /// In order going in, in reverse order coming out. Each name once.
    #[schemars(
        length(min = 1, max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub steps: Vec<Step>,
}

/// One use of a rule around a cut, written by the controller.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "stillpoint.dev",
    version = "v1alpha1",
    kind = "Run",
    plural = "runs",
    category = "stillpoint",
    namespaced,
    status = "RunStatus",
    doc = "One use of a Rule around a cut, written by the controller: what was planned, done, reached and is still owed.",
    printcolumn = r#"{"name":"Snapshot","type":"string","jsonPath":".spec.snapshot.name"}"#,
    printcolumn = r#"{"name":"Rule","type":"string","jsonPath":".status.rule"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Level","type":"string","jsonPath":".status.level"}"#,
    printcolumn = r#"{"name":"Window µs","type":"integer","jsonPath":".status.cut.windowMicros"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.snapshot == oldSelf.snapshot && self.cut == oldSelf.cut",
    "message": "a Run belongs to one snapshot for ever"
}]))]
pub struct RunSpec {
    /// The snapshot that it is for.
    pub snapshot: SnapshotRef,
    /// The Rule of the first attempt, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub rule: String,
    /// Name of the cut at the driver.
    #[schemars(length(min = 1, max = 253))]
    pub cut: String,
}

/// A VolumeSnapshot or VolumeGroupSnapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRef {
    /// `VolumeSnapshot` or `VolumeGroupSnapshot`.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its identity.
    #[schemars(length(max = 128))]
    pub uid: String,
}

/// What a run has done so far. Lengths in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunStatus {
    /// `Pending`, `Waiting` (for another Run that uses the same pods or volumes), `Running`, `Undoing`, `Overdue` (over, but something is still owed), `Succeeded` or `Failed`.
    pub phase: String,
    /// The Rule of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What it is doing.
    pub doing: String,
    /// How many times the rule was begun for this snapshot.
    pub attempt: u32,
    /// The level reached: `crash`, `group`, `filesystem` or `application`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Why the level is not higher.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// One line for people: how it stands or why it failed.
    pub message: String,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailureStatus>,
    /// Failures of steps that the rule allows to be ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<FailureStatus>,
    /// Between the first and the last session that said that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_skew_micros: Option<u64>,
    /// When the last attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// What was to be done, line by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// What was done in which pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodResult>,
    /// What is owed to the application.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub debts: Vec<DebtStatus>,
    /// The cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutStatus>,
    /// What happened when, relative to the first hold requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Lane>,
    /// `Succeeded` and `DebtsPaid`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The object that this was written to. A copy has another identity: nothing of it is ever run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<RunIdentity>,
    /// Since when it has waited for its turn, over attempts that waited for too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<String>,
    /// The controller that conducts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// When that controller last said that it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewed_at: Option<String>,
    /// The whole record, for a controller that has to end what another began; gone once the run has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub record: Option<serde_json::Value>,
}

/// The object that a controller has written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunIdentity {
    /// Its uid.
    #[schemars(length(max = 128))]
    pub uid: String,
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
}

/// Why a run did not go as its rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// `inventory`, `plan`, `waiting`, `where`, `before`, `hold`, `lost`, `release`, `open`, `cut`, `seal`, `after`, `gone`,
    /// `journal`, `stopped`, `budget`, `orphaned` or `bug`.
    pub kind: String,
    /// The step, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What, why, and how to fix it.
    pub message: String,
}

/// One action in one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodResult {
    /// The step.
    pub step: String,
    /// `where`, `before`, `hold` or `after`.
    pub action: String,
    /// The pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its container.
    pub container: String,
    /// The node.
    pub node: String,
    /// Which try of it, from 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub number: u32,
    /// The command, quoted for people.
    pub command: String,
    /// When it began.
    pub started_at: String,
    /// How long it took.
    pub duration_micros: u64,
    /// Exit code, where it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Status, where it was a request that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// How long after its start a session said that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_after_micros: Option<u64>,
    /// Head and tail of what it printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Bytes left out of `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted_bytes: Option<u64>,
    /// Why it counts as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An `after` that is owed because its step was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DebtStatus {
    /// The step.
    pub step: String,
    /// The pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its container.
    pub container: String,
    /// What pays it.
    pub command: String,
    /// `owed`, `paid`, `unpaid` (tried and failed; it is tried again), `unknown` (may not be repeated: look at the
    /// application), `gone` (with its pod) or
    /// `givenup` (by people, with the annotation `stillpoint.dev/give-up-cleanup`).
    pub state: String,
}

/// The cut of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CutStatus {
    /// Its id at the driver.
    pub id: String,
    /// Whether it is real.
    pub sealed: bool,
    /// What storage reached by itself.
    pub storage_level: String,
    /// When the first hold was requested.
    pub hold_requested_at: String,
    /// First hold requested to last release: nobody was held longer.
    pub window_micros: u64,
    /// Between first and last member's cut.
    pub skew_micros: u64,
}

/// One pod's or one volume's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lane {
    /// `pod <name>` or `volume <name>`.
    pub of: String,
    /// The node.
    pub node: String,
    /// By start.
    pub spans: Vec<LaneSpan>,
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaneSpan {
    /// What.
    pub what: String,
    /// Start; negative for what came before the first hold.
    pub start_micros: i64,
    /// End.
    pub end_micros: i64,
    /// Whether it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// One condition, as Kubernetes writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: String,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

/// An object that the API server neither checks nor prunes.
fn anything(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The definitions, by file name.
pub fn definitions() -> BTreeMap<&'static str, CustomResourceDefinition> {
    [("rules.yaml", known_formats(Rule::crd())), ("runs.yaml", known_formats(Run::crd()))].into()
}

/// The API server knows no unsigned numbers and warns of each: their bounds say the same.
fn known_formats(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    let Ok(mut value) = serde_json::to_value(&definition) else { return definition };
    replace_formats(&mut value);
    serde_json::from_value(value).unwrap_or(definition)
}

fn replace_formats(value: &mut serde_json::Value) {
    if let Some(format) =
        value.get_mut("format").filter(|format| format.as_str().is_some_and(|f| f.starts_with("uint")))
    {
        *format = "int64".into();
    }
    let inner: Vec<&mut serde_json::Value> = match value {
        serde_json::Value::Object(fields) => fields.values_mut().collect(),
        serde_json::Value::Array(items) => items.iter_mut().collect(),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => Vec::new(),
    };
    inner.into_iter().for_each(replace_formats);
}

/// The canonical text of a Rule, as [`crate::text`] reads it: what the API server adds to the object is left out.
pub fn canonical_text(namespace: &str, name: &str, spec: &serde_json::Value) -> String {
    // JSON is YAML.
    serde_json::json!({
        "apiVersion": API_VERSION,
        "kind": "Rule",
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    })
    .to_string()
}
