//! Puts a root filesystem together from programs of this machine and the libraries they load.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cluster::launch::run;

/// A root filesystem in the making.
#[derive(Debug)]
pub struct Rootfs {
    root: PathBuf,
}

impl Rootfs {
    /// An empty one at `root`; what was there is removed.
    pub fn new(root: PathBuf) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        for directory in [
            "etc",
            "tmp",
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "run",
            "var",
            "proc",
            "sys",
            "dev",
            "root",
        ] {
            fs::create_dir_all(root.join(directory))?;
        }
        // As in Debian: libraries are found under both names.
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )?;
        fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        fs::write(root.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
        Ok(Self { root })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Adds a file under another name.
    pub fn file(&self, from: &Path, to: &str) -> Result<()> {
        let target = self.root.join(to.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, &target).with_context(|| format!("cannot copy {} into an image", from.display()))?;
        Ok(())
    }

    /// Adds a text.
    pub fn text(&self, to: &str, content: &str, mode: u32) -> Result<()> {
        let target = self.root.join(to.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, content)?;
        Ok(fs::set_permissions(&target, fs::Permissions::from_mode(mode))?)
    }

    /// Adds a directory with everything in it, under the same name; links are kept.
    pub fn tree(&self, directory: &Path) -> Result<()> {
        // cp takes the parents' attributes from relative names.
        run(Command::new("cp").args(["-a", "--parents"]).arg(directory).arg(&self.root).current_dir("/"))?;
        Ok(())
    }

    /// Adds a program, found on the path, with what it loads.
    pub fn program(&self, name: &str) -> Result<()> {
        let path = which(name)?;
        self.file(&path, &format!("usr/bin/{name}"))?;
        self.libraries(&path)
    }

    /// Adds what a program or library loads.
    pub fn libraries(&self, of: &Path) -> Result<()> {
        for library in needed(of)? {
            let target = library.strip_prefix("/").context("libraries have absolute paths")?;
            if !self.root.join(target).exists() {
                self.file(&library, &target.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Adds busybox, with its commands except those that are there already.
    pub fn busybox(&self, busybox: &Path) -> Result<()> {
        self.file(busybox, "usr/bin/busybox")?;
        for applet in run(Command::new(busybox).arg("--list"))?.lines() {
            let link = self.root.join("usr/bin").join(applet);
            if !link.exists() && applet != "busybox" {
                symlink("busybox", link)?;
            }
        }
        Ok(())
    }
}

/// A program on the path or among the administrator's.
pub fn which(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    let found = found.with_context(|| format!("{name} is not installed; run: make setup"))?;
    fs::canonicalize(&found).with_context(|| format!("cannot resolve {}", found.display()))
}

/// Libraries that the loader says a file needs; none for a static one or a script.
pub(super) fn needed(file: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(file).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(parse_ldd(&text))
}

fn parse_ldd(text: &str) -> BTreeSet<PathBuf> {
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(|word| PathBuf::from(word.trim_end_matches(':'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        let expected = ["/lib/x/libc.so.6", "/lib64/ld.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), BTreeSet::from(expected));
        assert_eq!(parse_ldd("\tnot a dynamic executable\n"), BTreeSet::new());
    }

    #[test]
    fn a_program_runs_from_its_own_root_filesystem() {
        if !nix::unistd::geteuid().is_root() {
            return crate::harness::skip("rootfs", "chroot needs root");
        }
        let scratch = tempfile::tempdir().unwrap();
        let rootfs = Rootfs::new(scratch.path().join("root")).unwrap();
        rootfs.program("mkfs.btrfs").unwrap();
        let version =
            run(Command::new("chroot").arg(rootfs.path()).args(["/usr/bin/mkfs.btrfs", "--version"]))
                .unwrap();
        assert!(version.contains("btrfs-progs"), "{version}");
    }
}
