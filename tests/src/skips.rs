//! Tests that cannot run here say so, and are counted as skipped and not as passed.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that `test` cannot run here and why. Where `STILLPOINT_SKIPS` names a file, a line is added to it: `.ci/run`
/// counts them.
pub fn skip(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
    let Some(file) = std::env::var_os("STILLPOINT_SKIPS") else { return };
    let line = format!("{test}\t{}\n", why.replace(['\n', '\t'], " "));
    let added = OpenOptions::new().create(true).append(true).open(&file).and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = added {
        println!("cannot note the skip in {}: {error}", file.display());
    }
}
