//! Files and directories of the fake host.

use std::path::{Path, PathBuf};

use super::disk::{Content, Node};
use super::{FakeHost, Lie};
use crate::domain::Bytes;
use crate::host::{DirectoryLock, FileKind, Files, Meta, Result};

impl Files for FakeHost {
    fn stat(&self, path: &Path) -> Result<Option<Meta>> {
        self.call("stat", path, |world| {
            let Some(place) = world.locate(path) else { return Ok(None) };
            world.check_answers(place.device)?;
            let Some(disk) = world.disks.get(&place.device) else { return Ok(None) };
            let Some(inode) = disk.find(&place.path) else { return Ok(None) };
            let meta = |kind, size, allocated, stands_for| Meta {
                kind,
                device: place.device,
                stands_for,
                inode,
                size: Bytes(size),
                allocated: Bytes(allocated),
            };
            Ok(disk.kind_of(inode).map(|node| match node {
                Node::Directory(_) => meta(FileKind::Directory, 0, 0, 0),
                Node::File(content) => meta(FileKind::File, content.size, content.allocated(), 0),
                Node::Device(device) => meta(FileKind::Block, 0, 0, *device),
            }))
        })
    }

    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>> {
        self.call("resolve", path, |world| {
            let followed = world.followed(path);
            let Some(place) = world.locate(&followed) else { return Ok(None) };
            let Some(disk) = world.disks.get(&place.device) else { return Ok(None) };
            Ok(disk.find(&place.path).map(|_| followed))
        })
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.call("read", path, |world| {
            let (disk, path) = world.at(path)?;
            Ok(disk.file(&path)?.bytes.as_ref().clone())
        })
    }

    fn write_synced(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.call("write", path, |world| {
            let lies = world.lies.contains(&Lie::Files);
            let (disk, path) = world.writable(path)?;
            let inode = disk.put_file(&path, Content::of_bytes(content))?;
            if !lies {
                disk.sync(inode);
            }
            Ok(())
        })
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        self.call("mkdir", path, |world| {
            let (disk, path) = world.writable(path)?;
            match disk.node(&path) {
                Some(Node::Directory(_)) => Ok(()),
                _ => disk.insert(&path, Node::directory()).map(drop),
            }
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<(String, FileKind)>> {
        self.call("list", path, |world| {
            let (disk, path) = world.at(path)?;
            let kind = |inode: &u64| match disk.kind_of(*inode) {
                Some(Node::Directory(_)) => FileKind::Directory,
                Some(Node::File(_)) => FileKind::File,
                Some(Node::Device(_)) => FileKind::Block,
                None => FileKind::Other,
            };
            let entries = &disk.directory(&path)?.entries;
            Ok(entries.iter().map(|(name, inode)| (name.clone(), kind(inode))).collect())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.call("rename", from, |world| {
            let (_, target) = world.writable(to)?;
            let target_device = world.locate(to).map(|place| place.device);
            let source_device = world.locate(from).map(|place| place.device);
            if source_device != target_device {
                return Err(libc::EXDEV);
            }
            let (disk, source) = world.writable(from)?;
            disk.rename(&source, &target)
        })
    }

    fn sync_directory(&self, path: &Path) -> Result<()> {
        self.call("fsync", path, |world| {
            let lies = world.lies.contains(&Lie::Directories);
            let (disk, path) = world.at(path)?;
            disk.directory(&path)?;
            if let Some(inode) = disk.find(&path).filter(|_| !lies) {
                disk.sync(inode);
            }
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.call("unlink", path, |world| {
            let (disk, path) = world.writable(path)?;
            match disk.node(&path) {
                None => Ok(()),
                Some(Node::Directory(_)) => Err(libc::EISDIR),
                Some(Node::File(_) | Node::Device(_)) => disk.unlink(&path),
            }
        })
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        self.call("rmdir", path, |world| {
            // ENOTDIR, which counts as gone: the kernel does not follow a link here.
            if world.links.contains_key(path) {
                return Ok(());
            }
            if world.mounts.iter().any(|mount| mount.target == path) {
                return Err(libc::EBUSY);
            }
            let (disk, path) = world.writable(path)?;
            match disk.node(&path) {
                None => Ok(()),
                Some(Node::Directory(directory)) if directory.entries.is_empty() => disk.unlink(&path),
                Some(Node::Directory(_)) => Err(libc::ENOTEMPTY),
                Some(Node::File(_) | Node::Device(_)) => Err(libc::ENOTDIR),
            }
        })
    }

    fn lock_directory(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        self.call("flock", path, |world| {
            let locked: Box<dyn DirectoryLock> = Box::new(Locked);
            Ok((!world.locked.contains(path)).then_some(locked))
        })
    }
}

/// One process has all locks of a fake host, except those that a test has given to another.
#[derive(Debug)]
struct Locked;

impl DirectoryLock for Locked {}
