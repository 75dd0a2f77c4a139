//! Over a btrfs in memory that, as the real one, frees deleted subvolumes only when its cleaner is awake.

use std::sync::Arc;

use super::*;
use crate::agent::fixtures::round_record;
use crate::backend::{BackendKind, IMAGE};
use crate::domain::record::{CutState, Source};
use crate::domain::{Code, Incarnation, NewVolume};
use crate::host::fake::FakeHost;

const DIR: &str = "/pool";
const SIZE: Bytes = Bytes::mib(6);

fn pool() -> (FakeHost, Pool) {
    let host = FakeHost::with_disk("btrfs", Bytes::mib(16), Path::new(DIR));
    Pool::make(&host, BackendKind::Btrfs, Path::new(DIR)).unwrap();
    let (pool, _) = Pool::open(Arc::new(host.clone()), Path::new(DIR)).unwrap();
    (host, pool)
}

fn create(pool: &Pool, name: &str, capacity: Bytes, source: Option<Source>) -> Result<VolumeId> {
    let id = VolumeId::new(pool.id().clone(), name, Incarnation(1));
    let new = NewVolume { id: id.clone(), name: name.into(), capacity, filesystem: None, source };
    pool.create_volume(&new).map(|_| id)
}

fn write(host: &FakeHost, pool: &Pool, id: &VolumeId, bytes: Bytes, content: u64) {
    let image = pool.layout.volume(id).join(IMAGE);
    for block in 0..bytes.0 / 4096 {
        host.write_block(&image, block, content).unwrap();
    }
}

/// Takes and seals a snapshot of a volume.
fn snapshot(pool: &Pool, volume: &VolumeId) -> Result<()> {
    let mut record = round_record(std::slice::from_ref(volume));
    for paths in pool.prepare_cut(&record)? {
        pool.copy_member(&paths)?;
    }
    record.state = CutState::Sealed;
    pool.seal_cut(&record)
}

#[test]
fn the_space_of_a_deleted_volume_is_waited_for() {
    let (host, pool) = pool();
    for round in 0..6 {
        let volume = create(&pool, &format!("v{round}"), Bytes::mib(10), None).unwrap();
        write(&host, &pool, &volume, Bytes::mib(7), 1);
        pool.delete_volume(&volume).unwrap();
        assert!(pool.space().unwrap().room() < Bytes::mib(10), "the model frees nothing by itself");
        assert!(pool.space_to_come().unwrap().room() >= Bytes::mib(10), "but it counts");
    }
    assert!(create(&pool, "too-large", Bytes::mib(15), None).is_err());
    assert_eq!((pool.trash_len(), pool.being_freed().unwrap()), (0, Bytes(0)));
}

#[test]
fn during_a_round_nothing_is_removed_and_the_refusal_says_what_is_being_freed() {
    let (host, pool) = pool();
    let volume = create(&pool, "first", Bytes::mib(10), None).unwrap();
    write(&host, &pool, &volume, Bytes::mib(8), 1);
    pool.delete_volume(&volume).unwrap();
    let before = host.calls_of("subvolume delete");
    let round = pool.pause_trash();
    let refusal = create(&pool, "second", Bytes::mib(10), None).unwrap_err();
    assert_eq!(refusal.code(), Code::Exhausted);
    assert!(refusal.to_string().contains("1 deleted volumes or snapshots is still being freed"), "{refusal}");
    assert_eq!((host.calls_of("subvolume delete"), host.calls_of("btrfs sync")), (before, 0));
    drop(round);
    create(&pool, "second", Bytes::mib(10), None).unwrap();
}

#[test]
fn what_is_promised_covers_every_block_that_volumes_may_still_write() {
    let (host, pool) = pool();
    let one = create(&pool, "one", SIZE, None).unwrap();
    write(&host, &pool, &one, SIZE, 1);
    let promised = || pool.written_alone().and_then(|_| pool.space()).unwrap().promised;
    let roughly = |mib: u64| {
        let promised = promised();
        assert!(promised >= Bytes::mib(mib) && promised < Bytes::mib(mib + 1), "{promised}, not {mib} MiB");
    };
    roughly(6);
    // From now on each block of it may need a new place.
    snapshot(&pool, &one).unwrap();
    roughly(12);
    write(&host, &pool, &one, SIZE, 2);
    let refusal = create(&pool, "two", SIZE, None).unwrap_err();
    assert!(refusal.to_string().contains("overcommit"), "{refusal}");
    // Nothing is refused to a volume that was promised it.
    write(&host, &pool, &one, SIZE, 3);
    pool.set_overcommit("2".parse().unwrap());
    create(&pool, "two", Bytes::mib(2), None).unwrap();
}

#[test]
fn a_snapshot_or_a_copy_that_could_run_the_pool_full_is_refused() {
    let (host, pool) = pool();
    let large = create(&pool, "large", Bytes::mib(8), None).unwrap();
    write(&host, &pool, &large, Bytes::mib(8), 1);
    for outcome in [
        snapshot(&pool, &large),
        create(&pool, "clone", Bytes::mib(8), Some(Source::Volume(large.clone()))).map(drop),
        pool.expand_volume(&large, Bytes::mib(15)).map(drop),
    ] {
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.code(), Code::Exhausted);
        assert!(refusal.to_string().contains("overcommit"), "{refusal}");
    }
    assert_eq!(pool.round_count(), 0, "a refused snapshot leaves no record");
    pool.set_overcommit("2".parse().unwrap());
    snapshot(&pool, &large).unwrap();
}

#[test]
fn promises_that_are_made_at_once_do_not_exceed_the_pool() {
    let (_, pool) = pool();
    let made = std::thread::scope(|scope| {
        let creators: Vec<_> = (0..8)
            .map(|number| {
                let pool = &pool;
                scope.spawn(move || create(pool, &format!("v{number}"), SIZE, None).is_ok())
            })
            .collect();
        creators.into_iter().map(|one| one.join().unwrap()).filter(|made| *made).count()
    });
    assert_eq!(made, 2, "of {SIZE} each in 16 MiB");
}
