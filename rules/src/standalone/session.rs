//! A session as a child process whose input stays open.
//!
//! It ends in three ways: released (last lines, end of input, exit), dropped (end of input and the group is
//! killed), or by its watchdog at its limit, whoever still waits for it.

use std::process::Stdio;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::api::Probe;
use crate::listen::{Awaited, hear};
use crate::ports::{ExecError, ExecOutcome, Session, SessionRequest};

use super::exec::pod_name;
use super::inventory::PodDefinition;
use super::process::{GRACE, Process, exit_code, read_all};
use crate::output::{Output, join};

pub(super) struct LocalSession {
    pod: String,
    limit: std::time::Duration,
    deadline: Instant,
    stdin: Option<ChildStdin>,
    awaited: Awaited,
    out: Option<JoinHandle<Output>>,
    err: Option<JoinHandle<Output>>,
    watchdog: AbortHandle,
    process: Process,
}

impl Drop for LocalSession {
    fn drop(&mut self) {
        self.watchdog.abort();
        for reader in [&self.out, &self.err].into_iter().flatten() {
            reader.abort();
        }
    }
}

impl LocalSession {
    pub(super) async fn open(definition: &PodDefinition, request: SessionRequest) -> Result<Self, ExecError> {
        let pod = pod_name(&request.target);
        let deadline = Instant::now() + request.limit;
        let mut process = Process::start(definition, &request.argv, Stdio::piped())
            .map_err(|why| ExecError::NotStarted { pod: pod.clone(), why })?;
        let awaited = Awaited::default();
        let (stdout, mut stderr) = (process.child.stdout.take(), process.child.stderr.take());
        let listening = awaited.clone();
        let limit = request.output_limit;
        let out = Some(tokio::spawn(listen(stdout, listening, Output::new(limit))));
        let err = Some(tokio::spawn(async move {
            let mut output = Output::new(limit);
            read_all(stderr.take(), &mut output).await;
            output
        }));
        let watchdog = tokio::spawn(watch(process.group_id(), deadline)).abort_handle();
        let stdin = process.child.stdin.take();
        let mut session =
            Self { pod, limit: request.limit, deadline, stdin, awaited, out, err, watchdog, process };
        let ready = session.await_text(&request.ready);
        session.send(&request.send).await?;
        session.answered(ready, &format!("said `{}`", request.ready)).await?;
        Ok(session)
    }

    /// From now on a line with this text counts.
    fn await_text(&self, text: &str) -> oneshot::Receiver<()> {
        self.awaited.expect_text(text)
    }

    async fn answered(&mut self, answer: oneshot::Receiver<()>, what: &str) -> Result<(), ExecError> {
        match timeout_at(self.deadline, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.lost(&format!("it ended before it {what}")).await),
            Err(_) => Err(self.timed_out()),
        }
    }

    async fn send(&mut self, lines: &[String]) -> Result<(), ExecError> {
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let writing = async {
            stdin.write_all(text.as_bytes()).await?;
            stdin.flush().await
        };
        match timeout_at(self.deadline, writing).await {
            Ok(Ok(())) => Ok(()),
            // It is gone; what it said last is the better explanation.
            Ok(Err(error)) => Err(self.lost(&format!("its input is closed: {error}")).await),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Says how it ended and what it said last.
    async fn lost(&mut self, why: &str) -> ExecError {
        let until = Instant::now() + GRACE;
        let code = match timeout_at(until, self.process.child.wait()).await {
            Ok(Ok(status)) => format!(", exit code {}", exit_code(status)),
            Ok(Err(_)) | Err(_) => String::new(),
        };
        let said = match timeout_at(until, ended(self.err.take())).await {
            Ok(output) => output.finish().0,
            Err(_) => String::new(),
        };
        let said: String = said.trim().chars().take(300).collect();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        ExecError::Lost { pod: self.pod.clone(), why: format!("{why}{code}{said}") }
    }

    /// The watchdog has ended it or is just doing so.
    fn timed_out(&self) -> ExecError {
        let pod = self.pod.clone();
        ExecError::TimedOut { pod, limit: self.limit, still_running: false, output: String::new() }
    }
}

#[async_trait]
impl Session for LocalSession {
    async fn prove(&mut self, probe: Option<&Probe>) -> Result<(), ExecError> {
        if let Some(probe) = probe {
            let answer = self.await_text(&probe.expect);
            self.send(std::slice::from_ref(&probe.send)).await?;
            return self.answered(answer, &format!("answered `{}`", probe.expect)).await;
        }
        match self.process.child.try_wait() {
            Ok(None) if Instant::now() < self.deadline => Ok(()),
            Ok(None) => Err(self.timed_out()),
            Ok(Some(_)) | Err(_) => Err(self.lost("it ended before it was released").await),
        }
    }

    async fn release(mut self: Box<Self>, finish: &[String]) -> Result<ExecOutcome, ExecError> {
        if Instant::now() >= self.deadline {
            return Err(self.timed_out());
        }
        self.send(finish).await?;
        self.stdin = None;
        match timeout_at(self.deadline, self.process.child.wait()).await {
            Ok(Ok(status)) => {
                self.watchdog.abort();
                let until = Instant::now() + GRACE;
                let (output, omitted_bytes) = match timeout_at(until, collect(&mut self)).await {
                    Ok((out, err)) => join(out, err),
                    Err(_) => (String::new(), 0),
                };
                Ok(ExecOutcome { exit_code: exit_code(status), output, omitted_bytes })
            }
            Ok(Err(error)) => Err(ExecError::Lost { pod: self.pod.clone(), why: error.to_string() }),
            Err(_) => Err(self.timed_out()),
        }
    }
}

async fn collect(session: &mut LocalSession) -> (Output, Output) {
    tokio::join!(ended(session.out.take()), ended(session.err.take()))
}

/// What a reading task has kept; nothing when it was asked for before.
async fn ended(task: Option<JoinHandle<Output>>) -> Output {
    match task {
        Some(task) => task.await.unwrap_or_else(|_| Output::new(0)),
        None => Output::new(0),
    }
}

async fn watch(group: Option<nix::unistd::Pid>, deadline: Instant) {
    sleep_until(deadline).await;
    if let Some(group) = group {
        // ESRCH: it ended by itself just now.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}

/// As [`hear`], for a task of its own.
async fn listen(stream: Option<impl AsyncRead + Unpin>, awaited: Awaited, mut output: Output) -> Output {
    if let Some(mut stream) = stream {
        hear(&mut stream, &awaited, &mut output).await;
    }
    output
}
