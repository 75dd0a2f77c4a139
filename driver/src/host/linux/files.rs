//! Files and directories.

use std::fs::{self, DirBuilder, File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Access, LinuxHost, failed, open_directory, open_file};
use crate::domain::Bytes;
use crate::host::{DirectoryLock, FileKind, Files, HostError, Meta, Result};

/// A record is a few kilobytes; whatever is larger than this is not one.
const LARGEST_RECORD: u64 = 16 << 20;
/// `st_blocks` counts in these, whatever the filesystem's block size is.
const STAT_BLOCK: u64 = 512;

impl Files for LinuxHost {
    fn stat(&self, path: &Path) -> Result<Option<Meta>> {
        match fs::metadata(path) {
            Ok(found) => Ok(Some(Meta {
                kind: kind_of(found.file_type()),
                device: found.dev(),
                stands_for: found.rdev(),
                inode: found.ino(),
                size: Bytes(found.size()),
                allocated: Bytes(found.blocks() * STAT_BLOCK),
            })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("stat", path)(error)),
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let file = open_file("read", path, Access::Read)?;
        let mut content = Vec::new();
        file.take(LARGEST_RECORD + 1).read_to_end(&mut content).map_err(failed("read", path))?;
        if content.len() as u64 > LARGEST_RECORD {
            let error = io::Error::new(ErrorKind::FileTooLarge, "larger than any record (16 MiB)");
            return Err(HostError::new("read", path.display(), error));
        }
        Ok(content)
    }

    fn write_synced(&self, path: &Path, content: &[u8]) -> Result<()> {
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(failed("write", path))
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        match DirBuilder::new().mode(0o750).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other.map_err(failed("mkdir", path)),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<(String, FileKind)>> {
        let list = || -> io::Result<Vec<_>> {
            fs::read_dir(path)?
                .map(|entry| {
                    let entry = entry?;
                    let kind = kind_of(entry.file_type()?);
                    Ok((entry.file_name().to_string_lossy().into_owned(), kind))
                })
                .collect()
        };
        let mut names = list().map_err(failed("list", path))?;
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(failed("rename", from))
    }

    fn sync_directory(&self, path: &Path) -> Result<()> {
        open_directory("fsync", path)?.sync_all().map_err(failed("fsync", path))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        missing_is_fine(fs::remove_file(path)).map_err(failed("unlink", path))
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        missing_is_fine(fs::remove_dir(path)).map_err(failed("rmdir", path))
    }

    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>> {
        match fs::canonicalize(path) {
            Ok(resolved) => Ok(Some(resolved)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("resolve", path)(error)),
        }
    }

    fn lock_directory(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        let directory = open_directory("flock", path)?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Box::new(Locked { _lock: lock }))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(failed("flock", path)(errno)),
        }
    }
}

/// Ends with the process, whatever ends it.
#[derive(Debug)]
struct Locked {
    _lock: Flock<File>,
}

impl DirectoryLock for Locked {}

fn kind_of(kind: FileType) -> FileKind {
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_block_device() {
        FileKind::Block
    } else {
        FileKind::Other
    }
}

/// Nothing there: the object or one of its parents is missing.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}
