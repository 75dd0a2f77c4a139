//! MariaDB, with InnoDB's log on another host than its data, and a table of MyISAM beside.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use stillpoint_tests::harness::stack::Options;
use stillpoint_tests::workloads::load::Load;
use stillpoint_tests::workloads::mariadb::{self, MariaDb, Row, Volumes};

use super::scene::{LOAD, Scene, can_run, rule};

pub const PASSWORD: &str = "mariadb-secret";
/// What the rule's file says that its user needs.
pub const USER: &str = "CREATE USER stillpoint@localhost IDENTIFIED BY 'mariadb-secret'; GRANT RELOAD ON *.* TO stillpoint@localhost";
const ROWS: [Row; 4] = [Row::Pair, Row::Pair, Row::Pair, Row::Note];

/// A server on the volumes of a scene, with its schema, the rule's user, and the pod's client.
pub async fn server(scene: &Scene) -> Result<MariaDb> {
    let volumes = Volumes { data: scene.mounted(0), redo: scene.mounted(1) };
    MariaDb::initialise(&volumes).await?;
    let server = MariaDb::start("mariadb", volumes, scene.path()).await?;
    server.make_schema().await?;
    server.sql(USER).await?;
    for name in ["mariadb", "mysql"] {
        scene.client(name, Path::new("/usr/bin/mariadb"), &server.client_arguments())?;
    }
    Ok(server)
}

async fn check(scene: &Scene, cut: &str, prefix: &str, required: &[u64]) -> Result<mariadb::Checked> {
    let [data, redo] = scene.restore_pair(cut, prefix).await?;
    mariadb::check(Volumes { data, redo }, required, scene.path()).await
}

fn must_fail(what: &str, verdict: Result<mariadb::Checked>, words: &[&str]) -> Result<()> {
    let verdict = match verdict {
        Ok(checked) => panic!("{what} passes: {checked:?}"),
        Err(error) => format!("{error:#}"),
    };
    let said = verdict.lines().find(|line| line.contains("ERROR")).or_else(|| verdict.lines().next());
    println!("mariadb: {what}: {}", said.unwrap_or_default());
    ensure!(words.iter().any(|word| verdict.contains(word)), "{what}: {verdict}");
    Ok(())
}

async fn begin(app: &'static str, secret: &str) -> Result<(Scene, MariaDb, Load)> {
    let scene =
        Scene::build(app, &["mariadb-data", "mariadb-redo"], &[(secret, PASSWORD)], Options::default())
            .await?;
    let server = server(&scene).await?;
    let load = server.load(&ROWS)?;
    tokio::time::sleep(LOAD).await;
    Ok((scene, server, load))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_mariadb_under_backup_stage_is_whole_in_every_engine() -> Result<()> {
    if !can_run("the rule of MariaDB", mariadb::why_not()) {
        return Ok(());
    }
    let (scene, mut server, mut load) = begin("mariadb", "mariadb-backup/password").await?;
    let text = rule("mariadb-backup-stage.yaml")?;
    scene.cut("early", &text).await?;
    tokio::time::sleep(LOAD).await;
    let cut = scene.cut("late", &text).await?;
    load.check_alive()?;
    server.process().check_alive()?;
    let required = load.acknowledged_before(cut.hold_began);
    println!("mariadb: longest wait {:?}", load.longest_stall(cut.asked, Instant::now()));
    tokio::time::sleep(LOAD).await;
    let plain = scene.plain_cut("plain").await?;
    let required_plain = load.acknowledged_before(plain.hold_began);

    println!("mariadb: {:?}", check(&scene, "late", "late-", &required).await?);
    must_fail("an earlier cut", check(&scene, "early", "early-", &required).await, &["are lost"])?;
    // What the rule adds: without it, the table without a log is as a crash leaves it.
    must_fail(
        "a cut without the rule",
        check(&scene, "plain", "plain-", &required_plain).await,
        &["notes is damaged"],
    )?;
    // Data of the later cut with the log of the earlier one, as snapshots one after another leave them.
    let [data, _] = scene.restore_pair("late", "mixed-late-").await?;
    let [_, redo] = scene.restore_pair("early", "mixed-early-").await?;
    let mixed = mariadb::check(Volumes { data, redo }, &required, scene.path()).await;
    must_fail("volumes of two cuts", mixed, &["does not recover", "damaged", "are lost"])?;

    let acknowledged = load.stop().await?;
    ensure!(acknowledged.len() > required.len(), "writers have gone on");
    server.stop()?;
    scene.close()
}

/// The statements of MySQL's rule are MariaDB's, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_mariadb_under_a_global_read_lock_is_whole_in_every_engine() -> Result<()> {
    if !can_run("the rule of MySQL, on MariaDB", mariadb::why_not()) {
        return Ok(());
    }
    let (scene, server, mut load) = begin("mysql", "mysql-backup/password").await?;
    let cut = scene.cut("locked", &rule("mysql-read-lock.yaml")?).await?;
    load.check_alive()?;
    let required = load.acknowledged_before(cut.hold_began);
    println!("mysql: {:?}", check(&scene, "locked", "locked-", &required).await?);
    load.stop().await?;
    server.stop()?;
    scene.close()
}
