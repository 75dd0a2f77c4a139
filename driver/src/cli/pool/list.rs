//! `stillpoint pool list`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::output::{Format, print, print_json};
use super::{ListArgs, absolute};
use crate::agent::pool::{Access, PoolSummary, inspect};
use crate::domain::health::Condition;
use crate::domain::{Bytes, Fault};
use crate::host::Mounts;
use crate::host::linux::LinuxHost;
use crate::observe::table::with_header;

/// One line of `pool list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    dir: PathBuf,
    backend: String,
    total_bytes: u64,
    available_bytes: u64,
    volumes: usize,
    cuts: usize,
    read_only: bool,
    conditions: Vec<&'static str>,
}

impl Row {
    fn new(dir: PathBuf, pool: &PoolSummary) -> Self {
        Self {
            id: pool.record.id.to_string(),
            dir,
            backend: pool.record.backend.clone(),
            total_bytes: pool.space.total.0,
            available_bytes: pool.space.available.0,
            volumes: pool.volumes,
            cuts: pool.cuts,
            read_only: pool.access == Access::ReadOnly,
            conditions: conditions(pool).iter().map(|condition| condition.as_str()).collect(),
        }
    }
}

fn conditions(pool: &PoolSummary) -> Vec<Condition> {
    let read_only = (pool.access == Access::ReadOnly).then_some(Condition::PoolReadOnly);
    pool.space.condition().into_iter().chain(read_only).collect()
}

pub(super) fn list(args: &ListArgs) -> Result<(), Fault> {
    let rows = if args.dirs.is_empty() {
        mounted_pools()?
    } else {
        let look = |dir: &PathBuf| {
            let dir = absolute(dir)?;
            let pool = inspect(&LinuxHost, &dir)?;
            Ok(Row::new(dir, &pool))
        };
        args.dirs.iter().map(look).collect::<Result<_, Fault>>()?
    };
    match args.output {
        Format::Json => print_json(&rows),
        Format::Text if rows.is_empty() => {
            print("no pool is mounted; make one: stillpoint pool create --dir DIR --file PATH --size 20GiB")
        }
        Format::Text => print(&table(&rows)),
    }
}

/// Every mounted filesystem with a pool's record at its root.
fn mounted_pools() -> Result<Vec<Row>, Fault> {
    let is_pool_kind = |kind: &str| matches!(kind, "btrfs" | "xfs");
    let mut rows: Vec<Row> = LinuxHost
        .mounts()?
        .into_iter()
        .filter(|mounted| is_pool_kind(&mounted.kind) && mounted.root == Path::new("/"))
        .filter_map(|mounted| {
            Some(Row::new(mounted.target.clone(), &inspect(&LinuxHost, &mounted.target).ok()?))
        })
        .collect();
    rows.sort_by(|left, right| left.dir.cmp(&right.dir));
    rows.dedup_by(|left, right| left.dir == right.dir);
    Ok(rows)
}

fn table(rows: &[Row]) -> String {
    let mut table = with_header(&[
        "POOL",
        "DIRECTORY",
        "BACKEND",
        "SIZE",
        "AVAILABLE",
        "VOLUMES",
        "CUTS",
        "ACCESS",
        "HEALTH",
    ]);
    for row in rows {
        table.add_row([
            row.id.clone(),
            row.dir.display().to_string(),
            row.backend.clone(),
            Bytes(row.total_bytes).to_string(),
            Bytes(row.available_bytes).to_string(),
            row.volumes.to_string(),
            row.cuts.to_string(),
            if row.read_only { "read-only" } else { "writable" }.to_owned(),
            if row.conditions.is_empty() { "ok".to_owned() } else { row.conditions.join(", ") },
        ]);
    }
    table.to_string()
}
