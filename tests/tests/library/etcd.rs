//! etcd, with its log on another host than its data.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use stillpoint_tests::harness::stack::Options;
use stillpoint_tests::workloads::etcd::{self, Etcd, Volumes};

use super::scene::{LOAD, Scene, can_run, rule};

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_etcd_has_all_that_was_acknowledged() -> Result<()> {
    if !can_run("the rule of etcd", etcd::why_not()) {
        return Ok(());
    }
    let scene = Scene::build("etcd", &["etcd-data", "etcd-wal"], &[], Options::default()).await?;
    let volumes = Volumes { data: scene.mounted(0), wal: scene.mounted(1) };
    let mut server = Etcd::start("etcd", volumes, scene.path()).await?;
    scene.client("etcdctl", &etcd::tool("etcdctl")?, &[server.client_arguments()])?;
    let mut load = server.load(4).await?;
    let text = rule("etcd-health.yaml")?;
    tokio::time::sleep(LOAD).await;
    scene.cut("early", &text).await?;
    tokio::time::sleep(LOAD).await;
    let cut = scene.cut("late", &text).await?;
    load.check_alive()?;
    server.process().check_alive()?;
    let required = load.acknowledged_before(cut.hold_began);
    println!("etcd: longest wait {:?}", load.longest_stall(cut.asked, Instant::now()));

    let [data, wal] = scene.restore_pair("late", "late-").await?;
    let checked = etcd::check(Volumes { data, wal }, &required, scene.path()).await?;
    println!("etcd: {checked:?}");
    let [data, wal] = scene.restore_pair("early", "early-").await?;
    let verdict = etcd::check(Volumes { data, wal }, &required, scene.path()).await;
    let verdict = verdict.expect_err("an earlier cut passes");
    ensure!(verdict.to_string().contains("are lost"), "{verdict:#}");
    // Volumes of two cuts are no such check here: what etcd has put into its database it does not look for in its log.
    let [data, wal] = scene.restore_pair("late", "damaged-").await?;
    let damaged = Volumes { data, wal };
    overwrite(&damaged.database())?;
    let verdict = etcd::check(damaged, &required, scene.path()).await.expect_err("damaged pages pass");
    println!("etcd: damaged: {}", format!("{verdict:#}").lines().next().unwrap_or_default());

    load.stop().await?;
    server.stop()?;
    scene.close()
}

/// Everything behind the first pages of the database, which say where the others are.
fn overwrite(database: &Path) -> Result<()> {
    const KEPT: u64 = 4 * 4096;
    let length = database.metadata()?.len();
    let noise = vec![0xff; usize::try_from(length.saturating_sub(KEPT))?];
    File::options().write(true).open(database)?.write_all_at(&noise, KEPT)?;
    Ok(())
}
