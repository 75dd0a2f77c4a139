//! Images block by block: where their data is, and reading and writing it past the page cache.

use std::path::Path;

use super::Result;
use crate::domain::blocks::ExtentPage;

/// Offsets, lengths and addresses in memory are multiples of this: what direct I/O needs on every disk.
pub const ALIGNMENT: usize = 4096;

/// Blocks of images.
pub trait Blocks {
    /// The map of an image from an offset on, at most `limit` extents of it (`FIEMAP`, after what is dirty was
    /// written out).
    fn map(&self, image: &Path, from: u64, limit: usize) -> Result<ExtentPage>;
    /// Opens an image for direct I/O.
    fn open_blocks(&self, image: &Path, access: BlockAccess) -> Result<Box<dyn BlockFile>>;
}

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockAccess {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// An open image. Offsets, lengths and buffers are [aligned](ALIGNMENT).
pub trait BlockFile: Send + Sync {
    /// Fills the whole buffer; what is behind the end of the file reads as zeros.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()>;
    /// Writes all of it.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;
    /// `fdatasync`.
    fn sync(&self) -> Result<()>;
}

/// Memory that direct I/O takes.
#[derive(Debug)]
pub struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Zeros.
    pub fn zeroed(length: usize) -> Self {
        let storage = vec![0; length + ALIGNMENT];
        // The storage never grows, so its address stays.
        let start = storage.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { storage, start, length }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl AsMut<[u8]> for AlignedBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}
