//! Actions with every limit filled in.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::{
    Check, Command, Deed, EnvEntry, Hold, HttpCall, Length, OnLost, Probe, Take, Wait, defaults,
};

use super::Action;
use super::render::command_line;

/// What is done in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// Program and arguments.
    Run(Vec<String>),
    /// A request to the pod.
    Http(HttpCall),
}

/// An action with every limit filled in. Secrets are named, not contained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct PlannedCommand {
    /// What is done.
    pub call: Call,
    /// It is done again and again until it succeeds, with pauses of so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_true_every_ms: Option<u64>,
    /// Environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvEntry>,
    /// It is ended after this many milliseconds.
    pub timeout_ms: u64,
    /// Bytes of output kept.
    pub output_limit: usize,
    /// How it is tried again.
    pub retry: PlannedRetry,
}

/// How something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct PlannedRetry {
    /// How often, after the first time.
    pub times: u32,
    /// Before the first repetition, in milliseconds; doubled each time.
    pub pause_ms: u64,
    /// Whether it may be repeated when its outcome is not known.
    pub idempotent: bool,
}

/// A session with every limit filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct PlannedHold {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvEntry>,
    /// Lines sent at the start.
    pub send: Vec<String>,
    /// It holds once a line contains this.
    pub ready: String,
    /// Asked after the cut.
    pub probe: Option<Probe>,
    /// Lines sent after the cut.
    pub finish: Vec<String>,
    /// From start to end, in milliseconds.
    pub limit_ms: u64,
    /// An empty line is sent this often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// What its loss means.
    #[serde(default)]
    pub on_lost: OnLost,
    /// When it is taken.
    #[serde(default)]
    pub take: Take,
}

impl PlannedCommand {
    /// A command that is done once.
    pub fn plain(argv: Vec<String>, timeout: Duration) -> Self {
        Self {
            call: Call::Run(argv),
            until_true_every_ms: None,
            env: Vec::new(),
            timeout_ms: whole_ms(timeout),
            output_limit: defaults::OUTPUT_BYTES as usize,
            retry: PlannedRetry { times: 0, pause_ms: 0, idempotent: true },
        }
    }

    /// With its defaults, which depend on what it is for: an `after` must come, so it is tried again, and undoing twice
    /// is taken for undoing once unless the rule says otherwise.
    pub(super) fn of(command: &Command, action: Action) -> Self {
        let (call, until_true_every_ms) = match &command.run {
            Deed::Run(run) => (Call::Run(run.argv()), None),
            Deed::Http(call) => (Call::Http(call.clone()), None),
            Deed::Wait(Wait { until, every }) => {
                let call = match until {
                    Check::Run(run) => Call::Run(run.argv()),
                    Check::Http(call) => Call::Http(call.clone()),
                };
                (call, Some(whole_ms(every.map_or(defaults::WAIT_EVERY, Length::get))))
            }
        };
        let (timeout, is_undo) = match action {
            Action::Where => (defaults::WHERE_TIMEOUT, false),
            Action::Before | Action::Hold => (defaults::COMMAND_TIMEOUT, false),
            Action::After => (defaults::COMMAND_TIMEOUT, true),
        };
        let asked = command.retry;
        Self {
            call,
            until_true_every_ms,
            env: command.env.clone(),
            timeout_ms: whole_ms(command.timeout_or(timeout)),
            output_limit: command.output_bytes(),
            retry: PlannedRetry {
                times: asked.map_or(if is_undo { defaults::AFTER_RETRIES } else { 0 }, |retry| retry.times),
                pause_ms: whole_ms(
                    asked.and_then(|retry| retry.pause).map_or(defaults::RETRY_PAUSE, Length::get),
                ),
                idempotent: command.idempotent.unwrap_or(is_undo),
            },
        }
    }

    /// The timeout as a [`Duration`].
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// What exactly it does, so that two can be compared.
    pub(super) fn fingerprint(&self) -> String {
        serde_json::to_string(&(&self.call, &self.env, self.until_true_every_ms)).unwrap_or_default()
    }
}

impl fmt::Display for PlannedCommand {
    /// As a person would write it; secrets are named, not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.until_true_every_ms.is_some() {
            f.write_str("until true: ")?;
        }
        match &self.call {
            Call::Run(argv) => f.write_str(&command_line(argv)),
            Call::Http(call) => {
                let scheme = if call.tls.is_some() { "https" } else { "http" };
                write!(f, "{} {scheme}://<pod>:{}{}", call.method.word(), call.port, call.path)
            }
        }
    }
}

impl PlannedHold {
    pub(super) fn of(hold: &Hold) -> Self {
        Self {
            argv: hold.run.argv(),
            env: hold.env.clone(),
            send: hold.send.clone(),
            ready: hold.ready.clone(),
            probe: hold.probe.clone(),
            finish: hold.finish.clone(),
            limit_ms: whole_ms(hold.limit_or_default()),
            heartbeat_ms: hold.heartbeat.map(|every| whole_ms(every.get())),
            on_lost: hold.on_lost,
            take: hold.take,
        }
    }

    /// The limit as a [`Duration`].
    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }

    /// What exactly it does, so that two can be compared.
    pub(super) fn fingerprint(&self) -> String {
        serde_json::to_string(&(&self.argv, &self.env, &self.send)).unwrap_or_default()
    }
}

fn whole_ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
