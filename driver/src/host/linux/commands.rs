//! The few programs that are run, because the kernel has no call for what they do.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::{HostError, Result};

/// What is kept of a program's error output.
const KEPT_STDERR: u64 = 4096;

/// Runs a program to its end; its error output becomes part of the error.
pub(super) fn run<S: AsRef<OsStr>>(program: &'static str, arguments: &[S], object: &Path) -> Result<()> {
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
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(explain)?;
    let said = child.stderr.take().map(keep_start).unwrap_or_default();
    let status = child.wait().map_err(explain)?;
    if status.success() {
        return Ok(());
    }
    let text = format!("{status}: {}", said.trim());
    Err(HostError::new(program, object.display(), io::Error::other(text)))
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
