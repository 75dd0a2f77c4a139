//! Packages of Debian, unpacked into the cache and installed nowhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Layout;
use super::launch::run;
use crate::harness::Step;

/// What the cluster runs pods with, and a file of each by which it is known to be there.
const PACKAGES: &[(&str, &str)] = &[
    ("runc", "usr/sbin/runc"),
    ("containernetworking-plugins", "usr/lib/cni/ptp"),
    ("busybox-static", "bin/busybox"),
];

/// Unpacks what is missing.
pub fn unpack(layout: &Layout) -> Result<()> {
    let root = layout.debian();
    let missing: Vec<_> =
        PACKAGES.iter().filter(|(_, file)| !root.join(file).is_file()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let step = Step::begin(format!("unpacking from Debian: {}", missing.join(" ")));
    let downloads = layout.cache("debian/packages")?;
    if download(&downloads, &missing).is_err() {
        // The list of packages may be older than the packages.
        run(Command::new("apt-get").arg("update")).context("cannot fetch Debian's list of packages")?;
        download(&downloads, &missing)?;
    }
    fs::create_dir_all(&root)?;
    for entry in fs::read_dir(&downloads)? {
        let path = entry?.path();
        run(Command::new("dpkg").arg("-x").arg(&path).arg(&root))?;
        fs::remove_file(path)?;
    }
    step.done();
    Ok(())
}

fn download(into: &Path, packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    run(command.arg("download").args(packages).current_dir(into))
        .context("cannot download packages of Debian")?;
    Ok(())
}
