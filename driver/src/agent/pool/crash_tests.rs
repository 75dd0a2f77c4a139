//! Crash exploration: the host dies at every call of every operation, the power fails in three styles, the pool is
//! opened again. Whatever was published must be whole, a retry must succeed, and nothing may be left behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;

use super::{NewVolume, Pool, PoolError, Result as PoolResult};
use crate::backend::conformance::tree;
use crate::backend::{BackendKind, IMAGE};
use crate::domain::record::{CutMember, CutRecord, CutState, Source};
use crate::domain::{Bytes, Code, CutId, CutKind, Filesystem, Incarnation, Level, SnapshotId, VolumeId};
use crate::host::HostError;
use crate::host::fake::{Crash, FakeHost, HostDied, Lie, When};

const DIR: &str = "/pool";
const BLOCK: u64 = 1;
/// What the volume that is there from the beginning has in its block, and its sealed snapshot had.
const NOW: u64 = 22;
const THEN: u64 = 11;

/// An operation under exploration.
struct Scenario {
    name: &'static str,
    /// May be repeated; afterwards it is done.
    run: fn(&World) -> PoolResult<()>,
    /// What must be so after a crash: nothing of it, or all of it.
    whole: fn(&World) -> Result<(), String>,
}

struct World {
    host: FakeHost,
    pool: Pool,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario { name: "create", run: |w| create(w, "new", None), whole: |w| whole_volume(w, "new", 0) },
    Scenario {
        name: "clone",
        run: |w| create(w, "clone", Some(Source::Volume(w.volume("old")))),
        whole: |w| whole_volume(w, "clone", NOW),
    },
    Scenario {
        name: "restore",
        run: |w| create(w, "restored", Some(Source::Snapshot(w.snapshot("first")))),
        whole: |w| whole_volume(w, "restored", THEN),
    },
    Scenario { name: "cut", run: |w| cut(w, "second"), whole: |w| whole_cut(w, "second", NOW) },
    Scenario {
        name: "delete cut",
        run: |w| w.pool.delete_cut(&w.cut_id("first")),
        whole: |w| whole_cut(w, "first", THEN),
    },
    Scenario {
        name: "delete volume",
        run: |w| w.pool.delete_volume(&w.volume("old")),
        whole: |w| whole_volume(w, "old", NOW),
    },
];

impl World {
    fn open(host: FakeHost) -> Result<Self, String> {
        let (pool, report) =
            Pool::open(Arc::new(host.clone()), Path::new(DIR)).map_err(|error| error.to_string())?;
        if report.broken.is_empty() { Ok(Self { host, pool }) } else { Err(format!("{:?}", report.broken)) }
    }

    /// The volume of this name that is there, or would be the first.
    fn volume(&self, name: &str) -> VolumeId {
        let first = VolumeId::new(self.pool.id().clone(), name, Incarnation(1));
        self.pool.find_volume_by_hash(&first.hash).map_or(first, |found| found.id)
    }

    fn cut_id(&self, name: &str) -> CutId {
        CutId::new(CutKind::Group, name, [&self.volume("old")]).unwrap()
    }

    fn snapshot(&self, cut: &str) -> SnapshotId {
        SnapshotId::of(&self.volume("old"), &self.cut_id(cut), Incarnation(1))
    }

    fn content(&self, image: &Path) -> Result<u64, String> {
        self.host.read_block(image, BLOCK).map_err(|error| error.to_string())
    }

    fn files(&self) -> Vec<PathBuf> {
        self.pool.empty_trash(usize::MAX).unwrap();
        let mut files = tree(&self.host, Path::new(DIR)).unwrap();
        // The empty snapshot directory of a living volume may be there or not.
        let empty = self.pool.layout.snapshots_of(&self.volume("old"));
        if !files.iter().any(|file| file.starts_with(&empty) && *file != empty) {
            files.retain(|file| *file != empty);
        }
        files.into_iter().map(|file| self.without_births(&file)).collect()
    }

