//! The images that every cluster has: pause, busybox, the sidecars, and Stillpoint itself.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Image;
use super::oci::{Start, pack};
use super::rootfs::Rootfs;
use crate::cluster::{Layout, tools};

/// What keeps a pod's network: a program that sleeps.
pub const PAUSE: &str = "pause:stillpoint";
/// A shell for tests.
pub const BUSYBOX: &str = "busybox:stillpoint";
/// Stillpoint: both binaries and what they run.
pub const STILLPOINT: &str = "stillpoint:dev";

/// What Stillpoint runs on a node, and what helps to look around there.
const NODE_PROGRAMS: &[&str] = &[
    "mkfs.btrfs",
    "btrfs",
    "mkfs.xfs",
    "xfs_growfs",
    "xfs_io",
    "xfs_db",
    "xfs_repair",
    "mkfs.ext4",
    "resize2fs",
    "e2fsck",
    "tune2fs",
    "mount",
    "umount",
    "losetup",
    "blkid",
    "findmnt",
    "lsblk",
    "blockdev",
    "fsfreeze",
    "nsenter",
];

/// Packs pause, busybox and the sidecars unless they are there.
pub fn stock(layout: &Layout) -> Result<Vec<Image>> {
    let into = layout.cache("images")?;
    let busybox = layout.debian().join("bin/busybox");
    let mut images = vec![
        from_busybox(PAUSE, &busybox, &["/bin/busybox", "sleep", "2147483647"], &into)?,
        from_busybox(BUSYBOX, &busybox, &["/bin/sh"], &into)?,
    ];
    for (name, version) in tools::sidecars() {
        images.push(sidecar(&format!("{name}:{version}"), name, &layout.tool(name), &into)?);
    }
    Ok(images)
}

/// Packs what pods of the external-storage suite run, under the names that `name_of` gives: a shell, agnhost with a shell
/// beside it, and the image of nginx, in which the suite runs a shell only.
pub fn suite(layout: &Layout, name_of: impl Fn(&str) -> Result<String>) -> Result<[Image; 3]> {
    let into = layout.cache("images")?;
    let busybox = layout.debian().join("bin/busybox");
    let rootfs = Rootfs::new(into.join("agnhost.root"))?;
    rootfs.busybox(&busybox)?;
    rootfs.file(&layout.tool("agnhost"), "agnhost")?;
    let start = Start { entrypoint: vec!["/agnhost".into()], ..Start::default() };
    Ok([
        from_busybox(&name_of("busybox")?, &busybox, &["/bin/sh"], &into)?,
        from_busybox(&name_of("nginx")?, &busybox, &["/bin/sh"], &into)?,
        finish(&name_of("agnhost")?, &rootfs, &start, &into)?,
    ])
}

/// Packs Stillpoint from the binaries in a directory.
pub fn stillpoint(layout: &Layout, binaries: &Path) -> Result<Image> {
    let into = layout.directory("images")?;
    let rootfs = Rootfs::new(into.join("stillpoint.root"))?;
    for name in ["stillpoint", "stillpoint-guard"] {
        let binary = binaries.join(name);
        ensure!(binary.is_file(), "{} is not built; run: cargo build --workspace --bins", binary.display());
        rootfs.file(&binary, &format!("usr/bin/{name}"))?;
        rootfs.libraries(&binary)?;
    }
    for program in NODE_PROGRAMS {
        rootfs.program(program)?;
    }
    rootfs.busybox(&layout.debian().join("bin/busybox"))?;
    let environment = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()];
    let start = Start { entrypoint: vec!["/usr/bin/stillpoint".into()], environment, user: String::new() };
    finish(STILLPOINT, &rootfs, &start, &into)
}

fn from_busybox(name: &str, busybox: &Path, entrypoint: &[&str], into: &Path) -> Result<Image> {
    let rootfs = Rootfs::new(into.join(format!("{}.root", name.replace([':', '/'], "_"))))?;
    rootfs.busybox(busybox)?;
    let start =
        Start { entrypoint: entrypoint.iter().map(ToString::to_string).collect(), ..Start::default() };
    finish(name, &rootfs, &start, into)
}

/// As upstream's: one static program in the root directory, which is also the entry point.
fn sidecar(name: &str, program: &str, binary: &Path, into: &Path) -> Result<Image> {
    let rootfs = Rootfs::new(into.join(format!("{program}.root")))?;
    rootfs.file(binary, program)?;
    let start = Start { entrypoint: vec![format!("/{program}")], ..Start::default() };
    finish(name, &rootfs, &start, into)
}

fn finish(name: &str, rootfs: &Rootfs, start: &Start, into: &Path) -> Result<Image> {
    let image = pack(name, rootfs.path(), start, into)?;
    fs::remove_dir_all(rootfs.path())?;
    Ok(image)
}
