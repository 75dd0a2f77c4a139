//! The few programs that are run, because the kernel has no call for what they do.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::super::{HostError, Result};

/// What is kept of a program's error output.
const KEPT_STDERR: u64 = 4096;

/// How a program ended, and the start of what it said.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) said: String,
}

/// Runs a program to its end; its error output becomes part of the error.
pub(super) fn run<S: AsRef<OsStr>>(program: &'static str, arguments: &[S], object: &Path) -> Result<()> {
    let Output { status, said } = start(program, arguments, object, Stdio::null())?;
    if status.success() {
        return Ok(());
    }
    let text = format!("{status}: {said}");
    Err(HostError::new(program, object.display(), io::Error::other(text)))
}

/// Runs a program whose exit status says something; what it says is everything that it prints.
pub(super) fn output<S: AsRef<OsStr>>(
    program: &'static str,
    arguments: &[S],
    object: &Path,
) -> Result<Output> {
    start(program, arguments, object, Stdio::piped())
}

fn start<S: AsRef<OsStr>>(
    program: &'static str,
    arguments: &[S],
    object: &Path,
    printed: Stdio,
) -> Result<Output> {
    let explain = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            let text = format!("{program} is not installed on this host; install the package that has it");
            return HostError::new(program, object.display(), io::Error::new(error.kind(), text));
        }
        HostError::new(program, object.display(), error)
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(printed)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(explain)?;
    let stderr = child.stderr.take();
    // Both are read at the same time: a program that waits for room in one pipe never ends the other.
    let said = std::thread::scope(|scope| {
        let printed = child.stdout.take().map(|stdout| scope.spawn(|| keep_start(stdout)));
        let complained = stderr.map(keep_start).unwrap_or_default();
        let printed = printed.and_then(|reader| reader.join().ok()).unwrap_or_default();
        format!("{printed} {complained}")
    });
    let status = child.wait().map_err(explain)?;
    Ok(Output { status, said: said.trim().to_owned() })
}

/// Keeps the start and reads the rest away, so that the program never blocks on a full pipe.
fn keep_start(mut stderr: impl Read) -> String {
    let mut kept = Vec::new();
    // A read error loses only words of a message about another error.
    let _ = stderr.by_ref().take(KEPT_STDERR).read_to_end(&mut kept);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&kept).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_says_why_and_a_missing_one_what_to_install() {
        let nowhere = Path::new("/nowhere");
        let error = run("ls", &["/does-not-exist"], nowhere).unwrap_err().to_string();
        assert!(error.contains("does-not-exist") && error.contains("exit status: 2"), "{error}");
        let error = run("mkfs.nothing", &["x"], nowhere).unwrap_err().to_string();
        assert!(error.contains("not installed"), "{error}");
    }

    #[test]
    fn endless_error_output_is_cut() {
        let script = ["-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1"];
        let error = run("sh", &script, Path::new("/x")).unwrap_err().to_string();
        assert!(error.len() < 5000, "{}", error.len());
    }
}
