//! Volumes in use on one host, on the real kernel: a btrfs pool, real loop devices, real XFS and ext4. The agent is
//! started anew before every call, because what it knows must come from the kernel.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use stillpoint::agent::locks::VolumeLocks;
use stillpoint::agent::pool::Pool;
use stillpoint::agent::volumes::{Catalogue, NodeVolumes, VolumeImage};
use stillpoint::domain::node::{Access, GrowRequest, PublishRequest, StageRequest, Usage};
use stillpoint::domain::record::Source;
use stillpoint::domain::{Bytes, Code, Fault, Filesystem, Incarnation, NewVolume, VolumeId};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Freezing, Loops};
use stillpoint_tests::harness::bench::{Bench, PATIENCE, VOLUME, command, needs_root, until, writable};
use stillpoint_tests::harness::{RunDir, skip};

struct OnePool(Arc<Pool>);

impl Catalogue for OnePool {
    fn image(&self, volume: &VolumeId) -> Result<VolumeImage, Fault> {
        let record = self.0.volume(volume)?;
        Ok(VolumeImage {
            path: self.0.image(volume)?,
            capacity: record.capacity,
            filesystem: record.filesystem,
        })
    }
}

/// One host and a directory for its orchestrator; taken apart in the order of its fields.
struct Stage {
    bench: Bench,
    staging: PathBuf,
    target: PathBuf,
    run: RunDir,
}

impl Stage {
    fn new(label: &str) -> Result<Option<Self>> {
        if !needs_root(label) {
            return Ok(None);
        }
        let run = RunDir::new(label)?;
        let kubelet = run.directory("kubelet")?;
        let bench = Bench::new(&run, "a", 0)?;
        Ok(Some(Self { bench, staging: kubelet.join("staging"), target: kubelet.join("target"), run }))
    }

    /// An agent that has just been started.
    fn node(&self) -> NodeVolumes {
        let catalogue = Arc::new(OnePool(Arc::clone(&self.bench.pool)));
        NodeVolumes::new(Arc::new(LinuxHost), catalogue, VolumeLocks::default())
    }

    fn volume(&self, name: &str, filesystem: Option<Filesystem>) -> Result<VolumeId> {
        self.volume_from(name, filesystem, VOLUME, None)
    }

    fn volume_from(
        &self,
        name: &str,
        filesystem: Option<Filesystem>,
        capacity: Bytes,
        source: Option<Source>,
    ) -> Result<VolumeId> {
        let id = VolumeId::new(self.bench.pool.id().clone(), name, Incarnation(1));
        self.bench.pool.create_volume(&NewVolume {
            id: id.clone(),
            name: name.into(),
            capacity,
            filesystem,
            source,
        })?;
        Ok(id)
    }

    fn stage(&self, volume: &VolumeId, access: Access) -> StageRequest {
        StageRequest { volume: volume.clone(), target: self.staging.clone(), access, read_only: false }
    }

    fn publish(&self, volume: &VolumeId, access: Access) -> PublishRequest {
        PublishRequest {
            volume: volume.clone(),
            staging: self.staging.clone(),
            target: self.target.clone(),
            access,
            read_only: false,
            single_writer: false,
        }
    }

    fn devices(&self, volume: &VolumeId) -> Result<usize> {
        Ok(LinuxHost.attached(&self.bench.pool.image(volume)?)?.len())
    }

    /// Gives a volume back and deletes it: nothing may be left of it.
    fn end(&self, volume: &VolumeId) -> Result<()> {
        for _ in 0..2 {
            self.node().unpublish(volume, &self.target)?;
            self.node().unstage(volume, &self.staging)?;
        }
        ensure!(!self.target.exists(), "the target is left");
        ensure!(self.devices(volume)? == 0, "a device is left");
        self.bench.pool.delete_volume(volume)?;
        Ok(())
    }

    fn total(&self, volume: &VolumeId) -> Result<Bytes> {
        match self.node().stats(volume, &self.staging)? {
            Usage::Filesystem { total, inodes, inodes_free, available } => {
                ensure!(available < total && inodes_free < inodes, "nothing is in use?");
                Ok(total)
            }
            Usage::Device { total } => Ok(total),
        }
    }
}

fn may_resize_ext4() -> Result<bool> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    Ok(u64::from_str_radix(mask.trim(), 16)? >> CAP_SYS_RESOURCE & 1 == 1)
}

fn can_write(path: &Path) -> bool {
    OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"x")).is_ok()
}

