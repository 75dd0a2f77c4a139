//! One host's part of a round on the real kernel: a btrfs pool, real loop devices, real freezes, a real guard. The
//! conductor is driven as a controller would, order by order.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stillpoint::agent::locks::{Purpose, VolumeLocks};
use stillpoint::agent::pool::{NewVolume, Pool};
use stillpoint::agent::round::RoundContext;
use stillpoint::agent::round::conductor::{Conductor, Input};
use stillpoint::agent::round::watchdog::GuardProcess;
use stillpoint::backend::BackendKind;
use stillpoint::domain::record::{CutMember, CutRecord, CutState};
use stillpoint::domain::{Bytes, CutId, CutKind, Filesystem, Level, SnapshotId, VolumeId};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Loops, MountRequest, Mounts};
use stillpoint::proto::agent::{self as proto, RoundOrder, RoundReport, round_order, round_report};
use stillpoint_tests::harness::RunDir;
use stillpoint_tests::harness::binaries::binary;

/// A safety deadline for everything that must happen at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// One host with a pool, a guard and mounted volumes.
struct Bench {
    guard: Child,
    context: Arc<RoundContext>,
    pool: Arc<Pool>,
    mounts: Vec<PathBuf>,
    volumes: Vec<VolumeId>,
    run: RunDir,
}

