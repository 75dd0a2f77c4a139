//! The workloads on plain directories: their checks pass on what a crash leaves, and fail on what must fail.
//! Needs root (PostgreSQL is started as its own user) and PostgreSQL; says so when it skips.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stillpoint_tests::harness::{Lack, Process, RunDir, process, skip};
use stillpoint_tests::workloads::cassandra::{self, Jars, Layout, Ring};
use stillpoint_tests::workloads::postgres::{self, Installation, Postgres, Volumes};

fn installation(test: &str) -> Option<Installation> {
    match Lack::of_root().or_else(|| Lack::of_tools(Installation::find())) {
        Some(why) => skip(test, &why),
        None => return Some(Installation::find().unwrap()),
    }
    None
}

async fn copy(from: &Path, to: &Path) {
    process::succeed(None, Path::new("cp"), [Path::new("-a"), from, to], Duration::from_mins(1))
        .await
        .unwrap();
}

async fn copies(volumes: &Volumes, to: PathBuf) -> Volumes {
    std::fs::create_dir_all(&to).unwrap();
    let copied = Volumes { data: to.join("data-volume"), wal: to.join("wal-volume") };
    copy(&volumes.data, &copied.data).await;
    copy(&volumes.wal, &copied.wal).await;
    copied
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgresql_passes_its_check_and_one_with_stale_wal_does_not() {
    let Some(installation) = installation("a killed PostgreSQL") else { return };
    let run = RunDir::new("workload-postgres").unwrap();
    let volumes = Volumes { data: run.directory("pg/data").unwrap(), wal: run.directory("pg/wal").unwrap() };
    Postgres::initialise(&installation, &volumes).await.unwrap();
    let mut server = Postgres::start(&installation, "postgres", volumes.clone(), run.path()).await.unwrap();
    let load = postgres::start_load(&server.config(), 2).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let early_wal = run.path().join("early-wal");
    copy(&volumes.wal, &early_wal).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let required = load.acknowledged_before(Instant::now());
    server.process().kill().unwrap();
    drop(load);
    drop(server);

    let good = copies(&volumes, run.path().join("good")).await;
    let checked = postgres::check(&installation, good, &required, run.path()).await.unwrap();
    assert!(checked.present >= required.len() && !required.is_empty(), "{checked:?}");

    let stale = copies(&volumes, run.path().join("stale")).await;
    std::fs::remove_dir_all(&stale.wal).unwrap();
    copy(&early_wal, &stale.wal).await;
    let verdict = postgres::check(&installation, stale, &required, run.path()).await;
    assert!(verdict.is_err(), "a WAL that is older than the data must not pass: {verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fetches Cassandra and takes a minute; the full demo does the same on volumes"]
async fn a_killed_ring_passes_its_check_and_a_row_too_many_is_missed() {
    let run = RunDir::new("workload-cassandra").unwrap();
    let layout =
        Layout::new(run.directory("cassandra").unwrap(), Jars::fetch("cassandra").await.unwrap()).unwrap();
    let volumes: Vec<PathBuf> =
        ["a", "b", "c"].iter().map(|host| run.directory(&format!("volume-{host}")).unwrap()).collect();
    let mut ring = Ring::start(layout.clone(), &volumes, "ring", run.path()).await.unwrap();
    let load = cassandra::Load::start(&ring.addresses()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let required = load.acknowledged_before(Instant::now());
    for node in 0..cassandra::NODES {
        let nodetool = layout.tools(node).join("nodetool");
        process::succeed(None, &nodetool, ["flush"], Duration::from_mins(1)).await.unwrap();
    }
    let memory: Vec<_> = ring.nodes().iter().map(Process::resident_kib).collect();
    eprintln!("required {required:?}, resident {memory:?} KiB");
    drop(load);
    ring.stop().unwrap();

    let ring = Ring::start(layout, &volumes, "restored", run.path()).await.unwrap();
    let checked = cassandra::check(&ring.addresses(), &required).await.unwrap();
    assert!(checked.present >= checked.required, "{checked:?}");
    let too_many: Vec<i64> = required.iter().map(|count| count + 100_000).collect();
    assert!(cassandra::check(&ring.addresses(), &too_many).await.is_err());
    ring.stop().unwrap();
}
