//! Copies of volumes from host to host: the controller brings two agents together and watches.
//!
//! It gives both a ticket (see `agent::transfer`), waits while the target fetches, and takes the grant back. A retry
//! goes on with what has arrived: the target knows it. When this process dies, the target stops and keeps its part, and
//! the source lets the snapshot go after ten minutes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::cuts::Cuts;
use super::fleet::{Agent, Fleet};
use crate::domain::{Bytes, Code, CutKind, Fault, HostName, NewVolume, SnapshotId, VolumeId, VolumeInfo};
use crate::proto::agent::ReceiveRequest;
use crate::wire::{convert, fault_of};

/// A target that says nothing for so long has died; it speaks twice a second.
const PROGRESS_LIMIT: Duration = Duration::from_mins(1);
/// Snapshots that exist only to copy a volume are called this and the new volume's name.
const TEMPORARY: &str = "stillpoint.dev/transfer/";
/// A temporary snapshot that is older and not being read was left by a controller that died.
const TEMPORARY_KEPT: SignedDuration = SignedDuration::from_hours(1);

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
    running: Mutex<BTreeMap<VolumeId, Transfer>>,
    copied_bytes: AtomicU64,
    arrived: AtomicU64,
    failed: AtomicU64,
}

/// Figures, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferFigures {
    /// Copies that are under way.
    pub running: usize,
    /// Data that arrived, of copies under way too.
    pub copied_bytes: u64,
    /// Volumes that arrived whole.
    pub arrived: u64,
    /// Attempts that did not come to their end.
    pub failed: u64,
}

impl Transfers {
    /// Those under way, sorted by volume.
    pub fn running(&self) -> Vec<Transfer> {
        self.table().values().cloned().collect()
    }

    /// Figures now.
    pub fn figures(&self) -> TransferFigures {
        TransferFigures {
            running: self.table().len(),
            copied_bytes: self.copied_bytes.load(Ordering::Relaxed),
            arrived: self.arrived.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Transfer>> {
        // Whole between any two statements.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, transfer: Transfer) -> Running {
        let running =
            Running { transfers: Arc::clone(self), volume: transfer.volume.clone(), has_arrived: false };
        self.table().insert(transfer.volume.clone(), transfer);
        running
    }
}

/// Shown as under way while this lives.
struct Running {
    transfers: Arc<Transfers>,
    volume: VolumeId,
    has_arrived: bool,
}

impl Running {
    fn update(&self, done: Bytes) {
        if let Some(transfer) = self.transfers.table().get_mut(&self.volume) {
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
        let figure = if self.has_arrived { &self.transfers.arrived } else { &self.transfers.failed };
        figure.fetch_add(1, Ordering::Relaxed);
    }
}

/// A grant at the source; taken back when this is dropped.
struct Granted {
    source: Agent,
    ticket: String,
}

impl Drop for Granted {
    fn drop(&mut self) {
        let (source, ticket) = (self.source.clone(), std::mem::take(&mut self.ticket));
        tokio::spawn(async move {
            if let Err(fault) = source.withdraw(&ticket).await {
                tracing::info!(%fault, "a grant could not be taken back; it ends by itself");
            }
        });
    }
}

/// Makes a volume on a host out of a snapshot of another pool.
pub async fn copy(
    fleet: &Fleet,
    to: &HostName,
    volume: NewVolume,
    from: &SnapshotId,
) -> Result<VolumeInfo, Fault> {
    let (source, target) = (fleet.agent_of_pool(&from.volume.pool).await?, fleet.agent(to)?);
    let address = fleet.addresses().into_iter().find(|address| address.host == *source.host());
    let address = address.ok_or_else(|| {
        Fault::unavailable(format!("host {} has just left the fleet; ask again", source.host()))
    })?;
    let ticket = ticket()?;
    let granted = source.grant(&ticket, to, from).await?;
    let grant = Granted { source, ticket };
    let mut running = fleet.transfers().begin(Transfer {
        volume: volume.id.clone(),
        name: volume.name.clone(),
        from: address.host.clone(),
        to: to.clone(),
        done: Bytes(0),
        total: Bytes(granted.allocated_bytes),
        began_at: Timestamp::now(),
    });
    let request = ReceiveRequest {
        volume: Some(convert::new_volume_to_proto(&volume)),
        ticket: grant.ticket.clone(),
        from_host: address.host.to_string(),
        from_address: address.address,
        granted: Some(granted),
    };
    let mut progress = target.receive(request).await?;
    loop {
        let message = timeout(PROGRESS_LIMIT, progress.message())
            .await
            .map_err(|_| {
                target.named(Fault::deadline(format!("no sign of the transfer for {PROGRESS_LIMIT:?}")))
            })?
            .map_err(|status| target.named(fault_of(status)))?
            .ok_or_else(|| target.named(Fault::unavailable("the transfer broke off; ask again")))?;
        running.update(Bytes(message.done_bytes));
        if let Some(made) = message.made {
            running.has_arrived = true;
            return convert::volume_from_proto(made).map_err(|fault| target.named(fault));
        }
    }
}

fn ticket() -> Result<String, Fault> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|why| Fault::internal(format!("no random numbers: {why}")))?;
    Ok(random.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Name of the snapshot from which a volume of this name is cloned. A retry finds it.
pub fn temporary_name(volume: &str) -> String {
    format!("{TEMPORARY}{}", crate::domain::NameHash::of(volume))
}

/// Whether a cut exists only to copy a volume: it is nothing that people asked for.
pub fn is_temporary(kind: CutKind, name: &str) -> bool {
    kind == CutKind::Single && name.starts_with(TEMPORARY)
}

/// Removes temporary snapshots that dead controllers have left. One that is being read stays.
pub async fn sweep(cuts: &Cuts) -> Result<(), Fault> {
    let oldest = Timestamp::now() - TEMPORARY_KEPT;
    for cut in cuts.named(TEMPORARY).await? {
        if !is_temporary(cut.id.kind, &cut.name) || cut.cut_at > oldest {
            continue;
        }
        match cuts.delete(&cut.id).await {
            Ok(()) => {
                tracing::info!(cut = %cut.id, "removed a temporary snapshot that a dead controller had left");
            }
            Err(fault) if fault.code == Code::Aborted => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
