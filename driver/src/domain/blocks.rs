//! Which blocks of an image hold data, and which differ between two images that share blocks. Pure.
//!
//! # What sharing proves
//! Two images that have the same physical address at the same offset have the same data there, **as long as both
//! exist and neither is written**: a shared block is never rewritten in place. Once one of them is gone the other may
//! be, so addresses that were written down earlier prove nothing. Where there is no address to compare (data kept
//! inside metadata, compressed, not yet written out), the blocks count as changed.
//!
//! # What is exact
//! Every byte that differs is in a range that [`changed`] gives. The other direction holds for blocks, not for what is
//! in them: a block that was rewritten with what it already had is given too, and so are zeros written where there
//! was nothing. Who wants those left out compares the bytes of the ranges.

use std::ops::Range;

use super::SnapshotId;

/// Ranges are whole blocks of this many bytes, except at the end of an image.
pub const BLOCK: u64 = 4096;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkOrder {
    /// Compare with this snapshot; `None`: all blocks that hold data.
    pub base: Option<SnapshotId>,
    /// The snapshot whose blocks are told.
    pub target: SnapshotId,
    /// From here on.
    pub start: u64,
    /// How blocks are compared.
    pub comparison: Comparison,
}

/// How blocks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Comparison {
    /// By where they are: nothing is missed, and what was rewritten with the same content is told too.
    #[default]
    Addresses,
    /// Blocks at different places are read too: what is told differs.
    Bytes,
}

/// A stretch of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the image it begins, in bytes.
    pub logical: u64,
    /// How long it is, in bytes; never zero.
    pub length: u64,
    /// What is behind it.
    pub backing: Backing,
}

impl Extent {
    fn end(&self) -> u64 {
        self.logical.saturating_add(self.length)
    }
}

/// What is behind a stretch of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Data at this physical address.
    At(u64),
    /// Nothing was ever written: it reads as zeros, as a hole does.
    Zeros,
    /// Data, and nobody knows where.
    Unsure,
}

impl Backing {
    /// As seen this many bytes further on.
    fn after(self, bytes: u64) -> Self {
        match self {
            Self::At(address) => Self::At(address.wrapping_add(bytes)),
            Self::Zeros => Self::Zeros,
            Self::Unsure => Self::Unsure,
        }
    }

    fn proves_equal_to(self, other: Self) -> bool {
        match (self, other) {
            (Self::At(one), Self::At(two)) => one == two,
            (Self::Zeros, Self::Zeros) => true,
            (Self::Unsure, _)
            | (_, Self::Unsure)
            | (Self::At(_), Self::Zeros)
            | (Self::Zeros, Self::At(_)) => false,
        }
    }
}

/// A part of an image's map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtentPage {
    /// Ascending, not overlapping; what is between them are holes.
    pub extents: Vec<Extent>,
    /// Up to here the map is known; [`u64::MAX`] when the end was reached.
    pub known_until: u64,
}

/// The stretches within `part` that hold data.
pub fn allocated(extents: &[Extent], part: Range<u64>) -> Vec<Range<u64>> {
    let holds_data = |extent: &&Extent| extent.backing != Backing::Zeros;
    extents
        .iter()
        .filter(holds_data)
        .map(|extent| extent.logical.max(part.start)..extent.end().min(part.end))
        .filter(|range| range.start < range.end)
        .collect()
}

/// The stretches within `part` where nothing proves that both images have the same.
pub fn changed(base: &[Extent], target: &[Extent], part: Range<u64>) -> Vec<Range<u64>> {
    let (mut base, mut target) = (Cursor::new(base), Cursor::new(target));
    let mut changed = Vec::new();
    let mut at = part.start;
    while at < part.end {
        let (in_base, base_end) = base.at(at);
        let (in_target, target_end) = target.at(at);
        let end = base_end.min(target_end).min(part.end);
        if !in_base.proves_equal_to(in_target) {
            changed.push(at..end);
        }
        at = end;
    }
    changed
}

/// Walks a map from front to back.
struct Cursor<'a> {
    rest: &'a [Extent],
}

impl<'a> Cursor<'a> {
    fn new(extents: &'a [Extent]) -> Self {
        Self { rest: extents }
    }

    /// What is at this offset, and up to where. Offsets only grow.
    fn at(&mut self, offset: u64) -> (Backing, u64) {
        while let [first, rest @ ..] = self.rest
            && first.end() <= offset
        {
            self.rest = rest;
        }
        match self.rest.first() {
            Some(extent) if extent.logical <= offset => {
                (extent.backing.after(offset - extent.logical), extent.end())
            }
            Some(extent) => (Backing::Zeros, extent.logical),
            None => (Backing::Zeros, u64::MAX),
        }
    }
}

/// Makes ascending stretches into whole blocks that never touch each other, over any number of pages.
#[derive(Debug, Clone)]
pub struct Joiner {
    within: Range<u64>,
    open: Option<Range<u64>>,
}

impl Joiner {
    /// For ranges from `start` (rounded down to its block) to the end of the image.
    pub fn new(start: u64, size: u64) -> Self {
        Self { within: start / BLOCK * BLOCK..size, open: None }
    }

    /// Takes the next stretch; gives the range before it when that is complete.
    pub fn push(&mut self, stretch: Range<u64>) -> Option<Range<u64>> {
        let start = (stretch.start / BLOCK * BLOCK).max(self.within.start);
        let end = stretch.end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX).min(self.within.end);
        if start >= end {
            return None;
        }
        match &mut self.open {
            Some(open) if start <= open.end => {
                open.end = open.end.max(end);
                None
            }
            open => open.replace(start..end),
        }
    }

    /// The last range.
    pub fn finish(self) -> Option<Range<u64>> {
        self.open
    }
}

#[cfg(test)]
mod tests;
