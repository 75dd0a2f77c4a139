//! One host's part of a round on the host in memory, order by order, where anything can be made to happen between.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::conductor::{Conductor, Input};
use super::crew::{self, Inbox, Threads};
use super::watchdog::NothingOutlivesUs;
use super::*;
use crate::agent::fixtures::{Bench, STAGING, publish, round_record, stage};
use crate::domain::node::Access;
use crate::domain::record::CutRecord;
use crate::domain::{Bytes, Code, Filesystem, VolumeId};
use crate::host::fake::{FakeHost, When};
use crate::host::{LoopDevice, Loops, Mounts};
use crate::proto::agent::{self as proto, MemberKind, round_order, round_report};

const PATIENCE: Duration = Duration::from_secs(20);

/// One agent with volumes in use.
struct Stage {
    bench: Bench,
    volumes: Vec<VolumeId>,
    context: Arc<RoundContext>,
}

fn access() -> Access {
    Access::Mount { filesystem: Some(Filesystem::Xfs), options: vec![] }
}

impl Stage {
    /// A filesystem volume that is mounted, and a raw one that is attached.
    fn new() -> Self {
        Self::of(Bench::new())
    }

    fn of(bench: Bench) -> Self {
        let mounted = bench.volume("files", Some(Filesystem::Xfs));
        let raw = bench.volume("raw", None);
        bench.node.stage(&stage(&mounted, access())).unwrap();
        bench.host.make_all(Path::new("/kubelet/raw"));
        bench
            .node
            .stage(&crate::domain::node::StageRequest {
                target: "/kubelet/raw".into(),
                ..stage(&raw, Access::Block)
            })
            .unwrap();
        let context = RoundContext {
            host: Arc::new(bench.host.clone()),
            pools: bench.pools.clone(),
            locks: bench.locks.clone(),
            watchdog: Arc::new(NothingOutlivesUs),
            expedite: None,
            crew: Arc::new(Threads),
            never_hold: vec![],
        };
        Self { bench, volumes: vec![mounted, raw], context: Arc::new(context) }
    }

    fn host(&self) -> &FakeHost {
        &self.bench.host
    }

    fn pool(&self) -> Arc<crate::agent::pool::Pool> {
        self.bench.pools.iter().next().unwrap()
    }

    fn raw_device(&self) -> LoopDevice {
        let image = self.pool().image(&self.volumes[1]).unwrap();
        self.host().attached(&image).unwrap().remove(0)
    }

    fn round_of(&self, volumes: &[VolumeId]) -> Round {
        self.round_within(volumes, 20_000)
    }

    fn round_within(&self, volumes: &[VolumeId], soft_limit_ms: u32) -> Round {
        let (inputs, queue) = channel();
        let (reports, outbound) = tokio::sync::mpsc::channel(REPORTS);
        let sender = inputs.clone();
        let inbox = Inbox::new(move |input| sender.send(input).is_ok());
        let conductor = Conductor::new(Arc::clone(&self.context), inbox, reports);
        let thread = std::thread::spawn(move || crew::run(conductor, &queue));
        let round = Round { inputs, outbound, thread: Some(thread) };
        let order = round_order::Open { soft_limit_ms, ..open(&round_record(volumes)) };
        round.order(round_order::Order::Open(order));
        round
    }

    fn round(&self) -> Round {
        self.round_of(&self.volumes)
    }

    /// Nothing is held, nothing was cut, nothing is locked.
    fn check_nothing_left(&self) {
        assert!(!self.host().is_frozen(Path::new(STAGING)));
        assert!(!self.host().is_throttled(&self.raw_device()));
        assert!(self.pool().cuts().is_empty());
        assert!(self.volumes.iter().all(|volume| self.context.locks.purpose(volume).is_none()));
    }
}

fn open(record: &CutRecord) -> round_order::Open {
    let members = record.members.iter().map(|member| proto::Member {
        volume_id: member.volume.to_string(),
        snapshot_id: member.snapshot.to_string(),
    });
    round_order::Open {
        cut_id: record.id.to_string(),
        attempt: record.attempt.to_string(),
        members: members.collect(),
        soft_limit_ms: 20_000,
        hard_limit_ms: 20_000,
        record: Some(proto::CutRecord { json: serde_json::to_string(record).unwrap() }),
    }
}

