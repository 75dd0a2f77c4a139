//! How the content of an image is cut into chunks and proven on its way to another host. Pure.
//!
//! A chunk is what holds data within one aligned [`CHUNK`] of the image: a list of pieces and their bytes, one after the
//! other. Where chunks begin depends on the image alone, so whoever goes on later cuts it the same way. Each chunk has a
//! hash of its bytes; the [`Chain`] is a hash over all hashes, places and the image's size, so that what arrives is whole,
//! in order and at its place exactly if both ends have the same chain.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::Bytes;
use super::blocks::BLOCK;

/// Largest chunk, and what it is aligned to.
pub const CHUNK: u64 = 1 << 20;

/// What holds data within one aligned part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Ascending, not touching; never empty.
    pub pieces: Vec<Range<u64>>,
}

impl Chunk {
    /// How much data it has.
    pub fn length(&self) -> u64 {
        // Not checked yet where somebody else made it.
        let length = |piece: &Range<u64>| piece.end.saturating_sub(piece.start);
        self.pieces.iter().map(length).fold(0, u64::saturating_add)
    }

    /// Where the next chunk may begin at the earliest.
    pub fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.end.next_multiple_of(CHUNK))
    }

    /// What is wrong with a chunk that somebody else made, `None` if nothing is.
    pub fn fault(&self, data_length: u64, after: u64, image: Bytes) -> Option<&'static str> {
        let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) else {
            return Some("it has no pieces");
        };
        let in_order = self.pieces.iter().all(|piece| piece.start < piece.end)
            && self.pieces.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let is_whole = |at: u64| at.is_multiple_of(BLOCK);
        if !in_order {
            Some("its pieces overlap")
        } else if !self.pieces.iter().all(|piece| is_whole(piece.start) && is_whole(piece.end)) {
            Some("its pieces are not whole blocks")
        } else if first.start < after || last.end > image.0 || first.start / CHUNK != (last.end - 1) / CHUNK {
            Some("it is not where the next one must be")
        } else if self.length() != data_length {
            Some("its data is not as long as its pieces")
        } else {
            None
        }
    }
}

/// Cuts ascending ranges into chunks.
#[derive(Debug, Clone, Default)]
pub struct Chunker {
    open: Option<Chunk>,
}

impl Chunker {
    /// Takes the next range, which does not touch the one before; gives the chunks that are complete.
    pub fn push(&mut self, range: Range<u64>) -> Vec<Chunk> {
        let mut complete = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let end = ((start / CHUNK + 1) * CHUNK).min(range.end);
            complete.extend(self.piece(start..end));
            start = end;
        }
        complete
    }

    fn piece(&mut self, piece: Range<u64>) -> Option<Chunk> {
        match &mut self.open {
            Some(open) if piece.start < open.end() => {
                open.pieces.push(piece);
                None
            }
            open => open.replace(Chunk { pieces: vec![piece] }),
        }
    }

    /// The last chunk.
    pub fn finish(self) -> Option<Chunk> {
        self.open
    }
}

