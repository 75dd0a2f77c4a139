//! The small demo as a test: it proves what it says, and whatever happens to it, nothing is left behind.
//! Needs root, btrfs, XFS and PostgreSQL; says so when it skips.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stillpoint_tests::harness::{Lack, binaries, leftovers, rundir, skip};
use stillpoint_tests::workloads::postgres::Installation;

/// The demo limits itself to less.
const PATIENCE: Duration = Duration::from_mins(6);

fn can_run(test: &str) -> bool {
    let why = Lack::of_root().or_else(|| Lack::of_tools(Installation::find()));
    if let Some(why) = &why {
        skip(test, why);
    }
    why.is_none()
}

/// A demo that runs. Killed when a test fails.
struct Demo {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Demo {
    fn start(cuts: u32) -> Self {
        let mut child = Command::new(binaries::binary("stillpoint-demo").unwrap())
            .args(["--size", "small", "--cuts", &cuts.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, seen: Vec::new() }
    }

    fn directory(&self) -> PathBuf {
        Path::new(rundir::BASE).join(format!("demo-{}-0", self.child.id()))
    }

    fn wait_for_line(&mut self, part: &str) {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.seen.push(line);
            if self.seen.last().is_some_and(|line| line.contains(part)) {
                return;
            }
        }
        panic!("the demo never said {part:?}; it said:\n{}", self.seen.join("\n"));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Whether it succeeded, and everything it said.
    fn end(mut self) -> (bool, String) {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the demo does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.seen.extend(self.lines.iter());
        (self.child.wait().unwrap().success(), self.seen.join("\n"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn assert_nothing_is_left(directory: &Path) {
    assert_eq!(leftovers::mounts_below(directory).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(leftovers::loops_below(directory).unwrap(), []);
    assert!(!directory.exists(), "{} is still there", directory.display());
}

/// Grace periods are expedited for the whole kernel only while somebody holds: the file of the lease says what the
/// switch was, and is empty when it has been put back.
fn assert_grace_periods_are_as_before(before: &str) {
    let lease = || std::fs::read_to_string("/dev/stillpoint-rcu-expedited").unwrap_or_default();
    let end = Instant::now() + Duration::from_secs(10);
    while !lease().is_empty() {
        assert!(Instant::now() < end, "the lease of rcu_expedited is not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(rcu_expedited(), before);
}

fn rcu_expedited() -> String {
    std::fs::read_to_string("/sys/kernel/rcu_expedited").unwrap_or_default()
}

#[test]
fn the_small_demo_proves_what_it_says_and_leaves_nothing() {
    if !can_run("the small demo") {
        return;
    }
    let switch = rcu_expedited();
    let demo = Demo::start(10);
    let directory = demo.directory();
    let (succeeded, said) = demo.end();
    println!("{said}");
    assert!(succeeded);
    for part in
        ["10 of 10 restored cuts are of one instant", "transactions acknowledged", "the same check fails"]
    {
        assert!(said.contains(part), "{part}");
    }
    let mut html = String::new();
    let picture = binaries::target_directory().unwrap().join("demo/cut-1.html");
    std::fs::File::open(picture).unwrap().read_to_string(&mut html).unwrap();
    assert!(html.contains("<svg") && html.contains("ledger-a"));
    assert_nothing_is_left(&directory);
    assert_grace_periods_are_as_before(&switch);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    if !can_run("an interrupted demo") {
        return;
    }
    let switch = rcu_expedited();
    let mut demo = Demo::start(100);
    let directory = demo.directory();
    demo.wait_for_line("freeze");
    assert!(!leftovers::mounts_below(&directory).unwrap().is_empty());
    demo.signal(Signal::SIGINT);
    let (succeeded, _) = demo.end();
    assert!(!succeeded);
    assert_nothing_is_left(&directory);
    assert_grace_periods_are_as_before(&switch);
}

#[test]
fn what_a_killed_demo_leaves_is_swept_by_the_next_run() {
    if !can_run("a killed demo") {
        return;
    }
    let mut demo = Demo::start(100);
    let directory = demo.directory();
    demo.wait_for_line("freeze");
    demo.signal(Signal::SIGKILL);
    let (succeeded, _) = demo.end();
    assert!(!succeeded);
    let swept = rundir::sweep(Path::new(rundir::BASE)).unwrap();
    assert!(swept.iter().any(|run| run.contains(&*directory.to_string_lossy())), "{swept:?}");
    assert_nothing_is_left(&directory);
}
