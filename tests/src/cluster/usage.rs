//! What Stillpoint's processes in a cluster use.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cgroups::Cgroups;
use super::{Layout, Place};

/// A process of Stillpoint in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// `controller`, `node-agent` or `guard`.
    pub role: String,
    /// Its node.
    pub node: String,
    /// Resident memory, shared pages of its program included.
    pub resident_kib: u64,
    /// Of the resident memory, what is its own.
    pub own_kib: u64,
    /// Processor time while it was watched.
    pub busy: Duration,
}

/// Watches all of them for a while.
pub fn watch(layout: &Layout, time: Duration) -> Result<Vec<Usage>> {
    let cgroups = Cgroups::of(layout)?;
    let mut before = Vec::new();
    for node in Place::nodes() {
        for pid in cgroups.processes(node) {
            if let Some(role) = role(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()) {
                before.push((role, node, pid, busy(pid)?));
            }
        }
    }
    let end = Instant::now() + time;
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    let mut all = Vec::new();
    for (role, node, pid, start) in before {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("the {role} of {node} has ended while it was watched"))?;
        all.push(Usage {
            role,
            node: node.to_string(),
            resident_kib: field(&status, "VmRSS:")?,
            own_kib: field(&status, "RssAnon:")?,
            busy: busy(pid)?.saturating_sub(start),
        });
    }
    all.sort_by(|a, b| (&a.role, &a.node).cmp(&(&b.role, &b.node)));
    Ok(all)
}

/// What a process is for, by its command line; `None` when it is not ours.
fn role(cmdline: &[u8]) -> Option<String> {
    let mut arguments = cmdline.split(|byte| *byte == 0);
    let program = arguments.next()?;
    match program.rsplit(|byte| *byte == b'/').next()? {
        b"stillpoint" => Some(String::from_utf8_lossy(arguments.next()?).into_owned()),
        b"stillpoint-guard" => Some("guard".into()),
        _ => None,
    }
}

fn field(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    number.with_context(|| format!("no {name} in the status of a process"))
}

/// User and system time.
fn busy(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended while it was watched"))?;
    let ticks = ticks(&stat).with_context(|| format!("cannot read the times of process {pid}"))?;
    let rate =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("the kernel has no clock ticks")?;
    Ok(Duration::from_millis(ticks * 1000 / u64::try_from(rate)?.max(1)))
}

/// Fields 14 and 15 of `/proc/PID/stat`; the name before them may have blanks.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_program_and_its_first_argument() {
        let known = |text: &str| role(text.replace(' ', "\0").as_bytes());
        assert_eq!(known("stillpoint node-agent"), Some("node-agent".into()));
        assert_eq!(known("/usr/bin/stillpoint controller --x"), Some("controller".into()));
        assert_eq!(known("stillpoint-guard --socket /run/x"), Some("guard".into()));
        assert_eq!(known("/pause stillpoint"), None);
    }

    #[test]
    fn times_and_memory_are_read_from_what_the_kernel_says_of_us() {
        assert_eq!(ticks("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 40 2 0"), Some(42));
        let own = i32::try_from(std::process::id()).unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(busy(own).is_ok() && field(&status, "VmRSS:").unwrap() > 100);
        assert!(field(&status, "VmNone:").is_err());
    }
}