/// A round under way, seen from the controller.
struct Round {
    inputs: Sender<Input>,
    outbound: tokio::sync::mpsc::Receiver<Result<RoundReport, Status>>,
    thread: Option<JoinHandle<()>>,
}

impl Round {
    fn order(&self, order: round_order::Order) {
        let order = RoundOrder { order: Some(order) };
        self.inputs.send(Input::Order { order, received_us: 0 }).unwrap();
    }

    fn hold(&self) {
        self.order(round_order::Order::Hold(round_order::Hold {}));
    }

    fn cut(&self) {
        self.order(round_order::Order::Cut(round_order::Cut {}));
    }

    fn release(&self) {
        self.order(round_order::Order::Release(round_order::Release {}));
    }

    fn report(&mut self) -> round_report::Report {
        let end = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < end {
            if let Ok(report) = self.outbound.try_recv() {
                return report.unwrap().report.unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no report");
    }

    fn prepared(&mut self) -> Vec<proto::MemberPrepared> {
        match self.report() {
            round_report::Report::Prepared(prepared) => prepared.members,
            other => panic!("{other:?}"),
        }
    }

    fn held(&mut self) {
        self.hold();
        let report = self.report();
        assert!(matches!(report, round_report::Report::Held(_)), "{report:?}");
    }

    fn was_cut(&mut self) {
        self.cut();
        let report = self.report();
        assert!(matches!(report, round_report::Report::Cut(_)), "{report:?}");
    }

    fn released(&mut self) -> round_report::Released {
        self.release();
        match self.report() {
            round_report::Report::Released(released) => released,
            other => panic!("{other:?}"),
        }
    }

    fn failed(&mut self) -> round_report::Failed {
        match self.report() {
            round_report::Report::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    /// The controller goes away; ends when the host has ended its part.
    fn end(mut self) {
        let _ = self.inputs.send(Input::StreamEnded);
        self.thread.take().unwrap().join().unwrap();
    }
}

// ---- raw devices ----------------------------------------------------------------------------------

#[test]
fn a_raw_device_in_a_group_is_held_between_hold_and_release() {
    let stage = Stage::new();
    let device = stage.raw_device();
    stage.host().open_device(&device, "/pod1");
    stage.host().open_device(&device, "/pod1/sidecar");
    let mut round = stage.round();
    let kinds: Vec<_> = round.prepared().iter().map(crate::proto::agent::MemberPrepared::kind).collect();
    assert!(kinds.contains(&MemberKind::BlockHeld) && kinds.contains(&MemberKind::Filesystem), "{kinds:?}");
    assert!(stage.host().write_block(&device.path, 0, 1).is_ok(), "prepared is not held");
    round.held();
    assert!(stage.host().is_throttled(&device) && stage.host().is_frozen(Path::new(STAGING)));
    assert!(stage.host().write_block(&device.path, 0, 2).is_err());
    round.was_cut();
    let released = round.released();
    assert!(released.members.iter().all(|member| member.clean), "{released:?}");
    assert!(stage.host().write_block(&device.path, 0, 3).is_ok());
    round.end();
}

#[test]
fn a_write_that_slips_through_is_a_lapse_that_says_why() {
    let stage = Stage::new();
    let device = stage.raw_device();
    stage.host().open_device(&device, "/pod1");
    let mut round = stage.round();
    round.prepared();
    round.held();
    round.was_cut();
    stage.host().write_back(&device);
    let released = round.released();
    let unclean: Vec<_> = released.members.iter().filter(|member| !member.clean).collect();
    assert_eq!(unclean.len(), 1, "{released:?}");
    assert!(unclean[0].why.contains("had lapsed") && unclean[0].why.contains("O_DIRECT"), "{unclean:?}");
    assert_eq!(unclean[0].volume_id, stage.volumes[1].to_string());
    round.end();
}

#[test]
fn who_opens_the_device_between_preparing_and_holding_is_held_too() {
    let stage = Stage::new();
    let device = stage.raw_device();
    stage.host().open_device(&device, "/pod1");
    let mut round = stage.round();
    round.prepared();
    stage.host().open_device(&device, "/pod2");
    round.held();
    assert!(stage.host().is_throttled(&device), "both cgroups");
    round.end();
    stage.check_nothing_left();
}

#[test]
fn a_group_with_a_raw_device_that_cannot_be_held_is_refused_before_anything_is_written() {
    let stage = Stage::new();
    stage.host().set_throttling(false);
    let before = stage.host().calls_of("write");
    let mut round = stage.round();
    let failed = round.failed();
    assert_eq!(failed.code, i32::from(tonic::Code::FailedPrecondition), "{failed:?}");
    assert!(failed.message.contains("snapshot it alone"), "{failed:?}");
    assert_eq!(stage.host().calls_of("write"), before);
    round.end();
    stage.check_nothing_left();
    // Alone it is cut as it is: the copy of one image is of one instant.
    let mut round = stage.round_of(&stage.volumes[1..]);
    assert_eq!(round.prepared()[0].kind(), MemberKind::Block);
    round.end();
}

#[test]
fn a_raw_device_whose_limits_cannot_be_set_fails_the_round_and_is_let_go() {
    let stage = Stage::new();
    stage.host().open_device(&stage.raw_device(), "/pod1");
    stage.host().fail(When::NthOf("throttle", 1), libc::EIO);
    let mut round = stage.round();
    round.prepared();
    round.hold();
    let failed = round.failed();
    assert!(failed.message.contains("could not be held"), "{failed:?}");
    round.end();
    stage.check_nothing_left();
}

#[test]
fn limits_that_a_dead_agent_left_are_lifted_when_the_next_one_starts() {
    let stage = Stage::new();
    let device = stage.raw_device();
    stage.host().open_device(&device, "/pod1");
    let mut round = stage.round();
    round.prepared();
    round.held();
    let next = stage.bench.restarted();
    assert_eq!(next.local.recover().lifted, 1);
    assert!(!stage.host().is_throttled(&device));
    assert_eq!(next.local.recover().lifted, 0);
    round.end();
}

#[test]
fn a_raw_device_whose_writes_are_not_counted_makes_the_quiesce_lost() {
    let stage = Stage::new();
    let device = stage.raw_device();
    stage.host().open_device(&device, "/pod1");
    stage.host().set_counting(&device, false);
    let mut round = stage.round();
    round.prepared();
    round.held();
    round.was_cut();
    // Somebody tunes the machine; what is written from now on is not seen.
    stage.host().set_counting(&device, false);
    let released = round.released();
    let unclean: Vec<_> = released.members.iter().filter(|member| !member.clean).collect();
    assert_eq!(unclean.len(), 1, "{released:?}");
    assert!(unclean[0].why.contains("counts as lost") && unclean[0].why.contains("iostats"), "{unclean:?}");
    assert!(!stage.host().is_throttled(&device), "its writers go on all the same");
    round.end();
}

#[test]
fn a_raw_device_whose_writes_cannot_be_counted_is_refused_before_anything_is_quiesced() {
    let stage = Stage::new();
    let device = stage.raw_device();
    stage.host().open_device(&device, "/pod1");
    stage.host().set_counting(&device, false);
    stage.host().fix_counting();
    let mut round = stage.round();
    let failed = round.failed();
    assert_eq!(failed.code, i32::from(tonic::Code::FailedPrecondition), "{failed:?}");
    assert!(failed.message.contains("iostats"), "{failed:?}");
    assert_eq!(stage.host().calls_of("throttle"), 0);
    round.end();
    stage.check_nothing_left();
}

// ---- what a round must never do -------------------------------------------------------------------

#[test]
fn a_mount_that_vanishes_between_look_up_and_open_freezes_nothing_else() {
    let stage = Stage::new();
    // The look-up of devices comes between the mount table and the open: there the volume goes away, and its
    // mount point is a directory of the root filesystem.
    let hang = stage.host().hang(When::NthOf("open", 1));
    let mut round = stage.round_of(&stage.volumes[..1]);
    hang.wait_until_reached();
    stage.host().unmount(Path::new(STAGING)).unwrap();
    hang.release();
    let failed = round.failed();
    assert!(failed.message.contains("unmounted while it was looked up"), "{failed:?}");
    assert_eq!(failed.code, i32::from(tonic::Code::Aborted));
    assert_eq!(stage.host().calls_of("FIFREEZE"), 0);
    round.end();
}

#[test]
fn a_mount_that_vanishes_after_it_was_opened_is_frozen_and_thawed_through_the_open_file() {
    let stage = Stage::new();
    let mut round = stage.round_of(&stage.volumes[..1]);
    round.prepared();
    stage.host().unmount(Path::new(STAGING)).unwrap();
    round.held();
    assert!(!stage.host().is_frozen(Path::new(STAGING)), "the directory below is on the root filesystem");
    round.was_cut();
    assert!(round.released().members.iter().all(|member| member.clean));
    round.end();
}

#[test]
fn what_somebody_else_froze_aborts_and_is_never_thawed() {
    let stage = Stage::new();
    let theirs = crate::host::Freezing::open_mount(stage.host(), Path::new(STAGING)).unwrap();
    theirs.freeze().unwrap();
    let mut round = stage.round();
    round.prepared();
    round.hold();
    let failed = round.failed();
    assert_eq!(failed.code, i32::from(tonic::Code::Aborted));
    assert!(failed.message.contains("frozen by somebody else"), "{failed:?}");
    round.end();
    assert!(stage.host().is_frozen(Path::new(STAGING)), "it is theirs");
    theirs.thaw().unwrap();
    stage.check_nothing_left();
}

#[test]
fn a_member_that_carries_the_agents_state_or_root_is_refused() {
    let mut stage = Stage::new();
    let mounted = stage.host().mounts().unwrap().into_iter().find(|mount| mount.target == Path::new(STAGING));
    Arc::get_mut(&mut stage.context).unwrap().never_hold = vec![mounted.unwrap().device];
    let mut round = stage.round();
    let failed = round.failed();
    assert_eq!(failed.code, i32::from(tonic::Code::FailedPrecondition));
    assert!(failed.message.contains("move the agent's stateDir"), "{failed:?}");
    round.end();
    stage.check_nothing_left();
}

#[test]
fn a_pool_without_headroom_refuses_before_anything_is_held() {
    let stage = Stage::new();
    stage.host().leave_free(Path::new("/pool"), Bytes::mib(100));
    let mut round = stage.round();
    let failed = round.failed();
    assert_eq!(failed.code, i32::from(tonic::Code::ResourceExhausted), "{failed:?}");
    assert!(failed.message.contains("too full"), "{failed:?}");
    assert_eq!((stage.host().calls_of("FIFREEZE"), stage.host().calls_of("throttle")), (0, 0));
    round.end();
    stage.check_nothing_left();
}

#[test]
fn the_cleaner_waits_for_the_end_of_a_round() {
    let stage = Stage::new();
    let doomed = stage.bench.volume("doomed", None);
    let mut round = stage.round();
    round.prepared();
    stage.bench.local.delete_volume(&doomed).unwrap();
    assert_eq!(stage.pool().trash_len(), 1);
    assert_eq!(stage.pool().empty_trash(16).unwrap(), 0, "a round is under way");
    round.held();
    round.was_cut();
    round.released();
    round.end();
    assert_eq!(stage.pool().empty_trash(16).unwrap(), 1);
}

#[test]
fn volumes_are_neither_staged_nor_given_back_during_a_round() {
    let stage_ = Stage::new();
    let volume = &stage_.volumes[0];
    let mut round = stage_.round();
    round.prepared();
    let node = &stage_.bench.node;
    for refused in [
        node.stage(&stage(volume, access())).unwrap_err(),
        node.publish(&publish(volume, access())).unwrap_err(),
        node.unstage(volume, Path::new(STAGING)).unwrap_err(),
        stage_.bench.local.expand_volume(volume, Bytes::gib(2)).unwrap_err(),
        stage_.bench.local.delete_volume(volume).unwrap_err(),
    ] {
        assert_eq!(refused.code, Code::Aborted);
        assert!(refused.message.contains("is being taken of it"), "{refused}");
    }
    round.end();
    assert_eq!(node.unstage(volume, Path::new(STAGING)), Ok(()));
}

#[test]
fn a_volume_that_cannot_be_thawed_is_left_to_the_guard_and_the_hold_does_not_count() {
    let stage = Stage::new();
    let mut round = stage.round_of(&stage.volumes[..1]);
    round.prepared();
    round.held();
    round.was_cut();
    stage.host().fail(When::NthOf("FITHAW", 1), libc::EIO);
    let released = round.released();
    assert!(released.guard_fired && !released.members[0].clean, "{released:?}");
    round.end();
}

/// FIFREEZE cannot be interrupted, whether it is called by the round's own thread or by its member's.
#[test]
fn a_freeze_that_ends_after_the_limit_is_thawed_and_does_not_count() {
    for members in [1, 2] {
        let stage = Stage::new();
        let hang = stage.host().hang(When::NthOf("FIFREEZE", 1));
        let mut round = stage.round_within(&stage.volumes[..members], 50);
        round.prepared();
        round.hold();
        hang.wait_until_reached();
        // What the controller orders meanwhile does not count either.
        std::thread::sleep(Duration::from_millis(200));
        round.cut();
        hang.release();
        let failed = round.failed();
        assert_eq!(tonic::Code::from_i32(failed.code), tonic::Code::DeadlineExceeded, "{failed:?}");
        round.end();
        stage.check_nothing_left();
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the snapshot is made by the round's own thread or by its member's.
#[test]
fn the_soft_limit_resumes_writes_while_a_snapshot_is_still_being_made() {
    for members in [1, 2] {
        let stage = Stage::new();
        let device = stage.raw_device();
        stage.host().open_device(&device, "/pod1");
        let hang = stage.host().hang(When::NthOf("FICLONE", 1));
        let mut round = stage.round_within(&stage.volumes[..members], 1000);
        round.prepared();
        round.held();
        round.cut();
        hang.wait_until_reached();
        until("the end of the freeze", || !stage.host().is_frozen(Path::new(STAGING)));
        until("the end of the limits", || !stage.host().is_throttled(&device));
        hang.release();
        let failed = round.failed();
        assert_eq!(tonic::Code::from_i32(failed.code), tonic::Code::DeadlineExceeded, "{failed:?}");
        round.end();
        stage.check_nothing_left();
    }
}

#[test]
fn an_image_that_got_too_many_extents_since_it_was_prepared_is_refused_before_anything_is_quiesced() {
    // 15 µs for each extent of a reflink: the budget of 500 ms is 33 000 of them.
    const EXTENTS: u64 = 40_000;
    let stage = Stage::of(Bench::with_pool(crate::backend::BackendKind::Xfs));
    let device = stage.raw_device();
    stage.host().open_device(&device, "/pod1");
    let mut round = stage.round();
    round.prepared();
    (0..EXTENTS).for_each(|extent| stage.host().write_block(&device.path, extent * 2, 1).unwrap());
    round.hold();
    let failed = round.failed();
    assert_eq!(failed.code, i32::from(tonic::Code::FailedPrecondition), "{failed:?}");
    assert!(failed.message.contains("very many extents"), "{failed:?}");
    assert_eq!((stage.host().calls_of("FIFREEZE"), stage.host().calls_of("throttle")), (0, 0));
    round.end();
    stage.check_nothing_left();
}

#[test]
fn a_filesystem_that_has_died_is_refused_with_the_reason_and_its_neighbours_are_not() {
    for is_silent in [true, false] {
        let stage = Stage::new();
        if is_silent {
            stage.host().shut_down(Path::new(STAGING));
        } else {
            stage.host().lose_writing(Path::new(STAGING));
        }
        let mut round = stage.round();
        let failed = round.failed();
        assert_eq!(failed.code, i32::from(tonic::Code::FailedPrecondition), "{failed:?}");
        assert!(failed.message.contains("cannot be quiesced") && failed.message.contains("after an error"));
        round.end();
        let mut neighbour = stage.round_of(&stage.volumes[1..]);
        neighbour.prepared();
        neighbour.held();
        neighbour.was_cut();
        assert!(neighbour.released().members.iter().all(|member| member.clean));
        neighbour.end();
    }
}

#[test]
fn a_filesystem_that_dies_after_it_was_prepared_aborts_with_the_reason() {
    let stage = Stage::new();
    let mut round = stage.round_of(&stage.volumes[..1]);
    round.prepared();
    stage.host().lose_writing(Path::new(STAGING));
    round.hold();
    let failed = round.failed();
    assert!(failed.message.contains("has become read-only or has shut down"), "{failed:?}");
    round.end();
    stage.check_nothing_left();
}

#[test]
fn a_controller_that_goes_away_during_a_freeze_leaves_nothing_frozen() {
    for members in [1, 2] {
        let stage = Stage::new();
        let hang = stage.host().hang(When::NthOf("FIFREEZE", 1));
        let mut round = stage.round_of(&stage.volumes[..members]);
        round.prepared();
        round.hold();
        hang.wait_until_reached();
        round.inputs.send(Input::StreamEnded).unwrap();
        hang.release();
        round.failed();
        round.end();
        stage.check_nothing_left();
    }
}