    /// Each try to make a volume would give it another birth.
    fn without_births(&self, path: &Path) -> PathBuf {
        let mut path = path.to_str().unwrap().to_owned();
        for name in ["new", "clone", "restored"] {
            let id = VolumeId::new(self.pool.id().clone(), name, Incarnation(0)).to_string();
            let before_birth = &id[..id.len() - 8];
            if let Some(at) = path.find(before_birth) {
                let birth = at + before_birth.len();
                path.replace_range(birth..birth + 8, "");
            }
        }
        path.into()
    }
}

/// A retry does not know the id that the first try gave.
fn create(world: &World, name: &str, source: Option<Source>) -> PoolResult<()> {
    static BIRTHS: AtomicU32 = AtomicU32::new(1);
    let birth = Incarnation(BIRTHS.fetch_add(1, Ordering::Relaxed));
    let request = NewVolume {
        id: VolumeId::new(world.pool.id().clone(), name, birth),
        name: name.to_owned(),
        // A copy that is larger than its source, so that growing is explored too.
        capacity: if source.is_some() { Bytes::mib(32) } else { Bytes::mib(16) },
        filesystem: Some(Filesystem::Ext4),
        source,
    };
    world.pool.create_volume(&request).map(drop)
}

fn cut(world: &World, name: &str) -> PoolResult<()> {
    let id = world.cut_id(name);
    let volume = world.volume("old");
    let member = CutMember {
        known_as: None,
        snapshot: SnapshotId::of(&volume, &id, Incarnation(1)),
        volume,
        volume_name: "old".to_owned(),
        host: "node-1".parse().unwrap(),
        capacity: Bytes::mib(16),
        filesystem: Some(Filesystem::Ext4),
    };
    let round = CutRecord {
        id: id.clone(),
        name: name.to_owned(),
        state: CutState::Round,
        attempt: Incarnation(1),
        members: vec![member],
        cut_at: Timestamp::UNIX_EPOCH,
        level: Level::Group,
        reasons: Vec::new(),
        timeline: None,
    };
    match world.pool.prepare_cut(&round) {
        // The first try got to the seal.
        Err(PoolError::Sealed(_)) => return Ok(()),
        members => {
            for member in members? {
                world.pool.copy_member(&member)?;
            }
        }
    }
    world.pool.settle()?;
    world.pool.seal_cut(&CutRecord { state: CutState::Sealed, ..round })
}

fn whole_volume(world: &World, name: &str, content: u64) -> Result<(), String> {
    let Ok(image) = world.pool.image(&world.volume(name)) else { return Ok(()) };
    let have = world.content(&image)?;
    if have != content {
        return Err(format!("volume {name} has {have} instead of {content}"));
    }
    if world.host.read_block(&image, 0).unwrap_or_default() == 0 {
        return Err(format!("volume {name} has no filesystem"));
    }
    Ok(())
}

fn whole_cut(world: &World, name: &str, content: u64) -> Result<(), String> {
    let Ok(tree) = world.pool.snapshot_tree(&world.snapshot(name)) else { return Ok(()) };
    let have = world.content(&tree.join(IMAGE))?;
    if have == content { Ok(()) } else { Err(format!("cut {name} has {have} instead of {content}")) }
}

/// A pool with a volume and a sealed cut of it, everything on disk.
fn ground(kind: BackendKind) -> FakeHost {
    let host = FakeHost::with_disk(kind.filesystem(), Bytes::gib(4), Path::new(DIR));
    Pool::make(&host, kind, Path::new(DIR)).unwrap();
    let world = World::open(host.clone()).unwrap();
    create(&world, "old", None).unwrap();
    let image = world.pool.image(&world.volume("old")).unwrap();
    host.write_block(&image, BLOCK, THEN).unwrap();
    cut(&world, "first").unwrap();
    host.write_block(&image, BLOCK, NOW).unwrap();
    world.pool.settle().unwrap();
    host
}

