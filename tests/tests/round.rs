//! One host's part of a round on the real kernel: a btrfs pool, real loop devices, real freezes, a real guard. The
//! conductor is driven as a controller would, order by order.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stillpoint::agent::local::LocalHost;
use stillpoint::agent::locks::Purpose;
use stillpoint::agent::pools::Pools;
use stillpoint::agent::round::conductor::{Conductor, Input};
use stillpoint::agent::round::crew::{self, Inbox};
use stillpoint::agent::volumes::NodeVolumes;
use stillpoint::domain::record::{CutMember, CutRecord, CutState};
use stillpoint::domain::{CutId, CutKind, Filesystem, Incarnation, Level, SnapshotId};
use stillpoint::host::Loops;
use stillpoint::host::linux::LinuxHost;
use stillpoint::proto::agent::{self as proto, RoundOrder, RoundReport, round_order, round_report};
use stillpoint_tests::harness::RunDir;
use stillpoint_tests::harness::bench::{
    BLINK, Bench, PATIENCE, VOLUME, command, needs_root, until, writable,
};
use stillpoint_tests::harness::blkcg::BlockGroup;
use stillpoint_tests::harness::skip;

/// Longer than a test; soft limits must not fire where they are not meant to.
const LONG: Duration = Duration::from_secs(15);

/// One host with mounted volumes; taken apart in the order of its fields.
struct Stage {
    bench: Bench,
    _run: RunDir,
}

impl Stage {
    fn new(label: &str, volumes: usize) -> Result<Option<Self>> {
        if !needs_root(label) {
            return Ok(None);
        }
        let run = RunDir::new(label)?;
        Ok(Some(Self { bench: Bench::new(&run, "a", volumes)?, _run: run }))
    }

    fn start(&self) -> Round<'_> {
        let (inputs, queue) = mpsc::channel();
        let (reports, outbound) = tokio::sync::mpsc::channel(16);
        let sender = inputs.clone();
        let inbox = Inbox::new(move |input| sender.send(input).is_ok());
        let conductor = Conductor::new(Arc::clone(&self.bench.context), inbox, reports);
        let thread = std::thread::spawn(move || crew::run(conductor, &queue));
        Round { bench: &self.bench, inputs, outbound, thread: Some(thread) }
    }
}

