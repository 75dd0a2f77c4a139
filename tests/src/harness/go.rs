//! Go: what builds Kubernetes, its sidecars and csi-sanity.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::binaries;

/// The Go that `tests/cluster/kubernetes/go.mod` asks for: 1.26.
pub const MINOR: u32 = 26;

/// Go on the path, else where it is usually unpacked, else where `make setup` puts it. It must be able to build what
/// our `go.mod` files ask for; since 1.21 it fetches a newer one of itself for that.
pub fn find() -> Result<PathBuf> {
    let directory = binaries::source_directory().join("cluster/kubernetes");
    let ours = binaries::target_directory()?.join("tools/go/bin/go");
    let mut seen = Vec::new();
    for candidate in [Path::new("go"), Path::new("/usr/local/go/bin/go"), &ours] {
        let Ok(output) = command(candidate, &directory).arg("version").output() else { continue };
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && minor_version(&said).is_some_and(|minor| minor >= MINOR) {
            return Ok(candidate.to_owned());
        }
        let version = said.split_whitespace().nth(2).unwrap_or("none that works");
        seen.push(format!("{} is {version}", candidate.display()));
    }
    let seen = if seen.is_empty() { "not installed".into() } else { seen.join(", ") };
    bail!("Go 1.{MINOR} or newer is needed ({seen}); run: make setup")
}

/// A call of Go in a directory, with the settings that all our builds have.
pub fn command(go: &Path, directory: &Path) -> Command {
    let mut command = Command::new(go);
    command.current_dir(directory);
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false").env("GOWORK", "off");
    command
}

/// Directory with the source of a module, which is downloaded unless it is in Go's cache.
pub fn module(go: &Path, module: &str, version: &str) -> Result<PathBuf> {
    let what = format!("{module}@{version}");
    let scratch = tempfile::tempdir()?;
    let output = command(go, scratch.path()).args(["mod", "download", "-json", &what]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "go mod download {what} failed: {}", said.trim());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let directory = answer["Dir"].as_str().with_context(|| format!("go names no directory of {what}"))?;
    Ok(directory.into())
}

/// The 26 of `go version go1.26.8 linux/amd64`.
fn minor_version(said: &str) -> Option<u32> {
    let number = said.split_whitespace().nth(2)?.strip_prefix("go1.")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_go_prints_is_read() {
        assert_eq!(minor_version("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(minor_version("go version go1.27rc1 linux/amd64"), Some(27));
        assert_eq!(minor_version("go: cannot find GOROOT"), None);
    }
}