impl Bench {
    /// `None` where it cannot be built; the reason is printed.
    fn new(label: &str, volumes: usize) -> Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED {label}: needs root to mount and freeze");
            return Ok(None);
        }
        let run = RunDir::new(label)?;
        let pool_dir = run.directory("pool")?;
        let disk = run.path().join("pool.img");
        fs::File::create(&disk)?.set_len(6 << 30)?;
        command("mkfs.btrfs", &["-q".as_ref(), "-K".as_ref(), disk.as_os_str()])?;
        command("mount", &["-o".as_ref(), "loop,noatime".as_ref(), disk.as_os_str(), pool_dir.as_os_str()])?;
        let host = Arc::new(LinuxHost);
        Pool::make(&*host, BackendKind::Btrfs, &pool_dir)?;
        let pool = Arc::new(Pool::open(host.clone(), &pool_dir)?.0);
        let socket = run.path().join("guard.sock");
        let guard = Command::new(binary("stillpoint-guard")?)
            .args([OsStr::new("--socket"), socket.as_os_str(), "--run-dir".as_ref(), run.path().as_os_str()])
            .stderr(Stdio::null())
            .spawn()?;
        until("the guard's socket", || socket.exists())?;
        let context = RoundContext {
            host,
            pools: BTreeMap::from([(pool.id().clone(), Arc::clone(&pool))]),
            locks: VolumeLocks::default(),
            watchdog: Arc::new(GuardProcess { socket }),
            expedite: None,
            never_hold: vec![],
        };
        let mut bench =
            Self { guard, context: Arc::new(context), pool, mounts: vec![], volumes: vec![], run };
        for index in 0..volumes {
            bench.add_volume(&format!("volume-{index}"))?;
        }
        Ok(Some(bench))
    }

    fn add_volume(&mut self, name: &str) -> Result<()> {
        let id = VolumeId::new(self.pool.id().clone(), name);
        self.pool.create_volume(&NewVolume {
            id: id.clone(),
            name: name.into(),
            capacity: Bytes::mib(400),
            filesystem: Some(Filesystem::Xfs),
            source: None,
        })?;
        let device = LinuxHost.attach(&self.pool.image(&id)?, false)?;
        let target = self.run.directory(name)?;
        let request = MountRequest {
            device: &device.path,
            target: &target,
            filesystem: Filesystem::Xfs,
            read_only: false,
            options: &[],
        };
        LinuxHost.mount(&request)?;
        LinuxHost.detach(&device.path)?;
        self.mounts.push(target);
        self.volumes.push(id);
        Ok(())
    }

    fn record(&self, attempt: &str) -> CutRecord {
        let id = CutId::new(CutKind::Group, "cut", &self.volumes).expect("there are volumes");
        let mut members: Vec<_> = self
            .volumes
            .iter()
            .map(|volume| CutMember {
                volume: volume.clone(),
                volume_name: "volume".into(),
                snapshot: SnapshotId::of(volume, &id),
                host: "a".parse().expect("a name"),
                capacity: Bytes::mib(400),
                filesystem: Some(Filesystem::Xfs),
            })
            .collect();
        members.sort_by(|left, right| left.volume.cmp(&right.volume));
        CutRecord {
            id,
            name: "cut".into(),
            state: CutState::Round,
            attempt: attempt.into(),
            members,
            cut_at: jiff::Timestamp::now(),
            level: Level::Crash,
            reasons: vec![],
            timeline: None,
        }
    }

    fn start(&self) -> Round<'_> {
        let (inputs, queue) = mpsc::channel();
        let (reports, outbound) = tokio::sync::mpsc::channel(16);
        let conductor = Conductor::new(Arc::clone(&self.context), inputs.clone(), queue, reports);
        let thread = std::thread::spawn(move || conductor.run());
        Round { bench: self, inputs, outbound, thread: Some(thread) }
    }

    /// Whether every volume can be written now, from another process each.
    fn all_writable(&self) -> Result<bool> {
        self.mounts.iter().try_fold(true, |so_far, mount| Ok(so_far && writable(mount, PATIENCE)?))
    }

    /// What a void or abandoned round must leave: no record, no snapshot, no lock.
    fn assert_nothing_left(&self) -> Result<()> {
        assert!(self.all_writable()?, "a volume is not writable");
        assert!(self.pool.cuts().is_empty(), "a record is left: {:?}", self.pool.cuts());
        for volume in &self.volumes {
            let directory = self.pool.dir().join("snapshots").join(volume.to_string());
            let left: Vec<_> = fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| !name.starts_with('.'))
                .collect();
            assert!(left.is_empty(), "snapshots are left: {left:?}");
            assert_eq!(self.context.locks.purpose(volume), None, "a lock is left");
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for mount in &self.mounts {
            let _ = Command::new("fsfreeze").arg("-u").arg(mount).stderr(Stdio::null()).status();
        }
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// A round under way, seen from the controller.
struct Round<'a> {
    bench: &'a Bench,
    inputs: mpsc::Sender<Input>,
    outbound: tokio::sync::mpsc::Receiver<Result<RoundReport, tonic::Status>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Round<'_> {
    fn order(&self, order: round_order::Order) -> Result<()> {
        let received_us = self.bench.context.host.monotonic_us();
        self.inputs
            .send(Input::Order { order: RoundOrder { order: Some(order) }, received_us })
            .ok()
            .context("the conductor is gone")
    }

    fn open(&self, attempt: &str, soft: Duration) -> Result<()> {
        let record = self.bench.record(attempt);
        let members = record.members.iter().map(|member| proto::Member {
            volume_id: member.volume.to_string(),
            snapshot_id: member.snapshot.to_string(),
        });
        self.order(round_order::Order::Open(round_order::Open {
            cut_id: record.id.to_string(),
            attempt: attempt.into(),
            members: members.collect(),
            soft_limit_ms: u32::try_from(soft.as_millis())?,
            hard_limit_ms: 15_000,
            record: Some(proto::CutRecord { json: serde_json::to_string(&record)? }),
        }))
    }

    fn hold(&self) -> Result<()> {
        self.order(round_order::Order::Hold(round_order::Hold {}))
    }

    fn cut(&self) -> Result<()> {
        self.order(round_order::Order::Cut(round_order::Cut {}))
    }

    fn release(&self) -> Result<()> {
        self.order(round_order::Order::Release(round_order::Release {}))
    }

    fn report(&mut self) -> Result<round_report::Report> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.outbound.try_recv() {
                Ok(report) => return report?.report.context("an empty report"),
                Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => {
                    bail!("the round ended without a word")
                }
                Err(tokio::sync::mpsc::error::TryRecvError::Empty) => {
                    ensure!(Instant::now() < end, "no report within {PATIENCE:?}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Goes on until the report that `reached` accepts.
    fn advance(&mut self, to: Phase) -> Result<()> {
        self.open("1", PATIENCE.min(Duration::from_secs(15)))?;
        ensure!(matches!(self.report()?, round_report::Report::Prepared(_)), "not prepared");
        if to == Phase::Prepared {
            return Ok(());
        }
        self.hold()?;
        let held = self.report()?;
        ensure!(matches!(held, round_report::Report::Held(_)), "not held: {held:?}");
        if to == Phase::Held {
            return Ok(());
        }
        self.cut()?;
        ensure!(matches!(self.report()?, round_report::Report::Cut(_)), "not cut");
        Ok(())
    }

    fn end_stream(&self) {
        let _ = self.inputs.send(Input::StreamEnded);
    }

    fn join(&mut self) -> Result<()> {
        let thread = self.thread.take().context("joined twice")?;
        until("the end of the round", || thread.is_finished())?;
        thread.join().ok().context("the conductor panicked")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prepared,
    Held,
    Cut,
}

fn writable(mount: &Path, limit: Duration) -> Result<bool> {
    let mut writer = Command::new("touch").arg(mount.join("written")).spawn()?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = writer.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

fn command(program: &str, arguments: &[&OsStr]) -> Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn until(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        ensure!(Instant::now() < end, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

const BLINK: Duration = Duration::from_millis(300);

#[test]
fn a_round_holds_cuts_and_releases_and_can_be_sealed() -> Result<()> {
    let Some(bench) = Bench::new("round-through", 3)? else { return Ok(()) };
    let mut round = bench.start();
    round.advance(Phase::Held)?;
    assert!(!writable(&bench.mounts[1], BLINK)?, "a held volume must not be writable");
    round.cut()?;
    let round_report::Report::Cut(cut) = round.report()? else { bail!("not cut") };
    assert_eq!(cut.members.len(), 3);
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    assert!(!released.guard_fired && released.members.iter().all(|member| member.clean), "{released:?}");
    assert!(bench.all_writable()?);
    round.join()?;
    let mut sealed = bench.record("1");
    sealed.state = CutState::Sealed;
    bench.pool.seal_cut(&sealed)?;
    for member in &sealed.members {
        assert!(bench.pool.snapshot_tree(&member.snapshot)?.join("disk.img").exists());
    }
    Ok(())
}

#[test]
fn a_controller_that_goes_away_in_any_phase_leaves_nothing_held_and_nothing_behind() -> Result<()> {
    let Some(bench) = Bench::new("round-gone", 2)? else { return Ok(()) };
    for phase in [Phase::Prepared, Phase::Held, Phase::Cut] {
        let mut round = bench.start();
        round.advance(phase)?;
        round.end_stream();
        round.join()?;
        bench.assert_nothing_left().with_context(|| format!("{phase:?}"))?;
    }
    Ok(())
}

#[test]
fn a_hold_past_its_soft_limit_is_given_up_by_the_agent_itself() -> Result<()> {
    let Some(bench) = Bench::new("round-limit", 2)? else { return Ok(()) };
    let mut round = bench.start();
    round.open("1", Duration::from_millis(400))?;
    ensure!(matches!(round.report()?, round_report::Report::Prepared(_)), "not prepared");
    round.hold()?;
    ensure!(matches!(round.report()?, round_report::Report::Held(_)), "not held");
    let round_report::Report::Failed(failed) = round.report()? else { bail!("not given up") };
    assert!(failed.message.contains("given up after 400ms"), "{failed:?}");
    round.join()?;
    bench.assert_nothing_left()
}

#[test]
fn a_hold_that_somebody_else_thawed_is_reported_as_lapsed() -> Result<()> {
    let Some(bench) = Bench::new("round-lapse", 2)? else { return Ok(()) };
    let mut round = bench.start();
    round.advance(Phase::Cut)?;
    command("fsfreeze", &["-u".as_ref(), bench.mounts[0].as_os_str()])?;
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    let lapsed: Vec<_> = released.members.iter().filter(|member| !member.clean).collect();
    assert_eq!(lapsed.len(), 1, "{released:?}");
    assert!(lapsed[0].why.contains("had lapsed"), "{lapsed:?}");
    Ok(())
}

#[test]
fn a_volume_that_somebody_else_has_frozen_fails_the_round_and_stays_frozen() -> Result<()> {
    let Some(bench) = Bench::new("round-foreign", 2)? else { return Ok(()) };
    let mut round = bench.start();
    round.advance(Phase::Prepared)?;
    command("fsfreeze", &["-f".as_ref(), bench.mounts[0].as_os_str()])?;
    round.hold()?;
    let round_report::Report::Failed(failed) = round.report()? else { bail!("not failed") };
    assert!(failed.message.contains("frozen by somebody else"), "{failed:?}");
    assert_eq!(failed.volume_id, bench.volumes[0].to_string());
    round.join()?;
    assert!(!writable(&bench.mounts[0], BLINK)?, "what somebody else froze must stay frozen");
    assert!(writable(&bench.mounts[1], PATIENCE)?, "the other member must be let go");
    command("fsfreeze", &["-u".as_ref(), bench.mounts[0].as_os_str()])?;
    bench.assert_nothing_left()
}

#[test]
fn a_guard_that_dies_during_the_hold_makes_it_count_as_lapsed() -> Result<()> {
    let Some(mut bench) = Bench::new("round-guard", 1)? else { return Ok(()) };
    let mut round = bench.start();
    round.advance(Phase::Cut)?;
    let guard = nix::unistd::Pid::from_raw(i32::try_from(bench.guard.id())?);
    nix::sys::signal::kill(guard, nix::sys::signal::Signal::SIGKILL)?;
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    assert!(released.guard_fired, "without a guard nobody knows: {released:?}");
    drop(round);
    bench.guard.wait()?;
    // And without a guard nothing is held at all.
    bench.pool.void_cut(&bench.record("1").id)?;
    let mut round = bench.start();
    round.advance(Phase::Prepared)?;
    round.hold()?;
    let round_report::Report::Failed(failed) = round.report()? else { bail!("held without a guard") };
    assert!(failed.message.contains("start stillpoint-guard"), "{failed:?}");
    round.join()?;
    bench.assert_nothing_left()
}

#[test]
fn orders_out_of_turn_are_refused_and_let_everything_go() -> Result<()> {
    let Some(bench) = Bench::new("round-order", 1)? else { return Ok(()) };
    let mut round = bench.start();
    round.advance(Phase::Held)?;
    round.release()?;
    let round_report::Report::Failed(failed) = round.report()? else { bail!("released without a cut") };
    assert_eq!(failed.phase, "order");
    round.join()?;
    bench.assert_nothing_left()
}

#[test]
fn a_volume_that_is_busy_is_not_cut_and_a_foreign_round_is_not_touched() -> Result<()> {
    let Some(bench) = Bench::new("round-busy", 1)? else { return Ok(()) };
    let mut first = bench.start();
    first.advance(Phase::Held)?;
    let mut second = bench.start();
    second.open("2", PATIENCE.min(Duration::from_secs(15)))?;
    let round_report::Report::Failed(failed) = second.report()? else { bail!("two rounds on one volume") };
    assert!(failed.message.contains("is busy"), "{failed:?}");
    second.join()?;
    // The first goes on as if nothing had been.
    first.cut()?;
    ensure!(matches!(first.report()?, round_report::Report::Cut(_)), "not cut");
    first.release()?;
    let round_report::Report::Released(released) = first.report()? else { bail!("not released") };
    assert!(released.members.iter().all(|member| member.clean));
    first.join()?;
    let staged = bench.context.locks.try_lock(&bench.volumes[0], Purpose::Use);
    assert!(staged.is_ok(), "the lock is given back at the release");
    Ok(())
}
