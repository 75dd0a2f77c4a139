//! Making, growing and deleting volumes.

use anyhow::{Result, ensure};

use super::{Ground, SMALL, copy_of, cut, left, new_pool, raw, refused, reopen, volume_with, write};
use crate::agent::pool::NewVolume;
use crate::domain::record::Source;
use crate::domain::{Bytes, Code, Filesystem, Incarnation, NameHash, PoolId, VolumeId};
use crate::host::MountRequest;

pub(super) fn the_same_request_finds_the_volume_that_is_there(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let request = raw(&pool, "volume");
    let made = pool.create_volume(&request)?;
    write(ground, &pool.image(&made.id)?, 9)?;
    ensure!(pool.create_volume(&request)? == made);
    super::expect_content(ground, &pool.image(&made.id)?, 9)?;

    let (pool, _) = reopen(ground, pool)?;
    ensure!(pool.create_volume(&request)? == made);
    ensure!(pool.volume(&made.id)? == made && pool.volumes() == [made.clone()]);
    ensure!(pool.find_volume_by_hash(&NameHash::of("volume")) == Some(made.clone()));
    ensure!(pool.find_volume_by_hash(&NameHash::of("another")).is_none());
    ensure!(pool.allocated(&made.id)?.0 >= 4096);
    Ok(())
}

pub(super) fn other_properties_under_the_same_id_are_refused(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let source = volume_with(ground, &pool, "source", 1)?;
    let request = raw(&pool, "volume");
    pool.create_volume(&request)?;
    let others = [
        ("name", NewVolume { name: "same hash, other name".into(), ..request.clone() }),
        ("capacity", NewVolume { capacity: Bytes::mib(9), ..request.clone() }),
        ("filesystem", NewVolume { filesystem: Some(Filesystem::Ext4), ..request.clone() }),
        ("source", NewVolume { source: Some(Source::Volume(source)), ..request.clone() }),
    ];
    for (property, other) in others {
        refused(pool.create_volume(&other), Code::AlreadyExists, property)?;
    }
    ensure!(pool.create_volume(&request)?.capacity == SMALL);
    Ok(())
}

pub(super) fn a_volume_carries_the_filesystem_that_was_asked_for(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let pool = new_pool(ground)?;
    for (filesystem, capacity) in [(Filesystem::Xfs, Bytes::mib(300)), (Filesystem::Ext4, Bytes::mib(16))] {
        let name = filesystem.as_str();
        let request = NewVolume { capacity, filesystem: Some(filesystem), ..raw(&pool, name) };
        let id = pool.create_volume(&request)?.id;
        let device = host.attach(&pool.image(&id)?, false)?;
        let target = ground.mount_point()?;
        let request = MountRequest {
            device: &device.path,
            target: &target,
            filesystem,
            read_only: false,
            options: &[],
        };
        let mounted = host.mount(&request);
        let seen = host.mounts()?.into_iter().find(|m| m.target == target);
        host.unmount(&target)?;
        host.detach(&device.path)?;
        mounted?;
        ensure!(seen.is_some_and(|m| m.kind == name && m.device == device.device), "{name} is not seen");
    }
    Ok(())
}

pub(super) fn impossible_capacities_are_refused(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let ask = |capacity, filesystem| {
        pool.create_volume(&NewVolume { capacity, filesystem, ..raw(&pool, "volume") })
    };
    let before = left(ground, &pool)?;
    refused(ask(Bytes(0), None), Code::OutOfRange, "at least 1 MiB")?;
    refused(ask(Bytes::mib(299), Some(Filesystem::Xfs)), Code::OutOfRange, "at least 300 MiB")?;
    refused(ask(Bytes::gib(1 << 20), None), Code::Exhausted, "the size of the pool")?;
    refused(ask(Bytes(u64::MAX), None), Code::Exhausted, "the size of the pool")?;
    ensure!(left(ground, &pool)? == before, "a refusal left something behind");
    ensure!(pool.volumes().is_empty());
    // Odd sizes are told as they were asked for; the device is never smaller.
    let odd = ask(Bytes(SMALL.0 + 1), None)?;
    ensure!(odd.capacity == Bytes(SMALL.0 + 1));
    let device = ground.host().attach(&pool.image(&odd.id)?, true)?;
    ground.host().detach(&device.path)?;
    ensure!(device.size >= odd.capacity, "{device:?}");
    Ok(())
}

