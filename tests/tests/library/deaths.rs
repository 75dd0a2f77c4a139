//! A real MariaDB whose commits a session of the library's rule blocks, and the controller killed at each step: the lock is
//! gone within the session's limit without anybody's help, writers go on, and the next controller settles the run.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stillpoint::domain::Level;
use stillpoint::domain::record::CutRecord;
use stillpoint_rules::machine::Phase;
use stillpoint_rules::run::Run;
use stillpoint_tests::harness::stack::Options;
use stillpoint_tests::harness::{Stack, skip};
use stillpoint_tests::workloads::load::Load;
use stillpoint_tests::workloads::mariadb::{self, MariaDb, Row, Volumes};

use super::mariadb::{PASSWORD, server};
use super::scene::{LOOK_AGAIN, PATIENCE, Points, Scene, can_run, rule};

/// `limit` of the rule, and some time for a busy machine.
const LIMIT: Duration = Duration::from_secs(15 + 5);

/// Where the controller dies.
#[derive(Debug, Clone, Copy)]
enum When {
    /// At this fault point, by itself.
    At(&'static str),
    /// While the session runs the statement that the rule has been given there.
    During(Spot),
}

/// Where a session's statement takes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Taking,
    Probe,
    Finish,
}

const CASES: [(&str, When); 12] = [
    ("before the session", When::At("controller.cut.prepared")),
    ("while it is taken", When::During(Spot::Taking)),
    ("when it is taken", When::At("controller.cut.hold-ordered")),
    ("while hosts hold", When::At("controller.cut.held")),
    ("while hosts cut", When::At("controller.cut.cut-ordered")),
    ("when all have cut", When::At("controller.cut.cut")),
    ("while hosts release", When::At("controller.cut.release-ordered")),
    ("when all have released", When::At("controller.cut.released")),
    ("while it is asked", When::During(Spot::Probe)),
    ("while it is let go", When::During(Spot::Finish)),
    ("before the seal", When::At("controller.seal.begun")),
    ("between two seals", When::At("controller.seal.home-sealed")),
];

/// The scene, and where fault points are armed.
struct Field {
    load: Load,
    server: MariaDb,
    scene: Scene,
    points: Points,
    undone: PathBuf,
    text: String,
}

impl Field {
    async fn build() -> Result<Self> {
        let run = Stack::directory("library-deaths")?;
        let (points, undone) = (run.directory("points")?, run.path().join("undone"));
        let options = Options { fault_points: Some(points.clone()), ..Options::default() };
        let secrets = [("mariadb-backup/password", PASSWORD)];
        let volumes = ["mariadb-data", "mariadb-redo"];
        let scene = Scene::build_in(run, "mariadb", &volumes, &secrets, options).await?;
        let server = server(&scene).await?;
        let load = server.load(&[Row::Pair, Row::Pair, Row::Note])?;
        // The rule owes nothing by itself: with this it does, so that a debt can be seen to be paid.
        let after = format!("    after:\n      command: [sh, -c, 'echo undone >> {}']\n", undone.display());
        let text = rule("mariadb-backup-stage.yaml")? + &after;
        Ok(Self { load, server, scene, points: Points::new(&points), undone, text })
    }

    /// The library's rule, with a statement that takes a second.
    fn slow(&self, spot: Spot) -> Result<String> {
        let (line, slow) = match spot {
            Spot::Taking => (
                "      - BACKUP STAGE BLOCK_COMMIT;\n",
                "      - DO SLEEP(1);\n      - BACKUP STAGE BLOCK_COMMIT;\n",
            ),
            Spot::Probe => ("send: SELECT IF(", "send: SELECT IF(SLEEP(1) + "),
            Spot::Finish => {
                ("      - BACKUP STAGE END;\n", "      - DO SLEEP(1);\n      - BACKUP STAGE END;\n")
            }
        };
        ensure!(self.text.matches(line).count() == 1, "the rule has changed: {line}");
        let text = self.text.replace(line, slow);
        Ok(text.replace(
            "SLEEP(1) + @stillpoint = CONNECTION_ID()",
            "SLEEP(1) = 0 AND @stillpoint = CONNECTION_ID()",
        ))
    }

