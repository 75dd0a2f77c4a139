//! Blocks that know what they are: operation number, file, checksum over everything.

/// Bytes of a block: one page, so that nothing tears it on the way to the disk.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks of a file.
pub const BLOCKS: u64 = 1024;
/// After so many operations back every block was written at least once, for every seed that matters.
const LOOK_BACK: u64 = 64 * BLOCKS;
const MAGIC: u64 = u64::from_le_bytes(*b"thrasher");

/// Which block operation `n` writes.
pub fn place(file: u64, n: u64) -> u64 {
    mix(file ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % BLOCKS
}

/// SplitMix64's finaliser.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What operation `n` writes.
pub fn encode(file: u64, n: u64) -> Vec<u8> {
    let words = BLOCK_BYTES as u64 / 8 - 1;
    let body = (0..words).map(|index| match index {
        0 => MAGIC,
        1 => file,
        2 => n,
        _ => mix(file ^ n ^ (index << 48)),
    });
    let mut block: Vec<u8> = body.flat_map(u64::to_le_bytes).collect();
    block.extend(checksum(&block).to_le_bytes());
    block
}

/// The operation that wrote a block; 0 where none did.
pub fn decode(file: u64, block: &[u8]) -> Result<u64, String> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let word = |index: usize| block.get(index * 8..index * 8 + 8).and_then(|word| word.try_into().ok());
    let n = word(2).map_or(0, u64::from_le_bytes);
    if n > 0 && encode(file, n) == block {
        return Ok(n);
    }
    Err(format!("a torn block, or one of another file (it says operation {n})"))
}

/// What is wrong with a file that must be as it was after some operation; the last one that is in it.
pub fn audit(file: u64, content: &[u8]) -> Result<u64, String> {
    if content.len() as u64 != BLOCKS * BLOCK_BYTES as u64 {
        return Err(format!("{} bytes instead of {}", content.len(), BLOCKS * BLOCK_BYTES as u64));
    }
    let found = content
        .chunks_exact(BLOCK_BYTES)
        .enumerate()
        .map(|(index, block)| decode(file, block).map_err(|why| format!("block {index}: {why}")));
    let found = found.collect::<Result<Vec<u64>, String>>()?;
    let last = found.iter().copied().max().unwrap_or(0);
    let mut expected = vec![0; found.len()];
    for n in (last.saturating_sub(LOOK_BACK) + 1)..=last {
        if let Some(slot) = usize::try_from(place(file, n)).ok().and_then(|index| expected.get_mut(index)) {
            *slot = n;
        }
    }
    match found.iter().zip(&expected).position(|(found, expected)| found != expected) {
        None => Ok(last),
        Some(index) => Err(format!(
            "block {index} is of operation {} and not {}, though operation {last} is there: a write is lost or came too early",
            found[index], expected[index]
        )),
    }
}

/// FNV-1a: enough against accidents.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(file: u64, last: u64) -> Vec<u8> {
        let mut content = vec![0; usize::try_from(BLOCKS).unwrap() * BLOCK_BYTES];
        for n in 1..=last {
            let at = usize::try_from(place(file, n)).unwrap() * BLOCK_BYTES;
            content[at..at + BLOCK_BYTES].copy_from_slice(&encode(file, n));
        }
        content
    }

    #[test]
    fn every_prefix_of_the_operations_is_good() {
        for last in [0, 1, 2, BLOCKS, 5 * BLOCKS + 3] {
            assert_eq!(audit(7, &after(7, last)), Ok(last));
        }
    }

    #[test]
    fn a_lost_write_a_torn_block_and_another_file_are_found_out() {
        let good = after(7, 3000);
        let at = usize::try_from(place(7, 2990)).unwrap() * BLOCK_BYTES;
        let mut lost = good.clone();
        lost[at..at + BLOCK_BYTES].fill(0);
        assert!(audit(7, &lost).unwrap_err().contains("lost"));
        let mut torn = good.clone();
        torn[at + 2000] ^= 1;
        assert!(audit(7, &torn).unwrap_err().contains("torn"));
        assert!(audit(8, &good).is_err());
        assert!(audit(7, &good[1..]).is_err());
    }
}
