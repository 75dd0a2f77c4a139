//! Pools that a standalone controller remembers: `<stateDir>/pools.json`. Why is in [`crate::controller::fleet::known`].
//!
//! A file that is damaged is refused in words: a controller that had forgotten its pools would conclude from their absence.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::controller::fleet::known::{KnownPools, PoolLines, PoolStore};
use crate::domain::{Fault, PoolId};
use crate::text_file;

/// Name of the file in the state directory.
const FILE: &str = "pools.json";
const FORMAT: u32 = 1;
/// A line has about a hundred bytes, and there are at most some thousand pools.
const LIMIT_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    /// `node=<name>` or `dismissed`, by pool.
    pools: BTreeMap<PoolId, String>,
}

/// The file.
#[derive(Debug)]
struct PoolFile {
    path: PathBuf,
    /// One writer at a time: each reads, adds and replaces.
    writing: tokio::sync::Mutex<()>,
}

/// The pools that the controller with this state directory remembers, and goes on remembering.
pub fn open(state_dir: &Path) -> Result<KnownPools, Fault> {
    let path = state_dir.join(FILE);
    let lines = read(&path)?;
    Ok(KnownPools::stored(
        lines,
        std::sync::Arc::new(PoolFile { path, writing: tokio::sync::Mutex::default() }),
    ))
}

fn read(path: &Path) -> Result<PoolLines, Fault> {
    if !path.exists() {
        return Ok(PoolLines::new());
    }
    let damaged = |why: String| {
        Fault::precondition(format!(
            "the list of pools that this controller remembers cannot be used: {}: {why}; restore it, or move it away if all \
             pools are attached: it is then written anew",
            path.display()
        ))
    };
    let text = text_file::read(path, LIMIT_BYTES).map_err(|error| damaged(error.to_string()))?;
    let content: Content = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if content.format != FORMAT {
        return Err(damaged(format!("it has format {}, and this program reads {FORMAT}", content.format)));
    }
    let line = |(pool, text): (PoolId, String)| Ok((pool, text.parse()?));
    content.pools.into_iter().map(line).collect::<Result<_, String>>().map_err(damaged)
}

/// Adds these lines, by rename: a crash leaves the old file or the new one.
fn add(path: &Path, lines: &PoolLines) -> Result<(), Fault> {
    let mut all = read(path)?;
    all.extend(lines.clone());
    let pools = all.iter().map(|(pool, line)| (pool.clone(), line.to_string())).collect();
    let failed = |error: std::io::Error| {
        Fault::unavailable(format!("cannot write down pools in {}: {error}", path.display()))
    };
    let text = serde_json::to_string_pretty(&Content { format: FORMAT, pools })
        .map_err(|error| Fault::internal(format!("cannot write JSON: {error}")))?;
    let new = path.with_extension("json.new");
    let write = || {
        let mut file = fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(directory) => fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(failed)
}

#[async_trait]
impl PoolStore for PoolFile {
    async fn write(&self, lines: &PoolLines) -> Result<(), Fault> {
        let _alone = self.writing.lock().await;
        let (path, lines) = (self.path.clone(), lines.clone());
        let written = tokio::task::spawn_blocking(move || add(&path, &lines)).await;
        written.unwrap_or_else(|error| Err(Fault::internal(format!("writing down pools died: {error}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fleet::known::Remembered;

    fn pool(number: u8) -> PoolId {
        PoolId::from_random([number; 6])
    }

    #[tokio::test]
    async fn pools_are_remembered_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let node = "node-1".parse().unwrap();
        let known = open(directory.path()).unwrap();
        known.note(&node, [pool(1), pool(2)].iter()).await.unwrap();
        known.dismiss(&pool(2)).await.unwrap();
        let again = open(directory.path()).unwrap();
        assert_eq!(again.get(&pool(1)), Some(Remembered::On(node)));
        assert_eq!(again.get(&pool(2)), Some(Remembered::Dismissed));
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for text in
            ["", "{}", "{\"format\":9,\"pools\":{}}", "{\"format\":1,\"pools\":{\"010101010101\":\"a\"}}"]
        {
            fs::write(&path, text).unwrap();
            let fault = open(directory.path()).unwrap_err();
            assert!(fault.message.contains("pools.json"), "{fault}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn a_pool_that_cannot_be_written_down_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let known = open(directory.path()).unwrap();
        // Also root cannot write to a directory.
        fs::create_dir(directory.path().join("pools.json.new")).unwrap();
        assert!(known.note(&"a".parse().unwrap(), [pool(1)].iter()).await.is_err());
        assert_eq!(known.get(&pool(1)), None);
    }
}
