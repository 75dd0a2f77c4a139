//! Pools whose disk is lost, full or large, on real btrfs and XFS.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use stillpoint::agent::pool::{Pool, PoolError};
use stillpoint::agent::pools::Pools;
use stillpoint::backend::{BackendKind, IMAGE};
use stillpoint::domain::record::{CutMember, CutRecord, CutState, Source};
use stillpoint::domain::{
    Bytes, Code, CutId, CutKind, Filesystem, Incarnation, Level, NewVolume, SnapshotId, VolumeId,
};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Host, Loops};
use stillpoint_tests::crashing::CrashingHost;
use stillpoint_tests::harness::skip;
use stillpoint_tests::scratch::{Scratch, command, why_not};

const VOLUME: Bytes = Bytes::mib(16);
/// What the raw volume has in its first block now, and had when it was cut.
const NOW: u64 = 22;
const THEN: u64 = 11;
/// No operation has more fsyncs.
const SYNCS_MAX: u64 = 40;

fn can_run(test: &str, kind: BackendKind) -> bool {
    let why = why_not(kind);
    if let Some(why) = &why {
        skip(test, why);
    }
    why.is_none()
}

// ---- the volumes of all tests ---------------------------------------------------------------------

fn volume(pool: &Pool, name: &str) -> VolumeId {
    VolumeId::new(pool.id().clone(), name, Incarnation(1))
}

fn create(pool: &Pool, name: &str, source: Option<Source>) -> Result<(), PoolError> {
    let filesystem = if source.is_some() || name == "old" { None } else { Some(Filesystem::Ext4) };
    let new = NewVolume { id: volume(pool, name), name: name.into(), capacity: VOLUME, filesystem, source };
    pool.create_volume(&new).map(drop)
}

fn round(name: &str, volumes: &[VolumeId]) -> CutRecord {
    let id = CutId::new(CutKind::Group, name, volumes).expect("there are volumes");
    let member = |volume: &VolumeId| CutMember {
        known_as: None,
        snapshot: SnapshotId::of(volume, &id, Incarnation(1)),
        volume: volume.clone(),
        volume_name: "volume".into(),
        host: "node-1".parse().expect("a name"),
        capacity: VOLUME,
        filesystem: None,
    };
    let mut members: Vec<_> = volumes.iter().map(member).collect();
    members.sort_by(|left, right| left.volume.cmp(&right.volume));
    CutRecord {
        id,
        name: name.into(),
        state: CutState::Round,
        attempt: Incarnation(1),
        members,
        cut_at: jiff::Timestamp::UNIX_EPOCH,
        level: Level::Group,
        reasons: vec![],
        timeline: None,
    }
}

fn cut(pool: &Pool, name: &str, volumes: &[VolumeId]) -> Result<(), PoolError> {
    let record = round(name, volumes);
    match pool.prepare_cut(&record) {
        Err(PoolError::Sealed(_)) => return Ok(()),
        prepared => {
            for member in prepared? {
                pool.copy_member(&member)?;
            }
        }
    }
    pool.settle()?;
    pool.seal_cut(&CutRecord { state: CutState::Sealed, ..record })
}

fn write(image: &Path, content: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(image)?;
    file.write_all_at(&content.to_le_bytes().repeat(512), 0)?;
    Ok(file.sync_all()?)
}

fn read(image: &Path) -> Result<u64> {
    let mut bytes = [0; 8];
    File::open(image)?.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}

// ---- a disk that is lost after every fsync --------------------------------------------------------

/// Something that is done, may be done again, and has an effect.
#[derive(Clone, Copy)]
struct Deed {
    name: &'static str,
    run: fn(&Pool) -> Result<(), PoolError>,
    /// Whether the effect is there.
    is_done: fn(&Pool) -> bool,
}

const DEEDS: [Deed; 5] = [
    Deed {
        name: "create",
        run: |pool| create(pool, "new", None),
        is_done: |pool| pool.image(&volume(pool, "new")).is_ok(),
    },
    Deed {
        name: "clone",
        run: |pool| create(pool, "clone", Some(Source::Volume(volume(pool, "old")))),
        is_done: |pool| pool.image(&volume(pool, "clone")).is_ok(),
    },
    Deed {
        name: "snapshot",
        run: |pool| cut(pool, "second", &[volume(pool, "old")]),
        is_done: |pool| has_snapshot(pool, "second"),
    },
    Deed {
        name: "delete snapshot",
        run: |pool| pool.delete_cut(&round("first", &[volume(pool, "old")]).id),
        is_done: |pool| !has_snapshot(pool, "first"),
    },
    Deed {
        name: "delete volume",
        run: |pool| pool.delete_volume(&volume(pool, "doomed")),
        is_done: |pool| pool.image(&volume(pool, "doomed")).is_err(),
    },
];

