//! One command in one container.

use std::time::Duration;

use async_trait::async_trait;
use kube::api::AttachedProcess;
use tokio::time::{Instant, timeout, timeout_at};

use crate::listen::{Awaited, hear};
use crate::output::{Output, join};
use crate::ports::{ExecError, ExecOutcome, ExecRequest, PodExec, Session, SessionRequest};

use super::inventory::KubePods;
use super::session::KubeSession;
use super::stream::{Input, exit_code, pod_name};

/// How long output is waited for once the command's end is known.
const DRAIN: Duration = Duration::from_secs(2);

#[async_trait]
impl PodExec for KubePods {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        let pod = pod_name(&request.target);
        let deadline = Instant::now() + request.timeout;
        let late = |output| ExecError::TimedOut {
            pod: pod.clone(),
            limit: request.timeout,
            // Closing the stream does not end a process that does not read from it.
            still_running: true,
            output,
        };
        let starting = self.start(&request.target, &request.argv, Input::Closed);
        let mut process = timeout_at(deadline, starting).await.map_err(|_| late(String::new()))??;
        let (mut out, mut err) = (Output::new(request.output_limit), Output::new(request.output_limit));
        let ended = timeout_at(deadline, follow(&mut process, &Awaited::default(), &mut out, &mut err)).await;
        drop(process);
        let (output, omitted_bytes) = join(out, err);
        match ended {
            Ok(Ok(exit_code)) => Ok(ExecOutcome { exit_code, output, omitted_bytes }),
            Ok(Err(why)) => Err(ExecError::Lost { pod, why }),
            Err(_) => Err(late(output)),
        }
    }

    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        Ok(Box::new(KubeSession::open(self, request).await?))
    }
}

/// Reads what a command prints until its end is told; gives its exit code, or why that is not known.
pub(super) async fn follow(
    process: &mut AttachedProcess,
    awaited: &Awaited,
    out: &mut Output,
    err: &mut Output,
) -> Result<i32, String> {
    let (Some(mut stdout), Some(mut stderr), Some(status)) =
        (process.stdout(), process.stderr(), process.take_status())
    else {
        return Err("its streams were taken already; this is a bug".to_owned());
    };
    let nobody = Awaited::default();
    let reading = async { tokio::join!(hear(&mut stdout, awaited, out), hear(&mut stderr, &nobody, err)) };
    tokio::pin!(reading, status);
    let mut read = false;
    let told = loop {
        tokio::select! {
            told = &mut status => break told,
            _ = &mut reading, if !read => read = true,
        }
    };
    if !read {
        // A connection that broke leaves its streams open for ever; what was read by then is kept.
        let _ = timeout(DRAIN, reading).await;
    }
    awaited.give_up();
    match told {
        Some(status) => exit_code(&status),
        None => Err("the connection ended before the command did".to_owned()),
    }
}
