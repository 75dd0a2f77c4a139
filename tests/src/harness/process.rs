//! Child processes that cannot outlive us: own process group, a death signal when this process dies, logs in
//! files whose tails go into every error, ends that are bounded.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Bytes of a log that go into an error.
const TAIL: usize = 1500;
/// After SIGKILL only a process in an uninterruptible sleep stays; it is reported, not waited for.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    user: Option<String>,
    streams: Streams,
    death: Death,
}

/// What happens to a child when this process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    WithUs,
    Later,
}

/// Runs a program and, told by SIGTERM, ends it a little later.
const KEEPER: &str = r#""$@" & child=$!; trap 'sleep 2; kill -KILL $child; exit 1' TERM; wait $child"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streams {
    Log,
    Piped,
}

impl Spec {
    /// A program under a name for logs and errors.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            environment: Vec::new(),
            user: None,
            streams: Streams::Log,
            death: Death::WithUs,
        }
    }

    /// One argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Several arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs as this user instead of root: a name, or a number that belongs to nobody else.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Standard input and output are pipes to us; only standard error goes to the log.
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.streams = Streams::Piped;
        self
    }

    /// Lives two seconds longer than we do: a guard must be there when its agent is gone.
    #[must_use]
    pub fn outliving_us(mut self) -> Self {
        self.death = Death::Later;
        self
    }

    fn command(&self) -> Command {
        // setpriv(1) sets the death signal and the user and then becomes the program, so no unsafe code is
        // needed between fork and exec.
        let mut command = Command::new("setpriv");
        let signal = match self.death {
            Death::WithUs => "KILL",
            Death::Later => "TERM",
        };
        command.args(["--pdeathsig", signal]);
        if let Some(user) = &self.user {
            command.args(identity(user));
        }
        command.arg("--");
        if self.death == Death::Later {
            command.args(["sh", "-c", KEEPER, "sh"]);
        }
        command.arg(&self.program).args(&self.args);
        command.envs(self.environment.iter().map(|(key, value)| (key, value))).process_group(0);
        command
    }

    /// Starts it; the log is `<run>/log/<name>.log`, its pid is recorded for the sweep.
    pub fn start(self, run: &Path) -> Result<Process> {
        let logs = run.join("log");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let log = logs.join(format!("{}.log", self.name));
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = self.command();
        match self.streams {
            Streams::Log => command.stdin(Stdio::null()).stdout(file.try_clone()?),
            Streams::Piped => command.stdin(Stdio::piped()).stdout(Stdio::piped()),
        };
        command.stderr(file);
        let child = spawn(command)
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        record(run, &self.name, child.id())?;
        Ok(Process { name: self.name, log, child, death: self.death, status: None })
    }
}

/// A running child. Dropping it kills its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    death: Death,
    status: Option<ExitStatus>,
}

impl Process {
    /// Its pid (also its process group).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The pipes of a [`Spec::piped`] process; `None` the second time.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// An error with the end of the log, when it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.poll()? {
            bail!("{} ended by itself ({status}); its log ends with:\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let start = text.len().saturating_sub(TAIL);
        String::from_utf8_lossy(&text[start..]).trim_end().to_owned()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// The most resident memory that it has had, in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        self.status_kib("VmHWM:")
    }

    /// Its resident memory without what it has of files, which is mostly the program's text, in KiB.
    pub fn anonymous_kib(&self) -> Result<u64> {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.program_pid()?);
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse().ok());
        number.with_context(|| format!("{path} has no {field}"))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.poll()?.is_some())
    }

    /// Sends a signal to the program itself, which must be running.
    pub fn send(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.program_pid()?).context("a pid is a small number")?;
        nix::sys::signal::kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Waits until it has ended.
    pub fn wait_end(&mut self, limit: Duration) -> Result<()> {
        match self.wait_for(limit)? {
            Some(_) => Ok(()),
            None => bail!("{} did not end within {limit:?}; its log ends with:\n{}", self.name, self.tail()),
        }
    }

    /// The pid of the program itself, which is a child of its keeper when it outlives us.
    fn program_pid(&self) -> Result<u32> {
        let pid = self.pid();
        match self.death {
            Death::WithUs => Ok(pid),
            Death::Later => {
                let path = format!("/proc/{pid}/task/{pid}/children");
                let children = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
                let first = children.split_whitespace().next().and_then(|text| text.parse().ok());
                first.with_context(|| format!("{} runs no program", self.name))
            }
        }
    }

    /// Sends `signal` to the process group and waits; kills it when it takes longer than `limit`.
    pub fn stop(&mut self, signal: Signal, limit: Duration) -> Result<()> {
        if self.wait_for(Duration::ZERO)?.is_some() {
            return Ok(());
        }
        self.signal(signal);
        if self.wait_for(limit)?.is_some() {
            return Ok(());
        }
        self.kill()?;
        bail!(
            "{} did not end within {limit:?} of {signal} and was killed; its log ends with:\n{}",
            self.name,
            self.tail()
        )
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        if self.wait_for(Duration::ZERO)?.is_some() {
            return Ok(());
        }
        self.signal(Signal::SIGKILL);
        match self.wait_for(KILL_LIMIT)? {
            Some(_) => Ok(()),
            None => bail!("{} (pid {}) does not die: it sleeps in the kernel", self.name, self.pid()),
        }
    }

    fn signal(&self, signal: Signal) {
        // A group that is gone already is what we want.
        let _gone = i32::try_from(self.pid()).map(|pid| killpg(Pid::from_raw(pid), signal));
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.status)
    }

    fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.poll()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

