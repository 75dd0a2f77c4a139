//! What the engine needs from the outside. Adapters implement these; the engine names no adapter.
//!
//! Flow of one run: `Inventory::pods` → plan → its turn ([`Journal::open_runs`]) → `PodExec::exec` for every `before` → [`Cutter::open`] (the hosts
//! prepare and flush; nothing is held) → `PodExec::session` for every `hold` → [`OpenCut::cut`] (hold, cut,
//! release) → [`Session::prove`] and [`Session::release`] → [`OpenCut::seal`] → `PodExec::exec` for every `after`
//! that is owed. The [`Journal`] knows of every debt before the deed that makes it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{Method, Probe, SecretRef};
use crate::run::Run;
use crate::turns::OpenRun;

/// A pod as the engine sees it. Standalone hosts list their services as pods in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace; `default` where there is none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Identity of this incarnation; a pod that is replaced under the same name has another one.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Host it runs on.
    pub host: String,
    /// Its containers.
    pub containers: Containers,
    /// Volumes that it mounts, by volume id.
    pub volumes: Vec<String>,
    /// Whether it can be worked with.
    pub state: PodState,
}

/// The containers of a pod that commands can run in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Containers {
    /// Ordinary ones. Their order means nothing.
    pub ordinary: Vec<String>,
    /// Init containers that run beside the ordinary ones (`restartPolicy: Always`).
    pub sidecars: Vec<String>,
    /// The one that the pod's annotation `kubectl.kubernetes.io/default-container` names, whether or not it exists.
    pub default: Option<String>,
}

impl From<Vec<String>> for Containers {
    fn from(ordinary: Vec<String>) -> Self {
        Self { ordinary, ..Self::default() }
    }
}

/// Whether a pod can be worked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Running and ready.
    Ready,
    /// Counted, but cannot be worked with now; the text says why.
    NotReady(String),
    /// Completed or failed for good: never selected.
    Finished,
}

/// Where a command runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct PodTarget {
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// The incarnation that was planned for.
    pub uid: String,
    /// Container.
    pub container: String,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOutcome {
    /// Exit code; 128 + signal when it was killed.
    pub exit_code: i32,
    /// Standard output, then standard error: head and tail within the limit, valid UTF-8.
    pub output: String,
    /// Bytes that were left out of `output`.
    pub omitted_bytes: u64,
}

/// A command that could not be run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// The pod is gone or is another incarnation.
    #[error("pod {pod} is not the one that was planned for: {why}")]
    PodChanged {
        /// The pod.
        pod: String,
        /// What is different.
        why: String,
    },
    /// The command could not be started.
    #[error("could not start the command in {pod}: {why}")]
    NotStarted {
        /// The pod.
        pod: String,
        /// The reason.
        why: String,
    },
    /// It ran longer than allowed and was ended.
    #[error("the command in {pod} did not end within {limit:?}{}", if *.still_running { "; it may still run there" } else { " and was ended" })]
    TimedOut {
        /// The pod.
        pod: String,
        /// The timeout.
        limit: Duration,
        /// Whether its end could not be verified.
        still_running: bool,
        /// What it printed until then.
        output: String,
    },
    /// The connection to it was lost; whether it finished is unknown.
    #[error("lost the command in {pod}: {why}")]
    Lost {
        /// The pod.
        pod: String,
        /// The reason.
        why: String,
    },
}

/// The number that every process of one step's commands in one pod carries, so that it is found again by whoever must
/// end it: in the environment, and where the adapter can, in places that a program does not clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark(u64);

impl Mark {
    /// The variable with which programs inherit it.
    pub const VARIABLE: &'static str = "STILLPOINT_COMMAND";

