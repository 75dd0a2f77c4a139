//! One slot: number, its complement's checksum, padding.

/// Bytes of a slot: one sector, so that no disk tears it.
pub const SLOT_BYTES: usize = 512;
/// Slots of a file; older numbers are overwritten.
pub const SLOTS: u64 = 4096;

const MAGIC: [u8; 8] = *b"ledger 1";

/// Where number `n` is kept.
pub fn offset(n: u64) -> u64 {
    n % SLOTS * SLOT_BYTES as u64
}

/// The slot of number `n`. Every byte depends on n, so a mixture of two slots does not pass for either.
pub fn encode(n: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    for (index, chunk) in slot.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&(n.rotate_left(index as u32) ^ index as u64).to_le_bytes());
    }
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&n.to_le_bytes());
    let sum = checksum(&slot[..SLOT_BYTES - 8]);
    slot[SLOT_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
    slot
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Never written.
    Empty,
    /// A number.
    Number(u64),
    /// Neither: torn or damaged.
    Broken,
}

/// Reads a slot.
pub fn decode(slot: &[u8]) -> Slot {
    if slot.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let number = slot.get(8..16).and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    match number {
        Some(n) if encode(n) == slot => Slot::Number(n),
        Some(_) | None => Slot::Broken,
    }
}

/// FNV-1a: enough against accidents, and nothing else happens here.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
