//! The guard as a process of its own: it can die and be stopped, and it notices the end of a connection a little later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillpoint::agent::round::watchdog::{Armed, Charge, Fired, Watchdog};
use stillpoint::domain::Fault;
use stillpoint::host::Host;
use stillpoint::host::fake::FakeHost;

/// Whether the guard does its duty, for simulations that must then fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    Does,
    SleepsAtEof,
}

#[derive(Clone)]
pub struct SimGuard {
    host: FakeHost,
    state: Arc<Mutex<State>>,
}

struct State {
    alive: bool,
    powered: bool,
    /// It died with holds; until the next one nobody but an agent lets go.
    failed: bool,
    duty: Duty,
    holds: BTreeMap<u64, Hold>,
    next: u64,
}

struct Hold {
    /// Of frozen filesystems.
    devices: Vec<u64>,
    /// Raw ones, whose writers are limited.
    raw: Vec<u64>,
    limit_us: u64,
    fired: bool,
    /// The agent's end of the connection is gone.
    ended: bool,
}

/// The agent's end.
struct Line {
    guard: SimGuard,
    hold: u64,
}

impl SimGuard {
    pub fn of(host: FakeHost) -> Self {
        let state = State {
            alive: true,
            powered: true,
            failed: false,
            duty: Duty::Does,
            holds: BTreeMap::new(),
            next: 0,
        };
        Self { host, state: Arc::new(Mutex::new(state)) }
    }

    pub fn set_duty(&self, duty: Duty) {
        self.state().duty = duty;
    }

    /// SIGKILL; the holds are forgotten.
    pub fn kill(&self) {
        let mut state = self.state();
        state.alive = false;
        state.failed |= !state.holds.is_empty();
        state.holds.clear();
    }

    /// Without power nothing starts.
    pub fn start(&self) {
        let mut state = self.state();
        state.alive = state.powered;
    }

    /// The machine is without power: nothing is held any more, so nothing of it is left to do.
    pub fn lose_power(&self) {
        let mut state = self.state();
        *state = State { alive: false, powered: false, failed: false, holds: BTreeMap::new(), ..*state };
    }

    pub fn has_power(&self) -> bool {
        self.state().powered
    }

    pub fn power_is_back(&self) {
        self.state().powered = true;
    }

    /// Alive, and it was so when the present holds began.
    pub fn is_alive(&self) -> bool {
        let state = self.state();
        state.alive && !state.failed
    }

    /// What the guard does when it is scheduled.
    pub fn tick(&self) {
        let mut state = self.state();
        let now = self.host.monotonic_us();
        let duty = state.duty;
        state.holds.retain(|_, hold| {
            if hold.ended && duty == Duty::SleepsAtEof {
                return false;
            }
            if hold.ended || now >= hold.limit_us {
                hold.fired = true;
                for device in &hold.devices {
                    self.host.thaw_device(*device);
                }
                for device in &hold.raw {
                    self.host.lift_behind_our_back(*device);
                }
            }
            !hold.ended
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog for SimGuard {
    fn arm(&self, charge: &Charge<'_>, limit: Duration) -> Result<Box<dyn Armed>, Fault> {
        let limit_us = self.host.monotonic_us() + u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        let mut state = self.state();
        if !state.alive {
            return Err(Fault::unavailable("the guard is dead"));
        }
        let hold = state.next;
        state.next += 1;
        state.failed = false;
        let devices = charge.mounts.iter().map(|mount| mount.device()).collect();
        let raw = charge.throttles.iter().map(|throttle| throttle.device()).collect();
        state.holds.insert(hold, Hold { devices, raw, limit_us, fired: false, ended: false });
        Ok(Box::new(Line { guard: self.clone(), hold }))
    }
}

impl Armed for Line {
    fn disarm(self: Box<Self>) -> Fired {
        match self.guard.state().holds.remove(&self.hold) {
            Some(hold) if !hold.fired => Fired::No,
            Some(_) => Fired::Yes("the guard thawed because its limit had passed".into()),
            None => Fired::Yes("the guard is gone".into()),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(hold) = self.guard.state().holds.get_mut(&self.hold) {
            hold.ended = true;
        }
    }
}
