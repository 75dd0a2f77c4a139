//! One action in one pod, tried as often as its plan allows.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};

use crate::api::{EnvEntry, HttpCall, defaults};
use crate::plan::{Action, Call, PlannedCommand};
use crate::ports::{ExecError, ExecRequest, HttpRequest, HttpTrust, Ownership, PodTarget, SecretError};
use crate::redact::Redactor;
use crate::run::{Attempt, AttemptFault};

use super::Ports;
use super::budget::Budget;

/// Wall-clock instants that keep their distances when the wall clock is set: one reading, then monotonic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall: Timestamp,
    mono: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { wall: Timestamp::now(), mono: Instant::now() }
    }

    pub(super) fn at(&self, instant: Instant) -> Timestamp {
        let since =
            SignedDuration::try_from(instant.saturating_duration_since(self.mono)).unwrap_or_default();
        self.wall.saturating_add(since).unwrap_or(self.wall)
    }
}

/// One action to be done in one pod.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Whatever the caller wants to find the job again by.
    pub(super) tag: usize,
    pub(super) step: String,
    pub(super) action: Action,
    pub(super) target: PodTarget,
    pub(super) host: String,
    pub(super) command: PlannedCommand,
}

/// What actions are done with.
#[derive(Clone)]
pub(super) struct Hands {
    /// Name of the run.
    pub(super) run: String,
    pub(super) ports: Ports,
    pub(super) clock: Clock,
    /// What all of it takes its time from.
    pub(super) budget: Budget,
    /// How much longer than its timeout an adapter may take to end a command.
    pub(super) grace: Duration,
    pub(super) redactor: Redactor,
}

/// What an action answered, whatever that means.
struct Answer {
    exit_code: Option<i32>,
    http_status: Option<u16>,
    output: String,
    omitted_bytes: u64,
}

/// Why there is no answer, or not the wanted one.
pub(super) struct Fault {
    pub(super) kind: AttemptFault,
    pub(super) why: String,
    pub(super) output: String,
}

impl Fault {
    pub(super) fn new(kind: AttemptFault, why: impl Into<String>) -> Self {
        Self { kind, why: why.into(), output: String::new() }
    }
}

impl From<ExecError> for Fault {
    fn from(error: ExecError) -> Self {
        let why = error.to_string();
        match error {
            ExecError::TimedOut { output, .. } => Self { kind: AttemptFault::TimedOut, why, output },
            ExecError::PodChanged { .. } => Self::new(AttemptFault::PodChanged, why),
            ExecError::NotStarted { .. } => Self::new(AttemptFault::NotStarted, why),
            ExecError::Lost { .. } => Self::new(AttemptFault::Lost, why),
        }
    }
}

impl From<SecretError> for Fault {
    fn from(error: SecretError) -> Self {
        Self::new(AttemptFault::Secret, error.to_string())
    }
}

