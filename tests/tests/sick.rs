//! Volumes that are ill, on the real kernel: what becomes of them concerns neither the agent nor their neighbours.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint::agent::local::LocalHost;
use stillpoint::agent::locks::VolumeLocks;
use stillpoint::agent::pools::Pools;
use stillpoint::agent::volumes::NodeVolumes;
use stillpoint::domain::health::Condition;
use stillpoint::domain::node::{Access, GrowRequest, PublishRequest, StageRequest};
use stillpoint::domain::{Bytes, Code, Fault, Filesystem, Incarnation, NewVolume, VolumeId};
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Host, Loops, Mounts};
use stillpoint_tests::harness::RunDir;
use stillpoint_tests::harness::bench::{Bench, PATIENCE, VOLUME, command, needs_root};

/// One host and a directory for its orchestrator; taken apart in the order of its fields.
struct Ward {
    bench: Bench,
    kubelet: PathBuf,
    _run: RunDir,
}

impl Ward {
    fn new(label: &str) -> Result<Option<Self>> {
        if !needs_root(label) {
            return Ok(None);
        }
        let run = RunDir::new(label)?;
        let kubelet = run.directory("kubelet")?;
        let bench = Bench::new(&run, "a", 0)?;
        Ok(Some(Self { bench, kubelet, _run: run }))
    }

    /// An agent that has just been started.
    fn agent(&self) -> Result<(LocalHost, Arc<NodeVolumes>)> {
        let host: Arc<dyn Host> = Arc::new(LinuxHost);
        let (pools, locks) = (Pools::of([Arc::clone(&self.bench.pool)]), VolumeLocks::default());
        let node = Arc::new(NodeVolumes::new(Arc::clone(&host), Arc::new(pools.clone()), locks.clone()));
        Ok((LocalHost::new("a".parse()?, host, pools, locks, Arc::clone(&node)), node))
    }

    fn node(&self) -> Result<Arc<NodeVolumes>> {
        Ok(self.agent()?.1)
    }

    fn volume(&self, name: &str, filesystem: Option<Filesystem>) -> Result<VolumeId> {
        let id = VolumeId::new(self.bench.pool.id().clone(), name, Incarnation(1));
        let new = NewVolume { id: id.clone(), name: name.into(), capacity: VOLUME, filesystem, source: None };
        self.bench.pool.create_volume(&new)?;
        Ok(id)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.kubelet.join(name)
    }

    fn stage(&self, volume: &VolumeId, name: &str, access: Access) -> Result<PathBuf> {
        let target = self.at(name);
        let request =
            StageRequest { volume: volume.clone(), target: target.clone(), access, read_only: false };
        self.node()?.stage(&request)?;
        Ok(target)
    }

    fn conditions(&self, volume: &VolumeId) -> Result<Vec<Condition>> {
        let found = self.agent()?.0.volume(volume)?.conditions;
        Ok(found.into_iter().map(|ailment| ailment.condition).collect())
    }

