//! Everything that a test with real hosts needs: a directory that cleans itself up, processes that cannot
//! outlive us, addresses on the loopback, and a whole Stillpoint of three hosts on one machine.

pub mod bench;
pub mod binaries;
pub mod blkcg;
pub mod csi;
pub mod hosts;
pub mod leftovers;
pub mod net;
pub mod operator;
pub mod process;
pub mod progress;
pub mod rundir;
pub mod site;
pub mod stack;

/// Says that a test cannot run here and why: printed, and counted where `STILLPOINT_SKIPS` names a file.
pub fn skip(test: &str, why: &str) {
    use std::io::Write;
    println!("SKIPPED {test}: {why}");
    let Some(path) = std::env::var_os("STILLPOINT_SKIPS") else { return };
    let file = std::fs::File::options().append(true).create(true).open(path);
    let told = file.and_then(|mut file| writeln!(file, "{test}: {why}"));
    if let Err(error) = told {
        eprintln!("the skip could not be counted: {error}");
    }
}

pub use process::{Process, Spec};
pub use progress::Step;
pub use rundir::RunDir;
pub use stack::{Blueprint, Pod, Stack};
