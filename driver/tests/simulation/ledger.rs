//! Writers that leave a causal chain over the volumes of all hosts: entry n+1 is written after entry n was, perhaps on
//! another host. A cut that has an entry has every entry before it.

use stillpoint::host::fake::FakeHost;

use super::dice::Dice;
use super::machine::Machine;

/// Entries that one chain tries to write in one step.
const AT_ONCE: usize = 2;

/// One chain. Its entries overwrite each other in one block per volume.
pub struct Chain {
    block: u64,
    dice: Dice,
    /// For entry n (from 1): on which volume, by its number over all hosts.
    written: Vec<usize>,
    /// Where the next entry goes.
    next: usize,
}

/// Where volume `number` over all hosts is.
pub fn place(machines: &[Machine], number: usize) -> (&Machine, usize) {
    let each = machines[0].volumes.len();
    (&machines[number / each], number % each)
}

impl Chain {
    pub fn new(index: usize, dice: Dice) -> Self {
        Self { block: index as u64 + 1, dice, written: Vec::new(), next: 0 }
    }

    /// Writes on, each entry synced before the next, until a volume does not let it: a writer of a frozen filesystem waits.
    pub fn write(&mut self, machines: &[Machine]) {
        let count = machines.len() * machines[0].volumes.len();
        for _ in 0..AT_ONCE {
            let (machine, index) = place(machines, self.next);
            let entry = self.written.len() as u64 + 1;
            let device = &machine.volumes[index].device.path;
            if machine.host.write_block_synced(device, self.block, entry).is_err() {
                return;
            }
            self.written.push(self.next);
            self.next = self.dice.below(count);
        }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.written.len()
    }

    /// Whether these images, by volume number, have every entry before the last one that any of them has, and the first
    /// `acknowledged` entries as far as they are on these volumes.
    pub fn check(
        &self,
        images: &[(usize, FakeHost, std::path::PathBuf)],
        acknowledged: usize,
    ) -> Result<(), String> {
        let read = |(number, host, image): &(usize, FakeHost, std::path::PathBuf)| {
            let entry =
                host.read_block(image, self.block).map_err(|error| format!("volume {number}: {error}"))?;
            Ok((*number, usize::try_from(entry).unwrap_or(usize::MAX)))
        };
        let found: Vec<(usize, usize)> = images.iter().map(read).collect::<Result<_, String>>()?;
        let last = found.iter().map(|(_, entry)| *entry).max().unwrap_or_default();
        let last_on = |volume: usize, among: usize| {
            self.written.iter().take(among).rposition(|at| *at == volume).map_or(0, |index| index + 1)
        };
        for (number, entry) in found {
            let required = last_on(number, acknowledged);
            if entry < required {
                return Err(format!(
                    "chain {}: volume {number} has entry {entry}, and entry {required} was acknowledged before the \
                     snapshot was asked for",
                    self.block
                ));
            }
            let expected = last_on(number, last);
            if entry != expected {
                return Err(format!(
                    "chain {}: the cut has entry {last}, but on volume {number} it has entry {entry} and not {expected}",
                    self.block
                ));
            }
        }
        Ok(())
    }
}
