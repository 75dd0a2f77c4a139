//! Which blocks of a snapshot hold data, and which changed since another snapshot of its volume.
//!
//! # Flow
//! 1. Both snapshots are claimed, so that neither can be deleted: only while both exist does a shared address prove
//!    equal data ([`crate::domain::blocks`]).
//! 2. Page by page: the base's map, the target's, and the base's again. Whoever rearranges the pool meanwhile
//!    (`btrfs balance`, `xfs_fsr`) could move a block of one and put another in its place; a base that looks the same
//!    before and after was the same in between. Otherwise the page is read again, [`PAGE_TRIES`] times.
//! 3. Where the comparison is [`Comparison::Bytes`], the blocks that differ by address are read and compared.
//! 4. Ranges are joined over the ends of pages and given on in messages of bounded size.

mod stream;

use std::ops::Range;
use std::path::Path;

pub use stream::{WalkStream, walk};

use super::pool::{Pool, PoolError};
use crate::domain::blocks::{self, BLOCK, Comparison, ExtentPage, Joiner, WalkOrder};
use crate::domain::{Bytes, Fault};
use crate::host::blocks::{AlignedBuffer, BlockAccess, BlockFile};
use crate::host::{Host, HostError};

/// Extents of one page: 230 KiB of answer from the kernel.
const PAGE_EXTENTS: usize = 4096;
/// How often a page is read while somebody rearranges the pool under it.
const PAGE_TRIES: u32 = 16;
/// Bytes that are read and compared at once.
const COMPARED_AT_ONCE: u64 = 1 << 20;

/// Why blocks cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A snapshot.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The kernel.
    #[error("cannot tell the blocks of snapshot {snapshot}: {source}")]
    Host {
        /// Which.
        snapshot: String,
        /// What the kernel said.
        source: HostError,
    },
    /// Snapshots of two volumes.
    #[error(
        "{base} and {target} are snapshots of different volumes; changes are told between snapshots of one volume"
    )]
    OtherVolume {
        /// Compared with.
        base: String,
        /// Whose blocks.
        target: String,
    },
    /// Beyond the end.
    #[error(
        "offset {start} is beyond the end of snapshot {snapshot}, which has {size} bytes; begin at its end or before"
    )]
    BeyondEnd {
        /// Which.
        snapshot: String,
        /// Asked for.
        start: u64,
        /// Its size.
        size: u64,
    },
    /// Never two looks alike.
    #[error(
        "the blocks of snapshot {0} keep moving: the pool is being balanced or defragmented; ask again when that is done"
    )]
    Restless(String),
    /// Nobody reads the answer.
    #[error("nobody took the answer within {0} s; ask again from where it ended")]
    NobodyListens(u64),
}

impl From<WalkError> for Fault {
    fn from(error: WalkError) -> Self {
        let message = error.to_string();
        match error {
            WalkError::Pool(error) => error.into(),
            WalkError::Host { .. } => Self::internal(message),
            WalkError::OtherVolume { .. } => Self::invalid(message),
            WalkError::BeyondEnd { .. } => Self::out_of_range(message),
            WalkError::Restless(_) | WalkError::NobodyListens(_) => Self::aborted(message),
        }
    }
}

/// Ranges are ascending and never touch each other, over all calls.
pub trait Listener {
    /// Told once, before anything else.
    fn size(&mut self, size: Bytes) -> Result<(), WalkError>;
    /// Told for each range.
    fn range(&mut self, range: Range<u64>) -> Result<(), WalkError>;
}

/// Tells `listener` what was asked for. Blocks. Only `Ok` means that everything was told.
pub fn tell(
    pool: &Pool,
    host: &dyn Host,
    order: &WalkOrder,
    listener: &mut dyn Listener,
) -> Result<(), WalkError> {
    if let Some(base) = order.base.as_ref().filter(|base| base.volume != order.target.volume) {
        return Err(WalkError::OtherVolume { base: base.to_string(), target: order.target.to_string() });
    }
    let target = pool.open_snapshot(&order.target)?;
    let base = order.base.as_ref().map(|base| pool.open_snapshot(base)).transpose()?;
    let size = target.member.capacity.0;
    if order.start > size {
        return Err(WalkError::BeyondEnd { snapshot: order.target.to_string(), start: order.start, size });
    }
    listener.size(Bytes(size))?;
    let failed = |source| WalkError::Host { snapshot: order.target.to_string(), source };
    let pages = Pages { host, base: base.as_ref().map(|base| &*base.image), target: &target.image, size };
    let differ = match (order.comparison, &base) {
        (Comparison::Bytes, Some(base)) => {
            Some(Differ::open(host, &base.image, &target.image).map_err(failed)?)
        }
        (Comparison::Addresses, _) | (Comparison::Bytes, None) => None,
    };
    let mut joiner = Joiner::new(order.start, size);
    let mut at = order.start / BLOCK * BLOCK;
    while at < size {
        let page = pages.at(at).map_err(failed)?;
        let (stretches, end) = page.ok_or_else(|| WalkError::Restless(order.target.to_string()))?;
        for stretch in stretches {
            let parts = match &differ {
                Some(differ) => differ.really(stretch).map_err(failed)?,
                None => vec![stretch],
            };
            parts
                .into_iter()
                .filter_map(|part| joiner.push(part))
                .try_for_each(|range| listener.range(range))?;
        }
        at = end;
    }
    joiner.finish().map_or(Ok(()), |range| listener.range(range))
}

