//! The fault plan, and the log of all calls.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::super::HostError;
use super::FakeHost;

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The n-th call from now on, whatever it is, counted from 1.
    Nth(u64),
    /// The n-th call from now on of this name, counted from 1.
    NthOf(&'static str, u64),
}

/// A fault of the calls that concern one object.
#[derive(Debug)]
struct Sick {
    objects: Vec<PathBuf>,
    /// So many of them still succeed before one fails.
    left: u64,
    errno: i32,
}

/// One call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// For example `rename`.
    pub name: &'static str,
    /// What it was made on.
    pub object: PathBuf,
}

/// The host is dead: every call fails with this from the moment of death on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host died")]
pub struct HostDied;

#[derive(Debug, Clone)]
enum What {
    Fail(i32),
    Hang(Arc<HangState>),
    Die,
}

#[derive(Debug, Default)]
struct HangState {
    phase: Mutex<HangPhase>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum HangPhase {
    #[default]
    Waiting,
    Reached,
    Released,
}

/// A call that hangs, or will. Dropping this releases it.
#[derive(Debug)]
pub struct Hang(Arc<HangState>);

#[derive(Debug, Default)]
pub(super) struct Plan {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<Call>,
    count: BTreeMap<&'static str, u64>,
    faults: Vec<(When, What)>,
    sick: Option<Sick>,
    dead: bool,
}

impl FakeHost {
    /// Lets a call fail with this errno, without effect.
    pub fn fail(&self, when: When, errno: i32) {
        self.plan.add(when, What::Fail(errno));
    }

    /// Lets the n-th call from now on that concerns one of these objects, or something below it, fail with this errno.
    pub fn fail_about(&self, objects: &[PathBuf], n: u64, errno: i32) {
        self.plan.lock().sick = Some(Sick { objects: objects.to_vec(), left: n.saturating_sub(1), errno });
    }

    /// Lets a call hang until it is released; then it goes on and takes effect.
    #[must_use]
    pub fn hang(&self, when: When) -> Hang {
        let state = Arc::new(HangState::default());
        self.plan.add(when, What::Hang(Arc::clone(&state)));
        Hang(state)
    }

    /// Lets the host die at a call: it has no effect, and every later call fails with [`HostDied`].
    pub fn die(&self, when: When) {
        self.plan.add(when, What::Die);
    }

    /// Forgets what is planned and has not happened yet.
    pub fn forgive(&self) {
        let mut state = self.plan.lock();
        state.faults.clear();
        state.sick = None;
    }

    /// Whether what [`FakeHost::fail_about`] planned has not happened yet.
    pub fn has_fault_to_come(&self) -> bool {
        self.plan.lock().sick.is_some()
    }

    /// Whether the host has died.
    pub fn is_dead(&self) -> bool {
        self.plan.lock().dead
    }

    /// How many calls were made.
    pub fn calls(&self) -> u64 {
        self.plan.lock().log.len() as u64
    }

    /// How many calls of this name were made.
    pub fn calls_of(&self, name: &str) -> u64 {
        self.plan.lock().count.get(name).copied().unwrap_or_default()
    }

    /// All calls so far.
    pub fn log(&self) -> Vec<Call> {
        self.plan.lock().log.clone()
    }
}

impl HostDied {
    /// Whether this error says that the host died.
    pub fn is(error: &HostError) -> bool {
        error.source.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>)
    }
}

impl Plan {
    /// Called at the start of every call, without the world being locked.
    pub(super) fn enter(&self, name: &'static str, object: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.log.push(Call { name, object: object.to_owned() });
        *state.count.entry(name).or_default() += 1;
        if state.dead {
            return Err(io::Error::other(HostDied));
        }
        if let Some(errno) = state.is_sick(object) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        match state.due(name) {
            None => Ok(()),
            Some(What::Fail(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(What::Die) => {
                state.dead = true;
                Err(io::Error::other(HostDied))
            }
            Some(What::Hang(hang)) => {
                drop(state);
                hang.wait();
                Ok(())
            }
        }
    }

    /// Counts from now on: stored are absolute numbers.
    fn add(&self, when: When, what: What) {
        let mut state = self.lock();
        let when = match when {
            When::Nth(n) => When::Nth(state.log.len() as u64 + n),
            When::NthOf(name, n) => When::NthOf(name, state.count.get(name).copied().unwrap_or_default() + n),
        };
        state.faults.push((when, what));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a call on this object fails because it concerns a sick one.
    fn is_sick(&mut self, object: &Path) -> Option<i32> {
        let sick = self.sick.as_mut()?;
        if !sick.objects.iter().any(|one| object.starts_with(one)) {
            return None;
        }
        if sick.left > 0 {
            sick.left -= 1;
            return None;
        }
        self.sick.take().map(|sick| sick.errno)
    }

    /// Takes out the fault for the call that was just counted.
    fn due(&mut self, name: &'static str) -> Option<What> {
        let all = self.log.len() as u64;
        let of_name = self.count.get(name).copied().unwrap_or_default();
        let hit = self.faults.iter().position(|(when, _)| match *when {
            When::Nth(n) => n == all,
            When::NthOf(wanted, n) => wanted == name && n == of_name,
        })?;
        Some(self.faults.remove(hit).1)
    }
}

impl HangState {
    fn wait(&self) {
        let mut phase = self.lock();
        if *phase == HangPhase::Waiting {
            *phase = HangPhase::Reached;
        }
        self.changed.notify_all();
        while *phase != HangPhase::Released {
            phase = self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HangPhase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hang {
    /// Blocks until the call hangs.
    pub fn wait_until_reached(&self) {
        let mut phase = self.0.lock();
        while *phase == HangPhase::Waiting {
            phase = self.0.changed.wait(phase).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the call go on.
    pub fn release(self) {}
}

impl Drop for Hang {
    fn drop(&mut self) {
        *self.0.lock() = HangPhase::Released;
        self.0.changed.notify_all();
    }
}