/// A sealed record of a snapshot of `old`, and its tree.
fn has_snapshot(pool: &Pool, name: &str) -> bool {
    let record = round(name, &[volume(pool, "old")]);
    let is_sealed = pool.cut(&record.id).is_ok_and(|found| found.state == CutState::Sealed);
    is_sealed && pool.snapshot_tree(&record.members[0].snapshot).is_ok()
}

/// A pool in a file, mounted at a directory.
struct Disk {
    image: PathBuf,
    target: PathBuf,
}

impl Disk {
    fn mount(&self) -> Result<()> {
        command(Command::new("mount").args(["-o", "loop,noatime"]).arg(&self.image).arg(&self.target))
    }

    fn unmount(&self) -> Result<()> {
        command(Command::new("umount").arg(&self.target))
    }

    fn copy_of(&self, ground: &Path) -> Result<()> {
        command(Command::new("cp").arg("--sparse=always").arg(ground).arg(&self.image))
    }
}

/// A pool with volumes and a sealed cut, unmounted.
fn ground(scratch: &Scratch, kind: BackendKind) -> Result<PathBuf> {
    let dir = scratch.filesystem("ground", kind, Bytes::gib(1))?;
    Pool::make(&LinuxHost, kind, &dir)?;
    let (pool, _) = Pool::open(Arc::new(LinuxHost), &dir)?;
    create(&pool, "old", None)?;
    create(&pool, "doomed", None)?;
    let image = pool.image(&volume(&pool, "old"))?;
    write(&image, THEN)?;
    cut(&pool, "first", &[volume(&pool, "old")])?;
    write(&image, NOW)?;
    drop(pool);
    command(Command::new("umount").arg(&dir))?;
    let image = dir.with_extension("img");
    for device in LinuxHost.attached(&image)? {
        LinuxHost.detach(&device.path)?;
    }
    Ok(image)
}

/// Everything that is published must be whole.
fn check_whole(pool: &Pool) -> Result<()> {
    ensure!(read(&pool.image(&volume(pool, "old"))?)? == NOW, "the volume that was there has changed");
    if let Ok(image) = pool.image(&volume(pool, "new")) {
        command(Command::new("e2fsck").arg("-fn").arg(&image)).context("a new volume is torn")?;
    }
    if let Ok(image) = pool.image(&volume(pool, "clone")) {
        ensure!(read(&image)? == NOW, "a clone is torn");
    }
    for (name, content) in [("first", THEN), ("second", NOW)] {
        let snapshot = round(name, &[volume(pool, "old")]).members.remove(0).snapshot;
        if let Ok(tree) = pool.snapshot_tree(&snapshot) {
            ensure!(read(&tree.join(IMAGE))? == content, "the snapshot of cut {name} is torn");
        }
    }
    Ok(())
}

/// Does the deed with the disk lost after its n-th fsync; false when it has fewer.
fn lose_disk_after(scratch: &Scratch, kind: BackendKind, ground: &Path, deed: Deed, n: u64) -> Result<bool> {
    let target = scratch.directory("disk")?;
    let disk = Disk { image: scratch.dir().join("disk.img"), target: target.clone() };
    disk.copy_of(ground)?;
    disk.mount()?;
    let (image, lost) = (disk.image.clone(), scratch.dir().join("lost.img"));
    let kept = lost.clone();
    let crash = move || {
        // XFS stops in its tracks, its log unwritten; of btrfs, what has reached the disk by now is kept.
        let done = match kind {
            BackendKind::Xfs => Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&target).output(),
            BackendKind::Btrfs | BackendKind::Memory => {
                Command::new("cp").arg("--sparse=always").args([&image, &kept]).output()
            }
        };
        assert!(done.is_ok_and(|output| output.status.success()), "the disk could not be lost");
    };
    let host = Arc::new(CrashingHost::after_sync(n, crash));
    let (pool, _) = Pool::open(Arc::clone(&host) as Arc<dyn Host>, &disk.target)?;
    ensure!(!(deed.is_done)(&pool), "it was done before, so nothing would be shown");
    let done = (deed.run)(&pool);
    let died = host.is_dead();
    ensure!(died || done.is_ok(), "{done:?}");
    ensure!(died || (deed.is_done)(&pool), "it succeeded and has no effect");
    drop(pool);
    disk.unmount()?;
    if died && kind == BackendKind::Btrfs {
        fs::rename(&lost, &disk.image)?;
    }
    disk.mount()?;
    let (pool, report) = Pool::open(Arc::new(LinuxHost), &disk.target)?;
    ensure!(report.broken.is_empty(), "{:?}", report.broken);
    check_whole(&pool)?;
    // What was acknowledged before the disk was lost is there.
    ensure!(done.is_err() || (deed.is_done)(&pool), "it succeeded, and its effect went with the disk");
    (deed.run)(&pool).context("the retry")?;
    ensure!((deed.is_done)(&pool), "the retry succeeded and has no effect");
    check_whole(&pool)?;
    drop(pool);
    disk.unmount()?;
    Ok(died)
}

