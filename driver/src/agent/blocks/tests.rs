//! The walk over a pool in memory.
#![allow(clippy::single_range_in_vec_init, reason = "a list with one range in it is what is meant")]

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::agent::pool::Pool;
use crate::backend::{BackendKind, IMAGE};
use crate::domain::record::{CutMember, CutRecord, CutState};
use crate::domain::{Code, CutId, CutKind, Incarnation, Level, NewVolume, SnapshotId, VolumeId};
use crate::host::fake::{FakeHost, When};

const BLOCKS: u64 = 256;

/// A pool in memory with one raw volume.
struct World {
    host: FakeHost,
    pool: Pool,
    volume: VolumeId,
}

#[derive(Default)]
struct Told {
    size: u64,
    ranges: Vec<Range<u64>>,
}

impl Listener for Told {
    fn size(&mut self, size: Bytes) -> Result<(), WalkError> {
        self.size = size.0;
        Ok(())
    }

    fn range(&mut self, range: Range<u64>) -> Result<(), WalkError> {
        self.ranges.push(range);
        Ok(())
    }
}

impl World {
    fn new() -> Self {
        let dir = Path::new("/pool");
        let host = FakeHost::with_disk("memory", Bytes::gib(8), dir);
        Pool::make(&host, BackendKind::Memory, dir).unwrap();
        let (pool, _) = Pool::open(Arc::new(host.clone()), dir).unwrap();
        let volume = VolumeId::new(pool.id().clone(), "v", Incarnation(1));
        let world = Self { host, pool, volume };
        world.make("v");
        world
    }

    fn make(&self, name: &str) -> VolumeId {
        let id = VolumeId::new(self.pool.id().clone(), name, Incarnation(1));
        let capacity = Bytes(BLOCKS * BLOCK);
        let new = NewVolume { id: id.clone(), name: name.into(), capacity, filesystem: None, source: None };
        self.pool.create_volume(&new).unwrap();
        id
    }

    fn write(&self, block: u64, content: u64) {
        self.host.write_block(&self.pool.image(&self.volume).unwrap(), block, content).unwrap();
    }

    fn cut(&self, volume: &VolumeId, name: &str) -> SnapshotId {
        let id = CutId::new(CutKind::Single, name, [volume]).unwrap();
        let snapshot = SnapshotId::of(volume, &id, Incarnation(1));
        let member = CutMember {
            known_as: None,
            volume: volume.clone(),
            volume_name: "v".into(),
            snapshot: snapshot.clone(),
            host: "h".parse().unwrap(),
            capacity: self.pool.volume(volume).unwrap().capacity,
            filesystem: None,
        };
        let mut record = CutRecord {
            id,
            name: name.into(),
            state: CutState::Round,
            attempt: Incarnation(1),
            members: vec![member],
            cut_at: Timestamp::now(),
            level: Level::Crash,
            reasons: vec![],
            timeline: None,
        };
        for paths in self.pool.prepare_cut(&record).unwrap() {
            self.pool.copy_member(&paths).unwrap();
        }
        record.state = CutState::Sealed;
        self.pool.seal_cut(&record).unwrap();
        snapshot
    }

    fn tell(&self, order: &WalkOrder) -> Result<Told, WalkError> {
        let mut told = Told::default();
        tell(&self.pool, &self.host, order, &mut told).map(|()| told)
    }
}

fn order(base: Option<&SnapshotId>, target: &SnapshotId) -> WalkOrder {
    WalkOrder { base: base.cloned(), target: target.clone(), start: 0, comparison: Comparison::Addresses }
}

fn blocks(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    ranges.iter().map(|range| range.start / BLOCK..range.end / BLOCK).collect()
}

#[test]
fn allocated_and_changed_blocks_are_told_and_a_walk_resumes_where_it_ended() {
    let world = World::new();
    for block in [3, 4, 9] {
        world.write(block, 1);
    }
    let one = world.cut(&world.volume, "one");
    for block in [4, 20] {
        world.write(block, 2);
    }
    let two = world.cut(&world.volume, "two");
    let told = world.tell(&order(None, &two)).unwrap();
    assert_eq!((told.size, blocks(&told.ranges)), (BLOCKS * BLOCK, vec![3..5, 9..10, 20..21]));
    assert_eq!(blocks(&world.tell(&order(Some(&one), &two)).unwrap().ranges), [4..5, 20..21]);
    assert_eq!(blocks(&world.tell(&order(Some(&two), &two)).unwrap().ranges), []);
    let rest = WalkOrder { start: 5 * BLOCK, ..order(Some(&one), &two) };
    assert_eq!(blocks(&world.tell(&rest).unwrap().ranges), [20..21]);
    let beyond = WalkOrder { start: BLOCKS * BLOCK + 1, ..order(None, &two) };
    assert_eq!(Fault::from(world.tell(&beyond).err().unwrap()).code, Code::OutOfRange);
}

#[test]
fn bytes_are_compared_where_that_is_asked_for() {
    let world = World::new();
    for block in [1, 2] {
        world.write(block, 7);
    }
    let one = world.cut(&world.volume, "one");
    world.write(1, 7);
    world.write(2, 8);
    world.write(3, 0);
    let two = world.cut(&world.volume, "two");
    assert_eq!(blocks(&world.tell(&order(Some(&one), &two)).unwrap().ranges), [1..4], "all that was written");
    let exact = WalkOrder { comparison: Comparison::Bytes, ..order(Some(&one), &two) };
    assert_eq!(blocks(&world.tell(&exact).unwrap().ranges), [2..3], "what differs");
}

