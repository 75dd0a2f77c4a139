//! What users feel: the longest write stall that an application sees during a group snapshot.
//!
//! A writer on each volume writes a block and syncs it, every millisecond. In each round the longest of these operations
//! is taken twice: over the whole call that takes a snapshot, and over a stretch of the same length just before, in which
//! nothing happens. Each operation also says how long its thread was ready and had no processor, and one more writer
//! does the same in memory (tmpfs), where storage cannot make it wait: both tell contention for the processor apart from
//! storage.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_tests::harness::Step;
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::stack::Rcu;

use super::field::{Field, Group};
use super::floor::Ready;
use super::load::Load;
use super::stalls::{Round, Stall, Stalls};
use super::target::{REST, Target, wait_for_cleaner};
use super::windows::GROUP_BESIDES;

const GROUP: Group = Group::Sixteen;
const BLOCK: usize = 4096;
/// Blocks that are written round and round.
const BLOCKS: u64 = 256;
const EVERY: Duration = Duration::from_millis(1);
/// The stretch without a snapshot before the first one.
const FIRST_QUIET: Duration = Duration::from_millis(100);
/// A writer that has not come back after this is an error.
const COME_BACK: Duration = Duration::from_secs(30);
/// A directory whose files are in memory.
const MEMORY: &str = "/dev/shm";

/// What else the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Load,
    Processors,
}

/// Who takes the snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stillpoint,
    KernelFlushed,
    KernelUnflushed,
}

/// All stalls: idle, under load, and with every processor busy.
pub async fn all(field: &Field, rounds: u32) -> Result<Vec<Stalls>> {
    let mut rows = Vec::new();
    for beside in [Beside::Nothing, Beside::Load, Beside::Processors] {
        rows.extend(under(field, beside, rounds).await?);
    }
    Ok(rows)
}

async fn under(field: &Field, beside: Beside, rounds: u32) -> Result<Vec<Stalls>> {
    let what = match beside {
        Beside::Nothing => "idle",
        Beside::Load => "4 fsync writers and a buffered one",
        Beside::Processors => "two busy processes per processor",
    };
    let step = Step::begin(format!("write stalls, 16 volumes, {what}"));
    let target = Target::of(field, GROUP)?;
    let ways = [Way::Stillpoint, Way::KernelFlushed, Way::KernelUnflushed];
    let mut rows: Vec<Stalls> = ways.iter().map(|way| stalls(*way, what)).collect();
    let load = match beside {
        Beside::Load => Some(Load::start(&target.mounts)?),
        Beside::Nothing | Beside::Processors => None,
    };
    let busy = match beside {
        Beside::Processors => Some(Busy::start()?),
        Beside::Nothing | Beside::Load => None,
    };
    let writers = Writers::start(&target.mounts)?;
    let mut quiet = FIRST_QUIET;
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let index = (turn + round as usize) % ways.len();
            wait_for_cleaner(&target.pools())?;
            let measured = one(field, &target, &writers, ways[index], round, quiet).await?;
            quiet = measured.took.max(FIRST_QUIET);
            rows[index].rounds.push(measured.round);
        }
        target.delete_copies()?;
    }
    writers.finish()?;
    drop(busy);
    load.map_or(Ok(()), Load::finish)?;
    target.close()?;
    step.done();
    Ok(rows)
}

fn stalls(way: Way, what: &str) -> Stalls {
    let (who, besides, has_goal) = match way {
        Way::Stillpoint => ("Stillpoint (flushes before)", GROUP_BESIDES, true),
        Way::KernelFlushed => ("kernel alone, flushed before", "nothing", false),
        Way::KernelUnflushed => ("kernel alone, not flushed", "nothing", false),
    };
    Stalls { title: format!("{what}: {who}"), besides, has_goal, rounds: Vec::new() }
}

struct Measured {
    round: Round,
    /// How long the whole call took.
    took: Duration,
}

/// A quiet stretch, then one snapshot; what the writers saw in both.
async fn one(
    field: &Field,
    target: &Target,
    writers: &Writers,
    way: Way,
    round: u32,
    quiet: Duration,
) -> Result<Measured> {
    let copy = format!("stall-{way:?}-{round}");
    // Opened, and its dead man started, before anything is measured.
    let ready = match way {
        Way::Stillpoint => None,
        Way::KernelFlushed | Way::KernelUnflushed => Some(Ready::new(target, &copy)?),
    };
    tokio::time::sleep(REST).await;
    let before = Instant::now();
    tokio::time::sleep(quiet).await;
    let begin = Instant::now();
    let pause = match ready {
        None => snapshot(field, &copy).await?,
        Some(ready) => {
            if way == Way::KernelFlushed {
                target.flush()?;
            }
            ready.pause(Rcu::Auto)?
        }
    };
    let end = Instant::now();
    let (usual, during) = (writers.longest(before, begin)?, writers.longest(begin, end)?);
    if way == Way::Stillpoint {
        field.stack.operator().delete(&copy).await?;
    }
    Ok(Measured { round: Round { usual, during, pause }, took: end - begin })
}

