//! Which journal a record belongs to. Commands of a record that came with a copy, a restored backup or another machine's
//! files would be run in applications of today that have nothing to do with it.
//!
//! The directory has a file `identity` with a random id, which every record repeats. The file also says which inode it
//! is and when that was made: a copy of the directory has another file, so it gets an id of its own, and the records
//! that were copied with it belong to nobody.

use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "identity";
/// The file until records of before have been taken over.
const BEGUN: &str = "identity.begun";

/// The identity of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What its records repeat.
    pub id: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an identity comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Kept,
    /// The journal had none: it is new, or of a version that knew no identities.
    First,
    /// The directory is a copy.
    Copied,
}

/// What the file says.
#[derive(Serialize, Deserialize)]
struct Written {
    id: String,
    file: Place,
}

/// What a copy of a file does not have.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    inode: u64,
    /// Nanoseconds since 1970; absent where the filesystem does not know it.
    born: Option<u128>,
}

impl Place {
    fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        Self { inode: metadata.ino(), born: born.map(|since| since.as_nanos()) }
    }
}

/// The identity of the journal in this directory, made where there is none or where it is a copy. A new one is kept by
/// [`finish`].
pub fn open(directory: &Path) -> io::Result<Identity> {
    let begun = directory.join(BEGUN);
    let origin = match read(&directory.join(FILE))? {
        Found::Own(id) => return Ok(Identity { id, origin: Origin::Kept }),
        Found::Foreign => Origin::Copied,
        Found::Nothing => Origin::First,
    };
    match read(&begun)? {
        Found::Own(id) => return Ok(Identity { id, origin }),
        Found::Foreign => fs::remove_file(&begun)?,
        Found::Nothing => {}
    }
    let id = random_id()?;
    let mut file = File::create_new(&begun)?;
    let written = Written { id: id.clone(), file: Place::of(&file.metadata()?) };
    file.write_all(&serde_json::to_vec(&written)?)?;
    file.sync_all()?;
    Ok(Identity { id, origin })
}

/// Keeps a new identity. A rename leaves a file the same file.
pub fn finish(directory: &Path) -> io::Result<()> {
    fs::rename(directory.join(BEGUN), directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

/// What is under the name of the file.
enum Found {
    Own(String),
    /// A copy, or damaged.
    Foreign,
    Nothing,
}

fn read(path: &Path) -> io::Result<Found> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let place = Place::of(&fs::metadata(path)?);
    match serde_json::from_slice::<Written>(&text) {
        Ok(written) if written.file == place => Ok(Found::Own(written.id)),
        Ok(_) | Err(_) => Ok(Found::Foreign),
    }
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut id = String::new();
    for byte in bytes {
        // Text takes everything.
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}
