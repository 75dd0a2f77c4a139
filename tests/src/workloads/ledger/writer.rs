//! The writer is a process of its own (this program again, under a hidden command), so that it can be killed
//! and so that the pause it feels is the pause of a real application.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
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
    /// Makes the files on three directories and starts `program` as the writer.
    pub fn start(program: &Path, directories: &[PathBuf; 3], run: &Path) -> Result<Self> {
        for directory in directories {
            prepare(directory)?;
        }
        let spec = Spec::new("ledger", program).arg(HIDDEN_COMMAND).args(directories).piped();
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

/// Makes the file of one volume, all slots empty and on disk.
fn prepare(directory: &Path) -> Result<()> {
    let path = directory.join(FILE);
    let make = || -> std::io::Result<()> {
        let mut file = File::create(&path)?;
        file.write_all(&vec![0; SLOTS as usize * SLOT_BYTES])?;
        file.sync_all()?;
        File::open(directory)?.sync_all()
    };
    make().with_context(|| format!("cannot make {}", path.display()))
}

/// The writer's process: writes until standard input ends, answers `mark` on standard output.
pub fn write_for_ever(directories: &[PathBuf]) -> Result<()> {
    ensure!(directories.len() == 3, "the ledger needs three directories");
    let files = directories
        .iter()
        .map(|directory| {
            let path = directory.join(FILE);
            File::options().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
        })
        .collect::<Result<Vec<_>>>()?;
    let pace: &'static Pace = Box::leak(Box::new(Pace::new()));
    std::thread::spawn(move || answer(pace));
    for n in 1.. {
        for file in &files {
            file.write_all_at(&encode(n), offset(n))?;
            file.sync_all()?;
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
