//! PostgreSQL, with its WAL on another host than its data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_rules::plan::Action;
use stillpoint_tests::harness::stack::Options;
use stillpoint_tests::harness::{Lack, RunDir};
use stillpoint_tests::workloads::load::Checked;
use stillpoint_tests::workloads::postgres::{self, Installation, Postgres, Volumes};

use super::scene::{Cut, LOAD, Scene, can_run, rule};

/// What the rule's file says that its user needs.
const USER: &str = "CREATE ROLE stillpoint LOGIN; GRANT pg_checkpoint TO stillpoint;
    GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO stillpoint;";
const PATIENCE: Duration = Duration::from_mins(1);

fn why_not() -> Option<Lack> {
    Lack::of_root().or_else(|| Lack::of_tools(Installation::find()))
}

async fn server(scene: &Scene, installation: &Installation, settings: &[String]) -> Result<Postgres> {
    let volumes = Volumes { data: scene.mounted(0), wal: scene.mounted(1) };
    Postgres::initialise(installation, &volumes).await?;
    let server = Postgres::start_with(installation, "postgres", volumes, scene.path(), settings).await?;
    server.connect().await?.batch_execute(USER).await?;
    scene.client("psql", &installation.tool("psql"), &server.client_arguments())?;
    Ok(server)
}

async fn restored(scene: &Scene, cut: &str, prefix: &str) -> Result<Volumes> {
    let [data, wal] = scene.restore_pair(cut, prefix).await?;
    Ok(Volumes { data, wal })
}

