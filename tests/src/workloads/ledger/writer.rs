//! The writer is a process of its own (this program again, under a hidden command), so that it can be killed
//! and so that the pause it feels is the pause of a real application.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::FILE;
use super::record::{SLOT_BYTES, SLOTS, encode, offset};
use crate::harness::{Process, Spec};

/// The command under which a binary must call [`write_for_ever`] with the three directories that follow.
pub const HIDDEN_COMMAND: &str = "ledger-writer";

/// How far the writer is and how long it has stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Numbers written so far.
    pub written: u64,
    /// The longest time that one number took since the last mark: the pause that an application feels.
    pub longest: Duration,
}

/// A running writer. Dropping it ends it.
#[derive(Debug)]
pub struct Ledger {
    process: Process,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Ledger {
    /// Makes the files on three directories, or clears three raw devices, and starts `program` as the writer.
    pub fn start(program: &Path, places: &[PathBuf; 3], run: &Path) -> Result<Self> {
        for place in places {
            prepare(place)?;
        }
        let spec = Spec::new("ledger", program).arg(HIDDEN_COMMAND).args(places).piped();
        let mut process = spec.start(run)?;
        let (ask, answers) = process.pipes().context("the writer has no pipes")?;
        Ok(Self { process, ask, answers: BufReader::new(answers) })
    }

    /// How far it is; counts the longest pause anew from here.
    pub fn mark(&mut self) -> Result<Mark> {
        self.process.check_alive()?;
        self.ask.write_all(b"mark\n").context("cannot ask the ledger's writer")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the ledger's writer does not answer")?;
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        if let (Some(Ok(written)), Some(Ok(longest))) = (numbers.next(), numbers.next()) {
            return Ok(Mark { written, longest: Duration::from_micros(longest) });
        }
        self.process.check_alive()?;
        bail!("the ledger's writer answered {line:?}")
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it, in the middle of whatever it does.
    pub fn stop(mut self) -> Result<()> {
        self.process.kill()
    }
}

fn is_device(place: &Path) -> bool {
    std::fs::metadata(place).is_ok_and(|found| found.file_type().is_block_device())
}

/// Makes the file of one volume, all slots empty and on disk.
fn prepare(place: &Path) -> Result<()> {
    let empty = vec![0; SLOTS as usize * SLOT_BYTES];
    let make = || -> std::io::Result<()> {
        if is_device(place) {
            let device = File::options().write(true).open(place)?;
            device.write_all_at(&empty, 0)?;
            return device.sync_all();
        }
        let mut file = File::create(place.join(FILE))?;
        file.write_all(&empty)?;
        file.sync_all()?;
        File::open(place)?.sync_all()
    };
    make().with_context(|| format!("cannot make a ledger in {}", place.display()))
}

/// Where numbers go.
enum Place {
    /// A file, through the page cache and fsync.
    File(File),
    /// A device without a page cache in between; what is around a slot is written again with it.
    Raw(File, Box<Blocks>),
}

/// What is on a raw device, where the kernel can take it from.
struct Blocks {
    bytes: Vec<u8>,
    /// The first byte whose address is a multiple of a block.
    start: usize,
}

/// O_DIRECT takes whole blocks of the largest sector size from addresses that are multiples of it.
const BLOCK: usize = 4096;

impl Blocks {
    fn new() -> Self {
        let bytes = vec![0_u8; SLOTS as usize * SLOT_BYTES + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    /// Puts a number in and gives the block around it.
    fn put(&mut self, n: u64) -> (&[u8], u64) {
        let slot = offset(n) as usize;
        self.bytes[self.start + slot..][..SLOT_BYTES].copy_from_slice(&encode(n));
        let block = slot / BLOCK * BLOCK;
        (&self.bytes[self.start + block..][..BLOCK], block as u64)
    }
}

impl Place {
    fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        options.write(true);
        let opened = if is_device(path) {
            let device = options.custom_flags(nix::fcntl::OFlag::O_DIRECT.bits()).open(path);
            device.map(|device| Self::Raw(device, Box::new(Blocks::new())))
        } else {
            options.open(path.join(FILE)).map(Self::File)
        };
        opened.with_context(|| format!("cannot open the ledger in {}", path.display()))
    }

    fn put(&mut self, n: u64) -> std::io::Result<()> {
        match self {
            Self::File(file) => {
                file.write_all_at(&encode(n), offset(n))?;
                file.sync_all()
            }
            Self::Raw(device, blocks) => {
                let (block, at) = blocks.put(n);
                device.write_all_at(block, at)
            }
        }
    }
}

/// The writer's process: writes until standard input ends, answers `mark` on standard output.
pub fn write_for_ever(places: &[PathBuf]) -> Result<()> {
    ensure!(places.len() == 3, "the ledger needs three directories or devices");
    let mut places = places.iter().map(|place| Place::open(place)).collect::<Result<Vec<_>>>()?;
    let pace: &'static Pace = Box::leak(Box::new(Pace::new()));
    std::thread::spawn(move || answer(pace));
    for n in 1.. {
        for place in &mut places {
            place.put(n)?;
        }
        pace.step(n);
    }
    Ok(())
}

/// Answers until nobody asks any more, then ends the process.
fn answer(pace: &Pace) {
    for line in std::io::stdin().lines() {
        if line.is_err() {
            break;
        }
        let (written, longest) = pace.mark();
        println!("{written} {longest}");
    }
    std::process::exit(0);
}

/// Times in microseconds since `start`.
struct Pace {
    start: Instant,
    written: AtomicU64,
    last: AtomicU64,
    longest: AtomicU64,
}

impl Pace {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            written: AtomicU64::new(0),
            last: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn step(&self, n: u64) {
        let now = self.now();
        let took = now.saturating_sub(self.last.swap(now, Ordering::SeqCst));
        self.longest.fetch_max(took, Ordering::SeqCst);
        self.written.store(n, Ordering::SeqCst);
    }

    /// A number that is still under way counts with what it has taken so far.
    fn mark(&self) -> (u64, u64) {
        let open = self.now().saturating_sub(self.last.load(Ordering::SeqCst));
        let longest = self.longest.swap(0, Ordering::SeqCst).max(open);
        (self.written.load(Ordering::SeqCst), longest)
    }
}
