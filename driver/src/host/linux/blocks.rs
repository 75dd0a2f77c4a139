//! Blocks of images: FIEMAP and direct I/O.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::ioctls::{self, FIEMAP_HEAD_WORDS, FiemapExtent};
use super::{Access, LinuxHost, failed, open_file};
use crate::domain::blocks::{Backing, Extent, ExtentPage};
use crate::host::Result;
use crate::host::blocks::{ALIGNMENT, BlockAccess, BlockFile, Blocks};

/// Extents of one call at most, whatever is asked for: 230 KiB of answer.
const EXTENTS_MAX: usize = 4096;

impl Blocks for LinuxHost {
    fn map(&self, image: &Path, from: u64, limit: usize) -> Result<ExtentPage> {
        let file = open_file("FIEMAP", image, Access::Read)?;
        let room = limit.clamp(1, EXTENTS_MAX);
        let extents = fiemap(&file, from, room).map_err(failed("FIEMAP", image))?;
        // Fewer than there was room for: it is the end, even where no extent says so.
        let at_end = extents.len() < room || extents.last().is_some_and(FiemapExtent::is_last);
        let end = extents.last().map_or(u64::MAX, |last| last.logical.saturating_add(last.length));
        Ok(ExtentPage {
            extents: extents.iter().filter(|extent| extent.length > 0).map(extent).collect(),
            known_until: if at_end { u64::MAX } else { end },
        })
    }

    fn open_blocks(&self, image: &Path, access: BlockAccess) -> Result<Box<dyn BlockFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == BlockAccess::Write)
            .custom_flags(OFlag::O_DIRECT.bits())
            .open(image)
            .map_err(failed("open with O_DIRECT", image))?;
        Ok(Box::new(DirectFile { path: image.to_owned(), file }))
    }
}

fn fiemap(file: &File, from: u64, room: usize) -> nix::Result<Vec<FiemapExtent>> {
    let mut words = vec![0_u64; FIEMAP_HEAD_WORDS + room * FiemapExtent::WORDS];
    words[..FIEMAP_HEAD_WORDS].copy_from_slice(&ioctls::fiemap_head(from, room));
    // SAFETY: `words` has room for as many extents behind the head as the head says, and is aligned as both are.
    unsafe { ioctls::fiemap(file.as_raw_fd(), words.as_mut_ptr().cast()) }?;
    let mapped = ioctls::fiemap_mapped(&words).min(room);
    let extents = words[FIEMAP_HEAD_WORDS..].chunks_exact(FiemapExtent::WORDS);
    Ok(extents.take(mapped).filter_map(FiemapExtent::of_words).collect())
}

fn extent(found: &FiemapExtent) -> Extent {
    let backing = if found.has_no_address() {
        Backing::Unsure
    } else if found.is_unwritten() {
        Backing::Zeros
    } else {
        Backing::At(found.physical)
    };
    Extent { logical: found.logical, length: found.length, backing }
}

struct DirectFile {
    path: PathBuf,
    file: File,
}

impl BlockFile for DirectFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        check_aligned(offset, into).map_err(failed("read", &self.path))?;
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => {
                    into[done..].fill(0);
                    return Ok(());
                }
                // A short read ends at a block, or at the end of the file; what follows is read again with its block.
                Ok(read) if read % ALIGNMENT == 0 => done += read,
                Ok(read) => {
                    into[done + read..].fill(0);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &self.path)(error)),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_aligned(offset, data).map_err(failed("write", &self.path))?;
        self.file.write_all_at(data, offset).map_err(failed("write", &self.path))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(failed("fdatasync", &self.path))
    }
}

/// The kernel would say EINVAL, and nobody would know why.
fn check_aligned(offset: u64, buffer: &[u8]) -> io::Result<()> {
    let aligned = offset.is_multiple_of(ALIGNMENT as u64)
        && buffer.len().is_multiple_of(ALIGNMENT)
        && buffer.as_ptr().align_offset(ALIGNMENT) == 0;
    if aligned {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "offset, length or buffer is not aligned to 4096 bytes"))
}
