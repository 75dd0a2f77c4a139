//! A move explored: either host dies at every call of it, its power fails in three styles, both pools are opened again.
//! The volume must be at exactly one of them, or on its way with all of its data; a retry must bring it there.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::agent::fixtures::round_record;
use crate::backend::IMAGE;
use crate::domain::record::{CutRecord, CutState, MoveState};
use crate::domain::{Bytes, Code, Incarnation, Moved, SnapshotId, VolumeId};
use crate::host::Files;
use crate::host::blocks::{AlignedBuffer, BlockAccess, Blocks};
use crate::host::fake::{Crash, FakeHost, Lie, When};

const DIR: &str = "/pool";
const BLOCK: u64 = 3;
/// What is in the volume.
const CONTENT: u64 = 77;
const SIZE: Bytes = Bytes::mib(16);
const KINDS: [(BackendKind, BackendKind); 2] =
    [(BackendKind::Btrfs, BackendKind::Xfs), (BackendKind::Xfs, BackendKind::Btrfs)];

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

struct End {
    host: FakeHost,
    pool: Pool,
}

struct World {
    source: End,
    target: End,
    /// The id by which the volume is known.
    volume: VolumeId,
}

impl End {
    fn open(host: FakeHost) -> std::result::Result<Self, String> {
        let (pool, report) =
            Pool::open(Arc::new(host.clone()), Path::new(DIR)).map_err(|error| error.to_string())?;
        if report.broken.is_empty() { Ok(Self { host, pool }) } else { Err(format!("{:?}", report.broken)) }
    }

    fn crashed(&self, style: Crash) -> std::result::Result<Self, String> {
        Self::open(self.host.crash(style))
    }

    /// The volume here, with its content.
    fn live(&self, known_as: &VolumeId) -> Option<u64> {
        let id = self.pool.own_id(known_as)?;
        Some(self.host.read_block(&self.pool.image(&id).unwrap(), BLOCK).unwrap_or_default())
    }
}

fn empty(kind: BackendKind) -> FakeHost {
    let host = FakeHost::with_disk(kind.filesystem(), Bytes::gib(4), Path::new(DIR));
    Pool::make(&host, kind, Path::new(DIR)).unwrap();
    host
}

/// A volume with a snapshot in one pool, and another pool; everything on disk.
fn ground((source, target): (BackendKind, BackendKind)) -> World {
    let source = End::open(empty(source)).unwrap();
    let volume = VolumeId::new(source.pool.id().clone(), "data", Incarnation(1));
    let new =
        NewVolume { id: volume.clone(), name: "data".into(), capacity: SIZE, filesystem: None, source: None };
    source.pool.create_volume(&new).unwrap();
    source.host.write_block(&source.pool.image(&volume).unwrap(), BLOCK, CONTENT).unwrap();
    let round = round_record(std::slice::from_ref(&volume));
    for member in source.pool.prepare_cut(&round).unwrap() {
        source.pool.copy_member(&member).unwrap();
    }
    source.pool.seal_cut(&CutRecord { state: CutState::Sealed, ..round }).unwrap();
    source.pool.settle().unwrap();
    World { source, target: End::open(empty(target)).unwrap(), volume }
}

impl World {
    fn again(&self, style: Crash) -> std::result::Result<Self, String> {
        let (source, target) = (self.source.crashed(style)?, self.target.crashed(style)?);
        Ok(Self { source, target, volume: self.volume.clone() })
    }

    fn goal(&self) -> VolumeId {
        VolumeId { pool: self.target.pool.id().clone(), ..self.volume.clone() }
    }

    /// The move, as a controller asks for it; may be repeated.
    fn relocate(&self) -> Result<()> {
        if self.source.pool.departed(&self.volume).is_none() {
            self.until_left()?;
        }
        let left = self.source.pool.departed(&self.volume).ok_or(PoolError::NoVolume(self.goal()))?;
        if left.state == MoveState::Left {
            self.target.pool.adopt(&left.to, &left.content)?;
        }
        self.source.pool.finish_move(&self.volume)
    }

