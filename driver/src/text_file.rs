//! Files that people write: configuration and rules. They are small; what is large is the wrong file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A file that cannot be read as text.
#[derive(Debug, thiserror::Error)]
pub enum TextFileError {
    /// The kernel says no.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// More than anybody writes.
    #[error("{}: it has more than {limit} bytes, so it cannot be what was meant; give the right file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// Not text.
    #[error("{}: it is not UTF-8 text (byte {at} is not); give the right file, or save it as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// First byte that is not text.
        at: usize,
    },
}

/// The whole text of a file, or of a pipe, of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<String, TextFileError> {
    let fail = |source| TextFileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > limit) {
        return Err(TextFileError::TooLarge { path: path.to_owned(), limit });
    }
    String::from_utf8(bytes).map_err(|error| TextFileError::NotText {
        path: path.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn a_file_up_to_the_limit_is_read_and_a_larger_one_refused() {
        assert_eq!(read(file(b"abcd").path(), 4).unwrap(), "abcd");
        let error = read(file(b"abcde").path(), 4).unwrap_err();
        assert!(matches!(error, TextFileError::TooLarge { limit: 4, .. }), "{error}");
    }

    #[test]
    fn what_is_not_text_is_refused_with_its_place() {
        let error = read(file(b"ab\xff").path(), 10).unwrap_err();
        assert!(error.to_string().contains("byte 2"), "{error}");
    }

    #[test]
    fn an_endless_device_ends() {
        assert!(matches!(read(Path::new("/dev/zero"), 1 << 20), Err(TextFileError::TooLarge { .. })));
    }
}