impl Hands {
    /// Does a job, again where its plan allows that. Every try is in the result, at least one.
    pub(super) async fn work(&self, job: &Job) -> Vec<Attempt> {
        let retry = job.command.retry;
        let mut pause = Duration::from_millis(retry.pause_ms);
        let mut attempts = Vec::new();
        loop {
            let number = u32::try_from(attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
            let attempt = self.once(job, number).await;
            let again = number <= retry.times && may_repeat(&attempt, retry.idempotent);
            attempts.push(attempt);
            if !again || self.budget.is_closing() || !self.rest(pause).await {
                return attempts;
            }
            pause = (pause * 2).min(defaults::RETRY_PAUSE_MAX);
        }
    }

    /// Waits; whether there is time left afterwards.
    async fn rest(&self, pause: Duration) -> bool {
        pause < self.budget.left() && {
            // Running out of this time is what it is for.
            let _ = self.budget.within(pause, std::future::pending::<()>()).await;
            !self.budget.left().is_zero()
        }
    }

    async fn once(&self, job: &Job, number: u32) -> Attempt {
        let started = Instant::now();
        let command = &job.command;
        let outcome = match command.until_true_every_ms {
            None => self.ask(job, self.limit_of(job)).await.and_then(|answer| judged(job, answer)),
            Some(every) => self.until_true(job, Duration::from_millis(every)).await,
        };
        let mut attempt = self.blank(job, number, started);
        attempt.duration_us = micros(started.elapsed());
        match outcome {
            Ok(answer) => self.fill(&mut attempt, answer),
            Err((fault, answer)) => {
                if let Some(answer) = answer {
                    self.fill(&mut attempt, answer);
                } else {
                    attempt.output = self.redactor.clean(&fault.output);
                }
                attempt.error = Some(self.redactor.clean(&fault.why));
                attempt.fault = Some(fault.kind);
            }
        }
        attempt
    }

    /// A job that was given up before its end.
    pub(super) fn given_up(&self, job: &Job, started: Instant, why: &str) -> Attempt {
        let mut attempt = self.blank(job, 1, started);
        attempt.duration_us = micros(started.elapsed());
        attempt.error = Some(format!("given up: {why}"));
        attempt.fault = Some(AttemptFault::GivenUp);
        attempt
    }

    fn blank(&self, job: &Job, number: u32, started: Instant) -> Attempt {
        Attempt {
            step: job.step.clone(),
            action: job.action,
            target: job.target.clone(),
            host: job.host.clone(),
            number,
            command: job.command.to_string(),
            started_at: self.clock.at(started),
            duration_us: 0,
            exit_code: None,
            http_status: None,
            held_after_us: None,
            output: String::new(),
            omitted_bytes: 0,
            error: None,
            fault: None,
        }
    }

    fn fill(&self, attempt: &mut Attempt, answer: Answer) {
        attempt.exit_code = answer.exit_code;
        attempt.http_status = answer.http_status;
        attempt.output = self.redactor.clean(&answer.output);
        attempt.omitted_bytes = answer.omitted_bytes;
    }

    /// Asks until the answer is yes, within the action's timeout.
    async fn until_true(&self, job: &Job, every: Duration) -> Result<Answer, (Fault, Option<Answer>)> {
        let limit = self.limit_of(job);
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = self.ask(job, left).await.and_then(|answer| judged(job, answer));
            let (fault, answer) = match asked {
                Ok(answer) => return Ok(answer),
                Err(no) => no,
            };
            match fault.kind {
                AttemptFault::PodChanged | AttemptFault::Secret => return Err((fault, answer)),
                AttemptFault::Answer
                | AttemptFault::NotTrue
                | AttemptFault::TimedOut
                | AttemptFault::NotStarted
                | AttemptFault::Lost
                | AttemptFault::GivenUp => {}
            }
            if Instant::now() + every >= deadline || !self.rest(every).await {
                let why = format!("it was not true within {limit:?}; the last answer: {}", fault.why);
                return Err((Fault { kind: AttemptFault::NotTrue, why, output: fault.output }, answer));
            }
        }
    }

    /// What its rule allows, as far as the run's time allows that.
    fn limit_of(&self, job: &Job) -> Duration {
        self.budget.for_command(job.command.timeout(), self.grace)
    }

    /// Does it once. The adapter ends it at its timeout; should it not, nobody waits for ever.
    async fn ask(&self, job: &Job, limit: Duration) -> Result<Answer, (Fault, Option<Answer>)> {
        let asking = async {
            match &job.command.call {
                Call::Run(argv) => self.run(job, argv, limit).await,
                Call::Http(call) => self.request(job, call, limit).await,
            }
        };
        let pod = format!("{}/{}", job.target.namespace, job.target.pod);
        let late = || ExecError::TimedOut { pod, limit, still_running: true, output: String::new() };
        if limit.is_zero() {
            let why = "there was no time left for it; it was not begun";
            return Err((Fault::new(AttemptFault::NotStarted, why), None));
        }
        // Another process may be undoing this run and may have let the next one begin.
        match self.ports.journal.ownership(&self.run) {
            Ownership::Ours => {}
            Ownership::Unsure | Ownership::Lost => {
                let why = "this controller could not renew its claim on the run, so another one may have taken it over; it \
                           was not begun";
                return Err((Fault::new(AttemptFault::NotStarted, why), None));
            }
        }
        match self.budget.within(limit + self.grace, asking).await {
            Ok(answer) => answer.map_err(|fault| (fault, None)),
            Err(_) => Err((late().into(), None)),
        }
    }