#[test]
fn filesystems_are_staged_published_and_given_back_by_agents_that_remember_nothing() -> Result<()> {
    let Some(stage) = Stage::new("node-filesystems")? else { return Ok(()) };
    for filesystem in [Filesystem::Xfs, Filesystem::Ext4] {
        let volume = stage.volume(filesystem.as_str(), Some(filesystem))?;
        let access = Access::Mount { filesystem: Some(filesystem), options: vec![] };
        for _ in 0..2 {
            stage.node().stage(&stage.stage(&volume, access.clone()))?;
        }
        for _ in 0..2 {
            stage.node().publish(&stage.publish(&volume, access.clone()))?;
        }
        fs::write(stage.target.join("file"), "content")?;
        let reader = PublishRequest {
            target: stage.target.with_file_name("reader"),
            read_only: true,
            ..stage.publish(&volume, access.clone())
        };
        stage.node().publish(&reader)?;
        ensure!(fs::read_to_string(reader.target.join("file"))? == "content");
        ensure!(!can_write(&reader.target.join("file")), "a reader writes");
        let single = PublishRequest {
            target: stage.target.with_file_name("second"),
            single_writer: true,
            ..stage.publish(&volume, access)
        };
        let fault = stage.node().publish(&single).expect_err("two consumers");
        ensure!(fault.code == Code::Precondition && !single.target.exists(), "{fault}");
        let fault = stage.node().unstage(&volume, &stage.staging).expect_err("it is published");
        ensure!(fault.code == Code::Precondition, "{fault}");
        stage.node().unpublish(&volume, &reader.target)?;
        stage.end(&volume)?;
    }
    Ok(())
}

#[test]
fn a_raw_device_is_written_by_its_writer_and_read_by_its_readers() -> Result<()> {
    let Some(stage) = Stage::new("node-device")? else { return Ok(()) };
    let volume = stage.volume("raw", None)?;
    for _ in 0..2 {
        stage.node().stage(&stage.stage(&volume, Access::Block))?;
        stage.node().publish(&stage.publish(&volume, Access::Block))?;
    }
    ensure!(fs::metadata(&stage.target)?.file_type().is_block_device());
    ensure!(stage.total(&volume)? == VOLUME);
    ensure!(can_write(&stage.target), "a writer writes");
    let reader = PublishRequest {
        target: stage.target.with_file_name("reader"),
        read_only: true,
        ..stage.publish(&volume, Access::Block)
    };
    for _ in 0..2 {
        stage.node().publish(&reader)?;
    }
    ensure!(stage.devices(&volume)? == 2);
    ensure!(!can_write(&reader.target), "a reader writes");
    stage.bench.pool.expand_volume(&volume, Bytes::mib(500))?;
    let grow = GrowRequest {
        volume: volume.clone(),
        path: stage.target.clone(),
        capacity: Some(Bytes::mib(500)),
        access: None,
    };
    ensure!(stage.node().grow(&grow)? == Bytes::mib(500));
    ensure!(stage.total(&volume)? == Bytes::mib(500));
    stage.node().unpublish(&volume, &reader.target)?;
    ensure!(stage.devices(&volume)? == 1, "the reader's device goes with it, the writer's stays");
    stage.end(&volume)
}

#[test]
fn filesystems_grow_while_they_are_mounted_and_when_they_are_restored_into_a_larger_volume() -> Result<()> {
    let Some(stage) = Stage::new("node-grow")? else { return Ok(()) };
    for filesystem in [Filesystem::Xfs, Filesystem::Ext4] {
        if filesystem == Filesystem::Ext4 && !may_resize_ext4()? {
            skip("node-grow ext4", "ext4 grows while it is mounted only with CAP_SYS_RESOURCE");
            continue;
        }
        let name = filesystem.as_str();
        let volume = stage.volume(name, Some(filesystem))?;
        stage.node().stage(&stage.stage(&volume, Access::mount()))?;
        fs::write(stage.staging.join("file"), "content")?;
        let before = stage.total(&volume)?;
        stage.bench.pool.expand_volume(&volume, Bytes::mib(600))?;
        let grow = GrowRequest {
            volume: volume.clone(),
            path: stage.staging.clone(),
            capacity: None,
            access: Some(Access::mount()),
        };
        for _ in 0..2 {
            ensure!(stage.node().grow(&grow)? == Bytes::mib(600));
        }
        let grown = stage.total(&volume)?;
        ensure!(grown.0 >= before.0 + Bytes::mib(150).0, "{name}: {before} grew to {grown}");

        let source = Some(Source::Volume(volume.clone()));
        let copy = stage.volume_from(&format!("{name}-copy"), Some(filesystem), Bytes::gib(1), source)?;
        // Next to its original, which has the same UUID.
        let beside = stage.staging.with_file_name("copy");
        stage
            .node()
            .stage(&StageRequest { target: beside.clone(), ..stage.stage(&copy, Access::mount()) })?;
        ensure!(fs::read_to_string(beside.join("file"))? == "content");
        let Usage::Filesystem { total, .. } = stage.node().stats(&copy, &beside)? else {
            anyhow::bail!("a mount is measured as a filesystem");
        };
        ensure!(total.0 > Bytes::mib(850).0, "{name}: the copy has {total}");
        stage.node().unstage(&copy, &beside)?;
        ensure!(stage.devices(&copy)? == 0);
        stage.end(&volume)?;
    }
    Ok(())
}