/// Dies at every call of the scenario; returns how many there were, or what went wrong first.
fn explore(kind: BackendKind, scenario: &Scenario, style: Crash, lie: Option<Lie>) -> Result<u64, String> {
    let start = ground(kind);
    let undisturbed = World::open(start.crash(Crash::Nothing))?;
    (scenario.run)(&undisturbed).map_err(|error| error.to_string())?;
    let expected = undisturbed.files();

    for n in 1.. {
        let at = |why: String| format!("{kind}, {}, {style:?}, dying at call {n}: {why}", scenario.name);
        let world = World::open(start.crash(Crash::Nothing)).map_err(at)?;
        if let Some(lie) = lie {
            world.host.lie_about(lie);
        }
        world.host.die(When::Nth(n));
        let done = (scenario.run)(&world);
        // Dying in a last call without meaning for the result (removing an empty directory) does not undo it.
        let died = world.host.is_dead();
        if !died && done.is_err() {
            return Err(at(format!("{done:?}")));
        }
        let after = World::open(world.host.crash(style)).map_err(at)?;
        whole_volume(&after, "old", NOW).map_err(at)?;
        whole_cut(&after, "first", THEN).map_err(at)?;
        (scenario.whole)(&after).map_err(at)?;
        if done.is_ok() && after.files() != expected {
            return Err(at(format!("it was done, but is not after the crash: {:?}", after.files())));
        }
        (scenario.run)(&after).map_err(|error| at(format!("the retry failed: {error}")))?;
        (scenario.whole)(&after).map_err(at)?;
        if after.files() != expected {
            return Err(at(format!("files are {:?} instead of {expected:?}", after.files())));
        }
        if !died {
            return Ok(n - 1);
        }
    }
    Err("there is no end".to_owned())
}

#[test]
fn a_crash_at_any_call_leaves_the_old_or_the_new_and_a_retry_succeeds() {
    for kind in [BackendKind::Memory, BackendKind::Xfs, BackendKind::Btrfs] {
        for scenario in &SCENARIOS {
            for style in Crash::ALL {
                let calls = explore(kind, scenario, style, None).unwrap();
                assert!(calls >= 5, "{} makes only {calls} calls: not much was explored", scenario.name);
            }
        }
    }
}

/// The exploration must be able to fail: on a disk that lies about syncs it does, for every kind of sync.
#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let found_out = |kind, lie| {
        let runs = SCENARIOS.iter().flat_map(|scenario| Crash::ALL.map(|style| (scenario, style)));
        runs.filter(|(scenario, style)| explore(kind, scenario, *style, Some(lie)).is_err()).count()
    };
    for lie in [Lie::Files, Lie::Directories] {
        assert!(found_out(BackendKind::Btrfs, lie) > 0, "{lie:?}");
        assert!(found_out(BackendKind::Xfs, lie) > 0, "{lie:?}");
    }
    // A btrfs snapshot is durable as a whole; a reflink is not, unless the filesystem is synced.
    assert!(found_out(BackendKind::Xfs, Lie::Filesystems) > 0);
}

#[test]
fn a_call_that_fails_at_any_point_can_be_repeated() {
    for kind in [BackendKind::Memory, BackendKind::Xfs, BackendKind::Btrfs] {
        for scenario in &SCENARIOS {
            for errno in [libc::EIO, libc::ENOSPC, libc::EROFS] {
                repeat_after_failures(kind, scenario, errno);
            }
        }
    }
}