/// Hash of a chunk's bytes.
pub fn hash(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

/// Proof of everything so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain([u8; 32]);

impl Chain {
    /// Adds a chunk with this hash.
    #[must_use]
    pub fn with(self, chunk: &Chunk, hash: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        for piece in &chunk.pieces {
            hasher.update(&piece.start.to_le_bytes());
            hasher.update(&piece.end.to_le_bytes());
        }
        hasher.update(hash);
        Self(*hasher.finalize().as_bytes())
    }

    /// The proof of a whole image of this size.
    pub fn whole(self, size: Bytes) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&size.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl FromStr for Chain {
    type Err = blake3::HexError;
    fn from_str(text: &str) -> Result<Self, blake3::HexError> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a list with one range in it is what is meant")]

    use proptest::prelude::*;

    use super::*;

    fn chunks(ranges: &[Range<u64>]) -> Vec<Chunk> {
        let mut chunker = Chunker::default();
        let mut chunks: Vec<_> = ranges.iter().flat_map(|range| chunker.push(range.clone())).collect();
        chunks.extend(chunker.finish());
        chunks
    }

    #[test]
    fn a_chunk_ends_at_its_boundary_and_small_pieces_travel_together() {
        let pieces = [0..4096, 8192..12_288, CHUNK - 4096..2 * CHUNK + 4096];
        let cut = chunks(&pieces);
        let expected = [
            vec![0..4096, 8192..12_288, CHUNK - 4096..CHUNK],
            vec![CHUNK..2 * CHUNK],
            vec![2 * CHUNK..2 * CHUNK + 4096],
        ];
        assert_eq!(cut.iter().map(|chunk| chunk.pieces.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(cut[0].length(), 12_288);
    }

    #[test]
    fn a_chunk_that_does_not_hold_together_is_refused() {
        let image = Bytes(8 * CHUNK);
        let fault = |pieces: Vec<Range<u64>>, length, after| Chunk { pieces }.fault(length, after, image);
        assert_eq!(fault(vec![0..4096, 8192..12_288], 8192, 0), None);
        for wrong in [
            fault(vec![], 0, 0),
            fault(vec![4096..4096], 0, 0),
            fault(vec![0..8192, 4096..12_288], 16_384, 0),
            fault(vec![0..4096], 4097, 0),
            fault(vec![0..4095], 4095, 0),
            fault(vec![512..4096], 3584, 0),
            fault(vec![0..4096], 4096, CHUNK),
            fault(vec![0..2 * CHUNK], 2 * CHUNK, 0),
            fault(vec![8 * CHUNK - 4096..8 * CHUNK + 4096], 8192, 0),
        ] {
            assert!(wrong.is_some());
        }
    }

    #[test]
    fn a_chain_is_another_when_anything_is_missing_moved_or_changed() {
        let chunk = |start: u64| Chunk { pieces: vec![start..start + 4096] };
        let (a, b) = (hash(b"a"), hash(b"b"));
        let chain = Chain::default().with(&chunk(0), &a).with(&chunk(CHUNK), &b);
        let others = [
            Chain::default().with(&chunk(0), &a),
            Chain::default().with(&chunk(CHUNK), &b).with(&chunk(0), &a),
            Chain::default().with(&chunk(0), &b).with(&chunk(CHUNK), &b),
            Chain::default().with(&chunk(4096), &a).with(&chunk(CHUNK), &b),
        ];
        assert!(others.iter().all(|other| *other != chain));
        assert_ne!(chain.whole(Bytes(1)), chain.whole(Bytes(2)));
        assert_eq!(chain.to_string().parse::<Chain>().ok(), Some(chain));
    }

    proptest! {
        /// Whatever a peer sends: it is refused, or its pieces are whole blocks in order within one aligned part of the image,
        /// behind what came before.
        #[test]
        fn a_chunk_of_any_numbers_is_refused_or_sound(
            numbers in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..6),
            shift in 0_u32..64,
            data_length: u64,
            after in prop_oneof![Just(0), 0..4 * CHUNK, any::<u64>()],
            honest: bool,
        ) {
            let pieces: Vec<Range<u64>> = numbers
                .iter()
                .map(|(start, length)| (start >> shift, (start >> shift).saturating_add(length >> shift)))
                .map(|(start, end)| if honest { start / BLOCK * BLOCK..end / BLOCK * BLOCK } else { start..end })
                .collect();
            let chunk = Chunk { pieces };
            let length = if honest { chunk.length() } else { data_length };
            let image = Bytes(16 * CHUNK);
            if chunk.fault(length, after, image).is_none() {
                let (first, last) = (chunk.pieces.first().unwrap(), chunk.pieces.last().unwrap());
                prop_assert!(first.start >= after && last.end <= image.0 && chunk.length() == length);
                prop_assert!(chunk.length() <= CHUNK && chunk.end() > after);
                prop_assert!(chunk.pieces.iter().all(|piece| piece.start % BLOCK == 0 && piece.start < piece.end));
            }
        }

        #[test]
        fn chunks_cover_the_ranges_and_each_is_accepted(
            lengths in proptest::collection::vec((1_u64..600, 1_u64..600), 1..12),
        ) {
            let mut at = 0;
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for (gap, length) in lengths {
                ranges.push((at + gap) * BLOCK..(at + gap + length) * BLOCK);
                at += gap + length;
            }
            let cut = chunks(&ranges);
            let mut after = 0;
            for chunk in &cut {
                prop_assert_eq!(chunk.fault(chunk.length(), after, Bytes(at * BLOCK)), None);
                after = chunk.end();
            }
            let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            prop_assert_eq!(cut.iter().map(Chunk::length).sum::<u64>(), total);
        }
    }
}