fn record(bench: &Bench, attempt: u32) -> CutRecord {
    let id = CutId::new(CutKind::Group, "cut", &bench.volumes).expect("there are volumes");
    let member = |volume| CutMember {
        known_as: None,
        volume_name: "volume".into(),
        snapshot: SnapshotId::of(volume, &id, Incarnation(attempt)),
        host: "a".parse().expect("a name"),
        capacity: VOLUME,
        filesystem: Some(Filesystem::Xfs),
        volume: volume.clone(),
    };
    let mut members: Vec<_> = bench.volumes.iter().map(member).collect();
    members.sort_by(|left, right| left.volume.cmp(&right.volume));
    CutRecord {
        id,
        name: "cut".into(),
        state: CutState::Round,
        attempt: Incarnation(attempt),
        members,
        cut_at: jiff::Timestamp::now(),
        level: Level::Crash,
        reasons: vec![],
        timeline: None,
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

    fn open(&self, attempt: u32, soft: Duration) -> Result<()> {
        let record = record(self.bench, attempt);
        let members = record.members.iter().map(|member| proto::Member {
            volume_id: member.volume.to_string(),
            snapshot_id: member.snapshot.to_string(),
        });
        self.order(round_order::Order::Open(round_order::Open {
            cut_id: record.id.to_string(),
            attempt: Incarnation(attempt).to_string(),
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
        self.open(1, LONG)?;
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

#[test]
fn a_round_holds_cuts_and_releases_and_can_be_sealed() -> Result<()> {
    let Some(stage) = Stage::new("round-through", 3)? else { return Ok(()) };
    let mut round = stage.start();
    round.advance(Phase::Held)?;
    assert!(!writable(&stage.bench.mounts[1], BLINK)?, "a held volume must not be writable");
    round.cut()?;
    let round_report::Report::Cut(cut) = round.report()? else { bail!("not cut") };
    assert_eq!(cut.members.len(), 3);
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    assert!(!released.guard_fired && released.members.iter().all(|member| member.clean), "{released:?}");
    assert!(stage.bench.all_writable()?);
    round.join()?;
    let mut sealed = record(&stage.bench, 1);
    sealed.state = CutState::Sealed;
    stage.bench.pool.seal_cut(&sealed)?;
    for member in &sealed.members {
        assert!(stage.bench.pool.snapshot_tree(&member.snapshot)?.join("disk.img").exists());
    }
    Ok(())
}

#[test]
fn a_controller_that_goes_away_in_any_phase_leaves_nothing_held_and_nothing_behind() -> Result<()> {
    let Some(stage) = Stage::new("round-gone", 2)? else { return Ok(()) };
    for phase in [Phase::Prepared, Phase::Held, Phase::Cut] {
        let mut round = stage.start();
        round.advance(phase)?;
        round.end_stream();
        round.join()?;
        stage.bench.check_nothing_left().with_context(|| format!("{phase:?}"))?;
    }
    Ok(())
}

#[test]
fn a_hold_past_its_soft_limit_is_given_up_by_the_agent_itself() -> Result<()> {
    let Some(stage) = Stage::new("round-limit", 2)? else { return Ok(()) };
    let mut round = stage.start();
    round.open(1, Duration::from_millis(400))?;
    ensure!(matches!(round.report()?, round_report::Report::Prepared(_)), "not prepared");
    round.hold()?;
    ensure!(matches!(round.report()?, round_report::Report::Held(_)), "not held");
    let round_report::Report::Failed(failed) = round.report()? else { bail!("not given up") };
    assert!(failed.message.contains("given up after 400ms"), "{failed:?}");
    round.join()?;
    stage.bench.check_nothing_left()
}

#[test]
fn a_hold_that_somebody_else_thawed_is_reported_as_lapsed() -> Result<()> {
    let Some(stage) = Stage::new("round-lapse", 2)? else { return Ok(()) };
    let mut round = stage.start();
    round.advance(Phase::Cut)?;
    command("fsfreeze", &["-u".as_ref(), stage.bench.mounts[0].as_os_str()])?;
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    let lapsed: Vec<_> = released.members.iter().filter(|member| !member.clean).collect();
    assert_eq!(lapsed.len(), 1, "{released:?}");
    assert!(lapsed[0].why.contains("had lapsed"), "{lapsed:?}");
    Ok(())
}

#[test]
fn a_volume_that_somebody_else_has_frozen_fails_the_round_and_stays_frozen() -> Result<()> {
    let Some(stage) = Stage::new("round-foreign", 2)? else { return Ok(()) };
    let mut round = stage.start();
    round.advance(Phase::Prepared)?;
    command("fsfreeze", &["-f".as_ref(), stage.bench.mounts[0].as_os_str()])?;
    round.hold()?;
    let round_report::Report::Failed(failed) = round.report()? else { bail!("not failed") };
    assert!(failed.message.contains("frozen by somebody else"), "{failed:?}");
    assert_eq!(failed.volume_id, stage.bench.volumes[0].to_string());
    round.join()?;
    assert!(!writable(&stage.bench.mounts[0], BLINK)?, "what somebody else froze must stay frozen");
    assert!(writable(&stage.bench.mounts[1], PATIENCE)?, "the other member must be let go");
    command("fsfreeze", &["-u".as_ref(), stage.bench.mounts[0].as_os_str()])?;
    stage.bench.check_nothing_left()
}

#[test]
fn a_guard_that_dies_during_the_hold_makes_it_count_as_lapsed() -> Result<()> {
    let Some(mut stage) = Stage::new("round-guard", 1)? else { return Ok(()) };
    let mut round = stage.start();
    round.advance(Phase::Cut)?;
    let guard = nix::unistd::Pid::from_raw(i32::try_from(stage.bench.guard.id())?);
    nix::sys::signal::kill(guard, nix::sys::signal::Signal::SIGKILL)?;
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    assert!(released.guard_fired, "without a guard nobody knows: {released:?}");
    drop(round);
    stage.bench.guard.wait()?;
    // And without a guard nothing is held at all.
    stage.bench.pool.void_cut(&record(&stage.bench, 1).id)?;
    let mut round = stage.start();
    round.advance(Phase::Prepared)?;
    round.hold()?;
    let round_report::Report::Failed(failed) = round.report()? else { bail!("held without a guard") };
    assert!(failed.message.contains("start stillpoint-guard"), "{failed:?}");
    round.join()?;
    stage.bench.check_nothing_left()
}

#[test]
fn orders_out_of_turn_are_refused_and_let_everything_go() -> Result<()> {
    let Some(stage) = Stage::new("round-order", 1)? else { return Ok(()) };
    let mut round = stage.start();
    round.advance(Phase::Held)?;
    round.release()?;
    let round_report::Report::Failed(failed) = round.report()? else { bail!("released without a cut") };
    assert_eq!(failed.phase, "order");
    round.join()?;
    stage.bench.check_nothing_left()
}

#[test]
fn a_volume_that_is_busy_is_not_cut_and_a_foreign_round_is_not_touched() -> Result<()> {
    let Some(stage) = Stage::new("round-busy", 1)? else { return Ok(()) };
    let mut first = stage.start();
    first.advance(Phase::Held)?;
    let mut second = stage.start();
    second.open(2, LONG)?;
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
    let staged = stage.bench.context.locks.try_lock(&stage.bench.volumes[0], Purpose::Use);
    assert!(staged.is_ok(), "the lock is given back at the release");
    Ok(())
}

// ---- raw devices ----------------------------------------------------------------------------------

/// A writer to a raw device in a cgroup of its own.
struct RawWriter {
    child: Child,
    group: BlockGroup,
}

impl RawWriter {
    /// Writes for ever, with these options of dd(1). The shell keeps the device open in between.
    fn new(label: &str, device: &Path, options: &str) -> Result<Option<Self>> {
        let Some(group) = BlockGroup::new(label)? else {
            skip(label, "no cgroup hierarchy here can limit writes to block devices");
            return Ok(None);
        };
        let device = device.display();
        let script = format!(
            "read go; exec 3<>{device}; while :; do dd if=/dev/zero of={device} bs=64k count=64 conv=notrunc {options}; done"
        );
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        group.take(child.id())?;
        // It opens the device only when it is where it belongs.
        std::io::Write::write_all(&mut child.stdin.take().context("piped")?, b"go\n")?;
        Ok(Some(Self { child, group }))
    }
}

impl Drop for RawWriter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn writes_go_on(device: &Path) -> Result<()> {
    let before = LinuxHost.writes(device)?;
    until("a write", || LinuxHost.writes(device).is_ok_and(|now| now != before))
}

#[test]
fn a_raw_device_that_is_written_all_the_time_stands_still_during_its_hold() -> Result<()> {
    let Some(mut stage) = Stage::new("round-raw", 1)? else { return Ok(()) };
    stage.bench.add_raw("raw")?;
    let device = stage.bench.devices[0].clone();
    let Some(writer) = RawWriter::new("round-raw", &device, "oflag=direct")? else { return Ok(()) };
    writes_go_on(&device)?;
    let mut round = stage.start();
    round.advance(Phase::Held)?;
    let at_the_hold = LinuxHost.writes(&device)?;
    assert!(writer.group.limits()?.contains(" 1\n"), "{}", writer.group.limits()?);
    std::thread::sleep(BLINK);
    assert_eq!(LinuxHost.writes(&device)?, at_the_hold, "a write slipped through");
    round.cut()?;
    ensure!(matches!(round.report()?, round_report::Report::Cut(_)), "not cut");
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    assert!(released.members.iter().all(|member| member.clean), "{released:?}");
    writes_go_on(&device)?;
    assert!(!writer.group.limits()?.contains(" 1\n"), "{}", writer.group.limits()?);
    Ok(())
}

#[test]
fn what_the_kernel_writes_out_of_a_page_cache_during_a_hold_is_a_lapse_that_says_so() -> Result<()> {
    let Some(mut stage) = Stage::new("round-buffered", 1)? else { return Ok(()) };
    stage.bench.add_raw("raw")?;
    let device = stage.bench.devices[0].clone();
    let Some(_writer) = RawWriter::new("round-buffered", &device, "")? else { return Ok(()) };
    let mut round = stage.start();
    round.advance(Phase::Held)?;
    // The writer goes on into the page cache; what writes that out is not the writer.
    until("dirty pages", || {
        let before = LinuxHost.writes(&device).unwrap_or_default();
        let flushed = command(
            "timeout",
            &["5".as_ref(), "blockdev".as_ref(), "--flushbufs".as_ref(), device.as_os_str()],
        );
        flushed.is_ok() && LinuxHost.writes(&device).is_ok_and(|now| now != before)
    })?;
    round.cut()?;
    ensure!(matches!(round.report()?, round_report::Report::Cut(_)), "not cut");
    round.release()?;
    let round_report::Report::Released(released) = round.report()? else { bail!("not released") };
    let unclean: Vec<_> = released.members.iter().filter(|member| !member.clean).collect();
    assert_eq!(unclean.len(), 1, "{released:?}");
    assert!(unclean[0].why.contains("writes out by itself"), "{unclean:?}");
    Ok(())
}

// ---- when agent and guard die together ------------------------------------------------------------

#[test]
fn when_agent_and_guard_die_together_the_next_agent_lets_go_of_everything() -> Result<()> {
    let Some(mut stage) = Stage::new("round-both-agent", 1)? else { return Ok(()) };
    stage.bench.add_raw("raw")?;
    let device = stage.bench.devices[0].clone();
    let Some(_writer) = RawWriter::new("round-both-agent", &device, "oflag=direct")? else { return Ok(()) };
    writes_go_on(&device)?;
    hold_and_lose_both(&mut stage, &device)?;
    let host = Arc::clone(&stage.bench.context.host);
    let pools = Pools::of([Arc::clone(&stage.bench.pool)]);
    // The locks of the agent that died went with it.
    let locks = stillpoint::agent::locks::VolumeLocks::default();
    let node = Arc::new(NodeVolumes::new(Arc::clone(&host), Arc::new(pools.clone()), locks.clone()));
    let next = LocalHost::new("a".parse()?, host, pools, locks, node);
    let recovered = next.recover();
    assert_eq!(recovered.thawed, [stage.bench.volumes[0].clone()], "{recovered:?}");
    assert_eq!(recovered.lifted, 1, "{recovered:?}");
    assert!(stage.bench.all_writable()?);
    writes_go_on(&device)
}

#[test]
fn when_agent_and_guard_die_together_the_next_guard_lets_go_of_everything_before_it_serves() -> Result<()> {
    let Some(mut stage) = Stage::new("round-both-guard", 1)? else { return Ok(()) };
    stage.bench.add_raw("raw")?;
    let device = stage.bench.devices[0].clone();
    let Some(_writer) = RawWriter::new("round-both-guard", &device, "oflag=direct")? else { return Ok(()) };
    writes_go_on(&device)?;
    hold_and_lose_both(&mut stage, &device)?;
    stage.bench.start_guard()?;
    // Its socket is there only after that.
    assert!(writable(&stage.bench.mounts[0], BLINK * 10)?);
    writes_go_on(&device)
}

/// Holds, kills the guard, and leaves the round as a dead agent would: nobody of it ever thaws.
fn hold_and_lose_both(stage: &mut Stage, device: &Path) -> Result<()> {
    let mut round = stage.start();
    round.advance(Phase::Held)?;
    // Its threads live on in this process and never hear of anything again.
    std::mem::forget(round.inputs.clone());
    std::mem::forget(round);
    stage.bench.guard.kill()?;
    stage.bench.guard.wait()?;
    let at_the_hold = LinuxHost.writes(device)?;
    assert!(!writable(&stage.bench.mounts[0], BLINK)?, "held, and nobody is there to let go");
    assert_eq!(LinuxHost.writes(device)?, at_the_hold);
    Ok(())
}
