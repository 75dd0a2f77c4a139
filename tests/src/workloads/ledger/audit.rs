//! Reads three copies and says whether they are of one instant, and not of one that is too early.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::FILE;
use super::record::{SLOT_BYTES, SLOTS, Slot, decode};

/// Complaints shown per volume; a lost file would otherwise make four thousand.
const SHOWN: usize = 5;

/// What one copy holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The last number written; 0 when there is none.
    pub last: u64,
    /// What is wrong within this volume.
    pub damage: Vec<String>,
}

/// Reads the ledger's file in a directory, or the ledger at the start of a device or of an image of one.
pub fn read(place: &Path) -> Result<Reading> {
    let path = if place.is_dir() { place.join(FILE) } else { place.to_owned() };
    let expected = SLOTS as usize * SLOT_BYTES;
    let mut content = Vec::with_capacity(expected);
    let opened = File::open(&path).and_then(|file| file.take(expected as u64).read_to_end(&mut content));
    opened.with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        content.len() == expected,
        "{} has {} bytes instead of {expected}",
        path.display(),
        content.len()
    );
    Ok(examine(&content.chunks_exact(SLOT_BYTES).map(decode).collect::<Vec<_>>()))
}

/// The last number, and every slot that does not hold what the writer had put there by then.
fn examine(slots: &[Slot]) -> Reading {
    let number = |slot: &Slot| match slot {
        Slot::Number(n) => Some(*n),
        Slot::Empty | Slot::Broken => None,
    };
    let last = slots.iter().filter_map(number).max().unwrap_or(0);
    let count = slots.len() as u64;
    let mut damage = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        // The largest n ≤ last that belongs into this slot; 0 is never written.
        let back = (last + count - index as u64 % count) % count;
        let expected = match last.checked_sub(back) {
            None | Some(0) => Slot::Empty,
            Some(n) => Slot::Number(n),
        };
        if *slot != expected {
            damage.push(format!("slot {index} holds {slot:?} instead of {expected:?}"));
        }
    }
    Reading { last, damage }
}

/// The verdict over three copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Last numbers of A, B, C.
    pub last: [u64; 3],
    /// Every way in which they cannot be of one instant.
    pub violations: Vec<String>,
}

impl Audit {
    /// The copies are of one instant, have everything that was acknowledged before, and none is damaged.
    pub fn is_consistent(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.last;
        write!(f, "A={a} B={b} C={c}")?;
        for violation in &self.violations {
            write!(f, "; {violation}")?;
        }
        Ok(())
    }
}

/// Compares copies of A, B and C. `acknowledged`: the last number of which the writer knew, before the snapshot was asked
/// for, that all three volumes had it; a snapshot with less is stale, however consistent it is.
pub fn audit(readings: &[Reading; 3], acknowledged: u64) -> Audit {
    let mut violations = Vec::new();
    for (reading, name) in readings.iter().zip(["A", "B", "C"]) {
        violations.extend(reading.damage.iter().take(SHOWN).map(|damage| format!("{name}: {damage}")));
        if reading.last == 0 {
            violations.push(format!("{name} holds no number at all"));
        } else if let Some(missing @ 1..) = acknowledged.checked_sub(reading.last) {
            violations.push(format!(
                "{name} lacks {missing} numbers that were acknowledged before the snapshot was asked for"
            ));
        }
    }
    for (pair, [earlier, later]) in readings.windows(2).zip([["A", "B"], ["B", "C"]]) {
        violations.extend(compare((earlier, pair[0].last), (later, pair[1].last)));
    }
    Audit { last: [readings[0].last, readings[1].last, readings[2].last], violations }
}

/// The later volume of a pair has the same number as the earlier one, or the one before it.
fn compare(earlier: (&str, u64), later: (&str, u64)) -> Option<String> {
    let ((left, m), (right, n)) = (earlier, later);
    if n > m {
        return Some(format!("{right} is {} ahead of {left}: an effect without its cause", n - m));
    }
    (m - n > 1).then(|| format!("{right} is {} behind {left}: writes in between are lost", m - n))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::record::{encode, offset};
    use super::*;
    use proptest::prelude::*;

    fn after(last: u64) -> Vec<u8> {
        let mut content = vec![0; SLOTS as usize * SLOT_BYTES];
        for n in last.saturating_sub(SLOTS - 1).max(1)..=last {
            let at = offset(n) as usize;
            content[at..at + SLOT_BYTES].copy_from_slice(&encode(n));
        }
        content
    }

    fn reading(content: &[u8]) -> Reading {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), content).unwrap();
        read(directory.path()).unwrap()
    }

    fn at(numbers: [u64; 3]) -> Audit {
        audit(&numbers.map(|n| reading(&after(n))), 0)
    }

    #[test]
    fn every_state_that_the_writer_passes_through_is_consistent() {
        for n in [1, 2, SLOTS - 1, SLOTS, SLOTS + 1, 3 * SLOTS + 7] {
            for state in [[n + 1, n, n], [n + 1, n + 1, n], [n, n, n]] {
                assert!(at(state).is_consistent(), "{}", at(state));
            }
        }
    }

    #[test]
    fn volumes_of_different_instants_are_found_out() {
        for state in [[10, 11, 10], [10, 8, 8], [10, 10, 11], [10, 10, 8], [9000, 9001, 9001], [10, 9, 7]] {
            assert!(!at(state).is_consistent(), "{state:?}");
        }
    }

    #[test]
    fn a_consistent_snapshot_that_lacks_what_was_acknowledged_before_is_stale() {
        let copies = [8, 8, 7].map(|n| reading(&after(n)));
        assert!(audit(&copies, 7).is_consistent());
        for (acknowledged, stale) in [(8, "C lacks 1"), (10, "A lacks 2")] {
            let audit = audit(&copies, acknowledged);
            assert!(audit.to_string().contains(stale), "{audit}");
        }
    }

    #[test]
    fn an_empty_ledger_proves_nothing_and_is_refused() {
        assert!(!at([0, 0, 0]).is_consistent());
    }

    #[test]
    fn a_torn_slot_and_a_lost_write_are_damage() {
        let good = after(6000);
        let mut torn = good.clone();
        torn[offset(5990) as usize + 100] ^= 1;
        let mut lost = good.clone();
        let at = offset(5990) as usize;
        lost[at..at + SLOT_BYTES].copy_from_slice(&encode(5990 - SLOTS));
        assert!(reading(&good).damage.is_empty());
        assert_eq!(reading(&torn).damage.len(), 1);
        assert_eq!(reading(&lost).damage.len(), 1);
    }

    proptest! {
        #[test]
        fn only_neighbours_agree(m in 1_u64..100, n in 1_u64..100) {
            let agree = n == m || n + 1 == m;
            prop_assert_eq!(compare(("A", m), ("B", n)).is_none(), agree);
        }
    }
}
