//! Load on a group: four writers that sync every block, and one that leaves it to the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Writers that sync, one volume each.
const SYNCING: usize = 4;
const BLOCK: usize = 16 << 10;
/// A file that is written round and round: larger than what is dirty at any time.
const BLOCKS: u64 = 2048;
/// The writer that does not sync rests after each block, so that it dirties some 30 MB/s and not the whole memory.
const REST: Duration = Duration::from_micros(500);
/// How long a load runs before anything is measured under it.
const WARM_UP: Duration = Duration::from_millis(500);

/// Writers that run. Dropping it ends them.
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    writers: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Load {
    /// Starts writers on the first of these mounts, and returns when they have written for a while.
    pub fn start(mounts: &[PathBuf]) -> Result<Self> {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut load = Self { stop, written, writers: Vec::new() };
        for (index, mount) in mounts.iter().take(SYNCING + 1).enumerate() {
            let file = file(mount)?;
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
        std::thread::sleep(WARM_UP);
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

/// One writer per mount writes a block and syncs it, again and again for so long; how long each took.
pub fn synced_writes(mounts: &[PathBuf], writing: Duration) -> Result<Vec<Duration>> {
    let files = mounts.iter().map(|mount| file(mount)).collect::<Result<Vec<_>>>()?;
    let results: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = files.iter().map(|file| scope.spawn(|| write_for(file, writing))).collect();
        writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut times = Vec::new();
    for result in results {
        times.extend(result.ok().context("a writer panicked")??);
    }
    ensure!(!times.is_empty(), "nothing was written");
    Ok(times)
}

fn write_for(file: &File, writing: Duration) -> std::io::Result<Vec<Duration>> {
    let block = vec![0x5a; BLOCK];
    let begin = Instant::now();
    let mut times = Vec::new();
    for n in 0.. {
        let start = Instant::now();
        if start.duration_since(begin) > writing {
            break;
        }
        file.write_all_at(&block, n % BLOCKS * BLOCK as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn file(directory: &Path) -> Result<File> {
    let path = directory.join("load");
    File::create(&path).with_context(|| format!("cannot create {}", path.display()))
}