fn nothing_is_torn(test: &str, kind: BackendKind) -> Result<()> {
    if !can_run(test, kind) {
        return Ok(());
    }
    let scratch = Scratch::new(test)?;
    let ground = ground(&scratch, kind)?;
    for deed in DEEDS {
        let name = deed.name;
        let mut syncs = 0;
        for n in 1..=SYNCS_MAX {
            let died = lose_disk_after(&scratch, kind, &ground, deed, n);
            if !died.with_context(|| format!("{kind}, {name}, the disk lost after fsync {n}"))? {
                break;
            }
            syncs = n;
        }
        ensure!((1..SYNCS_MAX).contains(&syncs), "{name} has {syncs} fsyncs: that cannot be");
        println!("{kind}: {name} survived the loss of its disk after each of its {syncs} fsyncs");
    }
    Ok(())
}

#[test]
fn a_btrfs_pool_whose_disk_is_lost_after_any_fsync_opens_with_nothing_torn() -> Result<()> {
    nothing_is_torn("storage-btrfs", BackendKind::Btrfs)
}

#[test]
fn an_xfs_pool_whose_disk_is_lost_after_any_fsync_opens_with_nothing_torn() -> Result<()> {
    nothing_is_torn("storage-xfs", BackendKind::Xfs)
}

// ---- a pool that is really full -------------------------------------------------------------------

#[test]
fn a_pool_that_is_really_full_refuses_what_is_new_and_loses_nothing() -> Result<()> {
    for kind in [BackendKind::Btrfs, BackendKind::Xfs] {
        if !can_run("storage-full", kind) {
            continue;
        }
        let scratch = Scratch::new("storage-full")?;
        let dir = scratch.filesystem("pool", kind, Bytes::gib(1))?;
        Pool::make(&LinuxHost, kind, &dir)?;
        let (pool, _) = Pool::open(Arc::new(LinuxHost), &dir)?;
        create(&pool, "old", None)?;
        let old = volume(&pool, "old");
        let image = pool.image(&old)?;
        write(&image, THEN)?;
        cut(&pool, "first", std::slice::from_ref(&old))?;
        write(&image, NOW)?;
        let begin = Instant::now();
        fill(&dir.join("ballast"))?;
        println!("{kind}: full after {:?}", begin.elapsed());
        let refused = [
            create(&pool, "new", None),
            create(&pool, "clone", Some(Source::Volume(old.clone()))),
            cut(&pool, "second", std::slice::from_ref(&old)),
        ];
        for error in refused {
            let error = error.err().with_context(|| format!("{kind}: a full pool takes something new"))?;
            ensure!(error.code() == Code::Exhausted, "{kind}: {error}");
        }
        // What exists goes on: its blocks are its own, and deleting is the way out.
        write(&image, NOW).with_context(|| format!("{kind}: the volume is not writable any more"))?;
        pool.delete_cut(&round("first", std::slice::from_ref(&old)).id)?;
        pool.empty_trash(16)?;
        fs::remove_file(dir.join("ballast"))?;
        // A btrfs this small has given all of itself to data and has none for metadata until it is balanced.
        let cuts = if kind == BackendKind::Xfs {
            // XFS gives the room of a removed file back a little later.
            let end = Instant::now() + Duration::from_secs(20);
            while let Err(error) = cut(&pool, "second", std::slice::from_ref(&old)) {
                ensure!(error.code() == Code::Exhausted && Instant::now() < end, "{kind}: {error}");
                std::thread::sleep(Duration::from_millis(50));
            }
            1
        } else {
            0
        };
        write(&image, NOW)?;
        ensure!(read(&image)? == NOW);
        let (again, report) = Pool::open(Arc::new(LinuxHost), &dir)?;
        ensure!(report.broken.is_empty() && again.cuts().len() == cuts, "{kind}: {report:?}");
    }
    Ok(())
}

