//! Starts programs that stay when this process ends: in a place's namespaces and cgroups, with a log file.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::cgroups::Cgroups;
use super::{Layout, Place};
use crate::harness::process::start_time;

/// Joins every cgroup named before `--`, then becomes the program after it; its pid stays the same.
const JOIN: &str = r#"while [ "$1" != -- ]; do echo 0 > "$1" || exit 1; shift; done; shift; exec "$@""#;
/// Bytes of a log that go into an error.
const TAIL: usize = 1500;

/// A program to start.
#[derive(Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// A program and its arguments; the name is that of its log and its pid file.
    pub fn new<A: AsRef<OsStr>>(
        name: &str,
        path: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        Self { name: name.into(), path: path.into(), args }
    }
}

/// Where programs of one place are started.
#[derive(Debug)]
pub struct Launcher<'a> {
    layout: &'a Layout,
    place: Place,
    joins: Vec<PathBuf>,
}

impl<'a> Launcher<'a> {
    /// Makes the place's cgroups.
    pub fn new(layout: &'a Layout, place: Place) -> Result<Self> {
        Ok(Self { layout, place, joins: Cgroups::of(layout)?.make(place)? })
    }

    /// Starts a program outside of every namespace of the cluster.
    pub fn outside(&self, program: &Program) -> Result<Started> {
        self.start(&[], program)
    }

    /// Starts a program inside the place, which `holder` keeps.
    pub fn inside(&self, holder: i32, program: &Program) -> Result<Started> {
        self.start(
            &["nsenter".into(), "-t".into(), holder.to_string(), "-n".into(), "-m".into(), "--".into()],
            program,
        )
    }

    fn start(&self, enter: &[String], program: &Program) -> Result<Started> {
        let log = self.layout.directory("log")?.join(format!("{}-{}.log", self.place, program.name));
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("sh");
        command.args(["-c", JOIN, "sh"]).args(&self.joins).arg("--").args(enter);
        command.arg(&program.path).args(&program.args);
        let path = std::env::var("PATH").unwrap_or_default();
        // containerd finds its shim, and everybody the administrator's tools.
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.layout.cache("bin")?.display());
        command.env("PATH", path).env_remove("KUBECONFIG");
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0).current_dir("/");
        let child = command.spawn().with_context(|| format!("cannot start {}", program.path.display()))?;
        let pid = i32::try_from(child.id()).context("pids are positive")?;
        let started = Started { name: format!("{}-{}", self.place, program.name), pid, log };
        let record = self.layout.directory("pids")?.join(&started.name);
        let begun = start_time(child.id()).unwrap_or_default();
        fs::write(&record, format!("{pid} {begun}"))?;
        Ok(started)
    }
}

/// A program that was started.
#[derive(Debug, Clone)]
pub struct Started {
    name: String,
    /// Its pid.
    pub pid: i32,
    log: PathBuf,
}

impl Started {
    /// An error with the end of its log when it has ended.
    pub fn check(&self) -> Result<()> {
        let alive = u32::try_from(self.pid).is_ok_and(|pid| start_time(pid).is_some());
        ensure!(alive, "{} has ended; {} ends with:\n{}", self.name, self.log.display(), tail(&self.log));
        Ok(())
    }
}

/// The pid of a recorded program while it is still the same process.
pub fn recorded(layout: &Layout, place: Place, name: &str) -> Option<i32> {
    let text = fs::read_to_string(layout.file("pids").join(format!("{place}-{name}"))).ok()?;
    let (pid, begun) = text.split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    (start_time(pid)? == begun.parse::<u64>().ok()?).then(|| i32::try_from(pid).ok())?
}

/// The end of a log.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL)..]).trim_end().to_owned()
}

/// Runs a command to its end; what it printed, or an error with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    run_with(command, "")
}

/// As [`run`], with something to read.
pub fn run_with(command: &mut Command, input: &str) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let text = input.to_owned();
    // On its own thread: both pipes may be full at once.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    // A program that ends without reading all of it says by its status whether that was right.
    drop(writer.join());
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    bail!("{shown} {}: {}\n{}", args.join(" "), output.status, said.trim_end())
}