    fn until_left(&self) -> Result<()> {
        let goal = self.goal();
        let begun = self.source.pool.begin_move(&self.volume, &goal)?;
        let leaving = self.source.pool.open_leaving(&self.volume)?;
        let new = NewVolume {
            id: goal.clone(),
            name: begun.volume.name.clone(),
            capacity: begun.volume.capacity,
            filesystem: begun.volume.filesystem,
            source: begun.volume.source.clone(),
        };
        let moved = Moved {
            known_as: begun.volume.known_as().clone(),
            from: begun.volume.id.clone(),
            created_at: begun.volume.created_at,
        };
        match self.target.pool.begin_arrival(&new, &leaving.content, Some(&moved))? {
            Begun::Part(arrival) => {
                let file = self.target.host.open_blocks(&arrival.image(), BlockAccess::Write)?;
                let mut block = AlignedBuffer::zeroed(4096);
                let from = self.source.host.open_blocks(&leaving.image, BlockAccess::Read)?;
                from.read_at(BLOCK * 4096, block.as_mut())?;
                file.write_at(BLOCK * 4096, block.as_ref())?;
                file.sync()?;
                self.target.pool.keep_arrival(*arrival)?;
            }
            Begun::Kept(_) => {}
            Begun::Whole(found) => panic!("there are two of {}", found.id),
        }
        let content = leaving.content.id.clone();
        drop(leaving);
        self.source.pool.leave(&self.volume, &goal, &content)
    }

    /// Exactly one, with its data; or on its way with its data.
    fn check(&self) -> std::result::Result<(), String> {
        match (self.source.live(&self.volume), self.target.live(&self.volume)) {
            (Some(CONTENT), None) | (None, Some(CONTENT)) => {}
            (None, None) => {
                let left = self.source.pool.departed(&self.volume).ok_or("it is nowhere")?;
                let waiting = self.target.pool.waiting().map_err(|error| error.to_string())?;
                // Published by a call that failed afterwards: the next one finds it on the disk.
                let published = self.target.pool.layout.volume(&self.goal()).join(IMAGE);
                let is_there = waiting.iter().any(|waiting| waiting.content == left.content)
                    || self.target.host.read_block(&published, BLOCK).is_ok_and(|content| content == CONTENT);
                if left.state != MoveState::Left || !is_there {
                    return Err("it has left, and is not there".into());
                }
            }
            other => return Err(format!("source and target have {other:?}")),
        }
        let snapshot = SnapshotId::of(
            &self.volume,
            &round_record(std::slice::from_ref(&self.volume)).id,
            Incarnation(1),
        );
        let tree = self.source.pool.snapshot_tree(&snapshot).map_err(|error| error.to_string())?;
        match self.source.host.read_block(&tree.join(IMAGE), BLOCK) {
            Ok(CONTENT) => Ok(()),
            other => Err(format!("the snapshot has {other:?}")),
        }
    }

    fn check_done(&self) -> std::result::Result<(), String> {
        self.check()?;
        if self.target.live(&self.volume) != Some(CONTENT) {
            return Err("it is not at the target".into());
        }
        if self.source.host.stat(&self.source.pool.layout.volume(&self.volume)).unwrap().is_some() {
            return Err("its data is still at the source".into());
        }
        let departed = self.source.pool.departed(&self.volume).map(|record| (record.state, record.to));
        if departed != Some((MoveState::Gone, self.goal())) {
            return Err(format!("the way there is {departed:?}"));
        }
        self.target.pool.empty_trash(usize::MAX).map_err(|error| error.to_string())?;
        let names = self.target.host.list(&self.target.pool.layout.volumes()).unwrap();
        let tree = self.target.host.list(&self.target.pool.layout.volume(&self.goal())).unwrap();
        if names.len() == 1 && tree.len() == 2 { Ok(()) } else { Err(format!("left: {names:?}, {tree:?}")) }
    }
}

