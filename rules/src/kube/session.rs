//! A session: a command in a container whose standard input stays open.
//!
//! It ends in three ways: released (last lines, end of input, exit), dropped, or at its limit. The last two close
//! the connection, and with it the command's input, which must make it let go.

use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncWriteExt, SimplexStream, WriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::api::Probe;
use crate::listen::Awaited;
use crate::output::{Output, join};
use crate::ports::{ExecError, ExecOutcome, Session, SessionRequest};

use super::exec::follow;
use super::inventory::KubePods;
use super::stream::{Input, pod_name};

/// How long the last words of a session that is lost are waited for.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct KubeSession {
    pod: String,
    limit: Duration,
    deadline: Instant,
    stdin: WriteHalf<SimplexStream>,
    awaited: Awaited,
    following: JoinHandle<Ended>,
}

/// How it ended and what it printed.
struct Ended {
    /// `None`: its limit passed.
    exit: Option<Result<i32, String>>,
    output: String,
    omitted_bytes: u64,
}

impl Drop for KubeSession {
    fn drop(&mut self) {
        // The task owns the connection.
        self.following.abort();
    }
}

impl KubeSession {
    pub(super) async fn open(pods: &KubePods, request: SessionRequest) -> Result<Self, ExecError> {
        let pod = pod_name(&request.target);
        let deadline = Instant::now() + request.limit;
        let late = || ExecError::TimedOut {
            pod: pod.clone(),
            limit: request.limit,
            still_running: true,
            output: String::new(),
        };
        let starting = pods.start(&request.target, &request.argv, Input::Open);
        let mut process = timeout_at(deadline, starting).await.map_err(|_| late())??;
        let stdin = process.stdin().ok_or_else(|| ExecError::NotStarted {
            pod: pod.clone(),
            why: "it has no standard input; this is a bug".to_owned(),
        })?;
        let awaited = Awaited::default();
        let ready = awaited.expect_text(&request.ready);
        let listening = awaited.clone();
        let following = tokio::spawn(async move {
            let (mut out, mut err) = (Output::new(request.output_limit), Output::new(request.output_limit));
            let exit = timeout_at(deadline, follow(&mut process, &listening, &mut out, &mut err)).await.ok();
            drop(process);
            listening.give_up();
            let (output, omitted_bytes) = join(out, err);
            Ended { exit, output, omitted_bytes }
        });
        let mut session = Self { pod, limit: request.limit, deadline, stdin, awaited, following };
        session.send(&request.send).await?;
        session.answered(ready, &format!("said `{}`", request.ready)).await?;
        Ok(session)
    }

    async fn answered(&mut self, answer: oneshot::Receiver<()>, what: &str) -> Result<(), ExecError> {
        match timeout_at(self.deadline, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.lost(&format!("it ended before it {what}")).await),
            Err(_) => Err(self.timed_out(String::new())),
        }
    }

    async fn send(&mut self, lines: &[String]) -> Result<(), ExecError> {
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        if text.is_empty() {
            return Ok(());
        }
        match timeout_at(self.deadline, self.stdin.write_all(text.as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            // It is gone; what it said last is the better explanation.
            Ok(Err(error)) => Err(self.lost(&format!("its input is closed: {error}")).await),
            Err(_) => Err(self.timed_out(String::new())),
        }
    }

    /// Says how it ended and what it said last.
    async fn lost(&mut self, why: &str) -> ExecError {
        let Ok(Ok(ended)) = timeout(GRACE, &mut self.following).await else {
            return ExecError::Lost { pod: self.pod.clone(), why: why.to_owned() };
        };
        let how = match &ended.exit {
            None => return self.timed_out(ended.output),
            Some(Ok(code)) => format!("exit code {code}"),
            Some(Err(reason)) => reason.clone(),
        };
        let said: String = ended.output.trim().chars().take(300).collect();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        ExecError::Lost { pod: self.pod.clone(), why: format!("{why}, {how}{said}") }
    }

    fn timed_out(&self, output: String) -> ExecError {
        ExecError::TimedOut { pod: self.pod.clone(), limit: self.limit, still_running: true, output }
    }
}

#[async_trait]
impl Session for KubeSession {
    async fn prove(&mut self, probe: Option<&Probe>) -> Result<(), ExecError> {
        if let Some(probe) = probe {
            let answer = self.awaited.expect_text(&probe.expect);
            self.send(std::slice::from_ref(&probe.send)).await?;
            return self.answered(answer, &format!("answered `{}`", probe.expect)).await;
        }
        if Instant::now() >= self.deadline {
            return Err(self.timed_out(String::new()));
        }
        if self.following.is_finished() {
            return Err(self.lost("it ended before it was released").await);
        }
        Ok(())
    }

    async fn release(mut self: Box<Self>, finish: &[String]) -> Result<ExecOutcome, ExecError> {
        self.send(finish).await?;
        // Dropping the writer is not enough: the reader's half keeps the pipe alive.
        let _ = self.stdin.shutdown().await;
        let pod = self.pod.clone();
        match (&mut self.following).await {
            Ok(Ended { exit: Some(Ok(exit_code)), output, omitted_bytes }) => {
                Ok(ExecOutcome { exit_code, output, omitted_bytes })
            }
            Ok(Ended { exit: Some(Err(why)), .. }) => Err(ExecError::Lost { pod, why }),
            Ok(Ended { exit: None, output, .. }) => Err(self.timed_out(output)),
            Err(error) => Err(ExecError::Lost { pod, why: format!("what reads it died: {error}") }),
        }
    }
}