/// Tells each stretch of an image that holds data: whole blocks, ascending, never touching. Blocks.
pub fn each_allocated(
    host: &dyn Host,
    image: &Path,
    size: u64,
    each: &mut dyn FnMut(Range<u64>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let pages = Pages { host, base: None, target: image, size };
    let mut joiner = Joiner::new(0, size);
    let mut at = 0;
    while at < size {
        // Without a base there is nothing that could move.
        let (stretches, end) = pages.at(at)?.unwrap_or_default();
        stretches.into_iter().filter_map(|stretch| joiner.push(stretch)).try_for_each(&mut *each)?;
        at = end.max(at + 1);
    }
    joiner.finish().map_or(Ok(()), each)
}

/// The stretches of a page, and where it ends.
type Stretches = (Vec<Range<u64>>, u64);

/// Maps of one or two images, a page at a time.
struct Pages<'a> {
    host: &'a dyn Host,
    base: Option<&'a Path>,
    target: &'a Path,
    size: u64,
}

impl Pages<'_> {
    /// The stretches of the page that begins here, and where it ends; `None` when the base does not stand still.
    fn at(&self, at: u64) -> Result<Option<Stretches>, HostError> {
        let map = |image| self.host.map(image, at, PAGE_EXTENTS);
        let end_of = |page: &ExtentPage| page.known_until.min(self.size).max(at + 1);
        let Some(base) = self.base else {
            let page = map(self.target)?;
            let end = end_of(&page);
            return Ok(Some((blocks::allocated(&page.extents, at..end), end)));
        };
        for _ in 0..PAGE_TRIES {
            let (before, target, after) = (map(base)?, map(self.target)?, map(base)?);
            if before == after {
                let end = end_of(&before).min(end_of(&target));
                return Ok(Some((blocks::changed(&before.extents, &target.extents, at..end), end)));
            }
        }
        Ok(None)
    }
}

/// Compares what is in two images.
struct Differ {
    base: Box<dyn BlockFile>,
    target: Box<dyn BlockFile>,
}

impl Differ {
    fn open(host: &dyn Host, base: &Path, target: &Path) -> Result<Self, HostError> {
        let open = |image| host.open_blocks(image, BlockAccess::Read);
        Ok(Self { base: open(base)?, target: open(target)? })
    }

    /// The blocks of a stretch that really differ.
    fn really(&self, stretch: Range<u64>) -> Result<Vec<Range<u64>>, HostError> {
        let mut differ = Vec::new();
        let mut at = stretch.start / BLOCK * BLOCK;
        while at < stretch.end {
            let length = (stretch.end - at).min(COMPARED_AT_ONCE).next_multiple_of(BLOCK);
            let read = |file: &dyn BlockFile| {
                let mut buffer = AlignedBuffer::zeroed(usize::try_from(length).unwrap_or_default());
                file.read_at(at, buffer.as_mut()).map(|()| buffer)
            };
            let (base, target) = (read(&*self.base)?, read(&*self.target)?);
            let blocks = |buffer| <AlignedBuffer as AsRef<[u8]>>::as_ref(buffer).chunks(BLOCK_LENGTH);
            let pairs = (at..).step_by(BLOCK_LENGTH).zip(blocks(&base).zip(blocks(&target)));
            differ.extend(pairs.filter(|(_, (one, two))| one != two).map(|(start, _)| start..start + BLOCK));
            at += length;
        }
        Ok(differ)
    }
}

const BLOCK_LENGTH: usize = 4096;

#[cfg(test)]
mod tests;
