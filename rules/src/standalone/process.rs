//! A command under its supervisor: ended together with everything that it started, or left alone when it has ended by
//! itself.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::inventory::PodDefinition;
use super::leftovers;
use super::supervisor::{self, AT_ONCE, GONE, Orphaned, POLITE};
use crate::output::Output;
use crate::ports::Mark;

/// How long an end is waited for: the polite second, and as much again for processes that die slowly.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes that are read at once, of each of two streams of hundreds of commands.
const CHUNK: usize = 4 * 1024;
/// How long the output is read on after a command ended: something that it left behind may hold the pipe.
pub(super) const DRAIN: Duration = Duration::from_millis(500);

/// A running command. Dropping it ends the command and all that it started.
pub(super) struct Process {
    /// The supervisor, which ends with the command's exit code.
    pub(super) child: Child,
    /// The command's own process id.
    pub(super) pid: i32,
    supervisor: UnixStream,
}

/// What a command is started with besides its command line.
pub(super) struct Start<'a> {
    /// What this very command gets besides the definition's environment.
    pub(super) env: &'a [(String, String)],
    /// What all its processes carry.
    pub(super) mark: Mark,
    /// What becomes of it when this process dies.
    pub(super) orphaned: Orphaned,
    pub(super) stdin: fn() -> Stdio,
}

/// Whether a command is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The supervisor has seen the end of the last process.
    Verified,
    /// Something may be left.
    Unverified,
}

impl Drop for Process {
    fn drop(&mut self) {
        // The supervisor of a command that has ended is gone, which is the usual error.
        let _ = self.supervisor.try_write(&[AT_ONCE]);
    }
}

/// Programs that are being started at the same time.
static STARTING: Semaphore = Semaphore::const_new(32);

impl Process {
    /// Starts a command as the definition says it is done in that pod.
    ///
    /// Whoever starts a program stands still until the kernel has given the new one a turn and loaded it: on a busy
    /// machine milliseconds. So that happens on threads of its own, several at a time.
    pub(super) async fn start(
        pod: &PodDefinition,
        argv: &[String],
        start: Start<'_>,
    ) -> Result<Self, String> {
        let turn = STARTING.acquire().await.map_err(|error| error.to_string())?;
        let command = command(pod, argv, &start)?;
        let (pod, mark, orphaned) = (pod.clone(), start.mark, start.orphaned);
        let starting = tokio::task::spawn_blocking(move || Self::start_now(command, &pod, mark, orphaned));
        let started = starting.await.unwrap_or_else(|error| Err(error.to_string()));
        drop(turn);
        started
    }

    fn start_now(
        mut command: Command,
        pod: &PodDefinition,
        mark: Mark,
        orphaned: Orphaned,
    ) -> Result<Self, String> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let not_supervised = |error: std::io::Error| format!("`{program}` cannot be supervised: {error}");
        let (mut ours, theirs) = supervisor::supervise(&mut command, &leftovers::name_of(mark), orphaned)
            .map_err(not_supervised)?;
        let child = command.spawn().map_err(|error| explain(&program, pod, &error))?;
        drop(theirs);
        let mut pid = [0; 4];
        ours.read_exact(&mut pid).map_err(not_supervised)?;
        ours.set_nonblocking(true).map_err(not_supervised)?;
        let supervisor = UnixStream::from_std(ours).map_err(not_supervised)?;
        Ok(Self { child, pid: i32::from_ne_bytes(pid), supervisor })
    }

    /// Asks it to end, then ends it.
    pub(super) async fn terminate(self) -> End {
        self.end(POLITE).await
    }

    /// Ends it at once.
    pub(super) async fn kill(self) -> End {
        self.end(AT_ONCE).await
    }

    async fn end(mut self, how: u8) -> End {
        // A supervisor that has just ended with its command cannot be told, and then says nothing either.
        let _ = self.supervisor.try_write(&[how]);
        let mut word = [0];
        match timeout(GRACE, self.supervisor.read(&mut word)).await {
            Ok(Ok(1)) if word[0] == GONE => End::Verified,
            Ok(_) | Err(_) => End::Unverified,
        }
    }
}

fn command(pod: &PodDefinition, argv: &[String], start: &Start<'_>) -> Result<Command, String> {
    let mut full = pod.exec.iter().chain(argv);
    let program = full.next().ok_or("the command is empty; name a program")?;
    let mut command = Command::new(program);
    command.args(full).envs(&pod.env).envs(start.env.iter().map(|(name, value)| (name, value)));
    command.env(Mark::VARIABLE, start.mark.to_string());
    command.stdin((start.stdin)()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(cwd) = &pod.cwd {
        command.current_dir(cwd);
    }
    Ok(command)
}

fn explain(program: &str, pod: &PodDefinition, error: &std::io::Error) -> String {
    let cwd = pod.cwd.as_ref().filter(|cwd| !cwd.is_dir());
    match (error.kind(), cwd) {
        (_, Some(cwd)) => format!("its working directory {} does not exist; correct `cwd`", cwd.display()),
        (std::io::ErrorKind::NotFound, None) => {
            format!("there is no program `{program}`; install it or give its full path")
        }
        (std::io::ErrorKind::PermissionDenied, None) => {
            format!("`{program}` may not be executed; check its permissions")
        }
        (_, None) => format!("`{program}`: {error}"),
    }
}

/// Reads a stream to its end within the limit.
pub(super) async fn read_all(stream: Option<impl AsyncRead + Unpin>, output: &mut Output) {
    let Some(mut stream) = stream else { return };
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(length) => output.push(&chunk[..length]),
        }
    }
}

/// Reads both streams while waiting for the command's end, and a moment longer.
pub(super) async fn run_to_end(
    process: &mut Process,
    out: &mut Output,
    err: &mut Output,
) -> std::io::Result<std::process::ExitStatus> {
    let (stdout, stderr) = (process.child.stdout.take(), process.child.stderr.take());
    let reading = async { tokio::join!(read_all(stdout, out), read_all(stderr, err)) };
    tokio::pin!(reading);
    tokio::select! {
        _ = &mut reading => process.child.wait().await,
        status = process.child.wait() => {
            // Running out of this time is what it is for.
            let _ = timeout(DRAIN, &mut reading).await;
            status
        }
    }
}

/// The command's exit code, 128 + signal when it was killed; or what happened to its supervisor, which is never killed
/// by us.
pub(super) fn exit_code(status: std::process::ExitStatus) -> Result<i32, String> {
    use std::os::unix::process::ExitStatusExt;
    let killed =
        |signal: i32| format!("its supervisor was killed by signal {signal}; the command may still run");
    status.code().ok_or_else(|| killed(status.signal().unwrap_or(0)))
}
