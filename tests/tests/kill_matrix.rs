//! Every process killed or stopped at every named point between two steps: see [`stillpoint_tests::matrix`]. Needs
//! root, btrfs and XFS; says so when it skips.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stillpoint::backend::BackendKind;
use stillpoint::host::Loops;
use stillpoint::host::linux::LinuxHost;
use stillpoint_guard::fault::{POINTS, SWITCH};
use stillpoint_tests::harness::bench::command;
use stillpoint_tests::harness::{binaries, skip};
use stillpoint_tests::matrix::{Case, Field, Verdict, conduct, table};
use stillpoint_tests::scratch;
use stillpoint_tests::thrasher::thrash;

/// `MATRIX=text` runs only the cases whose name contains the text.
fn chosen(wanted: &str) -> Result<Vec<Case>> {
    let cases: Vec<_> =
        Case::all(Field::hosts()).into_iter().filter(|case| case.to_string().contains(wanted)).collect();
    ensure!(!cases.is_empty(), "no case of the kill matrix has {wanted:?} in its name; MATRIX= runs all");
    Ok(cases)
}

#[test]
fn a_filter_that_matches_no_case_is_an_error() -> Result<()> {
    ensure!(chosen("")?.len() == Case::all(Field::hosts()).len(), "no filter leaves all cases");
    ensure!(chosen("controller.cut.held")?.len() > 1);
    ensure!(chosen("controler.cut.held").is_err(), "a typing error runs nothing and passes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_at_any_point_everything_is_writable_and_whole_or_gone() -> Result<()> {
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if let Some(why) = scratch::why_not(kind) {
            skip("the kill matrix", &why);
            return Ok(());
        }
    }
    if !cfg!(debug_assertions) {
        skip("the kill matrix", "fault points exist in debug builds only");
        return Ok(());
    }
    let chosen = chosen(&std::env::var("MATRIX").unwrap_or_default())?;
    let mut field = Field::build("kill-matrix").await?;
    let mut reports = Vec::new();
    for case in chosen {
        let report = conduct(&mut field, case).await;
        println!("{}: {} ({} ms)", report.case, report.verdict, report.took.as_millis());
        reports.push(report);
    }
    println!("{}", table(&reports));
    let broken = reports.iter().filter(|report| report.verdict != Verdict::Held).count();
    ensure!(broken == 0, "{broken} of {} cases failed; see the table", reports.len());
    let left = field.close().await?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}