/// Takes room until there is none for another block.
fn fill(path: &Path) -> Result<()> {
    let file = File::create(path)?;
    let mut at: i64 = 0;
    for size in [256 << 20, 16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        loop {
            match fallocate(&file, FallocateFlags::empty(), at, size) {
                Ok(()) => at += size,
                Err(Errno::ENOSPC) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    match file.sync_all() {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => Ok(()),
        Err(error) => bail!(error),
    }
}

// ---- one pool, one agent; many snapshots ----------------------------------------------------------

#[test]
fn a_pool_is_opened_by_one_process_at_a_time() -> Result<()> {
    if !can_run("storage-lock", BackendKind::Btrfs) {
        return Ok(());
    }
    let scratch = Scratch::new("storage-lock")?;
    let dir = scratch.filesystem("pool", BackendKind::Btrfs, Bytes::gib(1))?;
    Pool::make(&LinuxHost, BackendKind::Btrfs, &dir)?;
    // Another process holds the lock, as another agent would.
    let mut other = Command::new("flock").arg("--no-fork").arg(&dir).args(["sleep", "600"]).spawn()?;
    let host: Arc<dyn Host> = Arc::new(LinuxHost);
    let pools = loop {
        let pools = Pools::open(&host, std::slice::from_ref(&dir), &BTreeMap::new());
        // The other one may not have started yet.
        if pools.iter().next().is_none() {
            break pools;
        }
        drop(pools);
        std::thread::sleep(Duration::from_millis(10));
    };
    let (_, refused) = pools.closed().pop().context("it is neither open nor closed")?;
    ensure!(refused.message.contains("is open in another process"), "{}", refused.message);
    ensure!(pools.open_closed(&host).is_empty());
    other.kill()?;
    other.wait()?;
    ensure!(
        pools.open_closed(&host).len() == 1 && pools.closed().is_empty(),
        "it is taken up without a restart"
    );
    Ok(())
}

#[test]
fn a_pool_whose_filesystem_has_shut_down_keeps_no_other_from_being_opened() -> Result<()> {
    if !can_run("storage-dead", BackendKind::Btrfs) || !can_run("storage-dead", BackendKind::Xfs) {
        return Ok(());
    }
    let scratch = Scratch::new("storage-dead")?;
    let dirs = [
        scratch.filesystem("alive", BackendKind::Btrfs, Bytes::gib(1))?,
        scratch.filesystem("dead", BackendKind::Xfs, Bytes::gib(1))?,
    ];
    let [alive, dead] = [
        Pool::make(&LinuxHost, BackendKind::Btrfs, &dirs[0])?.id,
        Pool::make(&LinuxHost, BackendKind::Xfs, &dirs[1])?.id,
    ];
    command(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&dirs[1]))?;
    let host: Arc<dyn Host> = Arc::new(LinuxHost);
    let pools = Pools::open(&host, &dirs, &BTreeMap::new());
    ensure!(pools.has(&alive), "{:?}", pools.closed());
    let fault = pools.get(&dead).err().context("a pool that has shut down was opened")?;
    ensure!(fault.code == Code::Unavailable && fault.message.contains("dead"), "{fault}");
    ensure!(pools.open_closed(&host).is_empty());

    // Somebody mounts it anew.
    let image = dirs[1].with_extension("img");
    let device = LinuxHost.attached(&image)?.into_iter().next().context("its loop device")?;
    command(Command::new("umount").arg(&dirs[1]))?;
    ensure!(pools.open_closed(&host).is_empty(), "an empty directory is no pool");
    command(Command::new("mount").arg(&device.path).arg(&dirs[1]))?;
    ensure!(pools.open_closed(&host).len() == 1 && pools.has(&dead) && pools.closed().is_empty());
    Ok(())
}

#[test]
fn a_real_pool_with_two_thousand_snapshots_opens() -> Result<()> {
    const VOLUMES: usize = 20;
    const CUTS: usize = 100;
    if !can_run("storage-many", BackendKind::Btrfs) {
        return Ok(());
    }
    let scratch = Scratch::new("storage-many")?;
    let dir = scratch.filesystem("pool", BackendKind::Btrfs, Bytes::gib(4))?;
    Pool::make(&LinuxHost, BackendKind::Btrfs, &dir)?;
    let (pool, _) = Pool::open(Arc::new(LinuxHost), &dir)?;
    let names: Vec<String> = (0..VOLUMES).map(|number| format!("old-{number}")).collect();
    for name in &names {
        let id = volume(&pool, name);
        let filesystem = None;
        let new = NewVolume { id, name: name.clone(), capacity: VOLUME, filesystem, source: None };
        pool.create_volume(&new)?;
    }
    let volumes: Vec<VolumeId> = names.iter().map(|name| volume(&pool, name)).collect();
    for number in 0..CUTS {
        cut(&pool, &format!("cut-{number}"), &volumes)?;
    }
    drop(pool);
    // As after a start of the machine: nothing of the filesystem is in memory.
    command(Command::new("umount").arg(&dir))?;
    let devices = LinuxHost.attached(&dir.with_extension("img"))?;
    let device = devices.first().context("the pool's device")?;
    command(Command::new("mount").args(["-o", "noatime"]).arg(&device.path).arg(&dir))?;
    let start = Instant::now();
    let (pool, report) = Pool::open(Arc::new(LinuxHost), &dir)?;
    println!("a pool with {} snapshots opened in {:?}", VOLUMES * CUTS, start.elapsed());
    ensure!(pool.cuts().len() == CUTS && report.broken.is_empty(), "{report:?}");
    Ok(())
}
