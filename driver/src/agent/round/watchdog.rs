//! The seam to the guard process.

use std::path::PathBuf;
use std::time::Duration;

use stillpoint_guard::client;

use crate::domain::Fault;
use crate::host::MountHandle;

/// Thaws when the agent cannot.
pub trait Watchdog: Send + Sync {
    /// Guards these mounts from now on. Without it nothing is frozen.
    fn arm(&self, mounts: &[&dyn MountHandle], limit: Duration) -> Result<Box<dyn Armed>, Fault>;
}

/// A hold under guard; dropping it without [`Armed::disarm`] has the guard thaw at once.
pub trait Armed: Send {
    /// The hold is over. The answer says whether the guard had thawed by itself.
    fn disarm(self: Box<Self>) -> Fired;
}

/// Whether a guard had thawed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    /// It had not.
    No,
    /// It had, or nobody knows; in words.
    Yes(String),
}

/// `stillpoint-guard` behind its socket.
#[derive(Debug)]
pub struct GuardProcess {
    /// Where it listens.
    pub socket: PathBuf,
}

impl Watchdog for GuardProcess {
    fn arm(&self, mounts: &[&dyn MountHandle], limit: Duration) -> Result<Box<dyn Armed>, Fault> {
        let descriptors: Vec<_> = mounts.iter().filter_map(|mount| mount.descriptor()).collect();
        let armed = client::Armed::new(&self.socket, &descriptors, limit)
            .map_err(|error| Fault::unavailable(error.to_string()))?;
        Ok(Box::new(armed))
    }
}

impl Armed for client::Armed {
    fn disarm(self: Box<Self>) -> Fired {
        match client::Armed::disarm(*self) {
            Ok(client::Outcome::Quiet) => Fired::No,
            Ok(client::Outcome::Fired) => Fired::Yes("the guard thawed because its limit had passed".into()),
            Err(error) => Fired::Yes(error.to_string()),
        }
    }
}

/// For hosts whose filesystems live in this process's memory and end with it.
#[derive(Debug)]
pub struct NothingOutlivesUs;

impl Watchdog for NothingOutlivesUs {
    fn arm(&self, mounts: &[&dyn MountHandle], _limit: Duration) -> Result<Box<dyn Armed>, Fault> {
        if mounts.iter().any(|mount| mount.descriptor().is_some()) {
            return Err(Fault::precondition(
                "a filesystem of the kernel would be frozen without a guard; set guardSocket in the agent's configuration",
            ));
        }
        Ok(Box::new(Self))
    }
}

impl Armed for NothingOutlivesUs {
    fn disarm(self: Box<Self>) -> Fired {
        Fired::No
    }
}