/// The checks of the matrix, each where it must fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_stays_frozen_and_a_leaked_device_are_found_out() -> Result<()> {
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if let Some(why) = scratch::why_not(kind) {
            skip("the checks of the kill matrix", &why);
            return Ok(());
        }
    }
    let mut field = Field::build("kill-checks").await?;
    field.check_writable().await?;
    command("fsfreeze", &["-f".as_ref(), field.volumes()[1].path.as_os_str()])?;
    // The check thaws by force and says so.
    let found = field.check_writable().await.expect_err("a frozen volume passes for a writable one");
    ensure!(found.to_string().contains("not writable") && found.to_string().contains("pods/"), "{found}");
    field.check_writable().await?;

    field.check_nothing_left(Duration::from_secs(10)).await?;
    let leaked = field.path().join("leaked.img");
    std::fs::File::create(&leaked)?.set_len(1 << 20)?;
    let device = LinuxHost.attach(&leaked, false)?.path;
    let found = field.check_nothing_left(Duration::from_millis(100)).await;
    LinuxHost.detach(&device)?;
    let found = found.expect_err("a leaked device is not seen").to_string();
    ensure!(found.contains("leaked.img"), "{found}");
    let left = field.close().await?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_followed_from_the_controllers_log_to_every_hosts_and_counted() -> Result<()> {
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if let Some(why) = scratch::why_not(kind) {
            skip("a cut in logs and metrics", &why);
            return Ok(());
        }
    }
    let mut field = Field::build("kill-logs").await?;
    let group = field.cut_all().await?;
    let log = field.log("controller")?;
    let sealed =
        log.lines().find(|line| line.contains("sealed")).context("no seal in the controller's log")?;
    let attempt = sealed.split("attempt=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let attempt = attempt.context("no attempt in the controller's log")?.trim_matches(['"', '}']).to_owned();
    for host in 0..Field::hosts() {
        let log = field.log(&format!("agent-{}", Field::host(host)))?;
        let round = log.lines().find(|line| line.contains(&attempt));
        ensure!(round.is_some_and(|line| line.contains("released")), "no round of {attempt} in\n{log}");
    }
    let metrics = field.metrics().await?;
    for line in [
        "stillpoint_cuts_sealed_total 1",
        "stillpoint_cut_window_seconds_count 1",
        "stillpoint_holds 0",
        r#"method="csi.v1.GroupController/CreateVolumeGroupSnapshot",code="OK""#,
    ] {
        ensure!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    ensure!(!field.log("controller")?.contains("groupSnapshotId"), "fields are for level debug");
    field.make_controller_talk().await?;
    field.drop_group(&group).await?;
    let log = field.log("controller")?;
    let asked = log.lines().find(|line| line.contains("asked") && line.contains("DeleteVolumeGroupSnapshot"));
    ensure!(asked.is_some_and(|line| line.contains(&group.group_snapshot_id)), "no fields in\n{log}");
    let left = field.close().await?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_is_followed_by_its_id_over_all_hosts_that_work_for_it() -> Result<()> {
    /// Under which the request is followed.
    const ID: &str = "followed-4711";
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if let Some(why) = scratch::why_not(kind) {
            skip("a request over hosts", &why);
            return Ok(());
        }
    }
    let mut field = Field::build("kill-follow").await?;
    field.make_controller_talk().await?;
    field.make_agents_talk().await?;
    // A temporary cut at the source, a grant, a copy by the target, and the export between the two agents.
    field.clone_as(ID, 0, 1).await?;
    for (process, calls) in [
        ("controller", &["Controller/CreateVolume"][..]),
        ("agent-a", &["Agent/Round", "Agent/Seal", "Blocks/Grant", "Peer/Export"]),
        ("agent-b", &["Blocks/Receive"]),
    ] {
        let log = field.log(process)?;
        for call in calls {
            let is_followed = |line: &str| line.contains(ID) && line.contains(call);
            ensure!(log.lines().any(is_followed), "{process} does not say that {call} was for {ID}:\n{log}");
        }
    }
    let left = field.close().await?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_check_themselves_find_nothing_wrong_while_everything_around_them_dies() -> Result<()> {
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if let Some(why) = scratch::why_not(kind) {
            skip("the thrasher", &why);
            return Ok(());
        }
    }
    if !cfg!(debug_assertions) {
        skip("the thrasher", "fault points exist in debug builds only");
        return Ok(());
    }
    let seed = match std::env::var("SEED").unwrap_or_default().as_str() {
        "" => 1,
        seed => seed.parse().with_context(|| format!("SEED={seed:?}"))?,
    };
    let stalls = Box::pin(thrash("thrasher", Duration::from_secs(30), seed)).await?;
    println!("{stalls}");
    ensure!(stalls.cuts > 0 && stalls.operations > 1000, "nothing was thrashed: {stalls}");
    Ok(())
}

fn contains(binary: &Path, text: &str) -> Result<bool> {
    let content = std::fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    Ok(content.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[test]
fn a_release_build_has_neither_the_switch_nor_the_points() -> Result<()> {
    let target = tempfile::tempdir()?;
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--offline", "-p", "stillpoint-guard", "--target-dir"])
        .arg(target.path())
        .current_dir(binaries::source_directory())
        .output()
        .context("cannot run cargo")?;
    ensure!(built.status.success(), "cargo: {}", String::from_utf8_lossy(&built.stderr));
    let release = target.path().join("release/stillpoint-guard");
    let debug = binaries::binary("stillpoint-guard")?;
    for text in [SWITCH].into_iter().chain(POINTS.iter().copied().filter(|point| point.starts_with("guard.")))
    {
        ensure!(!contains(&release, text)?, "the release build contains {text}");
        // The same search finds it where it is.
        ensure!(!cfg!(debug_assertions) || contains(&debug, text)?, "the debug build lacks {text}");
    }
    Ok(())
}
