//! The harness on the real kernel: whatever a run leaves is let go. Needs root; says so when it skips.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stillpoint_tests::harness::{RunDir, binaries, leftovers, skip};
use stillpoint_tests::workloads::ledger::{self, Ledger, Reading};

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_frozen_mounted_and_attached_below_a_run_is_let_go_and_told() {
    if !nix::unistd::geteuid().is_root() {
        skip("a frozen leftover", "needs root");
        return;
    }
    let dir = RunDir::new("harness").unwrap();
    let image = dir.path().join("disk.img");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let mount = dir.directory("mount").unwrap();
    run("mkfs.ext4", &["-q", text(&image)]);
    run("mount", &["-o", "loop", text(&image), text(&mount)]);
    // Thaws even when this test dies.
    let script = format!("sleep 15; fsfreeze -u {}", mount.display());
    let mut dead_man = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    run("fsfreeze", &["-f", text(&mount)]);
    let path = dir.path().to_owned();
    let left = dir.close();
    dead_man.kill().unwrap();
    dead_man.wait().unwrap();

    assert_eq!(left.thawed, [mount]);
    assert!(!left.is_clean() && left.forced.is_empty() && left.stuck.is_empty(), "{left}");
    assert_eq!(leftovers::mounts_below(&path).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(leftovers::loops_below(&path).unwrap(), []);
    assert!(!path.exists());
}

#[test]
fn a_killed_ledger_is_consistent_and_copies_of_different_instants_are_not() {
    let dir = RunDir::new("ledger").unwrap();
    let volumes = ["a", "b", "c"].map(|name| dir.directory(name).unwrap());
    let demo = binaries::binary("stillpoint-demo").unwrap();
    let mut ledger = Ledger::start(&demo, &volumes, dir.path()).unwrap();
    while ledger.mark().unwrap().written < 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let early: Reading = ledger::read(&volumes[0]).unwrap();
    let before = ledger.mark().unwrap().written;
    while ledger.mark().unwrap().written < before + 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    ledger.stop().unwrap();

    let readings = [0, 1, 2].map(|index| ledger::read(&volumes[index]).unwrap());
    let audit = ledger::audit(&readings, before);
    assert!(audit.is_consistent(), "{audit}");
    let [_, b, c] = readings;
    assert!(!ledger::audit(&[early, b, c], 0).is_consistent());
    assert!(dir.close().is_clean());
}
