//! A child process in a process group of its own, so that a command is ended together with all that it started.

use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::inventory::PodDefinition;
use crate::output::Output;

/// Between the polite signal and the last one.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that are read at once, of each of two streams of hundreds of commands.
const CHUNK: usize = 4 * 1024;
/// How long the output is read on after a command ended: something that it left behind may hold the pipe.
pub(super) const DRAIN: Duration = Duration::from_millis(500);

/// A running command. Dropping it ends the group.
pub(super) struct Process {
    pub(super) child: Child,
    group: Group,
}

/// Whether a group is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// No member is left.
    Verified,
    /// A member may be left.
    Unverified,
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Option<Signal>) -> Result<(), Errno> {
        self.0.map_or(Err(Errno::ESRCH), |group| killpg(group, signal))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Nothing can be done about a failure, and ESRCH is the usual one: it has ended already.
        let _ = self.signal(Some(Signal::SIGKILL));
    }
}

/// Programs that are being started at the same time.
static STARTING: Semaphore = Semaphore::const_new(32);

impl Process {
    /// Starts a command as the definition says it is done in that pod. `env` is what this very command gets besides.
    ///
    /// Whoever starts a program stands still until the kernel has given the new one a turn and loaded it: on a busy
    /// machine milliseconds. So that happens on threads of its own, several at a time.
    pub(super) async fn start(
        pod: &PodDefinition,
        argv: &[String],
        env: &[(String, String)],
        stdin: fn() -> Stdio,
    ) -> Result<Self, String> {
        let turn = STARTING.acquire().await.map_err(|error| error.to_string())?;
        let (pod, argv, env) = (pod.clone(), argv.to_vec(), env.to_vec());
        let starting = tokio::task::spawn_blocking(move || Self::start_now(&pod, &argv, &env, stdin()));
        let started = starting.await.unwrap_or_else(|error| Err(error.to_string()));
        drop(turn);
        started
    }

    fn start_now(
        pod: &PodDefinition,
        argv: &[String],
        env: &[(String, String)],
        stdin: Stdio,
    ) -> Result<Self, String> {
        let mut full = pod.exec.iter().chain(argv);
        let program = full.next().ok_or("the command is empty; name a program")?;
        let mut command = Command::new(program);
        command.args(full).envs(&pod.env).envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        if let Some(cwd) = &pod.cwd {
            command.current_dir(cwd);
        }
        let child = command.spawn().map_err(|error| explain(program, pod, &error))?;
        // The group's number is its leader's, because it was started with group 0.
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        Ok(Self { child, group })
    }

    /// The group, for a watchdog that outlives borrows of this.
    pub(super) fn group_id(&self) -> Option<Pid> {
        self.group.0
    }

    /// The command has ended by itself: what it left behind on purpose stays.
    pub(super) fn leave(mut self) {
        self.group.0 = None;
    }

    /// Asks the group to end, then ends it.
    pub(super) async fn terminate(mut self) -> End {
        // Errors mean that nobody is left to signal.
        let _ = self.group.signal(Some(Signal::SIGTERM));
        let leader = timeout(GRACE, self.child.wait()).await;
        if leader.is_ok() && self.is_gone() {
            self.group.0 = None;
            return End::Verified;
        }
        self.kill().await
    }

    /// Ends the group at once.
    pub(super) async fn kill(mut self) -> End {
        let _ = self.group.signal(Some(Signal::SIGKILL));
        let until = Instant::now() + GRACE;
        let _ = timeout(GRACE, self.child.wait()).await;
        while !self.is_gone() && Instant::now() < until {
            sleep(Duration::from_millis(10)).await;
        }
        if self.is_gone() {
            self.group.0 = None;
            End::Verified
        } else {
            End::Unverified
        }
    }

    fn is_gone(&self) -> bool {
        self.group.signal(None) == Err(Errno::ESRCH) || self.group.0.is_some_and(only_zombies)
    }
}

/// Whether every process of the group has ended and only waits to be fetched. Where nothing adopts orphans, as in
/// many containers, they stay like that for ever.
fn only_zombies(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let lives = |stat: String| {
        // `pid (name) state parent group …`; the name may contain anything, so count from its end.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let state = fields.next().unwrap_or_default();
        fields.nth(1) == Some(group.to_string().as_str()) && !matches!(state, "Z" | "X")
    };
    !processes
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .any(lives)
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

/// Exit code; 128 + signal when it was killed.
pub(super) fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
