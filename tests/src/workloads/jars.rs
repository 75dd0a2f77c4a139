//! Servers that come as jars, fetched once by Maven into `target/<server>/lib`. What they are is in `tests/<server>/pom.xml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::harness::{Step, binaries, process};

const FETCH_LIMIT: Duration = Duration::from_mins(10);

/// A directory of jars.
#[derive(Debug, Clone)]
pub struct Jars {
    directory: PathBuf,
}

impl Jars {
    /// Fetches those of a server unless they are there. Complete or absent: they get their final name last.
    pub async fn fetch(server: &str) -> Result<Self> {
        let cache = binaries::target_directory()?.join(server);
        let directory = cache.join("lib");
        if !directory.is_dir() {
            let step = Step::begin(format!("fetching the jars of {server} with Maven"));
            let partial = cache.join(format!("partial-{}", std::process::id()));
            let fetched = download(server, &partial).await;
            if fetched.is_err() {
                drop(fs::remove_dir_all(&partial));
            }
            fetched?;
            fs::rename(&partial, &directory).context("cannot publish the fetched jars")?;
            step.done();
        }
        Ok(Self { directory })
    }

    /// The jars.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.directory)
            .with_context(|| format!("cannot list {}", self.directory.display()))?;
        Ok(entries.collect::<Result<Vec<_>, _>>()?.into_iter().map(|entry| entry.path()).collect())
    }

    /// Java's class path.
    pub fn class_path(&self) -> String {
        format!("{}/*", self.directory.display())
    }
}

async fn download(server: &str, into: &Path) -> Result<()> {
    let pom = binaries::source_directory().join(server).join("pom.xml");
    let output = format!("-DoutputDirectory={}", into.display());
    let args = ["-B", "-q", "-f", &pom.display().to_string(), "dependency:copy-dependencies", &output]
        .map(String::from);
    process::succeed(None, Path::new("mvn"), args, FETCH_LIMIT).await.with_context(|| {
        format!("cannot fetch {server}; is Maven installed (apt-get install -y maven) and its repository reachable?")
    })?;
    Ok(())
}
