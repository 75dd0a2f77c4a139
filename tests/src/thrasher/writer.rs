//! A writer: a process of its own that writes, syncs, reads back from the disk and compares, for ever.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::block::{BLOCK_BYTES, BLOCKS, audit, encode, place};
use crate::harness::{Process, Spec};

/// The command under which a binary must call [`write_for_ever`] with a directory and a number.
pub const HIDDEN_COMMAND: &str = "thrash-writer";
/// The file.
pub const FILE: &str = "thrash";
/// Operations between two syncs; after each sync one block is read back from the disk.
const SYNC_EVERY: u64 = 8;
/// After each sync: the writers shall feel the system, not each other.
const REST: Duration = Duration::from_millis(2);

/// A running writer. Dropping it ends it.
#[derive(Debug)]
pub struct Writer {
    process: Process,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Writer {
    /// Starts `program` as writer number `number` in `directory`.
    pub fn start(program: &Path, directory: &Path, number: u64, run: &Path) -> Result<Self> {
        let spec = Spec::new(format!("thrasher-{number}"), program)
            .arg(HIDDEN_COMMAND)
            .arg(directory)
            .arg(number.to_string())
            .piped();
        let mut process = spec.start(run)?;
        let (ask, answers) = process.pipes().context("the writer has no pipes")?;
        Ok(Self { process, ask, answers: BufReader::new(answers) })
    }

    /// An error when it has found something wrong.
    pub fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }

    /// Ends it after it has looked at its whole file: how long each of its operations took.
    pub fn finish(mut self) -> Result<Vec<Duration>> {
        self.process.check_alive()?;
        writeln!(self.ask, "end").context("cannot ask the writer")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the writer does not answer")?;
        let Some(times) = line.strip_prefix("ok ") else {
            self.process.check_alive()?;
            bail!("the writer said {line:?}");
        };
        let times = times.split_whitespace().map(|us| Ok(Duration::from_micros(us.parse()?)));
        times.collect()
    }
}

/// What the file of writer `number` says, read from a copy of its volume: the last operation in it.
pub fn audit_copy(directory: &Path, number: u64) -> Result<u64> {
    let path = directory.join(FILE);
    let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    audit(number, &content).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

/// The writer's process: until it is told to end, or finds something wrong.
pub fn write_for_ever(directory: &Path, number: u64) -> Result<()> {
    let path = directory.join(FILE);
    let file = prepare(&path, directory)?;
    let end = when_told();
    let mut times = Vec::new();
    for n in 1.. {
        let start = Instant::now();
        let at = place(number, n) * BLOCK_BYTES as u64;
        file.write_all_at(&encode(number, n), at)?;
        if n % SYNC_EVERY == 0 {
            file.sync_data()?;
        }
        times.push(start.elapsed());
        if n % SYNC_EVERY == 0 {
            read_back(&file, number, at, n)?;
            std::thread::sleep(REST);
        }
        match end.try_recv() {
            Ok(()) => break,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
    file.sync_all()?;
    audit_copy(directory, number)?;
    let times: Vec<String> = times.iter().map(|time| time.as_micros().to_string()).collect();
    println!("ok {}", times.join(" "));
    Ok(())
}

fn prepare(path: &PathBuf, directory: &Path) -> Result<File> {
    let make = || -> std::io::Result<File> {
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all(&vec![0; usize::try_from(BLOCKS).unwrap_or(0) * BLOCK_BYTES])?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
        Ok(file)
    };
    make().with_context(|| format!("cannot make {}", path.display()))
}

/// What was synced is on the disk, not only in memory.
fn read_back(file: &File, number: u64, at: u64, n: u64) -> Result<()> {
    let length = i64::try_from(BLOCK_BYTES).unwrap_or(i64::MAX);
    posix_fadvise(file, at.cast_signed(), length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut block = vec![0; BLOCK_BYTES];
    file.read_exact_at(&mut block, at)?;
    ensure!(block == encode(number, n), "operation {n} was synced and cannot be read back");
    Ok(())
}

/// Told when somebody says anything; disconnected when there is nobody any more.
fn when_told() -> Receiver<()> {
    let (sender, told) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
            let _ = sender.send(());
            // Keeps the channel connected until the end.
            std::thread::park();
        }
    });
    told
}
