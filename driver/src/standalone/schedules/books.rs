//! Books as files: `<stateDir>/schedules/<name>.json`, published by rename, so that a crash at any moment leaves either
//! the old text or the new one. One process at a time has them: the state directory is locked.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use stillpoint_rules::executor::{Book, FORMAT, Job};

use crate::domain::Fault;
use crate::text_file;

/// As many cuts as a book may have need about 2 MiB.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The directory of the books.
#[derive(Debug, Clone)]
pub(super) struct Books {
    directory: PathBuf,
}

impl Books {
    /// Opens or makes the directory, and removes what a crash left half-written.
    pub(super) fn open(directory: PathBuf) -> Result<Self, Fault> {
        let books = Self { directory };
        books.sweep().map_err(|error| books.failed("opened", &error))?;
        Ok(books)
    }

    /// The book of a job; a new one is written at once, so that it is known from when on runs are due.
    pub(super) fn load(&self, job: &Job, now: Timestamp) -> Result<Book, Fault> {
        let path = self.path(job.name(), "json");
        if !path.exists() {
            let book = Book::new(&job.schedule, now);
            self.save(&book)?;
            return Ok(book);
        }
        read(&path, job.name()).map_err(|why| {
            Fault::precondition(format!(
                "cannot use the record of schedule {}: {}: {why}; put it right, or move it away: the schedule then \
                 begins anew, and the cuts that it has made are deleted by nobody but you",
                job.name(),
                path.display()
            ))
        })
    }

    /// Makes a book durable. An error says that the old one still counts.
    pub(super) fn save(&self, book: &Book) -> Result<(), Fault> {
        self.write(book).map_err(|error| self.failed("written", &error))
    }

    /// Schedules that have a book, in no order.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let name = |path: PathBuf| {
            let is_book = path.extension().is_some_and(|extension| extension == "json");
            is_book.then(|| path.file_stem().map(|name| name.to_string_lossy().into_owned())).flatten()
        };
        entries.filter_map(|entry| name(entry.path())).collect()
    }

    fn sweep(&self) -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        fs::File::open(&self.directory)?.sync_all()
    }

    fn write(&self, book: &Book) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(book)?;
        let (new, path) = (self.path(&book.schedule, "new"), self.path(&book.schedule, "json"));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(&self.directory)?.sync_all()
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Fault {
        Fault::internal(format!(
            "records of schedules in {} cannot be {what}: {error}",
            self.directory.display()
        ))
    }
}

fn read(path: &Path, name: &str) -> Result<Book, String> {
    let text = text_file::read(path, MAX_BYTES).map_err(|error| error.to_string())?;
    let book: Book = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    match (book.format, book.schedule == name) {
        (FORMAT, true) => Ok(book),
        (FORMAT, false) => Err(format!("it is the record of schedule {}", book.schedule)),
        (other, _) => Err(format!("it is of format {other}, this program reads {FORMAT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillpoint_rules::executor::in_config;

    fn job() -> Job {
        in_config("schedules: [{name: s, every: 1m, cut: {volumes: [a]}}]").unwrap().remove(0)
    }

    #[test]
    fn a_book_is_found_again_and_what_a_crash_left_half_written_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("schedules");
        let books = Books::open(path.clone()).unwrap();
        let new = books.load(&job(), Timestamp::UNIX_EPOCH).unwrap();
        let due: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let claimed = new.claim(due, due);
        books.save(&claimed).unwrap();
        fs::write(path.join("s.new"), "{\"form").unwrap();
        let again = Books::open(path.clone()).unwrap();
        assert_eq!(again.load(&job(), due).unwrap(), claimed);
        assert_eq!(again.names(), ["s"]);
        assert!(!path.join("s.new").exists());
    }

    #[test]
    fn a_damaged_book_is_refused_in_words_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let books = Books::open(directory.path().to_owned()).unwrap();
        let path = directory.path().join("s.json");
        let good = serde_json::to_string(&books.load(&job(), Timestamp::UNIX_EPOCH).unwrap()).unwrap();
        for (text, part) in [
            ("", "EOF"),
            ("{}", "missing field"),
            (&good.replace("\"format\":1", "\"format\":9"), "format 9"),
            (&good.replace("\"schedule\":\"s\"", "\"schedule\":\"t\""), "schedule t"),
        ] {
            fs::write(&path, text).unwrap();
            let fault = books.load(&job(), Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(fault.message.contains(part) && fault.message.contains("move it away"), "{fault}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_book_that_cannot_be_written_is_an_error_and_the_old_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let books = Books::open(directory.path().to_owned()).unwrap();
        let old = books.load(&job(), Timestamp::UNIX_EPOCH).unwrap();
        // Also root cannot write to a directory.
        fs::create_dir(directory.path().join("s.new")).unwrap();
        assert!(books.save(&old.suspend(Timestamp::UNIX_EPOCH)).is_err());
        assert_eq!(books.load(&job(), Timestamp::UNIX_EPOCH).unwrap(), old);
    }
}
