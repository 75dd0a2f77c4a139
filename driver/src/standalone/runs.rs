//! The run that made a cut, kept beside the state of the controller: `<stateDir>/runs-of-cuts/<cut id>.json`.
//!
//! The cut itself lives on the pools and does not need this; a lost file costs the lanes of the pods in its timeline.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use stillpoint_rules::run::Run;

use crate::domain::{CutId, Fault};

/// Keeps runs by the cut that they made.
#[derive(Debug, Clone)]
pub struct Runs {
    directory: PathBuf,
}

impl Runs {
    /// Runs below this state directory, which is made where it is missing.
    pub fn open(state_dir: &Path) -> Result<Self, Fault> {
        let directory = state_dir.join("runs-of-cuts");
        fs::create_dir_all(&directory).map_err(|error| fault("make the directory", &directory, &error))?;
        Ok(Self { directory })
    }

    /// Writes it: after this either the whole run is there, or nothing.
    pub fn put(&self, cut: &CutId, run: &Run) -> Result<(), Fault> {
        let path = self.path(cut);
        let text = serde_json::to_vec_pretty(run).map_err(|error| Fault::internal(error.to_string()))?;
        self.publish(&path, &text).map_err(|error| fault("write the run", &path, &error))
    }

    fn publish(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&self.directory)?.sync_all()
    }

    /// The run that made this cut, where there was one.
    pub fn get(&self, cut: &CutId) -> Result<Option<Run>, Fault> {
        let path = self.path(cut);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                Fault::internal(format!(
                    "cannot read {}: {error}; the cut is not affected: remove the file to go on without its run",
                    path.display()
                ))
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fault("read the run", &path, &error)),
        }
    }

    /// Removes it; one that is not there is fine.
    pub fn remove(&self, cut: &CutId) -> Result<(), Fault> {
        let path = self.path(cut);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(fault("remove the run", &path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Ids of cuts are safe as file names.
    fn path(&self, cut: &CutId) -> PathBuf {
        self.directory.join(format!("{cut}.json"))
    }
}

fn fault(what: &str, path: &Path, error: &io::Error) -> Fault {
    Fault::internal(format!(
        "cannot {what} {}: {error}; check that stateDir can be written and has room",
        path.display()
    ))
}
