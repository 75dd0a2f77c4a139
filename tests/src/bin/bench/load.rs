//! Load on a group: four writers that sync every block, and one that leaves it to the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stillpoint_tests::harness::csi::Volume;

/// Writers that sync, one volume each.
const SYNCING: usize = 4;
const BLOCK: usize = 16 << 10;
/// A file that is written round and round: larger than what is dirty at any time.
const BLOCKS: u64 = 2048;
/// The writer that does not sync rests after each block, so that it dirties some 30 MB/s and not the whole memory.
const REST: Duration = Duration::from_micros(500);

/// Writers that run. Dropping it ends them.
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    writers: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Load {
    /// Starts writers on the first volumes of a group.
    pub fn start<'a>(volumes: impl Iterator<Item = &'a Volume>) -> Result<Self> {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut load = Self { stop, written, writers: Vec::new() };
        for (index, volume) in volumes.take(SYNCING + 1).enumerate() {
            let file = file(&volume.path)?;
            let (stop, written) = (Arc::clone(&load.stop), Arc::clone(&load.written));
            let syncs = index < SYNCING;
            load.writers.push(std::thread::spawn(move || {
                let block = vec![0x5a; BLOCK];
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    file.write_all_at(&block, n % BLOCKS * BLOCK as u64)?;
                    if syncs {
                        file.sync_data()?;
                    } else {
                        std::thread::sleep(REST);
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        ensure!(load.writers.len() == SYNCING + 1, "the group is too small for the load");
        Ok(load)
    }

    /// Ends the writers; a load that did not write is an error.
    pub fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.join().ok().context("a writer panicked")??;
        }
        ensure!(self.written.load(Ordering::Relaxed) > 100, "the load hardly wrote anything");
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn file(directory: &Path) -> Result<File> {
    let path = directory.join("load");
    File::create(&path).with_context(|| format!("cannot create {}", path.display()))
}
