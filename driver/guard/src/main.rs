//! `stillpoint-guard --socket PATH`: see the library's documentation.

use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::mman::{MlockAllFlags, mlockall};
use stillpoint_guard::{Records, expedite::Expedite, server};

const USAGE: &str = "usage: stillpoint-guard --socket PATH

Thaws what a Stillpoint agent froze when the agent dies or its limit passes.
  --socket PATH   where the agent finds the guard (made with mode 0600)";

struct Arguments {
    socket: PathBuf,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut socket = None;
    while let Some(word) = words.next() {
        let mut value = || words.next().map(PathBuf::from).ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--socket" => socket = Some(value()?),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(Arguments { socket: socket.ok_or("--socket is missing")? })
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("stillpoint-guard: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(never) => never,
        Err(why) => {
            eprintln!("stillpoint-guard: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    if let Some(directory) = arguments.socket.parent() {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let records = Records::beside(&arguments.socket)?;
    records.let_go();
    let expedite = Expedite::of_this_kernel();
    // Without it freezes take longer; without a guard nothing could be snapshotted at all.
    if let Err(error) = expedite.put_back_if_unused() {
        eprintln!("stillpoint-guard: cannot put rcu_expedited back: {error}; going on without");
    }
    let listener = server::listen_at(&arguments.socket)
        .map_err(|errno| format!("cannot listen at {}: {errno}", arguments.socket.display()))?;
    // A page of ours that lies on a filesystem that is frozen could never be read in.
    if let Err(errno) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        eprintln!("stillpoint-guard: cannot lock memory ({errno}); going on without");
    }
    // Needs CAP_SYS_RESOURCE; without it the guard is killed like anybody else when memory runs out.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("stillpoint-guard: cannot lower oom_score_adj ({error}); going on without");
    }
    eprintln!("stillpoint-guard: ready at {}", arguments.socket.display());
    Err(format!("cannot accept connections: {}", server::serve(&listener, &expedite, &records)))
}
