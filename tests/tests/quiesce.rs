//! From quiesce to resume, over real processes, pools and kernels: a controller and three nodes wait at fault points while
//! everything is quiesced, and this test looks at what is written meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use stillpoint::domain::record::CutRecord;
use stillpoint::domain::{Bytes, Level};
use stillpoint_tests::harness::csi::Volume;
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::stack::{Blueprint, Options, Pod, Rcu};
use stillpoint_tests::harness::{Lack, Stack, skip};

const NODES: [&str; 3] = ["a", "b", "c"];
const FILESYSTEMS: [&str; 2] = ["xfs", "ext4"];
const SELECTOR: &str = "app=written";
/// Everything is quiesced; the order to take snapshots is not given yet.
const QUIESCED: &str = "controller.cut.held";
/// All snapshots are taken; the order to resume is not given yet.
const TAKEN: &str = "controller.cut.cut";
/// How long everything stays quiesced, twice: dozens of writes end in this time where none is stopped.
const STANDS: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Three nodes (the last with an XFS pool) with two volumes each.
struct Scene {
    stack: Stack,
    points: PathBuf,
    volumes: Vec<Volume>,
}

impl Scene {
    async fn new(label: &str) -> Result<Option<Self>> {
        if let Some(why) = Lack::of_root() {
            skip(label, &why);
            return Ok(None);
        }
        if !cfg!(debug_assertions) {
            skip(label, "fault points exist in debug builds only");
            return Ok(None);
        }
        let run = Stack::directory(label)?;
        let points = run.directory("points")?;
        let names = |node: &str| FILESYSTEMS.map(|filesystem| format!("{node}-{filesystem}"));
        let pod = |node: &str| Pod {
            name: format!("pod-{node}"),
            labels: [("app".to_owned(), "written".to_owned())].into(),
            host: node.into(),
            containers: vec!["main".into()],
            volumes: names(node).to_vec(),
            exec: vec![],
        };
        let blueprint = Blueprint {
            hosts: NODES.map(String::from).to_vec(),
            pool_size: Bytes::gib(8),
            pods: NODES.map(pod).to_vec(),
            rcu: Rcu::Auto,
        };
        // Nobody gives up while this test looks.
        let Value::Object(controller) = json!({"limits": {"softMs": 20_000, "hardMs": 30_000}}) else {
            bail!("an object was written above");
        };
        let options = Options {
            controller,
            xfs: vec![NODES[2].to_owned()],
            fault_points: Some(points.clone()),
            ..Options::default()
        };
        let stack = Stack::start_as(run, &blueprint, &options).await?;
        let mut volumes = Vec::new();
        for node in NODES {
            for (name, filesystem) in names(node).iter().zip(FILESYSTEMS) {
                volumes.push(stack.provision(name, node, Bytes::mib(320), filesystem).await?);
            }
        }
        Ok(Some(Self { stack, points: points.join("controller"), volumes }))
    }

    /// Takes a group snapshot of all volumes. `quiesced` is called when all are quiesced, `taken` when all snapshots are
    /// taken and nothing is resumed yet.
    async fn take<A, B>(
        &self,
        name: &str,
        quiesced: impl AsyncFnOnce() -> Result<A>,
        taken: impl AsyncFnOnce() -> Result<B>,
    ) -> Result<(CutRecord, A, B)> {
        for point in [QUIESCED, TAKEN] {
            for used in ["hit", "go"] {
                let _fresh = fs::remove_file(self.points.join(format!("{point}.{used}")));
            }
            fs::write(self.points.join(point), "wait")?;
        }
        let operator = self.stack.operator();
        let snapshot = operator.snapshot(name, SELECTOR, None, Barrier::Together);
        let look = async {
            let first = self.at(QUIESCED, quiesced).await;
            let second = self.at(TAKEN, taken).await;
            Ok::<_, anyhow::Error>((first?, second?))
        };
        let (record, looked) = tokio::join!(snapshot, look);
        let (first, second) = looked?;
        Ok((record?, first, second))
    }