    /// Of one step of one run in one pod: always the same number, also in the next process.
    pub fn of(run: &str, step: &str, target: &PodTarget) -> Self {
        let mut hash = blake3::Hasher::new();
        for part in [run, step, &target.namespace, &target.pod, &target.uid, &target.container] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        // Eleven digits: they fit into the name of a process, and none of two numbers begins with the other.
        Self(10_000_000_000 + u64::from_le_bytes(first) % 90_000_000_000)
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One command in one container.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Where.
    pub target: PodTarget,
    /// Program and arguments; no shell in between.
    pub argv: Vec<String>,
    /// Added to its environment; may contain secrets, so it is never shown and never put on a command line.
    pub env: Vec<(String, String)>,
    /// What all its processes carry.
    pub mark: Mark,
    /// The command is ended after this.
    pub timeout: Duration,
    /// Bytes of output kept.
    pub output_limit: usize,
}

/// Runs commands in pods. Dropping a returned future ends what it runs.
#[async_trait]
pub trait PodExec: Send + Sync {
    /// Runs one command to its end or its timeout. A non-zero exit is an outcome, not an error.
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError>;

    /// Starts a session and returns once it has said that it holds.
    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError>;

    /// Makes one request to the pod's own address. Any status is an outcome, not an error.
    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError>;

    /// Ends whatever still runs under this mark in that pod. `Ok` is a proof that nothing of it runs any more and that
    /// nothing of it will begin; every error means that it may still run. Takes at most a few seconds.
    async fn end(&self, target: &PodTarget, mark: Mark) -> Result<(), ExecError>;
}

/// One request to one pod.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Which pod.
    pub target: PodTarget,
    /// Method.
    pub method: Method,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers; may contain secrets.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Option<String>,
    /// Over TLS, with what is trusted.
    pub tls: Option<HttpTrust>,
    /// It is given up after this.
    pub timeout: Duration,
    /// Bytes of the answer's body kept.
    pub output_limit: usize,
}

/// Whose certificate a pod must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTrust {
    /// Certificates of the authority, PEM.
    pub ca_pem: String,
    /// The name in the pod's certificate; its address when absent.
    pub server_name: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOutcome {
    /// Status.
    pub status: u16,
    /// The body's head and tail within the limit, valid UTF-8.
    pub output: String,
    /// Bytes that were left out of `output`.
    pub omitted_bytes: u64,
}

/// A secret that cannot be had. Says which, never what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the secret {namespace}/{name} key `{key}` cannot be read: {why}")]
pub struct SecretError {
    /// The namespace.
    pub namespace: String,
    /// The Secret.
    pub name: String,
    /// The key.
    pub key: String,
    /// The reason and the fix.
    pub why: String,
}

impl SecretError {
    /// For this secret.
    pub fn of(namespace: &str, secret: &SecretRef, why: impl Into<String>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: secret.name.clone(),
            key: secret.key.clone(),
            why: why.into(),
        }
    }
}

/// Reads secrets. What it gives is shown nowhere.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The value of one key.
    async fn read(&self, namespace: &str, secret: &SecretRef) -> Result<String, SecretError>;
}

/// For where there are none.
pub struct NoSecrets;

#[async_trait]
impl Secrets for NoSecrets {
    async fn read(&self, namespace: &str, secret: &SecretRef) -> Result<String, SecretError> {
        Err(SecretError::of(namespace, secret, "no place for secrets is configured; set `secrets`"))
    }
}

/// One session in one container.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// Where.
    pub target: PodTarget,
    /// Program and arguments; no shell in between.
    pub argv: Vec<String>,
    /// Added to its environment; never shown and never put on a command line.
    pub env: Vec<(String, String)>,
    /// What all its processes carry.
    pub mark: Mark,
    /// Lines sent at the start.
    pub send: Vec<String>,
    /// It holds once a line of its standard output contains this.
    pub ready: String,
    /// From start to end; it is ended after this, whoever still waits.
    pub limit: Duration,
    /// An empty line is sent this often until it is released.
    pub heartbeat: Option<Duration>,
    /// Bytes of output kept.
    pub output_limit: usize,
}

/// A session that holds. Dropping it closes its input and ends it.
#[async_trait]
pub trait Session: Send {
    /// Proves that it held all along: by an answer to the probe, without one by being still there.
    async fn prove(&mut self, probe: Option<&Probe>) -> Result<(), ExecError>;