    /// The session's statement, if it is running one.
    async fn session_runs(&self, part: &str) -> Result<bool> {
        let sessions =
            "SELECT INFO FROM information_schema.PROCESSLIST WHERE USER = 'stillpoint' AND INFO IS NOT NULL";
        Ok(self.server.sql(sessions).await?.contains(part))
    }

    /// A plain client commits and changes the schema, for as long as it may take; how long it took.
    async fn free_again(&self, number: usize) -> Result<Duration> {
        let start = Instant::now();
        let deed = format!(
            "USE shop; BEGIN; INSERT INTO debits VALUES ({id}, 0); INSERT INTO credits VALUES ({id}, 0); COMMIT;
             CREATE TABLE made_{number} (id INT) ENGINE=InnoDB; DROP TABLE made_{number}",
            id = u64::MAX / 2 - number as u64
        );
        self.server.sql_within(&deed, LIMIT).await.context("the lock is still there")?;
        let gone = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'stillpoint'";
        while self.server.sql(gone).await?.trim() != "0" {
            ensure!(start.elapsed() < LIMIT, "the session is still there");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(start.elapsed())
    }

    /// Every writer writes again.
    async fn writers_go_on(&mut self) -> Result<()> {
        let since = Instant::now();
        let end = since + PATIENCE;
        loop {
            self.load.check_alive()?;
            let before = self.load.acknowledged_before(since);
            let workers: std::collections::HashSet<u64> = self
                .load
                .acknowledged_before(Instant::now())
                .into_iter()
                .skip(before.len())
                .map(|id| id >> 40)
                .collect();
            if workers.len() == 3 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "writers stand still");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The run of this name has ended and owes nothing.
    async fn settled(&self, name: &str) -> Result<Run> {
        let end = Instant::now() + PATIENCE;
        loop {
            let run = self.scene.run(name)?;
            if run.phase.is_final() && run.debts.iter().all(|debt| debt.state.is_settled()) {
                return Ok(run);
            }
            ensure!(Instant::now() < end, "the run is still {:?}, and owes {:?}", run.phase, run.debts);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_gone_whenever_the_controller_is_killed() -> Result<()> {
    const TEST: &str = "a controller that is killed while MariaDB is locked";
    if !can_run(TEST, mariadb::why_not()) {
        return Ok(());
    }
    if !cfg!(debug_assertions) {
        skip(TEST, "fault points exist in debug builds only");
        return Ok(());
    }
    let mut field = Field::build().await?;
    for (number, (what, when)) in CASES.into_iter().enumerate() {
        let took = kill_and_settle(&mut field, number, when).await.with_context(|| what.to_owned())?;
        println!("killed {what}: free after {took:?}");
    }
    let took = silence(&mut field, CASES.len()).await.context("while the input of its session stays open")?;
    println!("killed while the input of its session stays open: free after {took:?}");
    let Field { load, server, scene, .. } = field;
    load.stop().await?;
    server.stop()?;
    scene.close()
}

async fn kill_and_settle(field: &mut Field, number: usize, when: When) -> Result<Duration> {
    let name = format!("case-{number}");
    let before = fs::read_to_string(&field.undone).unwrap_or_default().len();
    let asked = match when {
        When::At(point) => {
            field.points.arm(point, "kill")?;
            let asked = field.scene.ask(&name, &field.text.clone());
            field.scene.stack.controller_mut().wait_end(PATIENCE).with_context(|| format!("at {point}"))?;
            asked
        }
        When::During(spot) => {
            let asked = field.scene.ask(&name, &field.slow(spot)?);
            let end = Instant::now() + PATIENCE;
            while !field.session_runs("SLEEP(1)").await? {
                ensure!(Instant::now() < end && !asked.is_finished(), "the statement is not seen");
            }
            field.scene.stack.controller_mut().kill()?;
            asked
        }
    };
    // Nobody helps: there is no controller.
    let took = field.free_again(number).await?;
    field.writers_go_on().await?;
    let said = asked.await?;
    ensure!(said.is_err(), "a controller that died has answered: {said:?}");
    settle(field, &name, before).await?;
    Ok(took)
}

/// The next controller: pays, and gives the cut when it is asked for again.
async fn settle(field: &mut Field, name: &str, undone_before: usize) -> Result<()> {
    field.scene.stack.revive().await?;
    let run = field.settled(name).await?;
    ensure!(run.phase == Phase::Failed, "the run that died is {:?}", run.phase);
    ensure!(run.debts.len() == 1, "it owed {:?}", run.debts);
    let undone = fs::read_to_string(&field.undone).unwrap_or_default().len();
    ensure!(undone > undone_before, "its `after` was never done");
    let before = field.scene.stack.operator().cuts().await?;
    let was_there = before.iter().any(|cut| cut.name == name);
    let record = until_done(field, name).await?;
    ensure!(record.members.len() == 2, "{} members", record.members.len());
    let found = field.scene.snapshots();
    ensure!(found == 2, "there are {found} snapshots on the pools, and one group of two");
    // One that was sealed by the one who died counts as what storage reached: its session was never asked, or its answer is lost.
    ensure!(was_there || record.level == Level::Application, "{:?}: {:?}", record.level, record.reasons);
    whole(field, name).await?;
    field.scene.stack.operator().delete(name).await?;
    let left = field.scene.snapshots();
    ensure!(left == 0, "{left} snapshots are left of a cut that was deleted");
    Ok(())
}

/// Asks again until it is told something final, as whoever wants the cut would.
async fn until_done(field: &Field, name: &str) -> Result<CutRecord> {
    let end = Instant::now() + PATIENCE;
    loop {
        let error = match field.scene.ask(name, &field.text).await? {
            Ok(record) => return Ok(record),
            Err(error) => error,
        };
        let again = ["Aborted", "Unavailable"].iter().any(|code| error.to_string().starts_with(code));
        ensure!(again && Instant::now() < end, "asked again: {error:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A server recovers from it, and nothing in it is half there.
async fn whole(field: &Field, name: &str) -> Result<()> {
    let volumes = field.scene.restore(name, &format!("{name}-")).await?;
    let [data, redo] = volumes.as_slice() else { bail!("there are two volumes") };
    let pair = Volumes { data: data.path.clone(), redo: redo.path.clone() };
    mariadb::recovers(pair, field.scene.path()).await?;
    for volume in &volumes {
        field.scene.stack.retire(volume).await?;
    }
    Ok(())
}

/// Somebody else keeps the input of the session's client open, as a dead container runtime does: the server's own limit
/// ends the session.
async fn silence(field: &mut Field, number: usize) -> Result<Duration> {
    let point = "controller.cut.released";
    let name = format!("case-{number}");
    let before = fs::read_to_string(&field.undone).unwrap_or_default().len();
    field.points.arm(point, "wait")?;
    let asked = field.scene.ask(&name, &field.text.clone());
    field.points.until_hit(point).await?;
    let client = descendant(field.scene.stack.controller().pid(), "mariadb")?;
    // The other end of the same pipe.
    let input = fs::File::options().write(true).open(format!("/proc/{client}/fd/0"))?;
    field.scene.stack.controller_mut().kill()?;
    let blocked =
        field.server.sql_within("INSERT INTO shop.debits VALUES (0, 0)", Duration::from_secs(2)).await;
    ensure!(blocked.is_err(), "nothing was locked, so nothing is shown");
    let took = field.free_again(number).await?;
    drop(input);
    let said = asked.await?;
    ensure!(said.is_err(), "a controller that died has answered: {said:?}");
    field.writers_go_on().await?;
    settle(field, &name, before).await?;
    Ok(took)
}

/// The descendant of a process that runs this program: a supervisor stands between a controller and each of its commands.
fn descendant(ancestor: u32, program: &str) -> Result<u32> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        processes.extend(parse_stat(&stat).map(|(name, parent)| (pid, name.to_owned(), parent)));
    }
    let mut family = vec![ancestor];
    let mut looked_at = 0;
    while let Some(parent) = family.get(looked_at).copied() {
        family.extend(processes.iter().filter(|(.., of)| *of == parent).map(|(pid, ..)| *pid));
        looked_at += 1;
    }
    let found = processes.iter().find(|(pid, name, _)| name == program && family[1..].contains(pid));
    found
        .map(|(pid, ..)| *pid)
        .with_context(|| format!("nothing that process {ancestor} started runs {program}"))
}

/// Name and parent of a process: `pid (name) state parent …`
fn parse_stat(stat: &str) -> Option<(&str, u32)> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    Some((name, tail.split(' ').nth(1)?.parse().ok()?))
}
