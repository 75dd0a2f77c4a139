//! Growing pauses before a call that failed is tried again.
//!
//! csi-snapshotter v8.6 repeats a group snapshot that failed for good at once and for ever: its own writes to the
//! VolumeGroupSnapshotContent put the content into its queue again, past the queue's own growing pauses. An error whose
//! text changes from call to call does the same. The API server then has 40 requests a second to answer, and each
//! attempt may run a Rule. Other calls (single snapshots, volumes, deletions) are repeated after growing pauses by their
//! sidecars; single snapshots are paced here all the same, since other orchestrators need not.
//!
//! # Flow
//! 1. A call whose last attempt failed waits here, before anything of it is looked at, until its pause is over.
//! 2. It goes on at once when its request differs (parameters of the class, members), or when something else that it
//!    depends on has changed ([`Cutting::changed`]: a Rule, an annotation, the deletion of the snapshot's object).
//! 3. A client with a short deadline gets the last error again instead of a timeout.
//!
//! # Guarantees
//! Nothing is held by a call that waits: no name, no lock, no task. When the client goes away the wait ends with its
//! call. Memory and the number of waiting calls are bounded; a call for which there is no room gets a code that the
//! sidecar answers with its own pauses. Kept in memory only: a controller that has just started tries once at once.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::ports::{Circumstances, Cutting, SnapshotObject};
use crate::domain::{CutKind, Fault};

/// Before the second attempt; three times as long before each further one. An attempt with a Rule costs about fifteen API
/// requests, those of the sidecar and the snapshot controller included: with one second they are more than one per second.
const FIRST_PAUSE: Duration = Duration::from_secs(3);
/// A cause that was removed elsewhere (a pod that is ready now) is noticed after this at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The same for codes that say "ask again": the sidecar has pauses of its own for them, unless the text changes.
const LONGEST_PASSING: Duration = Duration::from_secs(5);
/// Failures that are remembered; beyond that the oldest is forgotten, and so tried at once.
const REMEMBERED: usize = 1024;
/// Calls that wait at once. The sidecar is started with 100 workers, so that others are left for what can succeed.
const WAITING: usize = 64;

/// A call that may be repeated.
#[derive(Debug, Clone)]
pub struct Call {
    kind: CutKind,
    name: String,
    /// Of all that the caller can change.
    fingerprint: u64,
    /// The Kubernetes object that it is for, and whether a Rule can have to do with its failure.
    object: Option<(SnapshotObject, DependsOn)>,
    /// How long the client has before it would give up.
    patience: Duration,
}

/// What a failure can depend on besides the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DependsOn {
    /// Nothing but whether the object is still wanted.
    Request,
    /// Rules and annotations too.
    Rules,
}

impl DependsOn {
    /// A request that makes no sense fails whatever the Rules say.
    pub fn of<T>(parsed: &Result<T, Fault>) -> Self {
        if parsed.is_ok() { Self::Rules } else { Self::Request }
    }
}

impl Call {
    /// A call for the snapshot or group `name`, with what its request says.
    pub fn new(kind: CutKind, name: &str, request: impl Hash, headers: &MetadataMap) -> Self {
        let mut hasher = DefaultHasher::new();
        request.hash(&mut hasher);
        let fingerprint = hasher.finish();
        Self { kind, name: name.to_owned(), fingerprint, object: None, patience: patience(headers) }
    }

    /// For this object.
    #[must_use]
    pub fn of(self, object: Option<SnapshotObject>, depends_on: DependsOn) -> Self {
        Self { object: object.map(|object| (object, depends_on)), ..self }
    }

    fn key(&self) -> Key {
        (self.kind, self.name.clone())
    }
}

/// Half of the time that the client gives: the other half is for the attempt.
fn patience(headers: &MetadataMap) -> Duration {
    let given = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
    given.map_or(LONGEST_PAUSE, |given| given / 2)
}

/// `5S`, `100m` …: the form of the header in gRPC over HTTP/2.
fn timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

type Key = (CutKind, String);

/// The last of some failures in a row.
#[derive(Debug, Clone)]
struct Failure {
    count: u32,
    at: Instant,
    fingerprint: u64,
    fault: Fault,
    circumstances: Option<Circumstances>,
}