#[test]
fn a_read_only_volume_cannot_be_written_and_its_log_is_replayed() -> Result<()> {
    let Some(stage) = Stage::new("node-read-only")? else { return Ok(()) };
    for filesystem in [Filesystem::Xfs, Filesystem::Ext4] {
        let name = filesystem.as_str();
        let volume = stage.volume(name, Some(filesystem))?;
        stage.node().stage(&stage.stage(&volume, Access::mount()))?;
        fs::write(stage.staging.join("file"), "content")?;
        // A copy of a mounted volume has a log to replay.
        let source = Some(Source::Volume(volume.clone()));
        let copy = stage.volume_from(&format!("{name}-copy"), Some(filesystem), VOLUME, source)?;
        let beside = stage.staging.with_file_name("copy");
        let request =
            StageRequest { target: beside.clone(), read_only: true, ..stage.stage(&copy, Access::mount()) };
        for _ in 0..2 {
            stage.node().stage(&request)?;
        }
        ensure!(fs::read_to_string(beside.join("file"))? == "content");
        ensure!(!can_write(&beside.join("file")), "a read-only volume is written");
        let writable = StageRequest { read_only: false, ..request };
        ensure!(stage.node().stage(&writable).is_err_and(|fault| fault.code == Code::AlreadyExists));
        stage.node().unstage(&copy, &beside)?;
        stage.end(&volume)?;
    }
    Ok(())
}

#[test]
fn the_kernel_lets_a_device_go_with_the_last_mount_even_when_no_agent_is_there() -> Result<()> {
    let Some(stage) = Stage::new("node-autoclear")? else { return Ok(()) };
    let volume = stage.volume("data", Some(Filesystem::Xfs))?;
    stage.node().stage(&stage.stage(&volume, Access::mount()))?;
    stage.node().publish(&stage.publish(&volume, Access::mount()))?;
    for mount in [&stage.target, &stage.staging] {
        ensure!(stage.devices(&volume)? == 1);
        command("umount", &[mount.as_os_str()])?;
    }
    until("the device's end", || stage.devices(&volume).is_ok_and(|devices| devices == 0))?;
    // And the next agent begins from there.
    stage.node().stage(&stage.stage(&volume, Access::mount()))?;
    stage.end(&volume)
}

#[test]
fn a_frozen_filesystem_is_thawed_by_the_next_agent_and_before_it_is_unmounted() -> Result<()> {
    let Some(stage) = Stage::new("node-frozen")? else { return Ok(()) };
    let volume = stage.volume("data", Some(Filesystem::Xfs))?;
    stage.node().stage(&stage.stage(&volume, Access::mount()))?;
    let _dead_man = DeadMan::of(&stage.staging)?;
    LinuxHost.open_mount(&stage.staging)?.freeze()?;
    let image = stage.bench.pool.image(&volume)?;
    ensure!(stage.node().thaw_leftover(&volume, &image)?, "it was frozen");
    ensure!(!stage.node().thaw_leftover(&volume, &image)?, "it is not any more");
    ensure!(writable(&stage.staging, PATIENCE)?);
    LinuxHost.open_mount(&stage.staging)?.freeze()?;
    stage.end(&volume).context("given back while frozen")
}

#[test]
fn a_path_through_a_symbolic_link_is_refused_and_leaves_nothing() -> Result<()> {
    let Some(stage) = Stage::new("node-symlink")? else { return Ok(()) };
    let volume = stage.volume("data", Some(Filesystem::Xfs))?;
    let real = stage.run.directory("real")?;
    let link = stage.staging.with_file_name("link");
    std::os::unix::fs::symlink(&real, &link)?;
    let request = StageRequest { target: link.join("staging"), ..stage.stage(&volume, Access::mount()) };
    let fault = stage.node().stage(&request).expect_err("its mount cannot be found again");
    ensure!(fault.code == Code::Precondition && fault.message.contains("symbolic link"), "{fault}");
    until("the device's end", || stage.devices(&volume).is_ok_and(|devices| devices == 0))?;
    stage.end(&volume)
}

/// Thaws after a while whatever becomes of this process.
struct DeadMan(std::process::Child);

impl DeadMan {
    fn of(mount: &Path) -> Result<Self> {
        let script = "sleep 15; fsfreeze -u \"$0\" 2>/dev/null";
        let child = std::process::Command::new("sh").args(["-c", script]).arg(mount).spawn()?;
        Ok(Self(child))
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
