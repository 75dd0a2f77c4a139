//! Figures about transfers, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::Code;

/// What was transferred since this agent started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of images sent to other hosts.
    pub sent_bytes: Counter,
    /// Bytes of images received from other hosts.
    pub received_bytes: Counter,
    /// Bytes that an earlier call had received, and that were not received again.
    pub resumed_bytes: Counter,
    /// Volumes that arrive now.
    pub receiving: Gauge,
    /// Volumes that other hosts fetch now.
    pub sending: Gauge,
    /// Volumes that arrived whole.
    pub arrived: Counter,
    /// Calls for a volume that ended before it was whole, by reason.
    failures: [Counter; REASONS.len()],
    /// Connections that broke and were made anew.
    pub reconnects: Counter,
    /// Chunks whose hash was wrong.
    pub corrupt_chunks: Counter,
}

/// Why a volume did not arrive, as metrics call it. The last is for everything else.
pub const REASONS: [&str; 6] = ["unavailable", "no_space", "stopped", "refused", "internal", "other"];

fn reason(code: Code) -> usize {
    match code {
        Code::Unavailable | Code::Deadline => 0,
        Code::Exhausted => 1,
        Code::Aborted => 2,
        Code::Denied | Code::Precondition | Code::NotFound => 3,
        Code::Internal => 4,
        Code::Invalid | Code::AlreadyExists | Code::OutOfRange | Code::Unimplemented => 5,
    }
}

impl Counters {
    /// A call for a volume ended with this before it was whole.
    pub(crate) fn broken_off(&self, code: Code) {
        self.failures[reason(code)].add(1);
    }

    /// How many calls ended before their volume was whole, by [`REASONS`].
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.failures.iter().map(Counter::get))
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One that is there until this is dropped.
#[derive(Debug)]
pub struct Present<'a>(&'a Gauge);

impl Gauge {
    /// Now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) -> Present<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Present(self)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
