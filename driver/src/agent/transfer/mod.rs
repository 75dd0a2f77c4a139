//! Volumes that go to another host, agent to agent.
//!
//! # Flow
//! 1. The controller grants a snapshot at its agent to one peer, under a ticket ([`grants`]). From here on the snapshot
//!    cannot be deleted.
//! 2. It tells the target what to fetch from where ([`receive`]). The target makes a part of the volume, or finds the one
//!    that an earlier call left, and connects to the source with its own certificate.
//! 3. The source looks for the ticket and compares the host in the caller's certificate with the grant's. It sends what
//!    holds data, chunk by chunk ([`export`]); what the target has already is read and proven again, not sent.
//! 4. The target checks each chunk's hash, writes past the page cache, and every [`receive::NOTE_EVERY`] bytes makes the
//!    part durable and writes down how far it is. A connection that breaks is made anew and goes on from there.
//! 5. At the end both sides' proofs over the whole content are compared; the part is published by rename.
//!
//! # Guarantees
//! A volume exists only with all of its content. Memory is bounded: [`DEPTH`] chunks are read or written at once on
//! each side, and [`export::WAITING`] wait. Who cancels a call leaves a part from which the next call goes on.

pub mod counters;
pub mod export;
pub mod grants;
mod part;
pub mod receive;
pub mod service;

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::local::LocalHost;
use super::locks::VolumeLocks;
use super::pools::Pools;
use crate::domain::Fault;
use crate::host::Host;
use crate::identity::acceptor::Renewed;
use counters::Counters;
use grants::Grants;

/// Chunks that are read or written at once, for each volume.
const DEPTH: usize = 4;
/// Volumes that arrive at once on one host; the next is told to try again.
const RECEIVED_AT_ONCE: usize = 4;

/// Transfers from and to this host. Clones are the same.
#[derive(Clone)]
pub struct Transfers {
    pub(super) local: Arc<LocalHost>,
    pub(super) host: Arc<dyn Host>,
    pub(super) pools: Pools,
    pub(super) locks: VolumeLocks,
    pub(super) credentials: Renewed,
    pub(super) grants: Arc<Grants>,
    pub(super) receiving: Arc<Semaphore>,
    /// Figures for whoever watches.
    pub counters: Arc<Counters>,
}

impl Transfers {
    /// For this host. `credentials` are those of its agent.
    pub fn new(
        local: Arc<LocalHost>,
        host: Arc<dyn Host>,
        pools: Pools,
        locks: VolumeLocks,
        credentials: Renewed,
    ) -> Self {
        Self {
            local,
            host,
            pools,
            locks,
            credentials,
            grants: Arc::default(),
            receiving: Arc::new(Semaphore::new(RECEIVED_AT_ONCE)),
            counters: Arc::default(),
        }
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|why| Err(Fault::internal(format!("a part of the transfer broke off: {why}"))))
}