async fn snapshot(field: &Field, name: &str) -> Result<Duration> {
    let selector = format!("group={}", GROUP.label());
    let record = field.stack.operator().snapshot(name, &selector, None, Barrier::Together).await?;
    let timeline = record.timeline.as_ref().context("a committed snapshot has no timeline")?;
    Ok(Duration::from_micros(timeline.window_us))
}

/// One write with its sync.
#[derive(Debug, Clone, Copy)]
struct Operation {
    start: Instant,
    end: Instant,
    /// Its thread was ready and waited for a processor.
    unscheduled: Duration,
}

type Operations = Arc<Mutex<Vec<Operation>>>;

/// A writer on each volume, and one in memory.
struct Writers {
    stop: Arc<AtomicBool>,
    on_volumes: Vec<Operations>,
    in_memory: Operations,
    memory_file: PathBuf,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Writers {
    fn start(mounts: &[PathBuf]) -> Result<Self> {
        let memory_file = Path::new(MEMORY).join(format!("stillpoint-bench-{}", std::process::id()));
        let mut writers = Self {
            stop: Arc::default(),
            on_volumes: Vec::new(),
            in_memory: Operations::default(),
            memory_file: memory_file.clone(),
            threads: Vec::new(),
        };
        for mount in mounts {
            let operations = Operations::default();
            writers.on_volumes.push(Arc::clone(&operations));
            writers.spawn(&mount.join("stall"), operations)?;
        }
        let in_memory = Arc::clone(&writers.in_memory);
        writers.spawn(&memory_file, in_memory)?;
        Ok(writers)
    }

    fn spawn(&mut self, path: &Path, operations: Operations) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || write(&file, &operations, &stop)));
        Ok(())
    }

    /// The longest operations of which any part is between these instants.
    fn longest(&self, from: Instant, to: Instant) -> Result<Stall> {
        // One that began before the end must have ended, or its length is not known.
        let limit = Instant::now() + COME_BACK;
        let all = || self.on_volumes.iter().chain([&self.in_memory]);
        while !all().all(|operations| last_start(operations).is_some_and(|start| start >= to)) {
            ensure!(Instant::now() < limit, "a writer has not come back within {COME_BACK:?}");
            std::thread::sleep(EVERY);
        }
        let slowest = self.on_volumes.iter().filter_map(|operations| longest(operations, from, to));
        let slowest = slowest.max_by_key(|operation| operation.end - operation.start);
        let slowest = slowest.context("nothing was written")?;
        let memory = longest(&self.in_memory, from, to).context("nothing was written in memory")?;
        Ok(Stall {
            whole: slowest.end - slowest.start,
            unscheduled: slowest.unscheduled,
            in_memory: memory.end - memory.start,
        })
    }

    fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok().context("a writer panicked")??;
        }
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(std::fs::remove_file(&self.memory_file));
    }
}

fn write(file: &File, operations: &Mutex<Vec<Operation>>, stop: &AtomicBool) -> Result<()> {
    let block = [0x5a; BLOCK];
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let waited = unscheduled()?;
        let start = Instant::now();
        file.write_all_at(&block, n % BLOCKS * BLOCK as u64)?;
        file.sync_data()?;
        let end = Instant::now();
        let operation = Operation { start, end, unscheduled: unscheduled()?.saturating_sub(waited) };
        operations.lock().ok().context("a writer panicked")?.push(operation);
        std::thread::sleep(EVERY);
    }
    Ok(())
}

/// How long this thread has been ready without a processor, since it began.
fn unscheduled() -> Result<Duration> {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("this kernel has no schedstat")?;
    let waited = text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok());
    Ok(Duration::from_nanos(waited.context("schedstat cannot be read")?))
}

fn last_start(operations: &Mutex<Vec<Operation>>) -> Option<Instant> {
    operations.lock().ok()?.last().map(|operation| operation.start)
}

fn longest(operations: &Mutex<Vec<Operation>>, from: Instant, to: Instant) -> Option<Operation> {
    let operations = operations.lock().ok()?;
    let within = operations.iter().filter(|operation| operation.start < to && operation.end > from);
    within.max_by_key(|operation| operation.end - operation.start).copied()
}

/// Threads that do nothing but compute, as three `nodetool` do while they start.
struct Busy {
    stop: Arc<AtomicBool>,
}

impl Busy {
    fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..2 * std::thread::available_parallelism()?.get() {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Ok(Self { stop })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_operation_counts_where_any_part_of_it_is_looked_at() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let operation =
            |start, end| Operation { start: at(start), end: at(end), unscheduled: Duration::ZERO };
        let operations = Mutex::new(vec![operation(0, 5), operation(10, 40), operation(50, 52)]);
        let found =
            |from, to| longest(&operations, at(from), at(to)).map(|it| (it.end - it.start).as_millis());
        assert_eq!(found(30, 60), Some(30), "it began before");
        assert_eq!(found(41, 60), Some(2));
        assert_eq!(found(41, 45), None);
    }

    #[test]
    fn a_writer_in_memory_is_seen() {
        let writers = Writers::start(&[MEMORY.into()]).unwrap();
        let from = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let seen = writers.longest(from, Instant::now()).unwrap();
        assert!(seen.whole > Duration::ZERO && seen.in_memory > Duration::ZERO);
        writers.finish().unwrap();
        drop(std::fs::remove_file(Path::new(MEMORY).join("stall")));
    }
}