pub(super) fn a_volume_grows_with_its_devices_and_never_shrinks(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 3)?;
    let image = pool.image(&id)?;
    let device = host.attach(&image, false)?;
    let grown = pool.expand_volume(&id, Bytes::mib(16))?;
    let again = pool.expand_volume(&id, Bytes::mib(16))?;
    let smaller = pool.expand_volume(&id, Bytes::mib(12))?;
    let attached = host.attached(&image)?;
    host.detach(&device.path)?;
    ensure!(grown.capacity == Bytes::mib(16) && again == grown && smaller == grown);
    ensure!(attached.len() == 1 && attached.iter().all(|d| d.size == Bytes::mib(16)), "{attached:?}");

    let (pool, _) = reopen(ground, pool)?;
    ensure!(pool.volume(&id)? == grown);
    super::expect_content(ground, &image, 3)?;
    refused(pool.expand_volume(&id, Bytes::gib(1 << 20)), Code::Exhausted, "the size of the pool")?;
    let unknown = VolumeId::new(pool.id().clone(), "unknown", Incarnation(1));
    refused(pool.expand_volume(&unknown, SMALL), Code::NotFound, "does not exist")
}

pub(super) fn an_attached_volume_is_not_deleted(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let device = host.attach(&pool.image(&id)?, false)?;
    let refusal = pool.delete_volume(&id);
    host.detach(&device.path)?;
    refused(refusal, Code::Precondition, &device.path.display().to_string())?;
    pool.delete_volume(&id)?;
    Ok(())
}

pub(super) fn deleting_is_idempotent_and_only_for_own_ids(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let empty = left(ground, &pool)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let (record, _) = cut(&pool, "cut", [id.clone()])?;
    pool.delete_volume(&id)?;
    pool.delete_volume(&id)?;
    pool.delete_cut(&record.id)?;
    pool.delete_cut(&record.id)?;
    pool.void_cut(&record.id)?;
    refused(pool.volume(&id), Code::NotFound, "does not exist")?;
    ensure!(left(ground, &pool)? == empty, "something was left: {:?}", left(ground, &pool)?);

    let elsewhere = VolumeId::new(PoolId::from_random([0xee; 6]), "volume", Incarnation(1));
    refused(pool.delete_volume(&elsewhere), Code::NotFound, "does not live on pool")?;
    // The name is free again.
    volume_with(ground, &pool, "volume", 2)?;
    Ok(())
}

pub(super) fn a_volume_made_again_under_its_name_is_another_one(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let first = volume_with(ground, &pool, "volume", 1)?;
    let second =
        NewVolume { id: VolumeId { birth: Incarnation(2), ..first.clone() }, ..raw(&pool, "volume") };
    // While it exists, whoever asks for its name gets it.
    ensure!(pool.create_volume(&second)?.id == first);
    pool.delete_volume(&second.id)?;
    super::expect_content(ground, &pool.image(&first)?, 1)?;

    pool.delete_volume(&first)?;
    ensure!(pool.create_volume(&second)?.id == second.id);
    write(ground, &pool.image(&second.id)?, 2)?;
    // Whoever still means the first one changes nothing.
    pool.delete_volume(&first)?;
    refused(pool.volume(&first), Code::NotFound, "does not exist")?;
    refused(pool.expand_volume(&first, Bytes::mib(16)), Code::NotFound, "does not exist")?;
    let clone = copy_of(&pool, "clone", Source::Volume(first.clone()));
    refused(pool.create_volume(&clone), Code::NotFound, "does not exist")?;
    let (pool, _) = reopen(ground, pool)?;
    ensure!(pool.find_volume_by_hash(&first.hash).map(|found| found.id) == Some(second.id.clone()));
    super::expect_content(ground, &pool.image(&second.id)?, 2)
}
