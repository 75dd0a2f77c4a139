//! Figures about transfers, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was transferred since this agent started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of images sent to other hosts.
    pub sent_bytes: Counter,
    /// Bytes of images received from other hosts.
    pub received_bytes: Counter,
    /// Volumes that arrived whole.
    pub arrived: Counter,
    /// Calls for a volume that ended before it was whole, for whatever reason.
    pub broken_off: Counter,
    /// Connections that broke and were made anew.
    pub reconnects: Counter,
    /// Chunks whose hash was wrong.
    pub corrupt_chunks: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}
