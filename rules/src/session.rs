//! A session over any pair of streams: what is sent, what it must answer, when it ends. Adapters start the command
//! and follow it; the conversation is here.
//!
//! A session ends in three ways: released (last lines, end of input, exit), dropped, or at its limit, whoever still
//! waits for it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::api::Probe;
use crate::listen::Awaited;
use crate::ports::{ExecError, ExecOutcome, Session, SessionRequest};

/// How long the last words of a session that is lost are waited for, and the proof that it has ended.
const GRACE: Duration = Duration::from_secs(6);
/// Lines that wait to be written; the one who sends waits for each.
const QUEUE: usize = 4;

/// How a command ended and what it printed.
pub(crate) struct Ended {
    /// `None`: its limit passed.
    pub(crate) exit: Option<Result<i32, String>>,
    pub(crate) output: String,
    pub(crate) omitted_bytes: u64,
    /// Whether its end could not be verified.
    pub(crate) still_running: bool,
}

/// A command that is being followed.
pub(crate) struct Followed {
    pub(crate) stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// Told of every line of its standard output; gives up when that ends.
    pub(crate) awaited: Awaited,
    /// Owns the command: aborting it ends the command.
    pub(crate) following: JoinHandle<Ended>,
    /// Whether it is known to live at this moment, where the adapter can tell faster than by following.
    pub(crate) lives: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A session that holds.
pub(crate) struct Held {
    pod: String,
    limit: Duration,
    deadline: Instant,
    feed: mpsc::Sender<Line>,
    feeding: JoinHandle<()>,
    awaited: Awaited,
    following: JoinHandle<Ended>,
    lives: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What is written to a session.
struct Line {
    text: String,
    /// No line follows, and no heartbeat.
    last: bool,
    written: oneshot::Sender<std::io::Result<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.feeding.abort();
        self.following.abort();
    }
}

impl Held {
    /// Sends the first lines and waits until the session says that it holds. `deadline` is when its limit passes.
    pub(crate) async fn take(
        followed: Followed,
        request: &SessionRequest,
        deadline: Instant,
    ) -> Result<Self, ExecError> {
        let ready = followed.awaited.expect_text(&request.ready);
        let (feed, lines) = mpsc::channel(QUEUE);
        let feeding = tokio::spawn(feed_lines(followed.stdin, lines, request.heartbeat));
        let mut session = Self {
            pod: format!("{}/{}", request.target.namespace, request.target.pod),
            limit: request.limit,
            deadline,
            feed,
            feeding,
            awaited: followed.awaited,
            following: followed.following,
            lives: followed.lives,
        };
        session.send(&request.send, false).await?;
        session.answered(ready, &format!("said `{}`", request.ready)).await?;
        Ok(session)
    }

    async fn answered(&mut self, answer: oneshot::Receiver<()>, what: &str) -> Result<(), ExecError> {
        match timeout_at(self.deadline, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.lost(&format!("it ended before it {what}")).await),
            Err(_) => Err(self.at_its_limit().await),
        }
    }

    async fn send(&mut self, lines: &[String], last: bool) -> Result<(), ExecError> {
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        let (written, done) = oneshot::channel();
        let sending = async {
            let gone = || std::io::Error::other("nothing writes to it any more");
            self.feed.send(Line { text, last, written }).await.map_err(|_| gone())?;
            done.await.map_err(|_| gone())?
        };
        match timeout_at(self.deadline, sending).await {
            Ok(Ok(())) => Ok(()),
            // It is gone; what it said last is the better explanation.
            Ok(Err(error)) => Err(self.lost(&format!("its input is closed: {error}")).await),
            Err(_) => Err(self.at_its_limit().await),
        }
    }

    /// Says how it ended and what it said last.
    async fn lost(&mut self, why: &str) -> ExecError {
        let Ok(Ok(ended)) = timeout(GRACE, &mut self.following).await else {
            return ExecError::Lost { pod: self.pod.clone(), why: why.to_owned() };
        };
        let how = match &ended.exit {
            None => return self.timed_out(ended),
            Some(Ok(code)) => format!("exit code {code}"),
            Some(Err(reason)) => reason.clone(),
        };
        let said: String = ended.output.trim().chars().take(300).collect();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        ExecError::Lost { pod: self.pod.clone(), why: format!("{why}, {how}{said}") }
    }

    /// Whoever follows it has ended it or is just doing so.
    async fn at_its_limit(&mut self) -> ExecError {
        let unknown = Ended { exit: None, output: String::new(), omitted_bytes: 0, still_running: true };
        let ended = match timeout(GRACE, &mut self.following).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) | Err(_) => unknown,
        };
        self.timed_out(ended)
    }

    fn timed_out(&self, ended: Ended) -> ExecError {
        let Ended { output, still_running, .. } = ended;
        ExecError::TimedOut { pod: self.pod.clone(), limit: self.limit, still_running, output }
    }
}

#[async_trait]
impl Session for Held {
    async fn prove(&mut self, probe: Option<&Probe>) -> Result<(), ExecError> {
        if let Some(probe) = probe {
            let answer = self.awaited.expect_text(&probe.expect);
            self.send(std::slice::from_ref(&probe.send), false).await?;
            return self.answered(answer, &format!("answered `{}`", probe.expect)).await;
        }
        if Instant::now() >= self.deadline {
            return Err(self.at_its_limit().await);
        }
        if self.following.is_finished() || !(self.lives)() {
            return Err(self.lost("it ended before it was released").await);
        }
        Ok(())
    }

    async fn release(mut self: Box<Self>, finish: &[String]) -> Result<ExecOutcome, ExecError> {
        if Instant::now() >= self.deadline {
            return Err(self.at_its_limit().await);
        }
        self.send(finish, true).await?;
        let pod = self.pod.clone();
        match (&mut self.following).await {
            Ok(Ended { exit: Some(Ok(exit_code)), output, omitted_bytes, .. }) => {
                Ok(ExecOutcome { exit_code, output, omitted_bytes })
            }
            Ok(Ended { exit: Some(Err(why)), .. }) => Err(ExecError::Lost { pod, why }),
            Ok(ended @ Ended { exit: None, .. }) => Err(self.timed_out(ended)),
            Err(error) => Err(ExecError::Lost { pod, why: format!("what reads it died: {error}") }),
        }
    }
}

/// Writes lines, and an empty one whenever `heartbeat` has passed. Its end is the end of the session's input.
async fn feed_lines(
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
    mut lines: mpsc::Receiver<Line>,
    heartbeat: Option<Duration>,
) {
    let mut beat = interval(heartbeat.unwrap_or(Duration::from_hours(1)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begun = false;
    loop {
        let line = tokio::select! {
            biased;
            line = lines.recv() => line,
            _ = beat.tick(), if begun && heartbeat.is_some() => {
                // One that has ended shows that elsewhere.
                let _ = write(&mut stdin, "\n").await;
                continue;
            }
        };
        let Some(Line { text, last, written }) = line else { break };
        begun = true;
        let outcome = write(&mut stdin, &text).await;
        if last {
            // Dropping is not enough: the other half of an in-memory pipe would keep it open.
            let _ = stdin.shutdown().await;
        }
        // Nobody waits any more: nobody needs to know.
        let _ = written.send(outcome);
        if last {
            break;
        }
    }
}

async fn write(stdin: &mut (dyn AsyncWrite + Send + Unpin), text: &str) -> std::io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    stdin.write_all(text.as_bytes()).await?;
    stdin.flush().await
}
