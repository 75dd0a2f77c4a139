//! Runs as files: `<directory>/<run id>.json`, published by rename, so that a crash at any moment leaves either the
//! old text or the new one.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::ports::{Journal, JournalError};
use crate::run::{FORMAT, Run};
use crate::turns::{OpenRun, OpenRuns};

/// Ended runs that are kept; older ones are removed.
const KEPT: usize = 1000;
/// A record is written piece by piece: with the outputs of hundreds of pods it has megabytes.
const CHUNK: usize = 64 * 1024;
/// A record larger than this was not written by us.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A journal in a directory. One process at a time uses it.
#[derive(Debug, Clone)]
pub struct FileJournal {
    directory: PathBuf,
    /// Runs that have not ended: those of a dead process, too.
    open: OpenRuns,
}

impl FileJournal {
    /// Opens or makes the directory, and removes what a crash left half-written.
    pub fn open(directory: PathBuf) -> Result<Self, JournalError> {
        let journal = Self { directory, open: OpenRuns::default() };
        journal.sweep().map_err(|error| journal.fail("opened", &error))?;
        journal.visit(|run| journal.remember(&run))?;
        Ok(journal)
    }

    /// All runs, the newest first.
    pub fn list(&self) -> Result<Vec<Run>, JournalError> {
        let mut runs = Vec::new();
        self.visit(|run| runs.push(run))?;
        runs.sort_by(|a, b| (b.started_at, &b.id).cmp(&(a.started_at, &a.id)));
        Ok(runs)
    }

    /// Shows all runs, one at a time and in any order: a thousand with what they printed need not fit into memory.
    pub fn visit(&self, mut see: impl FnMut(Run)) -> Result<(), JournalError> {
        for path in self.names().map_err(|error| self.fail("listed", &error))? {
            match read(&path) {
                Ok(run) => see(run),
                // One damaged record must not hide the others, nor pass in silence.
                Err(error) => tracing::error!(path = %path.display(), error, "a run's record cannot be read"),
            }
        }
        Ok(())
    }

    /// The newest run of a cut, by the cut's id or its name.
    pub fn of_cut(&self, id_or_name: &str) -> Result<Option<Run>, JournalError> {
        let is_it =
            |run: &Run| run.name == id_or_name || run.cut.as_ref().is_some_and(|cut| cut.id == id_or_name);
        let mut newest: Option<Run> = None;
        self.visit(|run| {
            let is_newer = |known: &Run| (run.started_at, &run.id) > (known.started_at, &known.id);
            if is_it(&run) && newest.as_ref().is_none_or(is_newer) {
                newest = Some(run);
            }
        })?;
        Ok(newest)
    }

    fn remember(&self, run: &Run) {
        if run.phase.is_final() {
            self.open.forget(&run.id);
        } else {
            self.open.keep(OpenRun::of(run, format!("the run of {}", run.name), true));
        }
    }

    fn sweep(&self) -> std::io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        fs::File::open(&self.directory)?.sync_all()
    }

    fn names(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                names.push(path);
            }
        }
        Ok(names)
    }

    fn write(&self, run: &Run) -> std::io::Result<()> {
        let (new, path) = (self.path(run, "new"), self.path(run, "json"));
        let mut file = BufWriter::with_capacity(CHUNK, fs::File::create(&new)?);
        serde_json::to_writer(&mut file, run)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(&self.directory)?.sync_all()
    }

    fn path(&self, run: &Run, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", run.id))
    }

    /// Removes the oldest ended runs without open debts beyond the number that is kept.
    fn prune(&self) -> Result<(), JournalError> {
        if self.names().map_err(|error| self.fail("listed", &error))?.len() <= KEPT + KEPT / 10 {
            return Ok(());
        }
        for run in self.list()?.into_iter().filter(|run| run.phase.is_final()).skip(KEPT) {
            fs::remove_file(self.path(&run, "json")).map_err(|error| self.fail("pruned", &error))?;
        }
        Ok(())
    }

    fn fail(&self, what: &str, error: &std::io::Error) -> JournalError {
        JournalError(format!("{} could not be {what}: {error}", self.directory.display()))
    }
}

/// A record counts only under the name that it was written by: one that was copied is nobody's run, and its commands must
/// not be run again.
fn read(path: &Path) -> Result<Run, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_BYTES {
        return Err(format!("{length} bytes are more than a run has"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let run: Run = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if run.format != FORMAT {
        return Err(format!("it is of format {}, this program reads {FORMAT}", run.format));
    }
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(run.id.as_str()) {
        return Err(format!("it is a copy of the record {}; remove it", run.id));
    }
    Ok(run)
}

#[async_trait]
impl Journal for FileJournal {
    async fn persist(&self, run: &Run) -> Result<(), JournalError> {
        let (journal, run) = (self.clone(), run.clone());
        let task = tokio::task::spawn_blocking(move || {
            let written = journal.write(&run).map_err(|error| journal.fail("written", &error));
            // One that has ended keeps nobody waiting, even where that cannot be written down.
            if written.is_ok() || run.phase.is_final() {
                journal.remember(&run);
            }
            written?;
            if run.phase.is_final() { journal.prune() } else { Ok(()) }
        });
        task.await.unwrap_or_else(|error| Err(JournalError(error.to_string())))
    }

    async fn unfinished(&self) -> Result<Vec<Run>, JournalError> {
        let journal = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut runs = Vec::new();
            journal.visit(|run| {
                if !run.phase.is_final() {
                    runs.push(run);
                }
            })?;
            runs.sort_by(|a: &Run, b: &Run| (b.started_at, &b.id).cmp(&(a.started_at, &a.id)));
            Ok(runs)
        });
        task.await.unwrap_or_else(|error| Err(JournalError(error.to_string())))
    }

    async fn open_runs(&self, _: &Run) -> Result<Vec<OpenRun>, JournalError> {
        Ok(self.open.all())
    }

    async fn run_ended(&self) {
        self.open.changed().await;
    }
}