/// One side dies at every call; returns how many calls there were, or what went wrong first.
fn explore(
    kinds: (BackendKind, BackendKind),
    side: Side,
    style: Crash,
    lie: Option<Lie>,
) -> std::result::Result<u64, String> {
    let start = ground(kinds);
    for n in 1.. {
        let at = |why: String| format!("{kinds:?}, {side:?} dies at call {n}, {style:?}: {why}");
        let world = start.again(Crash::Nothing).map_err(at)?;
        let victim = match side {
            Side::Source => &world.source.host,
            Side::Target => &world.target.host,
        };
        if let Some(lie) = lie {
            victim.lie_about(lie);
        }
        victim.die(When::Nth(n));
        let done = world.relocate();
        let died = victim.is_dead();
        if !died && done.is_err() {
            return Err(at(format!("{done:?}")));
        }
        let after = world.again(style).map_err(at)?;
        after.check().map_err(at)?;
        if done.is_ok() {
            after.check_done().map_err(at)?;
        }
        after.relocate().map_err(|error| at(format!("the retry failed: {error}")))?;
        after.check_done().map_err(at)?;
        let again = after.again(style).map_err(at)?;
        again.check_done().map_err(at)?;
        if !died {
            return Ok(n - 1);
        }
    }
    Err("there is no end".to_owned())
}

#[test]
fn whoever_dies_at_any_call_of_a_move_there_is_one_volume_with_its_data_and_a_retry_moves_it() {
    for kinds in KINDS {
        for style in Crash::ALL {
            for side in [Side::Source, Side::Target] {
                let calls = explore(kinds, side, style, None).unwrap();
                assert!(calls >= 15, "{side:?} makes only {calls} calls");
            }
        }
    }
}

/// The exploration must be able to fail.
#[test]
fn a_disk_that_lies_about_syncs_loses_a_volume_and_that_is_found_out() {
    for lie in [Lie::Files, Lie::Directories] {
        let runs = KINDS.iter().flat_map(|kinds| Crash::ALL.map(|style| (*kinds, style)));
        let found =
            runs.filter(|(kinds, style)| explore(*kinds, Side::Target, *style, Some(lie)).is_err()).count();
        assert!(found > 0, "{lie:?}");
    }
}

#[test]
fn a_call_that_fails_once_leaves_one_volume_and_is_repeated_in_the_same_process() {
    for kinds in KINDS {
        for side in [Side::Source, Side::Target] {
            for n in 1.. {
                let world = ground(kinds);
                let victim = match side {
                    Side::Source => &world.source.host,
                    Side::Target => &world.target.host,
                };
                let before = victim.calls();
                victim.fail(When::Nth(n), libc::EIO);
                let done = world.relocate();
                let at = |why| format!("{kinds:?}, {side:?} fails at call {n}: {why}");
                if victim.calls() - before < n {
                    done.unwrap();
                    break;
                }
                world.check().map_err(at).unwrap();
                world.relocate().map_err(|error| at(error.to_string())).unwrap();
                world.check_done().map_err(at).unwrap();
            }
        }
    }
}

#[test]
fn a_use_of_the_volume_ends_its_move_and_what_was_copied_is_never_taken_for_it() {
    let world = ground(KINDS[0]);
    let goal = world.goal();
    let begun = world.source.pool.begin_move(&world.volume, &goal).unwrap();
    assert_eq!(world.source.pool.begin_move(&world.volume, &goal).unwrap(), begun, "it is gone on with");
    world.source.pool.stay(&world.volume).unwrap();
    world.source.host.write_block(&world.source.pool.image(&world.volume).unwrap(), BLOCK, 78).unwrap();
    let refused = world.source.pool.leave(&world.volume, &goal, &begun.content).unwrap_err();
    assert!(matches!(refused, PoolError::NotLeaving(_)), "{refused}");
    // Also after a loss of power: the end of the move was made durable before the use.
    let after = world.again(Crash::OnlySynced).unwrap();
    assert!(after.source.pool.moves().is_empty());
    let next = world.source.pool.begin_move(&world.volume, &goal).unwrap();
    assert_ne!(next.content, begun.content);
    assert!(
        world.source.pool.leave(&world.volume, &goal, &begun.content).is_err(),
        "the content of the first"
    );
}

