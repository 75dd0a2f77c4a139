//! Copies that are under way: shown, counted, and told to stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::figures::{Failure, TransferFigures};
use crate::domain::{Bytes, HostName, NameHash, VolumeId};

/// One copy that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The volume that is made.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Host of the source.
    pub from: HostName,
    /// Host of the new volume.
    pub to: HostName,
    /// Data that has arrived.
    pub done: Bytes,
    /// About how much there is.
    pub total: Bytes,
    /// Since when this call has been copying.
    pub began_at: Timestamp,
}

/// Copies that are under way, and figures of all since this process started.
#[derive(Debug, Default)]
pub struct Transfers {
    running: Mutex<BTreeMap<VolumeId, UnderWay>>,
    copied_bytes: AtomicU64,
    arrived: AtomicU64,
    failed: [AtomicU64; Failure::ALL.len()],
}

/// A copy, and how to stop it.
#[derive(Debug)]
struct UnderWay {
    transfer: Transfer,
    cancel: watch::Sender<bool>,
}

impl Transfers {
    /// Those under way, sorted by volume.
    pub fn running(&self) -> Vec<Transfer> {
        self.table().values().map(|under_way| under_way.transfer.clone()).collect()
    }

    /// Figures now.
    pub fn figures(&self) -> TransferFigures {
        TransferFigures {
            running: self.table().len(),
            copied_bytes: self.copied_bytes.load(Ordering::Relaxed),
            arrived: self.arrived.load(Ordering::Relaxed),
            failed: Failure::ALL.map(|failure| self.failed[failure as usize].load(Ordering::Relaxed)),
        }
    }

    /// Tells the copies of volumes of this name to stop; says to which hosts they go.
    pub(super) fn cancel(&self, name: &NameHash) -> Vec<HostName> {
        let table = self.table();
        let meant = table.values().filter(|under_way| under_way.transfer.volume.hash == *name);
        meant
            .map(|under_way| {
                under_way.cancel.send_replace(true);
                under_way.transfer.to.clone()
            })
            .collect()
    }

    pub(super) fn is_running(&self, name: &NameHash) -> bool {
        self.table().keys().any(|volume| volume.hash == *name)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<VolumeId, UnderWay>> {
        // Whole between any two statements.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(self: &Arc<Self>, transfer: Transfer) -> Running {
        let (cancel, cancelled) = watch::channel(false);
        let running = Running {
            transfers: Arc::clone(self),
            volume: transfer.volume.clone(),
            cancelled,
            has_arrived: false,
            failure: None,
        };
        self.table().insert(transfer.volume.clone(), UnderWay { transfer, cancel });
        running
    }
}

/// Shown as under way while this lives.
pub(super) struct Running {
    transfers: Arc<Transfers>,
    volume: VolumeId,
    cancelled: watch::Receiver<bool>,
    pub(super) has_arrived: bool,
    /// `None` with nothing arrived: nobody waits for it any more.
    pub(super) failure: Option<Failure>,
}

impl Running {
    /// Done when somebody has cancelled the copy.
    pub(super) fn cancelled(&self) -> impl Future<Output = ()> + use<> {
        let mut cancelled = self.cancelled.clone();
        async move {
            if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
                // Another call for the same volume has taken the place of this one; it can be cancelled.
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn update(&self, done: Bytes) {
        if let Some(UnderWay { transfer, .. }) = self.transfers.table().get_mut(&self.volume) {
            // What an earlier call copied was counted then.
            let more = if transfer.done.0 == 0 { 0 } else { done.saturating_sub(transfer.done).0 };
            self.transfers.copied_bytes.fetch_add(more, Ordering::Relaxed);
            transfer.done = done;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.transfers.table().remove(&self.volume);
        let figure = match (self.has_arrived, self.failure) {
            (true, _) => &self.transfers.arrived,
            (false, failure) => &self.transfers.failed[failure.unwrap_or(Failure::Dropped) as usize],
        };
        figure.fetch_add(1, Ordering::Relaxed);
    }
}
