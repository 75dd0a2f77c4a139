//! Records: written by publish-by-rename, read with errors that name the file.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{PoolError, Result, layout};
use crate::host::Host;

/// Writes `record` as `directory/name`: a crash leaves the old content or the new, never a part.
pub(super) fn publish<R: Serialize>(host: &dyn Host, directory: &Path, name: &str, record: &R) -> Result<()> {
    let half_made = directory.join(layout::half_made(name));
    host.write_synced(&half_made, &encode(&directory.join(name), record)?)?;
    host.rename(&half_made, &directory.join(name))?;
    host.sync_directory(directory)?;
    Ok(())
}

/// The text of a record, for people too.
pub(super) fn encode<R: Serialize>(path: &Path, record: &R) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(record)
        .map_err(|error| PoolError::Torn { path: path.to_owned(), why: error.to_string() })
}

/// Reads a record; `None` when there is none.
pub(super) fn read<R: DeserializeOwned>(host: &dyn Host, path: &Path) -> Result<Option<R>> {
    if host.stat(path)?.is_none() {
        return Ok(None);
    }
    let text = host.read(path)?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| PoolError::Torn { path: path.to_owned(), why: error.to_string() })
}