    /// The kernel writes an error down in the background, so it may show a moment later.
    fn until_conditions(&self, volume: &VolumeId, wanted: &[Condition]) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.conditions(volume)?;
            if found == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{volume} has {found:?} instead of {wanted:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn device(&self, volume: &VolumeId) -> Result<PathBuf> {
        let mut devices = LinuxHost.attached(&self.bench.pool.image(volume)?)?;
        ensure!(!devices.is_empty(), "{volume} is not attached");
        Ok(devices.remove(0).path)
    }

    fn end(&self, volume: &VolumeId, name: &str) -> Result<()> {
        self.node()?.unstage(volume, &self.at(name))?;
        ensure!(LinuxHost.attached(&self.bench.pool.image(volume)?)?.is_empty(), "a device is left");
        Ok(self.bench.pool.delete_volume(volume)?)
    }
}

/// Shuts a filesystem down as an error of its disk does.
fn shut_down(mount: &Path) -> Result<()> {
    command("xfs_io", &["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), mount.as_os_str()])
}

fn code_of(error: &anyhow::Error) -> Option<Code> {
    error.downcast_ref::<Fault>().map(|fault| fault.code)
}

fn can_write(directory: &Path) -> bool {
    fs::write(directory.join("probe"), "x").is_ok()
}

#[test]
fn a_volume_that_has_shut_down_stops_neither_its_unstage_nor_the_next_agent_nor_its_neighbours() -> Result<()>
{
    let Some(ward) = Ward::new("sick-shutdown")? else { return Ok(()) };
    let well = ward.volume("well", Some(Filesystem::Xfs))?;
    let beside = ward.stage(&well, "well", Access::mount())?;
    for filesystem in [Filesystem::Xfs, Filesystem::Ext4] {
        let sick = ward.volume(filesystem.as_str(), Some(filesystem))?;
        let target = ward.stage(&sick, "sick", Access::mount())?;
        ensure!(can_write(&target));
        shut_down(&target)?;
        ensure!(!can_write(&target), "{filesystem}: it has not shut down");
        let recovered = ward.agent()?.0.recover();
        ensure!(recovered.failed.is_empty() && recovered.thawed.is_empty(), "{filesystem}: {recovered:?}");
        ensure!(ward.conditions(&sick)? == [Condition::FilesystemShutDown], "{:?}", ward.conditions(&sick)?);
        ensure!(ward.conditions(&well)?.is_empty(), "{:?}", ward.conditions(&well)?);
        let fault = ward.stage(&sick, "sick", Access::mount()).expect_err("it is dead");
        ensure!(fault.to_string().contains("shut itself down"), "{fault}");
        let node = ward.node()?;
        let published = PublishRequest {
            volume: well.clone(),
            staging: beside.clone(),
            target: ward.at("pod"),
            access: Access::mount(),
            read_only: false,
            single_writer: false,
        };
        node.publish(&published)?;
        node.unpublish(&well, &published.target)?;
        ensure!(can_write(&beside), "{filesystem}: the neighbour");
        node.unstage(&sick, &target)?;
        // What a shutdown leaves is recovered when it is mounted anew.
        ward.stage(&sick, "sick", Access::mount())?;
        ensure!(can_write(&target) && ward.conditions(&sick)?.is_empty(), "{filesystem}: it is well again");
        ward.end(&sick, "sick")?;
    }
    ward.end(&well, "well")
}

#[test]
fn an_ext4_that_has_recorded_errors_or_aborted_its_journal_is_told_of() -> Result<()> {
    let Some(ward) = Ward::new("sick-ext4")? else { return Ok(()) };
    let volume = ward.volume("data", Some(Filesystem::Ext4))?;
    for (option, condition) in [
        ("errors=continue", Condition::FilesystemErrors),
        ("errors=remount-ro", Condition::FilesystemReadOnly),
    ] {
        let access = Access::Mount { filesystem: None, options: vec![option.into()] };
        let target = ward.stage(&volume, "sick", access)?;
        ensure!(ward.conditions(&volume)?.is_empty(), "{:?}", ward.conditions(&volume)?);
        let device = ward.device(&volume)?;
        let name = device.file_name().context("a device has a name")?;
        fs::write(Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error"), "a test")?;
        ward.until_conditions(&volume, &[condition]).context(option)?;
        ward.node()?.unstage(&volume, &target)?;
    }
    // A check before the mount has repaired what was recorded.
    ward.stage(&volume, "sick", Access::mount())?;
    ensure!(ward.conditions(&volume)?.is_empty(), "{:?}", ward.conditions(&volume)?);
    ward.end(&volume, "sick")
}

#[test]
fn an_ext4_that_is_damaged_is_not_mounted_and_the_message_says_what_to_do() -> Result<()> {
    let Some(ward) = Ward::new("sick-fsck")? else { return Ok(()) };
    let volume = ward.volume("data", Some(Filesystem::Ext4))?;
    let target = ward.stage(&volume, "sick", Access::mount())?;
    for file in 0..100 {
        fs::write(target.join(file.to_string()), "content")?;
    }
    ward.node()?.unstage(&volume, &target)?;
    let image = ward.bench.pool.image(&volume)?;
    // The root directory loses its inode: nothing that `e2fsck -p` decides by itself.
    command("debugfs", &["-w".as_ref(), "-R".as_ref(), "clri <2>".as_ref(), image.as_os_str()])?;
    command("tune2fs", &["-E".as_ref(), "force_fsck".as_ref(), image.as_os_str()])?;
    let request = StageRequest {
        volume: volume.clone(),
        target: target.clone(),
        access: Access::mount(),
        read_only: false,
    };
    let (local, node) = ward.agent()?;
    let fault = node.stage(&request).expect_err("it has errors");
    ensure!(fault.code == Code::Precondition && fault.message.contains("e2fsck -f"), "{fault}");
    let conditions = local.volume(&volume)?.conditions;
    ensure!(conditions.iter().any(|one| one.condition == Condition::FilesystemDamaged), "{conditions:?}");
    ensure!(LinuxHost.attached(&image)?.is_empty(), "it is attached");
    // A person looks at it.
    let repaired = std::process::Command::new("e2fsck").args(["-f", "-y"]).arg(&image).output()?;
    ensure!(repaired.status.code().is_some_and(|code| code < 4), "{repaired:?}");
    node.stage(&request)?;
    ensure!(local.volume(&volume)?.conditions.is_empty());
    ward.end(&volume, "sick")
}

#[test]
fn an_ext4_grows_before_it_is_mounted_where_it_cannot_be_grown_later() -> Result<()> {
    let Some(ward) = Ward::new("sick-grow")? else { return Ok(()) };
    let volume = ward.volume("data", Some(Filesystem::Ext4))?;
    let target = ward.stage(&volume, "grown", Access::mount())?;
    fs::write(target.join("file"), "content")?;
    ward.bench.pool.expand_volume(&volume, Bytes::mib(600))?;
    if !LinuxHost.grows_mounted(Filesystem::Ext4) {
        let grow = GrowRequest { volume: volume.clone(), path: target.clone(), capacity: None, access: None };
        let fault = ward.node()?.grow(&grow).expect_err("no capability");
        ensure!(fault.message.contains("CAP_SYS_RESOURCE"), "{fault}");
        ensure!(ward.conditions(&volume)? == [Condition::FilesystemNotGrown]);
    }
    ward.node()?.unstage(&volume, &target)?;
    ward.stage(&volume, "grown", Access::mount())?;
    ensure!(fs::read_to_string(target.join("file"))? == "content");
    ensure!(ward.conditions(&volume)?.is_empty(), "{:?}", ward.conditions(&volume)?);
    let device = ward.device(&volume)?;
    let size = LinuxHost.filesystem_size(&target, &device, Filesystem::Ext4)?;
    ensure!(Bytes::mib(600).saturating_sub(size) < Filesystem::Ext4.growth_slack(), "it has {size}");
    ward.end(&volume, "grown")
}

#[test]
fn a_device_node_in_a_volume_leads_nowhere_and_pins_no_other_volume() -> Result<()> {
    let Some(ward) = Ward::new("sick-node")? else { return Ok(()) };
    let (own, victim) = (ward.volume("own", Some(Filesystem::Xfs))?, ward.volume("victim", None)?);
    let target = ward.stage(&own, "own", Access::mount())?;
    let staging = ward.stage(&victim, "victim", Access::Block)?;
    let device = ward.device(&victim)?;
    let name = device.file_name().context("a device has a name")?;
    let minor = name.to_string_lossy().trim_start_matches("loop").to_owned();
    let node = target.join(name);
    command("mknod", &[node.as_os_str(), "b".as_ref(), "7".as_ref(), minor.as_ref()])?;
    ensure!(fs::metadata(&node)?.file_type().is_block_device());
    let error = File::open(&node).expect_err("volumes are mounted nodev");
    ensure!(error.kind() == std::io::ErrorKind::PermissionDenied, "{error}");
    let bound = ward.at("bound");
    File::create(&bound)?;
    command("mount", &["--bind".as_ref(), node.as_os_str(), bound.as_os_str()])?;
    let ended = ward.node()?.unstage(&victim, &staging);
    command("umount", &[bound.as_os_str()])?;
    ended?;
    ensure!(LinuxHost.attached(&ward.bench.pool.image(&victim)?)?.is_empty(), "the victim is pinned");
    ward.bench.pool.delete_volume(&victim)?;
    ward.end(&own, "own")
}

#[test]
fn writes_of_a_device_are_not_believed_while_the_kernel_does_not_count_them() -> Result<()> {
    let Some(ward) = Ward::new("sick-iostats")? else { return Ok(()) };
    let volume = ward.volume("raw", None)?;
    ward.stage(&volume, "raw", Access::Block)?;
    let device = ward.device(&volume)?;
    let name = device.file_name().context("a device has a name")?;
    let switch = Path::new("/sys/block").join(name).join("queue/iostats");
    fs::write(&switch, "0")?;
    let before = LinuxHost.writes(&device);
    OpenOptions::new().write(true).open(&device)?.write_all_at(&[7; 4096], 0)?;
    let after = LinuxHost.writes(&device);
    ensure!(before.is_err() && after.is_err(), "a count that stands still is taken for a proof");
    LinuxHost.count_writes(&device)?;
    ensure!(fs::read_to_string(&switch)?.trim() == "1");
    let before = LinuxHost.writes(&device)?;
    let file = OpenOptions::new().write(true).open(&device)?;
    file.write_all_at(&[8; 4096], 0)?;
    file.sync_all()?;
    ensure!(LinuxHost.writes(&device)? != before, "a write does not show");
    drop(file);
    ward.end(&volume, "raw")
}

#[test]
fn a_mount_option_or_a_feature_that_the_kernel_does_not_take_is_named() -> Result<()> {
    let Some(ward) = Ward::new("sick-options")? else { return Ok(()) };
    let volume = ward.volume("data", Some(Filesystem::Xfs))?;
    let with = |options: &[&str]| Access::Mount {
        filesystem: None,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let fault = ward.stage(&volume, "data", with(&["nofail", "logbufs=99999999999"])).expect_err("no number");
    ensure!(code_of(&fault) == Some(Code::Invalid), "{fault}");
    ensure!(fault.to_string().contains("logbufs=99999999999"), "{fault}");
    let target = ward.stage(&volume, "data", with(&["_netdev", "nosuid", "x-test", "relatime"]))?;
    let shown = LinuxHost.mounts()?.into_iter().any(|mount| mount.target == target);
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let line = table.lines().find(|line| line.contains(&format!(" {} ", target.display())));
    let line = line.context("it is mounted")?;
    ensure!(shown && ["nosuid", "nodev", "relatime"].iter().all(|option| line.contains(option)), "{line}");
    ward.node()?.unstage(&volume, &target)?;
    // Bit 31 of the incompatible features: no kernel knows it yet.
    let image = ward.bench.pool.image(&volume)?;
    let write = ["-x", "-c", "sb 0", "-c", "write -d features_incompat 0x8000000b"].map(std::ffi::OsStr::new);
    command("xfs_db", &[&write[..], &[image.as_os_str()]].concat())?;
    let fault = ward.stage(&volume, "data", Access::mount()).expect_err("an unknown feature");
    ensure!(code_of(&fault) == Some(Code::Precondition), "{fault}");
    ensure!(fault.to_string().contains("0x80000000"), "{fault}");
    ward.end(&volume, "data")
}
