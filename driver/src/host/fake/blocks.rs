//! Blocks of images on the fake host.

use std::path::{Path, PathBuf};

use super::FakeHost;
use super::disk::{BLOCK, BLOCK_LENGTH};
use crate::domain::blocks::{Backing, Extent, ExtentPage};
use crate::host::Result;
use crate::host::blocks::{BlockAccess, BlockFile, Blocks};

impl Blocks for FakeHost {
    fn map(&self, image: &Path, from: u64, limit: usize) -> Result<ExtentPage> {
        self.call("FIEMAP", image, |world| {
            let (disk, path) = world.at(image)?;
            let mut blocks = disk.file(&path)?.addresses(from / BLOCK);
            let extent = |(block, address)| Extent {
                logical: block * BLOCK,
                length: BLOCK,
                backing: Backing::At(address),
            };
            let extents: Vec<Extent> = blocks.by_ref().take(limit.max(1)).map(extent).collect();
            let end = extents.last().map_or(u64::MAX, |last| last.logical + last.length);
            Ok(ExtentPage { known_until: if blocks.next().is_some() { end } else { u64::MAX }, extents })
        })
    }

    fn open_blocks(&self, image: &Path, access: BlockAccess) -> Result<Box<dyn BlockFile>> {
        self.call("open", image, |world| {
            let (disk, path) = match access {
                BlockAccess::Read => world.at(image)?,
                BlockAccess::Write => world.writable(image)?,
            };
            disk.file(&path)?;
            Ok(())
        })?;
        Ok(Box::new(FakeFile { host: self.clone(), path: image.to_owned() }))
    }
}

struct FakeFile {
    host: FakeHost,
    path: PathBuf,
}

impl BlockFile for FakeFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.host.call("pread", &self.path, |world| {
            let (disk, path) = world.at(&self.path)?;
            let inode = disk.find(&path).ok_or(libc::ENOENT)?;
            for (block, part) in (offset / BLOCK..).zip(into.chunks_mut(BLOCK_LENGTH)) {
                part.copy_from_slice(&disk.read_bytes(inode, block)[..part.len()]);
            }
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.host.call("pwrite", &self.path, |world| {
            let (disk, path) = world.writable(&self.path)?;
            let inode = disk.find(&path).ok_or(libc::ENOENT)?;
            (offset / BLOCK..)
                .zip(data.chunks(BLOCK_LENGTH))
                .try_for_each(|(block, part)| disk.write_bytes(inode, block, part))
        })
    }

    fn sync(&self) -> Result<()> {
        self.host.call("fdatasync", &self.path, |world| {
            let (disk, path) = world.at(&self.path)?;
            let inode = disk.find(&path).ok_or(libc::ENOENT)?;
            disk.sync(inode);
            Ok(())
        })
    }
}
