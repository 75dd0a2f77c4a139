//! A round on one host: the shell around [`crate::domain::round::participant`].
//!
//! Read in this order: [`conductor`] drives the machine on a thread of its own, [`prepare`] finds out what there is
//! to hold, [`member`] freezes, copies and thaws one member, on a thread of its own unless it is the only one, [`hold`] what exists while they are held,
//! [`raw`] how raw devices are held, [`watchdog`] the guard.
//!
//! # Flow
//! 1. `Open`: lock the members against stage, unstage, expand and delete; look at headroom; write the record with
//!    state *round* (what a crash leaves is found by it); find the mounts; flush while writers go on.
//! 2. `Hold`: arm the guard, expedite RCU, freeze all members at once, a thread each: FIFREEZE cannot be interrupted. One
//!    that is alone is frozen on the round's own thread.
//! 3. `Cut`: snapshot all members at once.
//! 4. `Release`: thaw all at once, disarm the guard, then make the snapshots durable.
//! 5. The stream ends earlier, a limit passes, something fails: thaw and remove what was cut. At the soft limit an alarm
//!    on a thread of its own thaws, so that a snapshot that takes long does not keep writers waiting.
//!
//! # Guarantees
//! Between hold and release nothing is written to a disk but the snapshots: no record, no log line.
//! A member whose FIFREEZE returns late is thawed by its own thread, because the thaw is already in its queue.

pub mod conductor;
pub mod crew;
pub mod hold;
pub mod member;
pub mod prepare;
pub mod raw;
pub mod watchdog;

use std::sync::Arc;

use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::agent::locks::VolumeLocks;
use crate::agent::pools::Pools;
use crate::host::Host;
use crate::proto::agent::{RoundOrder, RoundReport};
use conductor::{Conductor, Input};
use crew::Crew;
use stillpoint_guard::expedite::Expedite;
use watchdog::Watchdog;

/// Reports of one round: one per order and a failure.
const REPORTS: usize = 16;

/// What a round needs of its host.
pub struct RoundContext {
    /// The kernel.
    pub host: Arc<dyn Host>,
    /// The pools of this host.
    pub pools: Pools,
    /// Which volumes are busy.
    pub locks: VolumeLocks,
    /// Who thaws when this process cannot.
    pub watchdog: Arc<dyn Watchdog>,
    /// How grace periods are expedited around a hold; `None` where that would hurt or is switched off.
    pub expedite: Option<Expedite>,
    /// Who runs rounds.
    pub crew: Arc<dyn Crew>,
    /// Devices (`st_dev`) that must never be held: the agent's own state, its log, the root filesystem.
    pub never_hold: Vec<u64>,
}

/// Reports of one round, as the gRPC service answers them.
pub type Reports = ReceiverStream<Result<RoundReport, Status>>;

/// Serves one round. The inbound stream is the lease: when it ends, the round is given up.
pub fn serve(context: Arc<RoundContext>, mut orders: Streaming<RoundOrder>) -> Result<Reports, Status> {
    let (reports, outbound) = tokio::sync::mpsc::channel(REPORTS);
    let own = Arc::clone(&context);
    let inbox = context
        .crew
        .conduct(Box::new(move |inbox| Conductor::new(own, inbox, reports)))
        .map_err(|error| Status::unavailable(format!("cannot start a thread for the round: {error}")))?;
    tokio::spawn(async move {
        while let Some(Ok(order)) = orders.next().await {
            let received_us = context.host.monotonic_us();
            if !inbox.put(Input::Order { order, received_us }) {
                return;
            }
        }
        // An error of the stream is its end: nobody holds for a controller that cannot be heard. A conductor that
        // is gone has nothing to give up.
        let _ = inbox.put(Input::StreamEnded);
    });
    Ok(ReceiverStream::new(outbound))
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm)] // a report that nobody expects is printed
mod tests;
