//! One command in one container.

use std::time::Duration;

use async_trait::async_trait;
use kube::api::AttachedProcess;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::listen::{Awaited, hear};
use crate::output::{Output, join};
use crate::ports::{
    ExecError, ExecOutcome, ExecRequest, HttpOutcome, HttpRequest, Mark, PodExec, PodTarget, Session,
    SessionRequest,
};

use super::inventory::KubePods;
use super::stream::{Input, exit_code, pod_name};
use super::wrap::{Kind, SHELL, ending, has_no_shell, preamble, wrapped};
use super::{session, web};

/// How long output is waited for once the command's end is known.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the end of a command is waited for that was told to end: a polite second, and the way there and back.
const ENDING: Duration = Duration::from_secs(3);
/// How long it is looked for what is left of a command.
const LOOKING: Duration = Duration::from_secs(8);

#[async_trait]
impl PodExec for KubePods {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        if self.shells().is_there(&request.target) {
            let argv = wrapped(Kind::Command, &request.argv, &request.env, request.timeout, request.mark);
            match self.run(&request, &argv, Input::Open).await {
                Err(ExecError::Lost { why, .. }) if has_no_shell(&why) => {
                    self.shells().is_missing(&request.target);
                }
                Err(ExecError::TimedOut { pod, limit, output, .. }) => {
                    let still_running = self.end(&request.target, request.mark).await.is_err();
                    return Err(ExecError::TimedOut { pod, limit, still_running, output });
                }
                outcome => return outcome,
            }
        }
        if !request.env.is_empty() {
            return Err(ExecError::NotStarted { pod: pod_name(&request.target), why: needs_shell() });
        }
        self.run(&request, &request.argv, Input::Closed).await
    }

    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        Ok(Box::new(session::open(self, request).await?))
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError> {
        web::call(self, request).await
    }

    async fn end(&self, target: &PodTarget, mark: Mark) -> Result<(), ExecError> {
        let unknown = |why: String| ExecError::Lost { pod: pod_name(target), why };
        if !self.shells().is_there(target) {
            return Err(unknown(format!("its container has no {SHELL}, so what runs in it cannot be seen")));
        }
        let request = ExecRequest {
            target: target.clone(),
            argv: ending(mark),
            env: Vec::new(),
            mark,
            timeout: LOOKING,
            output_limit: 1024,
        };
        let outcome = self.run(&request, &request.argv, Input::Closed).await?;
        match outcome.exit_code {
            0 => Ok(()),
            code => Err(unknown(format!("{} (exit code {code})", outcome.output.trim()))),
        }
    }
}

pub(super) fn needs_shell() -> String {
    format!(
        "its container has no {SHELL}, which is needed to give a command variables without showing them; use an image with a shell, or do without `env`"
    )
}

impl KubePods {
    /// Runs a command line. With its input open its end can be asked for: closing the input does that.
    async fn run(
        &self,
        request: &ExecRequest,
        argv: &[String],
        input: Input,
    ) -> Result<ExecOutcome, ExecError> {
        let pod = pod_name(&request.target);
        let deadline = Instant::now() + request.timeout;
        let limit = request.timeout;
        let late =
            |still_running, output| ExecError::TimedOut { pod: pod.clone(), limit, still_running, output };
        let lines = preamble(&request.env).map_err(|why| ExecError::NotStarted { pod: pod.clone(), why })?;
        let starting = self.start(&request.target, argv, input);
        let mut process = timeout_at(deadline, starting).await.map_err(|_| late(true, String::new()))??;
        let mut stdin = process.stdin();
        if let Some(stdin) = &mut stdin {
            // A process that has ended reads no more; that it has ended is told below.
            let _ = timeout_at(deadline, stdin.write_all(lines.as_bytes())).await;
        }
        let (mut out, mut err) = (Output::new(request.output_limit), Output::new(request.output_limit));
        let nobody = Awaited::default();
        let (ended, still_running) = {
            let following = follow(&mut process, &nobody, &mut out, &mut err);
            tokio::pin!(following);
            match (timeout_at(deadline, &mut following).await, &mut stdin) {
                (Ok(ended), _) => (Some(ended), false),
                (Err(_), None) => (None, true),
                (Err(_), Some(stdin)) => {
                    // The end of its input is what it is told to end by.
                    let _ = stdin.shutdown().await;
                    let verified = matches!(timeout(ENDING, following).await, Ok(Ok(_)));
                    (None, !verified)
                }
            }
        };
        drop(process);
        let (output, omitted_bytes) = join(out, err);
        match ended {
            Some(Ok(exit_code)) => Ok(ExecOutcome { exit_code, output, omitted_bytes }),
            Some(Err(why)) => Err(ExecError::Lost { pod, why }),
            None => Err(late(still_running, output)),
        }
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