    async fn run(&self, job: &Job, argv: &[String], limit: Duration) -> Result<Answer, Fault> {
        let request = ExecRequest {
            target: job.target.clone(),
            argv: argv.to_vec(),
            env: self.values(&job.target.namespace, &job.command.env).await?,
            timeout: limit,
            output_limit: job.command.output_limit,
        };
        let outcome = self.ports.exec.exec(request).await?;
        Ok(Answer {
            exit_code: Some(outcome.exit_code),
            http_status: None,
            output: outcome.output,
            omitted_bytes: outcome.omitted_bytes,
        })
    }

    async fn request(&self, job: &Job, call: &HttpCall, limit: Duration) -> Result<Answer, Fault> {
        let namespace = &job.target.namespace;
        let tls = match &call.tls {
            None => None,
            Some(tls) => Some(HttpTrust {
                // Certificates are public: nothing of them is hidden.
                ca_pem: self.ports.secrets.read(namespace, &tls.ca).await?,
                server_name: tls.server_name.clone(),
            }),
        };
        let request = HttpRequest {
            target: job.target.clone(),
            method: call.method,
            port: call.port,
            path: call.path.clone(),
            headers: self.values(namespace, &call.headers).await?,
            body: call.body.clone(),
            tls,
            timeout: limit,
            output_limit: job.command.output_limit,
        };
        let outcome = self.ports.exec.http(request).await?;
        Ok(Answer {
            exit_code: None,
            http_status: Some(outcome.status),
            output: outcome.output,
            omitted_bytes: outcome.omitted_bytes,
        })
    }

    /// Names and values; what comes from a secret is hidden from now on.
    pub(super) async fn values(
        &self,
        namespace: &str,
        entries: &[EnvEntry],
    ) -> Result<Vec<(String, String)>, Fault> {
        let mut values = Vec::new();
        for entry in entries {
            let value = match &entry.secret {
                None => entry.value.clone().unwrap_or_default(),
                Some(secret) => {
                    let reading = self.ports.secrets.read(namespace, secret);
                    let late = |_| SecretError::of(namespace, secret, "it was not answered in time");
                    let value = timeout(defaults::SECRET_TIMEOUT, reading).await.map_err(late)??;
                    self.redactor.hide(&value);
                    value
                }
            };
            values.push((entry.name.clone(), value));
        }
        Ok(values)
    }
}

/// Whether the answer is the wanted one. A question may be answered with no.
fn judged(job: &Job, answer: Answer) -> Result<Answer, (Fault, Option<Answer>)> {
    if job.action == Action::Where && job.command.until_true_every_ms.is_none() {
        return Ok(answer);
    }
    let why = match (&job.command.call, answer.exit_code, answer.http_status) {
        (Call::Run(_), Some(0), _) => None,
        (Call::Run(_), code, _) => Some(format!("exit code {}", code.unwrap_or(-1))),
        (Call::Http(call), _, Some(status)) if call.is_expected(status) => None,
        (Call::Http(call), _, status) => Some(format!(
            "status {}, expected {}",
            status.unwrap_or(0),
            call.status.map_or_else(|| "200 to 299".to_owned(), |status| status.to_string())
        )),
    };
    match why {
        None => Ok(answer),
        Some(why) => Err((Fault::new(AttemptFault::Answer, why), Some(answer))),
    }
}

/// Whether a question was answered with yes.
pub(super) fn is_yes(job: &Job, attempt: &Attempt) -> bool {
    attempt.error.is_none()
        && match &job.command.call {
            Call::Run(_) => attempt.exit_code == Some(0),
            Call::Http(call) => attempt.http_status.is_some_and(|status| call.is_expected(status)),
        }
}

fn may_repeat(attempt: &Attempt, idempotent: bool) -> bool {
    match attempt.fault {
        None | Some(AttemptFault::PodChanged | AttemptFault::GivenUp) => false,
        Some(fault) => idempotent || !fault.is_uncertain(),
    }
}

pub(super) fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}
