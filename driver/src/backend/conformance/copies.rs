//! Clones, snapshots and restores.

use anyhow::{Result, ensure};

use super::{
    Ground, SMALL, copy_of, cut, expect_content, expect_snapshot, left, new_pool, raw, refused, reopen,
    volume_with, write,
};
use crate::agent::pool::NewVolume;
use crate::domain::record::Source;
use crate::domain::{Bytes, Code, Filesystem, SnapshotId, VolumeId};
use crate::host::MountRequest;

pub(super) fn a_clone_and_its_source_do_not_see_each_other(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let source = volume_with(ground, &pool, "source", 1)?;
    let request = copy_of(&pool, "clone", Source::Volume(source.clone()));
    let clone = pool.create_volume(&request)?;
    ensure!(pool.create_volume(&request)? == clone);
    expect_content(ground, &pool.image(&clone.id)?, 1)?;
    write(ground, &pool.image(&source)?, 2)?;
    expect_content(ground, &pool.image(&clone.id)?, 1)?;
    write(ground, &pool.image(&clone.id)?, 3)?;
    expect_content(ground, &pool.image(&source)?, 2)?;

    pool.delete_volume(&source)?;
    let (pool, _) = reopen(ground, pool)?;
    pool.empty_trash(usize::MAX)?;
    ensure!(pool.volume(&clone.id)? == clone, "the clone has a record of its own");
    expect_content(ground, &pool.image(&clone.id)?, 3)
}

pub(super) fn a_snapshot_keeps_what_was_there_at_the_cut(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let (_, first) = cut(&pool, "first", [id.clone()])?;
    write(ground, &pool.image(&id)?, 2)?;
    let (_, second) = cut(&pool, "second", [id.clone()])?;
    write(ground, &pool.image(&id)?, 3)?;
    expect_snapshot(ground, &pool, &first, 1)?;
    expect_snapshot(ground, &pool, &second, 2)?;

    let restore = copy_of(&pool, "restored", Source::Snapshot(first.clone()));
    let restored = pool.create_volume(&restore)?;
    write(ground, &pool.image(&restored.id)?, 4)?;
    expect_snapshot(ground, &pool, &first, 1)?;
    expect_content(ground, &pool.image(&id)?, 3)?;
    ensure!(pool.volume(&restored.id)?.source == restore.source);

    let unknown = SnapshotId { hash: crate::domain::NameHash::of("unknown"), ..first };
    let restore = copy_of(&pool, "other", Source::Snapshot(unknown.clone()));
    refused(pool.create_volume(&restore), Code::NotFound, "does not exist")?;
    refused(pool.snapshot_tree(&unknown), Code::NotFound, "does not exist")
}

pub(super) fn a_restore_may_be_larger_but_not_smaller(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 1)?;
    let (_, snapshot) = cut(&pool, "cut", [id])?;
    let restore = |name: &str, capacity| {
        let request = copy_of(&pool, name, Source::Snapshot(snapshot.clone()));
        pool.create_volume(&NewVolume { capacity, ..request })
    };
    refused(restore("smaller", Bytes::mib(4)), Code::OutOfRange, "at least 8 MiB")?;
    let larger = restore("larger", Bytes::mib(32))?;
    let image = pool.image(&larger.id)?;
    let device = host.attach(&image, true)?;
    host.detach(&device.path)?;
    ensure!(device.size == Bytes::mib(32) && larger.capacity == Bytes::mib(32));
    expect_content(ground, &image, 1)?;
    expect_snapshot(ground, &pool, &snapshot, 1)
}