#[test]
fn a_volume_that_grew_is_compared_up_to_its_new_end() {
    let world = World::new();
    let one = world.cut(&world.volume, "one");
    world.pool.expand_volume(&world.volume, Bytes(2 * BLOCKS * BLOCK)).unwrap();
    world.write(BLOCKS + 5, 1);
    let two = world.cut(&world.volume, "two");
    let told = world.tell(&order(Some(&one), &two)).unwrap();
    assert_eq!((told.size, blocks(&told.ranges)), (2 * BLOCKS * BLOCK, vec![BLOCKS + 5..BLOCKS + 6]));
    assert_eq!(blocks(&world.tell(&order(Some(&two), &one)).unwrap().ranges), []);
}

#[test]
fn snapshots_cannot_be_deleted_while_their_blocks_are_told() {
    struct Deleting<'a>(&'a World, Vec<CutId>, u32);
    impl Listener for Deleting<'_> {
        fn size(&mut self, _: Bytes) -> Result<(), WalkError> {
            Ok(())
        }
        fn range(&mut self, _: Range<u64>) -> Result<(), WalkError> {
            for cut in &self.1 {
                assert_eq!(self.0.pool.delete_cut(cut).unwrap_err().code(), Code::Aborted);
                self.2 += 1;
            }
            Ok(())
        }
    }
    let world = World::new();
    let one = world.cut(&world.volume, "one");
    world.write(1, 1);
    let two = world.cut(&world.volume, "two");
    let cuts: Vec<CutId> = world.pool.cuts().iter().map(|cut| cut.id.clone()).collect();
    let mut deleting = Deleting(&world, cuts.clone(), 0);
    tell(&world.pool, &world.host, &order(Some(&one), &two), &mut deleting).unwrap();
    assert_eq!(deleting.2, 2, "both were tried");
    for cut in &cuts {
        world.pool.delete_cut(cut).unwrap();
    }
    assert_eq!(Fault::from(world.tell(&order(None, &two)).err().unwrap()).code, Code::NotFound);
}

#[test]
fn snapshots_of_two_volumes_are_not_compared_and_a_failing_kernel_is_told() {
    let world = World::new();
    let other = world.make("w");
    let (one, two) = (world.cut(&world.volume, "one"), world.cut(&other, "two"));
    assert_eq!(Fault::from(world.tell(&order(Some(&one), &two)).err().unwrap()).code, Code::Invalid);
    world.host.fail(When::NthOf("FIEMAP", 1), libc::EIO);
    assert_eq!(Fault::from(world.tell(&order(None, &two)).err().unwrap()).code, Code::Internal);
}

#[test]
fn a_base_that_moves_between_two_looks_is_looked_at_again() {
    let world = World::new();
    for block in [0, 1] {
        world.write(block, 1);
    }
    let one = world.cut(&world.volume, "one");
    world.write(1, 2);
    let two = world.cut(&world.volume, "two");
    let image = world.pool.snapshot_tree(&one).unwrap().join(IMAGE);
    let hang = world.host.hang(When::NthOf("FIEMAP", 3));
    let told = std::thread::scope(|scope| {
        let walk = scope.spawn(|| world.tell(&order(Some(&one), &two)).map(|told| told.ranges).ok());
        hang.wait_until_reached();
        // As a balance would: the same data at another address.
        world.host.write_block(&image, 0, 1).unwrap();
        hang.release();
        walk.join().unwrap().unwrap()
    });
    assert_eq!(blocks(&told), [0..2], "block 0 does not share its address any more");
    assert_eq!(world.host.calls_of("FIEMAP"), 6, "both were read again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Random writes between cuts; content repeats, so that blocks are rewritten with what they had.
    #[test]
    fn nothing_that_differs_is_missed_and_comparing_bytes_is_exact(
        rounds in proptest::collection::vec(
            proptest::collection::vec((0..BLOCKS, 0_u64..3), 0..60), 2..5,
        ),
    ) {
        let world = World::new();
        let mut snapshots = Vec::new();
        for (number, writes) in rounds.iter().enumerate() {
            for (block, content) in writes {
                world.write(*block, *content);
            }
            snapshots.push(world.cut(&world.volume, &number.to_string()));
        }
        let read = |snapshot: &SnapshotId, block| {
            let image = world.pool.snapshot_tree(snapshot).unwrap().join(IMAGE);
            world.host.read_block(&image, block).unwrap()
        };
        for pair in snapshots.windows(2) {
            let by_address = world.tell(&order(Some(&pair[0]), &pair[1])).unwrap().ranges;
            let exact = WalkOrder { comparison: Comparison::Bytes, ..order(Some(&pair[0]), &pair[1]) };
            let by_bytes = world.tell(&exact).unwrap().ranges;
            for block in 0..BLOCKS {
                let is_in = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&(block * BLOCK)));
                let differs = read(&pair[0], block) != read(&pair[1], block);
                prop_assert_eq!(is_in(&by_bytes), differs, "block {}", block);
                prop_assert!(!differs || is_in(&by_address), "block {} was missed", block);
            }
        }
    }
}
