//! The conformance suite on real btrfs and XFS pools in sparse files.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use stillpoint::backend::BackendKind;
use stillpoint::backend::conformance::{self, Ground};
use stillpoint::domain::Bytes;
use stillpoint::host::linux::LinuxHost;
use stillpoint::host::{Files, Freezing, Host, Images, Loops};
use stillpoint_tests::harness::skip;
use stillpoint_tests::scratch::{Scratch, why_not};

const BLOCK: usize = 4096;

struct RealGround {
    scratch: Scratch,
    kind: BackendKind,
    count: Cell<u32>,
    current: RefCell<Option<PathBuf>>,
}

impl RealGround {
    fn new(test: &str, kind: BackendKind) -> Result<Self> {
        let scratch = Scratch::new(test)?;
        Ok(Self { scratch, kind, count: Cell::new(0), current: RefCell::new(None) })
    }

    fn next(&self, what: &str) -> String {
        self.count.set(self.count.get() + 1);
        format!("{what}-{}", self.count.get())
    }
}

impl Ground for RealGround {
    fn host(&self) -> Arc<dyn Host> {
        Arc::new(LinuxHost)
    }

    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn fresh(&self) -> Result<PathBuf> {
        if let Some(last) = self.current.take() {
            self.scratch.remove_filesystem(&last)?;
        }
        let dir = self.scratch.filesystem(&self.next("pool"), self.kind, Bytes::gib(1))?;
        self.current.replace(Some(dir.clone()));
        Ok(dir)
    }

    fn mount_point(&self) -> Result<PathBuf> {
        self.scratch.directory(&self.next("mount"))
    }

    fn write_block(&self, device: &Path, block: u64, content: u64) -> Result<()> {
        let file = OpenOptions::new().write(true).open(device)?;
        let bytes = content.to_be_bytes().repeat(BLOCK / 8);
        file.write_all_at(&bytes, block * BLOCK as u64)?;
        Ok(file.sync_all()?)
    }

    fn read_block(&self, device: &Path, block: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        File::open(device)?.read_exact_at(&mut bytes, block * BLOCK as u64)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn files_are_in_the_image(&self) -> bool {
        true
    }

    fn set_read_only(&self, dir: &Path, read_only: bool) -> Result<()> {
        self.scratch.remount(dir, read_only)
    }

    fn leave_free(&self, dir: &Path, free: Bytes) -> Result<()> {
        let ballast = File::create(dir.join("snapshots").join(".new-ballast"))?;
        let chunk = vec![0xa5; 1 << 20];
        let mut written = 0;
        // Bounded by the size of the pool, whatever the filesystem says about its space.
        while written < 1 << 30 {
            LinuxHost.sync_filesystem(dir)?;
            let available = LinuxHost.space(dir)?.available;
            // In small steps: btrfs may hand out its last room to metadata in one.
            let more = available.saturating_sub(free).0.div_ceil(chunk.len() as u64).min(8);
            if more == 0 {
                break;
            }
            for _ in 0..more {
                ballast.write_all_at(&chunk, written).context("filling the pool")?;
                written += chunk.len() as u64;
            }
        }
        Ok(())
    }
}

fn conforms(test: &str, kind: BackendKind) {
    if let Some(reason) = why_not(kind) {
        return skip(test, &reason);
    }
    let ground =
        RealGround::new(test, kind).expect("the filesystem can be made, or `why_not` would have said so");
    conformance::run(&ground).expect("the suite passes");
}

#[test]
fn the_btrfs_backend_conforms() {
    conforms("the_btrfs_backend_conforms", BackendKind::Btrfs);
}

#[test]
fn the_xfs_backend_conforms() {
    conforms("the_xfs_backend_conforms", BackendKind::Xfs);
}

/// What the fake host claims about freezing is what the kernel does.
#[test]
fn the_kernel_freezes_as_the_model_says() {
    const TEST: &str = "the_kernel_freezes_as_the_model_says";
    if let Some(reason) = why_not(BackendKind::Xfs) {
        return skip(TEST, &reason);
    }
    let scratch = Scratch::new(TEST).unwrap();
    let dir = scratch.filesystem("volume", BackendKind::Xfs, Bytes::mib(512)).unwrap();
    let handle = LinuxHost.open_mount(&dir).unwrap();
    // Whatever happens to this test, the filesystem is not left frozen.
    let mut belt = std::process::Command::new("sh")
        .args(["-c", "sleep 15; fsfreeze -u \"$0\" 2>/dev/null"])
        .arg(&dir)
        .spawn()
        .unwrap();
    handle.sync().unwrap();
    handle.freeze().unwrap();
    let twice = handle.freeze();
    let from_another = LinuxHost.open_mount(&dir).unwrap().freeze();
    let thawed = handle.thaw();
    let thawed_twice = handle.thaw();
    belt.kill().unwrap();
    belt.wait().unwrap();
    assert_eq!(twice.unwrap_err().errno(), Some(nix::libc::EBUSY));
    assert_eq!(from_another.unwrap_err().errno(), Some(nix::libc::EBUSY));
    thawed.unwrap();
    assert_eq!(thawed_twice.unwrap_err().errno(), Some(nix::libc::EINVAL));
    assert_eq!(handle.device(), LinuxHost.stat(&dir).unwrap().unwrap().device);
    assert!(handle.descriptor().is_some());
}

#[test]
fn a_loop_device_counts_its_writes_and_goes_at_the_detach() {
    const TEST: &str = "a_loop_device_counts_its_writes_and_goes_at_the_detach";
    if let Some(reason) = why_not(BackendKind::Xfs) {
        return skip(TEST, &reason);
    }
    let ground = RealGround::new(TEST, BackendKind::Xfs).unwrap();
    let image = ground.scratch.dir().join("image");
    LinuxHost.create_image(&image, Bytes::mib(8)).unwrap();
    assert!(LinuxHost.create_image(&image, Bytes::mib(8)).is_err(), "an existing image is an error");
    let device = LinuxHost.attach(&image, false).unwrap();
    assert_eq!(LinuxHost.attached(&image).unwrap(), std::slice::from_ref(&device));
    let before = LinuxHost.writes(&device.path).unwrap();
    assert_eq!(LinuxHost.writes(&device.path).unwrap(), before, "nobody wrote");
    ground.write_block(&device.path, 1, 7).unwrap();
    assert_ne!(LinuxHost.writes(&device.path).unwrap(), before, "a write shows");
    LinuxHost.detach(&device.path).unwrap();
    assert!(LinuxHost.attached(&image).unwrap().is_empty());
    LinuxHost.detach(&device.path).unwrap();
    LinuxHost.detach(Path::new("/dev/loop-that-is-not")).unwrap();
}