    /// Does something while the controller waits at a point, which goes on whatever comes of it.
    async fn at<T>(&self, point: &str, deed: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        let hit = self.points.join(format!("{point}.hit"));
        let end = Instant::now() + PATIENCE;
        while !hit.exists() {
            ensure!(Instant::now() < end, "{point} was not reached within {PATIENCE:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let done = deed().await;
        fs::write(self.points.join(format!("{point}.go")), "")?;
        done
    }

    async fn close(self) -> Result<()> {
        for volume in &self.volumes {
            self.stack.retire(volume).await?;
        }
        let left = self.stack.close()?;
        ensure!(left.is_clean(), "something had to be released by force: {left}");
        Ok(())
    }
}

/// Writes and syncs one file of a volume until it is dropped, and remembers when each write ended.
struct Writer {
    volume: String,
    ended: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Writer {
    fn start(volume: &Volume) -> Result<Self> {
        let mut file = File::create(volume.path.join("numbers"))?;
        let (ended, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (mine, told) = (Arc::clone(&ended), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for number in 0_u64.. {
                if told.load(Ordering::SeqCst) {
                    break;
                }
                file.rewind()?;
                file.write_all(&number.to_le_bytes())?;
                file.sync_all()?;
                mine.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
            Ok(())
        });
        Ok(Self { volume: volume.name.clone(), ended, stop, thread: Some(thread) })
    }

    /// How many writes ended from one instant to another.
    fn ended_between(&self, from: Instant, to: Instant) -> usize {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().filter(|at| (from..=to).contains(*at)).count()
    }

    fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("a writer is stopped once")?;
        let ended = thread.join().ok().context("the writer panicked")?;
        ended.with_context(|| format!("the writer of {}", self.volume))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Waits until every writer has ended this many more writes after an instant.
async fn all_write_after(writers: &[Writer], instant: Instant) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while let Some(writer) = writers.iter().find(|writer| writer.ended_between(instant, Instant::now()) < 3) {
        ensure!(Instant::now() < end, "the writer of {} stands still", writer.volume);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_ends_between_quiesce_and_resume_on_any_node() -> Result<()> {
    let Some(scene) = Scene::new("quiesce-writes").await? else { return Ok(()) };
    let writers = scene.volumes.iter().map(Writer::start).collect::<Result<Vec<_>>>()?;
    all_write_after(&writers, Instant::now()).await?;
    for round in 0..3 {
        let before = Instant::now();
        all_write_after(&writers, before).await?;
        let stand = async || {
            let reached = Instant::now();
            tokio::time::sleep(STANDS).await;
            Ok(reached)
        };
        let stand_again = async || {
            tokio::time::sleep(STANDS).await;
            Ok(Instant::now())
        };
        let (record, quiesced, resume) = scene.take(&format!("round-{round}"), stand, stand_again).await?;
        ensure!(record.level == Level::Filesystem, "{:?}: {:?}", record.level, record.reasons);
        for writer in &writers {
            let slipped = writer.ended_between(quiesced, resume);
            ensure!(
                slipped == 0,
                "{slipped} writes to {} ended in the {:?} between quiesce and resume",
                writer.volume,
                resume - quiesced
            );
        }
        // The same look finds writes where nothing is quiesced.
        all_write_after(&writers, resume).await?;
    }
    writers.into_iter().try_for_each(Writer::stop)?;
    scene.close().await
}

/// Every file below a directory: its length and when it was changed.
type Picture = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// What is written by others: fault points, the file that a pool's kernel filesystem is in, and volumes, which are mounted.
fn is_of_others(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str();
        part == "points" || part == "pool.img" || part == "pods" || part == "staging"
    })
}

fn picture(directory: &Path, into: &mut Picture) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if is_of_others(&path) {
            continue;
        }
        let found = fs::symlink_metadata(&path)?;
        if found.is_dir() {
            picture(&path, into)?;
        } else {
            into.insert(path, (found.len(), found.modified().ok()));
        }
    }
    Ok(())
}

/// Files that are new or different in the later picture.
fn changes(before: &Picture, after: &Picture) -> Vec<PathBuf> {
    let differs = |(path, state): &(&PathBuf, &(u64, Option<SystemTime>))| before.get(*path) != Some(*state);
    let changed = after.iter().filter(differs).map(|(path, _)| path.clone());
    let gone = before.keys().filter(|path| !after.contains_key(*path)).cloned();
    changed.chain(gone).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_snapshots_are_written_between_quiesce_and_resume_and_logs_are_silent() -> Result<()> {
    let Some(mut scene) = Scene::new("quiesce-silence").await? else { return Ok(()) };
    // At level debug every call is logged.
    scene.stack.controller_mut().send(Signal::SIGUSR1)?;
    for host in scene.stack.hosts() {
        host.agent.send(Signal::SIGUSR1)?;
    }
    tokio::time::sleep(STANDS).await;
    let look = || -> Result<Picture> {
        let mut seen = Picture::new();
        picture(scene.stack.path(), &mut seen)?;
        Ok(seen)
    };
    // Between the two looks the controller and every agent begin a phase, which is a line at level debug.
    let quiesced = async || {
        let seen = look()?;
        tokio::time::sleep(STANDS).await;
        Ok(seen)
    };
    let (_, before, after) = scene.take("silent", quiesced, async || look()).await?;
    let snapshots = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "snapshots");
    let (taken, written): (Vec<_>, Vec<_>) = changes(&before, &after).into_iter().partition(snapshots);
    ensure!(written.is_empty(), "written between quiesce and resume: {written:?}");
    ensure!(taken.len() >= scene.volumes.len(), "a picture must show new snapshots: {taken:?}");

    // What was to be said is said afterwards, so there was something to be silent about.
    let end = Instant::now() + PATIENCE;
    let processes = NODES.iter().map(|node| format!("agent-{node}")).chain(["controller".to_owned()]);
    for process in processes {
        let path = scene.stack.path().join(format!("log/{process}.log"));
        let silent = before.get(&path).with_context(|| format!("{} is in no picture", path.display()))?.0;
        while fs::read_to_string(&path)?
            .get(usize::try_from(silent)?..)
            .is_none_or(|said| !said.contains("begun"))
        {
            ensure!(Instant::now() < end, "{process} has said nothing of the snapshot at level debug");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    scene.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_carries_the_state_of_its_agent_is_never_frozen() -> Result<()> {
    let Some(mut scene) = Scene::new("quiesce-never").await? else { return Ok(()) };
    let carrier = scene.volumes[0].path.clone();
    let state = carrier.join("state");
    fs::create_dir(&state)?;
    let config = scene.stack.path().join(format!("agent-{}.yaml", NODES[0]));
    let mut settings: Value = serde_yaml::from_str(&fs::read_to_string(&config)?)?;
    settings["stateDir"] = json!(state);
    fs::write(&config, serde_yaml::to_string(&settings)?)?;
    scene.stack.hosts_mut()[0].agent.stop(Signal::SIGTERM, PATIENCE)?;
    scene.stack.revive().await?;

    let refused = scene.stack.operator().snapshot("never", SELECTOR, None, Barrier::Together).await;
    let refused = refused.err().context("an agent has frozen the filesystem that its own state is on")?;
    let said = format!("{refused:#}");
    ensure!(said.contains("move the agent's stateDir off the volume"), "{said}");
    fs::write(carrier.join("written"), "as before")?;

    settings["stateDir"] = json!(scene.stack.path().join(format!("host-{}/state", NODES[0])));
    fs::write(&config, serde_yaml::to_string(&settings)?)?;
    scene.stack.hosts_mut()[0].agent.stop(Signal::SIGTERM, PATIENCE)?;
    scene.stack.revive().await?;
    scene.stack.operator().snapshot("again", SELECTOR, None, Barrier::Together).await?;
    scene.close().await
}