async fn check(scene: &Scene, cut: &str, prefix: &str, required: &[u64]) -> Result<Checked> {
    let volumes = restored(scene, cut, prefix).await?;
    postgres::check(&Installation::find()?, volumes, required, scene.path()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_cut_of_postgresql_has_all_that_was_acknowledged() -> Result<()> {
    if !can_run("the checkpoint rule of PostgreSQL", why_not()) {
        return Ok(());
    }
    let installation = Installation::find()?;
    let scene =
        Scene::build("postgresql", &["postgres-data", "postgres-wal"], &[], Options::default()).await?;
    let mut server = server(&scene, &installation, &[]).await?;
    let mut load = postgres::start_load(&server.config(), 4).await?;
    let text = rule("postgresql-checkpoint.yaml")?;
    tokio::time::sleep(LOAD).await;
    scene.cut("early", &text).await?;
    tokio::time::sleep(LOAD).await;
    // As the least privileged user that the file names.
    let cut = scene.cut("late", &text.replace("default: postgres}", "default: stillpoint}")).await?;
    load.check_alive()?;
    server.process().check_alive()?;
    let required = load.acknowledged_before(cut.hold_began);

    println!("postgresql: {:?}", check(&scene, "late", "late-", &required).await?);
    let verdict = check(&scene, "early", "early-", &required).await.expect_err("an earlier cut passes");
    ensure!(verdict.to_string().contains("are lost"), "{verdict:#}");
    // Data of the later cut with the log of the earlier one, as snapshots one after another leave them.
    let data = restored(&scene, "late", "mixed-late-").await?.data;
    let wal = restored(&scene, "early", "mixed-early-").await?.wal;
    let mixed = postgres::check(&installation, Volumes { data, wal }, &required, scene.path()).await;
    let verdict = mixed.expect_err("volumes of two cuts pass for one");
    println!("postgresql: mixed: {}", format!("{verdict:#}").lines().next().unwrap_or_default());

    let acknowledged = load.stop().await?;
    ensure!(acknowledged.len() > required.len(), "writers have gone on");
    server.stop()?;
    scene.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_backup_mode_recovers_by_itself_and_with_its_label_from_the_archive() -> Result<()> {
    if !can_run("the backup mode of PostgreSQL", why_not()) {
        return Ok(());
    }
    let installation = Installation::find()?;
    let run = RunDir::new("library-archive")?;
    let archive = run.directory("archive")?;
    nix::unistd::chown(
        &archive,
        Some(nix::unistd::User::from_name("postgres")?.context("no user")?.uid),
        None,
    )?;
    let settings = [
        "archive_mode=on".to_owned(),
        format!("archive_command=test ! -f {0}/%f && cp %p {0}/%f", archive.display()),
    ];
    let scene =
        Scene::build("postgresql", &["postgres-data", "postgres-wal"], &[], Options::default()).await?;
    let server = server(&scene, &installation, &settings).await?;
    let mut load = postgres::start_load(&server.config(), 4).await?;
    tokio::time::sleep(LOAD).await;
    let cut = scene.cut("based", &rule("postgresql-backup-mode.yaml")?).await?;
    let required = load.acknowledged_before(cut.hold_began);
    let label = label(&cut)?;
    ensure!(label.contains("LABEL: stillpoint"), "{label}");
    tokio::time::sleep(LOAD).await;
    load.check_alive()?;
    let later = load.acknowledged_before(Instant::now());
    archived(&server, &archive).await?;

    // To the instant of the cut: as it is.
    println!("postgresql: without the label: {:?}", check(&scene, "based", "plain-", &required).await?);
    // To a later time: with the label, from the archive.
    let volumes = restored(&scene, "based", "later-").await?;
    prepare(&volumes, &label)?;
    let restore = [format!("restore_command=cp {}/%f %p", archive.display())];
    let recovered =
        Postgres::start_with(&installation, "postgres-later", volumes, scene.path(), &restore).await?;
    let client = recovered.connect().await?;
    let end = Instant::now() + PATIENCE;
    while client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get::<_, bool>(0) {
        ensure!(Instant::now() < end, "the recovery does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let checked = postgres::check_rows(&client, &later).await?;
    println!("postgresql: with the label and the archive: {checked:?}");
    ensure!(checked.required > required.len(), "nothing was written after the cut, so nothing is proven");
    drop(client);
    recovered.stop()?;
    // The label without the archive: the end of the backup is not in the cut, and PostgreSQL says so.
    let volumes = restored(&scene, "based", "alone-").await?;
    prepare(&volumes, &label)?;
    let alone = ["restore_command=false".to_owned()];
    let refused = Postgres::start_with(&installation, "postgres-alone", volumes, scene.path(), &alone).await;
    let refused = format!("{:#}", refused.err().context("a label without its archive passes")?);
    ensure!(refused.contains("before end of online backup"), "{refused}");

    load.stop().await?;
    server.stop()?;
    scene.close()?;
    drop(run.close());
    Ok(())
}

/// The label file, as the rule's file says that it is got from the record of the run.
fn label(cut: &Cut) -> Result<String> {
    let run = cut.run.as_ref().context("the run is on record")?;
    let session = run.attempts.iter().find(|attempt| attempt.action == Action::Hold);
    let output = &session.context("the session is on record")?.output;
    let line = output.lines().find_map(|line| line.strip_prefix("backup_label="));
    let line = line.with_context(|| format!("no label in {output}"))?;
    ensure!(output.contains("\ntablespace_map=\n") || output.ends_with("tablespace_map="), "{output}");
    let mut decoder = Command::new("base64");
    let mut decoder = decoder.arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut decoder.stdin.take().context("piped")?, line.as_bytes())?;
    let decoded = decoder.wait_with_output()?;
    ensure!(decoded.status.success(), "the label is not base64: {line}");
    Ok(String::from_utf8(decoded.stdout)?)
}

/// Makes a restored pair a base backup that is to be recovered from an archive.
fn prepare(volumes: &Volumes, label: &str) -> Result<()> {
    volumes.adopt()?;
    for (name, text) in [("backup_label", label), ("recovery.signal", "")] {
        let path: PathBuf = volumes.data_directory().join(name);
        fs::write(&path, text)?;
        let postgres = nix::unistd::User::from_name("postgres")?.context("no user")?;
        nix::unistd::chown(&path, Some(postgres.uid), Some(postgres.gid))?;
    }
    Ok(())
}

/// Waits until all that was written so far is in the archive.
async fn archived(server: &Postgres, archive: &Path) -> Result<()> {
    let client = server.connect().await?;
    let switch = "SELECT pg_walfile_name(pg_switch_wal())";
    let segment: String = client.query_one(switch, &[]).await?.get(0);
    let end = Instant::now() + PATIENCE;
    loop {
        let last = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
        let last: String = client.query_one(last, &[]).await?.get(0);
        if last >= segment && archive.join(&segment).exists() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{segment} is not archived");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