#[test]
fn a_volume_that_returns_to_its_first_pool_has_its_first_id_again_and_nothing_points_elsewhere() {
    for style in Crash::ALL {
        let there = ground(KINDS[0]);
        there.relocate().unwrap();
        // The way back: the same steps between the same pools.
        let (at_target, at_source) = (there.goal(), there.volume.clone());
        let begun = there.target.pool.begin_move(&at_target, &at_source).unwrap();
        let leaving = there.target.pool.open_leaving(&at_target).unwrap();
        let record = begun.volume;
        let new = NewVolume {
            id: at_source.clone(),
            name: record.name.clone(),
            capacity: record.capacity,
            filesystem: None,
            source: None,
        };
        let moved = Moved {
            known_as: record.known_as().clone(),
            from: at_target.clone(),
            created_at: record.created_at,
        };
        let begun = there.source.pool.begin_arrival(&new, &leaving.content, Some(&moved)).unwrap();
        let Begun::Part(arrival) = begun else { panic!("{begun:?}") };
        there.source.host.write_block(&arrival.image(), BLOCK, CONTENT).unwrap();
        there.source.host.open_blocks(&arrival.image(), BlockAccess::Write).unwrap().sync().unwrap();
        there.source.pool.keep_arrival(*arrival).unwrap();
        let content = leaving.content.id.clone();
        drop(leaving);
        there.target.pool.leave(&at_target, &at_source, &content).unwrap();
        let there = there.again(style).unwrap();
        assert!(there.source.live(&there.volume).is_none() && there.target.live(&there.volume).is_none());
        there.source.pool.adopt(&at_source, &content).unwrap();
        there.target.pool.finish_move(&at_target).unwrap();
        let there = there.again(style).unwrap();
        assert_eq!(there.source.pool.volume(&at_source).unwrap().known_as, None);
        assert_eq!(there.source.live(&there.volume), Some(CONTENT));
        assert!(there.source.pool.departed(&at_source).is_none());
        assert!(there.target.pool.departed(&at_target).is_none(), "nobody asks there");
        there.check().unwrap();
    }
}

#[test]
fn what_waits_for_a_move_is_kept_over_any_time_and_removed_only_by_name() {
    let world = ground(KINDS[0]);
    // Until just before the commit point.
    world.source.host.fail(When::NthOf("attached", 2), libc::EIO);
    assert!(world.until_left().is_err());
    let waiting = world.target.pool.waiting().unwrap();
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert!(!world.target.pool.abandon(&world.goal(), None).unwrap(), "whatever it is, it is kept");
    assert!(!world.target.pool.abandon(&world.goal(), Some("other")).unwrap());
    let content = Content { id: "a copy".into(), size: Bytes::mib(1), allocated: Bytes(0) };
    for birth in [1, 2] {
        let id = VolumeId { birth: Incarnation(birth), ..world.goal() };
        let copy = NewVolume { id, name: "data".into(), capacity: SIZE, filesystem: None, source: None };
        let fault = world.target.pool.begin_arrival(&copy, &content, None).unwrap_err();
        assert_eq!(fault.code(), Code::Aborted, "{fault}");
    }
    let part = world.target.pool.layout.part(&world.goal());
    let in_a_year = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 365);
    assert!(world.target.pool.is_awaited(&part, in_a_year).unwrap());
    assert!(world.target.pool.abandon(&world.goal(), Some(&waiting[0].content)).unwrap());
    assert!(world.target.pool.adopt(&world.goal(), &waiting[0].content).is_err());
    world.check().unwrap();
    world.relocate().unwrap();
    world.check_done().unwrap();
}
