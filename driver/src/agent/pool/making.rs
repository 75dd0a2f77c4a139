//! Making a pool, and looking at one without opening it.

use std::path::Path;

use jiff::Timestamp;

use super::layout::{DIRECTORIES, Layout, Name, POOL_RECORD};
use super::{Access, Overcommit, PoolError, PoolSpace, Result, records};
use crate::backend::BackendKind;
use crate::domain::record::{FORMAT, PoolRecord};
use crate::domain::{Bytes, PoolId};
use crate::host::{FileKind, Host, Mounted};

/// Makes a pool in an empty directory that is the mount point of a filesystem of the backend's kind. An attempt
/// that died half-way is taken up again.
pub fn make(host: &dyn Host, kind: BackendKind, dir: &Path) -> Result<PoolRecord> {
    let mounted = mounted_at(host, dir)?;
    if mounted.kind != kind.filesystem() {
        return Err(PoolError::WrongFilesystem { dir: dir.to_owned(), found: mounted.kind, backend: kind });
    }
    if mounted.read_only {
        return Err(PoolError::ReadOnly { dir: dir.to_owned() });
    }
    let layout = Layout::new(dir);
    if host.stat(&layout.pool_record())?.is_some() {
        let id = read_pool_record(host, &layout)?.id;
        return Err(PoolError::AlreadyPool { dir: dir.to_owned(), id });
    }
    refuse_content(host, dir)?;
    for name in DIRECTORIES {
        host.make_directory(&dir.join(name))?;
    }
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(|error| {
        crate::host::HostError::new("getrandom", dir.display(), std::io::Error::other(error.to_string()))
    })?;
    let record = PoolRecord {
        format: FORMAT,
        id: PoolId::from_random(random),
        backend: kind.as_str().to_owned(),
        created_at: Timestamp::now(),
    };
    records::publish(host, dir, POOL_RECORD, &record)?;
    Ok(record)
}

/// Only what an earlier attempt of [`make`] has left may be there.
fn refuse_content(host: &dyn Host, dir: &Path) -> Result<()> {
    for (name, kind) in host.list(dir)? {
        let ours = match kind {
            FileKind::Directory => {
                DIRECTORIES.contains(&name.as_str()) && host.list(&dir.join(&name))?.is_empty()
            }
            FileKind::File => Name::of(&name) == Name::HalfMade && name.ends_with(POOL_RECORD),
            FileKind::Block | FileKind::Other => false,
        };
        if !ours {
            return Err(PoolError::NotEmpty { dir: dir.to_owned(), entry: name });
        }
    }
    Ok(())
}

/// What a pool has, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSummary {
    /// The pool's record.
    pub record: PoolRecord,
    /// Size and free space; what is promised to volumes is not known here.
    pub space: PoolSpace,
    /// Whether it can be written.
    pub access: Access,
    /// Number of volumes.
    pub volumes: usize,
    /// Number of cut records, unfinished ones included.
    pub cuts: usize,
}

/// Looks at a pool and changes nothing: safe while an agent has it open.
pub fn inspect(host: &dyn Host, dir: &Path) -> Result<PoolSummary> {
    let (layout, record, kind, access) = identify(host, dir)?;
    let count = |directory: &Path| -> Result<usize> {
        let names = host.list(directory)?;
        Ok(names.iter().filter(|(name, _)| matches!(Name::of(name), Name::Object(_))).count())
    };
    Ok(PoolSummary {
        record,
        space: PoolSpace::of(kind.backend().space(host, dir)?, Bytes(0), Overcommit::NONE),
        access,
        volumes: count(&layout.volumes())?,
        cuts: count(&layout.cuts())?,
    })
}

/// What is mounted at a directory and whether it is a pool that this version understands.
pub(super) fn identify(host: &dyn Host, dir: &Path) -> Result<(Layout, PoolRecord, BackendKind, Access)> {
    let mounted = mounted_at(host, dir)?;
    let layout = Layout::new(dir);
    let record = read_pool_record(host, &layout)?;
    let torn = |why: String| PoolError::Torn { path: layout.pool_record(), why };
    let kind: BackendKind =
        record.backend.parse().map_err(|e: crate::backend::UnknownBackend| torn(e.to_string()))?;
    if mounted.kind != kind.filesystem() {
        return Err(PoolError::WrongFilesystem { dir: dir.to_owned(), found: mounted.kind, backend: kind });
    }
    let access = if mounted.read_only { Access::ReadOnly } else { Access::Writable };
    Ok((layout, record, kind, access))
}

/// The version is looked at before the rest: another version may have other fields.
fn read_pool_record(host: &dyn Host, layout: &Layout) -> Result<PoolRecord> {
    let path = layout.pool_record();
    let dir = layout.root();
    let value: serde_json::Value =
        records::read(host, &path)?.ok_or_else(|| PoolError::NotAPool { dir: dir.to_owned() })?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(found) => return Err(PoolError::OtherFormat { dir: dir.to_owned(), found }),
        None => return Err(PoolError::Torn { path, why: "it has no format version".to_owned() }),
    }
    serde_json::from_value(value).map_err(|error| PoolError::Torn { path, why: error.to_string() })
}

/// The topmost mount exactly at `dir`.
pub(super) fn mounted_at(host: &dyn Host, dir: &Path) -> Result<Mounted> {
    let mounts = host.mounts()?;
    mounts
        .into_iter()
        .rev()
        .find(|mounted| mounted.target == dir)
        .ok_or_else(|| PoolError::NotMounted { dir: dir.to_owned() })
}