    /// Sends the last lines, closes its input and waits for its end.
    async fn release(self: Box<Self>, finish: &[String]) -> Result<ExecOutcome, ExecError>;
}

/// A run that cannot be written down or read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal of runs failed: {0}; nothing that would have to be undone was begun after it; check its disk"
)]
pub struct JournalError(pub String);

/// Whether this process still conducts a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// It does.
    Ours,
    /// It could not say for so long that it is alive that another one may have taken the run over. It begins nothing.
    Unsure,
    /// Another one has taken it over and undoes what this one did.
    Lost,
}

/// Remembers runs over the death of the process.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Writes the run down; when this returns it survives a crash.
    async fn persist(&self, run: &Run) -> Result<(), JournalError>;

    /// Runs that were written down and have not ended.
    async fn unfinished(&self) -> Result<Vec<Run>, JournalError>;

    /// Whether this process still conducts the run of this name. Answers at once.
    fn ownership(&self, _name: &str) -> Ownership {
        Ownership::Ours
    }

    /// Open runs of all processes whose pods or volumes `asking` may share. Every run that was written down before this
    /// was called is there as it was then, or newer. Where a part of them is enough to make `asking` wait, that part
    /// is enough.
    async fn open_runs(&self, asking: &Run) -> Result<Vec<OpenRun>, JournalError>;

    /// Returns when a run may have ended. It may miss one: callers look from time to time besides.
    async fn run_ended(&self);
}

/// Something that cannot be listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot list pods: {0}")]
pub struct InventoryError(pub String);

/// Lists pods.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// All pods of these namespaces (all namespaces when empty), in a stable order, finished ones included.
    async fn pods(&self, namespaces: &[String]) -> Result<Vec<Pod>, InventoryError>;
}

/// What shall be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutRequest {
    /// Name of the cut; the same name is the same cut.
    pub name: String,
    /// Volumes, by id.
    pub volumes: Vec<String>,
}

/// A cut that failed. Nothing is held and nothing is left behind that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CutError {
    /// Whether the same request may succeed when it is made again.
    pub retry: bool,
    /// What, why, fix.
    pub message: String,
}

/// What was cut, before it counts. All times in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutReport {
    /// Id of the cut.
    pub cut_id: String,
    /// The level that the storage reached by itself: `crash`, `group` or `filesystem`.
    pub level: StorageLevel,
    /// Why not `filesystem`.
    pub reasons: Vec<String>,
    /// Wall-clock time of the first hold requested, by the clock of this process: the origin of the timeline.
    pub hold_requested_at: Timestamp,
    /// First hold requested to last release.
    pub window_us: u64,
    /// Between first and last member's cut.
    pub skew_us: u64,
}

/// Levels that storage reaches without an application's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum StorageLevel {
    /// Members are not at one instant.
    Crash,
    /// One instant.
    Group,
    /// One instant, filesystems flushed and frozen.
    Filesystem,
}

/// Whether the application's part counts, and what the pods' lanes look like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SealRequest {
    /// There was a rule, all its steps succeeded and the members are at one instant: the level is `application`.
    pub application: bool,
    /// Why the level is lower than asked for.
    pub reasons: Vec<String>,
}

/// Takes cuts.
#[async_trait]
pub trait Cutter: Send + Sync {
    /// Prepares all hosts: checks, headroom, flush while writers go on. Nothing is held.
    async fn open(&self, request: CutRequest) -> Result<Box<dyn OpenCut>, CutError>;
}

/// A prepared cut. Dropping it gives it up: hosts let go and remove what they made.
#[async_trait]
pub trait OpenCut: Send {
    /// Holds, cuts and releases all members. After an error nothing is held.
    async fn cut(&mut self) -> Result<CutReport, CutError>;
    /// Makes the cut real. After an error the cut is void unless `retry` is set, then its fate is unknown and a
    /// retry under the same name finds out.
    async fn seal(self: Box<Self>, request: SealRequest) -> Result<(), CutError>;
}
