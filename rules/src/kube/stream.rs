//! The way into a container: checked right before, opened over a WebSocket.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess};
use kube::error::Error;

use crate::ports::{ExecError, PodTarget};

use super::error::{Forbidden, chain, status_code};
use super::inventory::KubePods;

/// Bytes of each stream that wait to be read.
const BUFFER: usize = 64 * 1024;
/// Pauses before a command that did not start is started again: a kubelet that was just restarted refuses for a
/// moment.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1500)];

/// Whether the command's standard input stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Closed,
    Open,
}

pub(super) fn pod_name(target: &PodTarget) -> String {
    format!("{}/{}", target.namespace, target.pod)
}

impl KubePods {
    /// Starts a command in the very pod that was planned for.
    pub(super) async fn start(
        &self,
        target: &PodTarget,
        argv: &[String],
        input: Input,
    ) -> Result<AttachedProcess, ExecError> {
        let api: Api<ApiPod> = Api::namespaced(self.client.clone(), &target.namespace);
        let mut pauses = AGAIN.iter();
        loop {
            let pod = api.get_opt(&target.pod).await.map_err(|error| not_started(target, &error))?;
            check(target, pod)?;
            let params = AttachParams::default()
                .container(&target.container)
                .stdin(input == Input::Open)
                .stdout(true)
                .stderr(true)
                .tty(false)
                .max_stdin_buf_size(BUFFER)
                .max_stdout_buf_size(BUFFER)
                .max_stderr_buf_size(BUFFER);
            let error = match api.exec(&target.pod, argv, &params).await {
                Ok(process) => return Ok(process),
                Err(error) => error,
            };
            match pauses.next().filter(|_| never_began(&error)) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(not_started(target, &error)),
            }
        }
    }
}

/// The server itself said that it did not switch protocols, and not because of the request: nothing ran.
fn never_began(error: &Error) -> bool {
    status_code(error).is_some_and(|code| code >= 500)
}

fn not_started(target: &PodTarget, error: &Error) -> ExecError {
    let pod = pod_name(target);
    match status_code(error) {
        Some(403) => {
            let why = Forbidden::exec(&target.namespace).to_string();
            ExecError::NotStarted { pod, why }
        }
        Some(404) => ExecError::PodChanged { pod, why: "it no longer exists".to_owned() },
        Some(code) => ExecError::NotStarted {
            pod,
            why: format!(
                "the API server answers {code} ({}); is the container `{}` running, and its node's kubelet?",
                chain(error),
                target.container
            ),
        },
        None => ExecError::NotStarted { pod, why: chain(error) },
    }
}

/// Another incarnation is another pod; a container that does not run cannot be worked with.
pub(super) fn check(target: &PodTarget, pod: Option<ApiPod>) -> Result<(), ExecError> {
    let name = pod_name(target);
    let changed = |why: &str| ExecError::PodChanged { pod: name.clone(), why: why.to_owned() };
    let pod = pod.ok_or_else(|| changed("it no longer exists"))?;
    if pod.metadata.uid.as_deref() != Some(target.uid.as_str()) {
        return Err(changed("it was replaced by another pod of the same name"));
    }
    let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let state =
        statuses.into_iter().find(|status| status.name == target.container).and_then(|status| status.state);
    let why = match state {
        Some(state) if state.running.is_some() => return Ok(()),
        Some(state) => match (state.waiting, state.terminated) {
            (Some(waiting), _) => waiting.reason.unwrap_or_else(|| "waiting".to_owned()),
            (None, Some(ended)) => format!("ended with exit code {}", ended.exit_code),
            (None, None) => "in no known state".to_owned(),
        },
        None => "without a status".to_owned(),
    };
    let why = format!("its container `{}` does not run: {why}", target.container);
    Err(ExecError::NotStarted { pod: name, why })
}

/// The exit code that the last message on the status channel tells, or what went wrong instead.
pub(super) fn exit_code(status: &Status) -> Result<i32, String> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse().ok());
    code.ok_or_else(|| status.message.clone().unwrap_or_else(|| "it failed without a message".to_owned()))
}
