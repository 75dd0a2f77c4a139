//! Runs as files: `<directory>/<run id>.json`, published by rename, so that a crash at any moment leaves either the
//! old text or the new one. What a record says is done only by the journal that wrote it ([`identity`]).

mod identity;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use self::identity::{Identity, Origin};
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
    /// What its records repeat.
    id: String,
    /// Runs that have not ended: those of a dead process, too.
    open: OpenRuns,
}

impl FileJournal {
    /// Opens or makes the directory, and removes what a crash left half-written.
    pub fn open(directory: PathBuf) -> Result<Self, JournalError> {
        let mut journal = Self { directory, id: String::new(), open: OpenRuns::default() };
        let identity = journal.sweep().and_then(|()| identity::open(&journal.directory));
        let identity = identity.map_err(|error| journal.fail("opened", &error))?;
        journal.id.clone_from(&identity.id);
        journal.take_over(&identity)?;
        journal.visit(|run| journal.remember(&run))?;
        Ok(journal)
    }

    /// Records of a version that knew no identities are this journal's, once: from then on each has one.
    fn take_over(&self, identity: &Identity) -> Result<(), JournalError> {
        match identity.origin {
            Origin::Kept => return Ok(()),
            Origin::Copied => {
                tracing::warn!(
                    directory = %self.directory.display(),
                    "it is a copy of another directory: runs that had not ended when it was copied are not continued"
                );
            }
            Origin::First => self.mark_all()?,
        }
        identity::finish(&self.directory).map_err(|error| self.fail("opened", &error))
    }

    fn mark_all(&self) -> Result<(), JournalError> {
        for path in self.names().map_err(|error| self.fail("listed", &error))? {
            // One that cannot be read is told by whoever looks through the records.
            if let Ok(Filed { journal: None, run }) = parse(&path) {
                self.write(&run).map_err(|error| self.fail("written", &error))?;
            }
        }
        Ok(())
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
            match self.read(&path) {
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
        serde_json::to_writer(&mut file, &Filed { journal: Some(self.id.clone()), run })?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(&self.directory)?.sync_all()
    }

    /// A run that has ended has nothing left to do, so it may come from anywhere.
    fn read(&self, path: &Path) -> Result<Run, String> {
        let Filed { journal, run } = parse(path)?;
        if journal.as_ref() == Some(&self.id) || run.phase.is_final() {
            return Ok(run);
        }
        Err(format!(
            "another journal wrote it, so the run of {} is not continued and none of its commands are run; look at the \
             application, undo by hand what the record says is still owed, then remove it",
            run.name
        ))
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

/// A record as it is in its file.
#[derive(Serialize, Deserialize)]
struct Filed<R> {
    /// [`Identity::id`] of the journal that wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<String>,
    #[serde(flatten)]
    run: R,
}

/// A record counts only under the name that it was written by: one that was copied is nobody's run, and its commands must
/// not be run again.
fn parse(path: &Path) -> Result<Filed<Run>, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_BYTES {
        return Err(format!("{length} bytes are more than a run has"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let filed: Filed<Run> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let run = &filed.run;
    if run.format != FORMAT {
        return Err(format!("it is of format {}, this program reads {FORMAT}", run.format));
    }
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(run.id.as_str()) {
        return Err(format!("it is a copy of the record {}; remove it", run.id));
    }
    Ok(filed)
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
