//! Redis, whose append-only file is rewritten again and again meanwhile.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_tests::harness::stack::Options;
use stillpoint_tests::workloads::redis::{self, Redis};

use super::scene::{LOAD, Scene, can_run, rule};

const PASSWORD: &str = "redis-secret";

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_redis_has_all_that_was_acknowledged_while_its_file_is_rewritten() -> Result<()> {
    if !can_run("the rule of Redis", redis::why_not()) {
        return Ok(());
    }
    let scene =
        Scene::build("redis", &["redis"], &[("redis-backup/password", PASSWORD)], Options::default()).await?;
    let mut server = Redis::start("redis", &scene.mounted(0), scene.path()).await?;
    scene.client("redis-cli", Path::new("/usr/bin/redis-cli"), &server.client_arguments())?;
    let password = format!(">{PASSWORD}");
    let user = [
        "ACL",
        "SETUSER",
        "stillpoint",
        "on",
        &password,
        "resetkeys",
        "-@all",
        "+ping",
        "+info",
        "+config|set",
    ];
    server.cli(&user).await?;
    let mut load = server.load(4).await?;
    let text = rule("redis-aof.yaml")?;
    tokio::time::sleep(LOAD).await;
    scene.cut("early", &text).await?;
    tokio::time::sleep(LOAD).await;
    let cut = scene.cut("late", &text).await?;
    put_back(&server).await?;
    load.check_alive()?;
    server.process().check_alive()?;
    let required = load.acknowledged_before(cut.hold_began);
    println!("redis: longest wait {:?}", load.longest_stall(cut.asked, Instant::now()));

    let late = scene.restore("late", "late-").await?;
    let checked = redis::check(&late[0].path, &required, scene.path()).await?;
    println!("redis: {checked:?}");
    let early = scene.restore("early", "early-").await?;
    let verdict =
        redis::check(&early[0].path, &required, scene.path()).await.expect_err("an earlier cut passes");
    ensure!(verdict.to_string().contains("are lost"), "{verdict:#}");
    let damaged = scene.restore("late", "damaged-").await?;
    cut_short(&damaged[0].path)?;
    let verdict =
        redis::check(&damaged[0].path, &required, scene.path()).await.expect_err("half a file passes");
    ensure!(verdict.to_string().contains("damaged"), "{verdict:#}");

    let acknowledged = load.stop().await?;
    ensure!(acknowledged.len() > required.len(), "writers have gone on");
    server.stop()?;
    scene.close()
}

/// What the rule has changed is as before, and rewrites happen again.
async fn put_back(server: &Redis) -> Result<()> {
    for (name, value) in [("auto-aof-rewrite-percentage", "100"), ("appendfsync", "everysec")] {
        let said = server.cli(&["CONFIG", "GET", name]).await?;
        ensure!(said.lines().nth(1) == Some(value), "{name} is {said:?} after the rule");
    }
    server.cli(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "1"]).await?;
    let rewrites = async || -> Result<u32> {
        let said = server.cli(&["INFO", "persistence"]).await?;
        let line = said.lines().find_map(|line| line.strip_prefix("aof_rewrites:"));
        Ok(line.context("Redis counts rewrites")?.trim().parse()?)
    };
    let (before, end) = (rewrites().await?, Instant::now() + Duration::from_secs(30));
    while rewrites().await? == before {
        ensure!(Instant::now() < end, "the file is not rewritten any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Takes the last bytes off the file that was being written.
fn cut_short(volume: &Path) -> Result<()> {
    let directory = redis::data(volume).join("appendonlydir");
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "aof") && path.to_string_lossy().contains(".incr.") {
            let length = path.metadata()?.len();
            File::options().write(true).open(&path)?.set_len(length.saturating_sub(3))?;
        }
    }
    Ok(())
}
