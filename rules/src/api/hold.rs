//! Sessions that are kept open across the cut.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::{CommandError, Invocation, invocation, spelled};
use super::env::EnvEntry;
use super::{Length, defaults};

/// A session kept open across the cut. Its standard input reaching its end must make it let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(try_from = "RawHold", into = "RawHold")]
pub struct Hold {
    /// What is kept open.
    pub run: Invocation,
    /// Its environment.
    pub env: Vec<EnvEntry>,
    /// Lines sent to it at the start.
    pub send: Vec<String>,
    /// It holds once a line of its output contains this.
    pub ready: String,
    /// Asked after the cut: was it held all along?
    pub probe: Option<Probe>,
    /// Lines sent after the cut, before its input is closed.
    pub finish: Vec<String>,
    /// From start to end; it is ended after this.
    pub limit: Option<Length>,
    /// An empty line is sent this often, so that a script can let go when lines stop.
    pub heartbeat: Option<Length>,
    /// What it means when it cannot prove after the cut that it held all along.
    pub on_lost: OnLost,
    /// When it is taken.
    pub take: Take,
}

/// When a session is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Take {
    /// Together with all others, when every `before` has succeeded and the hosts are prepared.
    #[default]
    Last,
    /// When its step's turn comes, before later steps: what they do is done under it.
    InTurn,
}

/// What the loss of a session means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnLost {
    /// The cut is void and the run fails.
    #[default]
    Abort,
    /// The cut counts at the level that storage reached by itself, with the reason recorded.
    Degrade,
}

/// A question to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The line sent.
    pub send: String,
    /// What a line of the answer must contain.
    pub expect: String,
}

impl Hold {
    /// The limit, or its default.
    pub fn limit_or_default(&self) -> Duration {
        self.limit.map_or(defaults::HOLD_LIMIT, Length::get)
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [{
        "rule": "has(self.command) != has(self.shell)",
        "message": "give one of `command: [program, argument]` and `shell: \"…\"`"
    }]))
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawHold {
    /// Program and arguments; no shell in between.
    #[cfg_attr(feature = "kube", schemars(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    /// One line for `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    /// Its environment. Needs a shell in the container where the pod is one of Kubernetes.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    env: Vec<EnvEntry>,
    /// Lines sent to it at the start.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    send: Vec<String>,
    /// It holds once a line of its output contains this.
    ready: String,
    /// Asked after the cut: was it held all along?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<Probe>,
    /// Lines sent after the cut, before its input is closed.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    finish: Vec<String>,
    /// From start to end; it is ended after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<Length>,
    /// An empty line is sent this often, so that a script can let go when lines stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heartbeat: Option<Length>,
    /// What it means when it cannot prove after the cut that it held all along.
    #[serde(default, skip_serializing_if = "super::is_default")]
    on_lost: OnLost,
    /// When it is taken: last, together with all others, or in its step's turn.
    #[serde(default, skip_serializing_if = "super::is_default")]
    take: Take,
}

impl TryFrom<RawHold> for Hold {
    type Error = CommandError;

    fn try_from(raw: RawHold) -> Result<Self, CommandError> {
        Ok(Self {
            run: invocation(raw.command, raw.shell)?,
            env: raw.env,
            send: raw.send,
            ready: raw.ready,
            probe: raw.probe,
            finish: raw.finish,
            limit: raw.limit,
            heartbeat: raw.heartbeat,
            on_lost: raw.on_lost,
            take: raw.take,
        })
    }
}

impl From<Hold> for RawHold {
    fn from(hold: Hold) -> Self {
        let (command, shell) = spelled(hold.run);
        Self {
            command,
            shell,
            env: hold.env,
            send: hold.send,
            ready: hold.ready,
            probe: hold.probe,
            finish: hold.finish,
            limit: hold.limit,
            heartbeat: hold.heartbeat,
            on_lost: hold.on_lost,
            take: hold.take,
        }
    }
}
