//! Finds and ends what is left of a command whose end nobody has seen: a supervisor of a controller that died, and
//! processes that carry the command's mark in their environment.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::inventory::PodDefinition;
use crate::ports::Mark;

/// How long it is tried.
const LIMIT: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Programs in front of a command that start it as a descendant of their own, on this machine. What any other one
/// starts (`ssh`, `docker exec`) cannot be seen from here.
const STARTS_IT_HERE: [&str; 28] = [
    "bash", "busybox", "chroot", "chrt", "dash", "doas", "env", "flock", "gosu", "ionice", "ip", "nice",
    "nohup", "nsenter", "numactl", "prlimit", "runuser", "setpriv", "setsid", "sh", "stdbuf", "su", "sudo",
    "su-exec", "taskset", "time", "timeout", "unshare",
];

/// The name of the process that supervises the commands of this mark.
pub(super) fn name_of(mark: Mark) -> String {
    format!("cmd-{mark}")
}

/// As [`end_of`] for a pod whose definition is known.
pub(super) async fn end(pod: &PodDefinition, mark: Mark) -> Result<(), String> {
    end_of(Some(pod), mark).await
}

/// Ends what carries the mark. `Ok`: nothing of it runs.
pub(super) async fn end_of(pod: Option<&PodDefinition>, mark: Mark) -> Result<(), String> {
    let elsewhere = pod.and_then(|pod| pod.exec.first()).filter(|program| !starts_it_here(program));
    let until = Instant::now() + LIMIT;
    loop {
        let looking = tokio::task::spawn_blocking(move || end_now(mark));
        match looking.await.map_err(|error| error.to_string())? {
            0 => break,
            count if Instant::now() >= until => {
                return Err(format!("{count} of its processes have not ended within {LIMIT:?}"));
            }
            _ => sleep(PAUSE).await,
        }
    }
    match elsewhere {
        None => Ok(()),
        Some(program) => Err(format!("what `{program}` has started elsewhere cannot be seen from here")),
    }
}

fn starts_it_here(program: &str) -> bool {
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program);
    STARTS_IT_HERE.contains(&name)
}

/// Kills what carries the mark and gives how many processes that were, the supervisors that still work included: those
/// end by themselves, after what they watch.
fn end_now(mark: Mark) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else { return 1 };
    let (name, variable) = (name_of(mark), format!("{}={mark}", Mark::VARIABLE));
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = 0;
    for id in ids.filter(|id| is_alive(*id)) {
        let comm = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        let environ = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        if comm.trim_end() == name {
            found += 1;
        } else if environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes()) {
            found += 1;
            // One that is not ours to kill is found again, and reported.
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
    found
}

/// Whether a process has not ended. One that only waits to be fetched has.
pub(super) fn is_alive(id: i32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{id}/stat")) else { return false };
    // `pid (name) state …`; the name may contain anything, so look from its end.
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    !matches!(state, Some(b'Z' | b'X'))
}