pub(super) fn a_copy_keeps_its_filesystem(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let ext4 = NewVolume { filesystem: Some(Filesystem::Ext4), ..raw(&pool, "ext4") };
    let source = Source::Volume(pool.create_volume(&ext4)?.id);
    let copy = |name: &str, capacity, filesystem| {
        let request = copy_of(&pool, name, source.clone());
        pool.create_volume(&NewVolume { capacity, filesystem, ..request })
    };
    let refusal = copy("xfs", Bytes::mib(300), Some(Filesystem::Xfs));
    refused(refusal, Code::Invalid, "carries ext4, but xfs was asked for")?;
    ensure!(copy("same", SMALL, Some(Filesystem::Ext4))?.filesystem == Some(Filesystem::Ext4));
    ensure!(copy("raw", SMALL, None)?.filesystem.is_none());

    let raw_source = Source::Volume(pool.create_volume(&raw(&pool, "raw-source"))?.id);
    let request = NewVolume { filesystem: Some(Filesystem::Ext4), ..copy_of(&pool, "formatted", raw_source) };
    refused(pool.create_volume(&request), Code::Invalid, "no filesystem")
}

pub(super) fn a_deleted_volume_leaves_its_snapshots(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let id = volume_with(ground, &pool, "volume", 7)?;
    let (record, snapshot) = cut(&pool, "cut", [id.clone()])?;
    pool.delete_volume(&id)?;
    pool.empty_trash(usize::MAX)?;
    let (pool, report) = reopen(ground, pool)?;
    ensure!(report.broken.is_empty() && report.removed.is_empty(), "{report:?}");
    expect_snapshot(ground, &pool, &snapshot, 7)?;
    let restored = pool.create_volume(&copy_of(&pool, "volume", Source::Snapshot(snapshot)))?;
    expect_content(ground, &pool.image(&restored.id)?, 7)?;
    pool.delete_cut(&record.id)?;
    pool.empty_trash(usize::MAX)?;
    expect_content(ground, &pool.image(&restored.id)?, 7)
}

pub(super) fn a_volume_whose_snapshots_went_first_leaves_nothing(ground: &dyn Ground) -> Result<()> {
    let pool = new_pool(ground)?;
    let before = left(ground, &pool)?;
    let id = volume_with(ground, &pool, "volume", 7)?;
    let (record, _) = cut(&pool, "cut", [id.clone()])?;
    pool.delete_cut(&record.id)?;
    pool.empty_trash(usize::MAX)?;
    pool.delete_volume(&id)?;
    pool.empty_trash(usize::MAX)?;
    ensure!(left(ground, &pool)? == before);
    Ok(())
}

pub(super) fn a_copy_of_a_mounted_volume_has_what_was_written_before(ground: &dyn Ground) -> Result<()> {
    let host = ground.host();
    let pool = new_pool(ground)?;
    let filesystem = Filesystem::Ext4;
    let capacity = Bytes::mib(16);
    let request = NewVolume { filesystem: Some(filesystem), capacity, ..raw(&pool, "source") };
    let id = pool.create_volume(&request)?.id;
    let clone = NewVolume {
        filesystem: Some(filesystem),
        capacity,
        ..copy_of(&pool, "clone", Source::Volume(id.clone()))
    };
    let mount = |id: &VolumeId| -> Result<_> {
        let device = host.attach(&pool.image(id)?, false)?.path;
        let target = ground.mount_point()?;
        let options = [];
        let request = MountRequest {
            device: &device,
            target: &target,
            filesystem,
            read_only: false,
            options: &options,
        };
        host.mount(&request)?;
        Ok((device, target))
    };
    let unmount = |(device, target): (std::path::PathBuf, std::path::PathBuf)| -> Result<()> {
        host.unmount(&target)?;
        Ok(host.detach(&device)?)
    };

    let source = mount(&id)?;
    host.make_directory(&source.1.join("written before the copy"))?;
    let cloned = pool.create_volume(&clone);
    unmount(source)?;
    let copy = mount(&cloned?.id)?;
    let seen = host.stat(&copy.1.join("written before the copy"));
    unmount(copy)?;
    let seen = seen?.is_some();
    ensure!(seen == ground.files_are_in_the_image(), "the copy lacks what was written before");
    Ok(())
}