/// Fails call n once, with the disk being full or broken, and repeats the operation in the same process.
fn repeat_after_failures(kind: BackendKind, scenario: &Scenario, errno: i32) {
    let start = ground(kind);
    let undisturbed = World::open(start.crash(Crash::Nothing)).unwrap();
    (scenario.run)(&undisturbed).unwrap();
    let expected = undisturbed.files();
    for n in 1.. {
        let world = World::open(start.crash(Crash::Nothing)).unwrap();
        let before = world.host.calls();
        world.host.fail(When::Nth(n), errno);
        let done = (scenario.run)(&world);
        if world.host.calls() - before < n {
            return;
        }
        let at = format!("{kind}, {}, errno {errno} at call {n}", scenario.name);
        if let Err(PoolError::Host(error)) = &done {
            // What the kernel said goes up unchanged: a full pool is RESOURCE_EXHAUSTED, a read-only one
            // FAILED_PRECONDITION.
            let code = match errno {
                libc::ENOSPC => Code::Exhausted,
                libc::EROFS => Code::Precondition,
                _ => Code::Internal,
            };
            assert_eq!(PoolError::Host(copy_of(error)).code(), code, "{at}: {error}");
        }
        // Volumes go on being written, whatever failed beside them.
        if let Ok(image) = world.pool.image(&world.volume("old")) {
            world.host.write_block(&image, BLOCK, NOW).unwrap_or_else(|error| panic!("{at}: {error}"));
        }
        (scenario.whole)(&world).unwrap_or_else(|why| panic!("{at}: {why}"));
        if done.is_err() && scenario.name == "cut" {
            // A coordinator voids what it could not finish; a cut that was sealed after all refuses that.
            match world.pool.void_cut(&world.cut_id("second")) {
                Ok(()) | Err(PoolError::Sealed(_)) => {}
                Err(error) => panic!("{at}: {error}"),
            }
        }
        (scenario.run)(&world).unwrap_or_else(|error| panic!("{at}: the retry failed: {error}"));
        assert_eq!(world.files(), expected, "{at}");
        World::open(world.host.crash(Crash::OnlySynced)).unwrap_or_else(|why| panic!("{at}: {why}"));
    }
}

fn copy_of(error: &HostError) -> HostError {
    let source = std::io::Error::from_raw_os_error(error.errno().unwrap_or_default());
    HostError::new(error.operation, &error.object, source)
}

#[test]
fn a_pool_without_room_for_a_new_name_can_still_be_emptied() {
    for kind in [BackendKind::Xfs, BackendKind::Btrfs] {
        let world = World::open(ground(kind)).unwrap();
        world.host.fail(When::NthOf("rename", 1), libc::ENOSPC);
        world.pool.delete_cut(&world.cut_id("first")).unwrap();
        world.host.fail(When::NthOf("rename", 1), libc::ENOSPC);
        world.pool.delete_volume(&world.volume("old")).unwrap();
        assert_eq!(world.pool.trash_len(), 0, "nothing was renamed");
        assert_eq!(world.files().len(), 4, "{:?}", world.files());
        let after = World::open(world.host.crash(Crash::OnlySynced)).unwrap();
        assert!(after.pool.volumes().is_empty() && after.pool.cuts().is_empty());
    }
}

#[test]
fn a_cut_that_would_hold_for_too_long_is_refused_before_anything_is_held() {
    // 15 µs for each extent of a reflink: the budget of 500 ms is 33 000 of them.
    const EXTENTS: u64 = 40_000;
    for (kind, refused) in [(BackendKind::Xfs, true), (BackendKind::Btrfs, false)] {
        let world = World::open(ground(kind)).unwrap();
        let id = world.volume("fragmented");
        let (capacity, filesystem) = (Bytes::mib(512), None);
        let new = NewVolume { id: id.clone(), name: "fragmented".into(), capacity, filesystem, source: None };
        world.pool.create_volume(&new).unwrap();
        let image = world.pool.image(&id).unwrap();
        (0..EXTENTS).for_each(|extent| world.host.write_block(&image, extent * 2, 1).unwrap());
        let prepared = world.pool.prepare_cut(&crate::agent::fixtures::round_record(&[id]));
        if refused {
            let error = prepared.unwrap_err();
            assert!(matches!(error, PoolError::SlowCut { .. }), "{error}");
            assert_eq!(error.code(), Code::Precondition);
            assert!(world.pool.cuts().iter().all(|cut| cut.state == CutState::Sealed), "nothing is recorded");
        } else {
            prepared.unwrap();
        }
    }
}

#[test]
fn the_death_of_the_host_is_told_as_such() {
    let world = World::open(ground(BackendKind::Memory)).unwrap();
    world.host.die(When::Nth(1));
    let error = create(&world, "new", None).unwrap_err();
    let PoolError::Host(error) = error else { panic!("{error}") };
    assert!(HostDied::is(&error));
    assert!(!HostDied::is(&HostError::new("stat", "x", std::io::Error::from_raw_os_error(libc::EIO))));
}