/// A command that is run to its end.
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end within a limit (`timeout -k`), as a user where given.
pub async fn run(
    user: Option<&str>,
    program: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    limit: Duration,
) -> Result<Output> {
    let mut command = tokio::process::Command::new("timeout");
    command.args(["-k", "2", &limit.as_secs().max(1).to_string()]);
    if let Some(user) = user {
        command.arg("setpriv").args(identity(user)).arg("--");
    }
    command.arg(program).args(args).stdin(Stdio::null()).kill_on_drop(true).current_dir("/");
    let output = command.output().await.with_context(|| format!("cannot run {}", program.display()))?;
    Ok(Output {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// As [`run`], and a failure is an error with what the command said.
pub async fn succeed(
    user: Option<&str>,
    program: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    limit: Duration,
) -> Result<String> {
    let output = run(user, program, args, limit).await?;
    if output.success {
        return Ok(output.stdout);
    }
    let said = format!("{}{}", output.stdout, output.stderr);
    bail!("{} failed: {}", program.display(), said.trim_end())
}

/// Arguments of setpriv(1) that make it a user. A number has no entry in the user database, and so no groups.
fn identity(user: &str) -> [&str; 5] {
    let is_number = user.bytes().all(|byte| byte.is_ascii_digit());
    ["--reuid", user, "--regid", user, if is_number { "--clear-groups" } else { "--init-groups" }]
}

/// Starts a command from one thread that lives as long as this process: the death signal is tied to the
/// *thread* that forked, and threads of a runtime come and go.
fn spawn(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                drop(answer.send(command.spawn()));
            }
        });
        Mutex::new(sender)
    });
    let (sender, answer) = mpsc::channel();
    let lock = spawner.lock().map_err(|_| anyhow::anyhow!("the spawning thread is gone"))?;
    lock.send((command, sender)).context("the spawning thread is gone")?;
    Ok(answer.recv().context("the spawning thread is gone")??)
}

/// `<run>/pids/<pid>`: its name and start time, so that a later sweep ends exactly this process.
fn record(run: &Path, name: &str, pid: u32) -> Result<()> {
    let pids = run.join("pids");
    fs::create_dir_all(&pids)?;
    let start = start_time(pid).unwrap_or_default();
    fs::write(pids.join(pid.to_string()), format!("{start} {name}"))?;
    Ok(())
}

/// Ends the processes that a dead run recorded and that are still the same processes.
pub fn end_recorded(run: &Path) {
    for entry in fs::read_dir(run.join("pids")).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let recorded = text.split(' ').next().and_then(|start| start.parse::<u64>().ok());
        if recorded.is_none() || start_time(pid) != recorded {
            continue;
        }
        if let Ok(pid) = i32::try_from(pid) {
            let _gone = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let end = Instant::now() + KILL_LIMIT;
        while start_time(pid) == recorded && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`; `None` when it has ended.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_by_itself_is_reported_with_its_log() {
        let run = tempfile::tempdir().unwrap();
        let spec = Spec::new("loud", "sh").args(["-c", "echo the reason >&2; exit 3"]);
        let mut process = spec.start(run.path()).unwrap();
        process.wait_for(Duration::from_secs(20)).unwrap();
        let error = process.check_alive().unwrap_err().to_string();
        assert!(error.contains("the reason") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_process_that_ignores_the_polite_signal_is_killed_and_reported() {
        let run = tempfile::tempdir().unwrap();
        let spec = Spec::new("deaf", "sh").args(["-c", "trap '' TERM; echo up; while :; do sleep 1; done"]);
        let mut process = spec.start(run.path()).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while process.tail().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let error = process.stop(Signal::SIGTERM, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("was killed"), "{error}");
        assert!(process.poll().unwrap().is_some());
    }

    #[test]
    fn what_outlives_us_is_seen_as_the_program_and_not_as_its_keeper() {
        let run = tempfile::tempdir().unwrap();
        let process = Spec::new("kept", "sleep").arg("60").outliving_us().start(run.path()).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let name = loop {
            let name =
                process.program_pid().and_then(|pid| Ok(fs::read_to_string(format!("/proc/{pid}/comm"))?));
            if name.as_ref().is_ok_and(|name| name == "sleep\n") || Instant::now() > end {
                break name;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(name.unwrap(), "sleep\n");
        assert!(process.resident_kib().unwrap() > 0);
    }

    #[test]
    fn the_sweep_ends_a_recorded_process_and_not_another_one_with_its_pid() {
        let run = tempfile::tempdir().unwrap();
        let mut ours = Spec::new("ours", "sleep").arg("60").start(run.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        let pids = other.path().join("pids");
        fs::create_dir_all(&pids).unwrap();
        fs::write(pids.join(ours.pid().to_string()), "1 somebody else").unwrap();
        end_recorded(other.path());
        assert!(ours.poll().unwrap().is_none());
        end_recorded(run.path());
        assert!(ours.wait_for(Duration::from_secs(20)).unwrap().is_some());
    }
}