impl Failure {
    /// When the next attempt may begin.
    fn turn(&self) -> Instant {
        let longest = if self.fault.code.is_final() { LONGEST_PAUSE } else { LONGEST_PASSING };
        self.at + pause(self.count).min(longest)
    }
}

/// Whether an attempt may begin.
enum Turn {
    /// It may.
    Now,
    /// Not yet; this is answered.
    Later(Fault),
}

/// The failures of one service, by snapshot.
pub struct Backoff {
    cuts: Arc<dyn Cutting>,
    failures: Mutex<HashMap<Key, Failure>>,
    waiting: Semaphore,
}

impl Backoff {
    /// `cuts` knows what snapshots depend on.
    pub fn new(cuts: Arc<dyn Cutting>) -> Self {
        Self { cuts, failures: Mutex::default(), waiting: Semaphore::new(WAITING) }
    }

    /// Does `work` for this call when it is its turn.
    pub async fn run<T>(&self, call: Call, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        if let Turn::Later(fault) = self.wait(&call).await {
            return Err(fault);
        }
        let outcome = work.await;
        match &outcome {
            Ok(_) => self.forget(&call),
            Err(fault) => self.note(&call, fault),
        }
        outcome
    }

    async fn wait(&self, call: &Call) -> Turn {
        let Some(mut failure) = self.failures().get(&call.key()).cloned() else { return Turn::Now };
        if failure.fingerprint != call.fingerprint {
            self.forget(call);
            return Turn::Now;
        }
        let left = failure.turn().saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Turn::Now;
        }
        let Ok(_room) = self.waiting.try_acquire() else { return self.without_room(call, &failure).await };
        let waits = left.min(call.patience);
        tokio::select! {
            () = tokio::time::sleep(waits) => {
                self.learn(call, failure.circumstances);
                if waits < left { Turn::Later(failure.fault) } else { Turn::Now }
            }
            () = self.changed(call, &mut failure.circumstances) => {
                self.forget(call);
                Turn::Now
            }
        }
    }

    /// One look instead of a wait.
    async fn without_room(&self, call: &Call, failure: &Failure) -> Turn {
        if let Some((object, depends_on)) = &call.object {
            let now = self.cuts.circumstances(call.kind, object, *depends_on).await;
            if now.is_some() && now != failure.circumstances {
                self.learn(call, now);
                return Turn::Now;
            }
        }
        // The same text each time: another one would be written to the content, which would wake the sidecar.
        Turn::Later(Fault::aborted(format!(
            "{}; many snapshots fail at the moment, so this one is tried again a little later",
            failure.fault.message
        )))
    }

    async fn changed(&self, call: &Call, circumstances: &mut Option<Circumstances>) {
        match &call.object {
            Some((object, depends_on)) => {
                self.cuts.changed(call.kind, object, *depends_on, circumstances).await;
            }
            None => std::future::pending().await,
        }
    }

    fn note(&self, call: &Call, fault: &Fault) {
        // A call without a name is nobody's repetition.
        if call.name.is_empty() {
            return;
        }
        let mut failures = self.failures();
        let before = failures.remove(&call.key()).filter(|before| before.fingerprint == call.fingerprint);
        let count = before.as_ref().map_or(1, |before| before.count.saturating_add(1));
        let circumstances = before.and_then(|before| before.circumstances);
        let (at, fingerprint, fault) = (Instant::now(), call.fingerprint, fault.clone());
        failures.insert(call.key(), Failure { count, at, fingerprint, fault, circumstances });
        if failures.len() > REMEMBERED {
            let oldest = failures.iter().min_by_key(|(_, failure)| failure.at).map(|(key, _)| key.clone());
            oldest.and_then(|key| failures.remove(&key));
        }
    }

    fn learn(&self, call: &Call, circumstances: Option<Circumstances>) {
        if let Some(failure) = self.failures().get_mut(&call.key()) {
            failure.circumstances = circumstances;
        }
    }

    fn forget(&self, call: &Call) {
        self.failures().remove(&call.key());
    }

    /// The table is consistent after every single change, so a panic elsewhere does not spoil it.
    fn failures(&self) -> MutexGuard<'_, HashMap<Key, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after so many failures in a row.
fn pause(count: u32) -> Duration {
    let times = 3_u32.checked_pow(count.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(times).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
