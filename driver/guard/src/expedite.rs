//! `/sys/kernel/rcu_expedited`, counted over all processes of a machine.
//!
//! A freeze waits for three RCU grace periods: 24–30 ms on an idle machine, below 1 ms when they are expedited. The
//! switch is one for the whole kernel, so it is set just around a hold and put back. Several agents may hold at the
//! same time and any of them may die, therefore the count is a `flock`: a lease is a shared lock on one file, the
//! file keeps what the switch was before, and whoever can turn his lock into an exclusive one was the last and puts
//! it back. A lock dies with its process; the guard looks again when an agent's connection ends.
//!
//! The file must be the same one for all of a kernel's agents and guards, whatever their directories and mount
//! namespaces: with two files, each would take the other's "on" for what was before and leave it on. So it is in
//! `/dev`, which everybody sees who may attach loop devices.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

/// The kernel's switch.
pub const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// The lock file.
const FILE: &str = "/dev/stillpoint-rcu-expedited";
/// Each attempt fails only when the last other lease ends in the same instant.
const ATTEMPTS: usize = 16;

/// Where the switch and the lock file are.
#[derive(Debug, Clone)]
pub struct Expedite {
    switch: PathBuf,
    file: PathBuf,
}

/// Grace periods are expedited while this lives.
#[derive(Debug)]
pub struct Lease {
    owner: Expedite,
    lock: Option<Flock<File>>,
}

impl Expedite {
    /// The switch of the kernel that this process runs on.
    pub fn of_this_kernel() -> Self {
        Self { switch: SWITCH.into(), file: FILE.into() }
    }

    /// Expedites until the lease is dropped. The first one writes down what the switch was.
    ///
    /// A lock cannot be turned from exclusive to shared without a gap in which the last other lease may put the
    /// switch back, so the file is looked at once more under the shared lock.
    pub fn lease(&self) -> std::io::Result<Lease> {
        for _ in 0..ATTEMPTS {
            match self.lock(FlockArg::LockExclusiveNonblock) {
                Ok(lock) => self.switch_on(&lock)?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let lock = self.lock(FlockArg::LockShared)?;
            if !before(&lock)?.is_empty() {
                return Ok(Lease { owner: self.clone(), lock: Some(lock) });
            }
        }
        Err(std::io::ErrorKind::WouldBlock.into())
    }

    /// Puts the switch back when nobody holds a lease: what a process that was killed left behind.
    pub fn put_back_if_unused(&self) -> std::io::Result<()> {
        if !self.file.exists() {
            return Ok(());
        }
        match self.lock(FlockArg::LockExclusiveNonblock) {
            Ok(lock) => self.put_back(&lock),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, how: FlockArg) -> std::io::Result<Flock<File>> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.file)?;
        Flock::lock(file, how).map_err(|(_, errno)| errno.into())
    }

    fn switch_on(&self, exclusive: &Flock<File>) -> std::io::Result<()> {
        if before(exclusive)?.is_empty() {
            let was = std::fs::read_to_string(&self.switch)?;
            (&**exclusive).write_all(was.trim_end().as_bytes())?;
            std::fs::write(&self.switch, "1")?;
        }
        Ok(())
    }

    fn put_back(&self, exclusive: &Flock<File>) -> std::io::Result<()> {
        let was = before(exclusive)?;
        if !was.is_empty() {
            std::fs::write(&self.switch, was)?;
            exclusive.set_len(0)?;
        }
        Ok(())
    }
}

/// What the switch was before the first lease; empty when there is none.
fn before(lock: &Flock<File>) -> std::io::Result<String> {
    let mut text = String::new();
    (&**lock).rewind()?;
    (&**lock).take(8).read_to_string(&mut text)?;
    Ok(text)
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        // The kernel converts one lock at a time: of two that let go together, the second gets it exclusively.
        if lock.relock(FlockArg::LockExclusiveNonblock).is_ok() {
            // Nothing to report to from here; the next lease or the guard tries again.
            let _ = self.owner.put_back(&lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str) -> (PathBuf, Expedite) {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-expedite-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let switch = directory.join("switch");
        std::fs::write(&switch, "0\n").unwrap();
        (directory.clone(), Expedite { switch, file: directory.join("lock") })
    }

    fn value(expedite: &Expedite) -> String {
        std::fs::read_to_string(&expedite.switch).unwrap().trim().to_string()
    }

    #[test]
    fn overlapping_leases_put_the_switch_back_once_at_the_end() {
        let (directory, expedite) = machine("overlap");
        let first = expedite.lease().unwrap();
        assert_eq!(value(&expedite), "1");
        let second = expedite.lease().unwrap();
        drop(first);
        assert_eq!(value(&expedite), "1", "the second lease still holds");
        drop(second);
        assert_eq!(value(&expedite), "0");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_is_put_back_but_never_under_a_living_lease() {
        let (directory, expedite) = machine("dead");
        let living = expedite.lease().unwrap();
        expedite.put_back_if_unused().unwrap();
        assert_eq!(value(&expedite), "1");
        drop(living);
        // A killed process: the file says what was, the lock is gone.
        std::fs::write(&expedite.switch, "1").unwrap();
        std::fs::write(&expedite.file, "0").unwrap();
        expedite.put_back_if_unused().unwrap();
        assert_eq!(value(&expedite), "0");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_switch_that_was_on_stays_on() {
        let (directory, expedite) = machine("on");
        std::fs::write(&expedite.switch, "1").unwrap();
        drop(expedite.lease().unwrap());
        assert_eq!(value(&expedite), "1");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
