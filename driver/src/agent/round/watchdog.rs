//! The seam to the guard process.

use std::path::PathBuf;
use std::time::Duration;

use stillpoint_guard::client;

use crate::domain::Fault;
use crate::host::{MountHandle, ThrottleHandle};

/// What is about to be held.
pub struct Charge<'a> {
    /// Filesystems.
    pub mounts: Vec<&'a dyn MountHandle>,
    /// Raw devices.
    pub throttles: Vec<&'a dyn ThrottleHandle>,
}

/// Lets go when the agent cannot.
pub trait Watchdog: Send + Sync {
    /// Guards these from now on. Without it nothing is held.
    fn arm(&self, charge: &Charge<'_>, limit: Duration) -> Result<Box<dyn Armed>, Fault>;
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
    fn arm(&self, charge: &Charge<'_>, limit: Duration) -> Result<Box<dyn Armed>, Fault> {
        let mounts: Vec<_> = charge.mounts.iter().filter_map(|mount| mount.descriptor()).collect();
        let throttles: Vec<_> = charge.throttles.iter().filter_map(|throttle| throttle.limits()).collect();
        let armed = client::Armed::new(&self.socket, &mounts, &throttles, limit)
            .map_err(|error| Fault::unavailable(error.to_string()))?;
        Ok(Box::new(armed))
    }
}

impl Armed for client::Armed {
    fn disarm(self: Box<Self>) -> Fired {
        match client::Armed::disarm(*self) {
            Ok(client::Outcome::Quiet) => Fired::No,
            Ok(client::Outcome::Fired) => Fired::Yes("the guard let go because its limit had passed".into()),
            Err(error) => Fired::Yes(error.to_string()),
        }
    }
}

/// For hosts whose filesystems live in this process's memory and end with it.
#[derive(Debug)]
pub struct NothingOutlivesUs;

impl Watchdog for NothingOutlivesUs {
    fn arm(&self, charge: &Charge<'_>, _limit: Duration) -> Result<Box<dyn Armed>, Fault> {
        let of_the_kernel = charge.mounts.iter().any(|mount| mount.descriptor().is_some())
            || charge.throttles.iter().any(|throttle| throttle.limits().is_some());
        if of_the_kernel {
            return Err(Fault::precondition(
                "a volume of the kernel would be held without a guard; set guardSocket in the agent's configuration",
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
