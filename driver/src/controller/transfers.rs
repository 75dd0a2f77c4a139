//! Copies of volumes from host to host: the controller brings two agents together and watches.
//!
//! It gives both a ticket (see `agent::transfer`), waits while the target fetches, and takes the grant back. A retry
//! goes on with what has arrived: the target knows it. Who cancels a copy ([`cancel`]) ends its call with
//! FAILED_PRECONDITION, and what has arrived is removed. When this process dies, the target stops and keeps its part, and
//! the source lets the snapshot go after ten minutes.

mod figures;
mod running;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stillpoint_guard::fault::point;
use tokio::time::{Instant, timeout};

use super::cuts::Cuts;
use super::fleet::agent::Granting;
use super::fleet::{Agent, Fleet};
use crate::domain::{
    Bytes, Code, CutKind, Fault, HostName, Moved, NameHash, NewVolume, SnapshotId, VolumeId, VolumeInfo,
};
use crate::observe::plain::shortened;
use crate::observe::request::carried;
use crate::proto::agent::ReceiveRequest;
use crate::wire::{convert, fault_of};

pub use figures::{Failure, TransferFigures};
use running::Running;
pub use running::{Transfer, Transfers};

/// A target that says nothing for so long has died; it speaks twice a second.
const PROGRESS_LIMIT: Duration = Duration::from_mins(1);
/// What has arrived of a copy that is cancelled can be removed within this.
const DROP_LIMIT: Duration = Duration::from_secs(30);
const DROP_PAUSE: Duration = Duration::from_millis(50);
/// Snapshots that exist only to copy a volume are called this and the new volume's name.
const TEMPORARY: &str = "stillpoint.dev/transfer/";
/// A temporary snapshot that is older and not being read was left by a controller that died.
const TEMPORARY_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// A grant at the source; taken back when this is dropped.
struct Granted {
    source: Agent,
    ticket: String,
}

impl Granted {
    /// Takes it back now: who goes on needs what was granted.
    async fn withdraw(mut self) {
        let ticket = std::mem::take(&mut self.ticket);
        if let Err(fault) = self.source.withdraw(&ticket).await {
            tracing::info!(%fault, "a grant could not be taken back; it ends by itself");
        }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let (source, ticket) = (self.source.clone(), std::mem::take(&mut self.ticket));
        if ticket.is_empty() {
            return;
        }
        tokio::spawn(carried(async move {
            if let Err(fault) = source.withdraw(&ticket).await {
                tracing::info!(%fault, "a grant could not be taken back; it ends by itself");
            }
        }));
    }
}

/// What was brought to a host.
pub struct Brought {
    /// The volume.
    pub made: VolumeInfo,
    /// Names what was copied.
    pub content: String,
}

/// A copy that did not come to its end.
pub struct Stopped {
    /// Why.
    pub fault: Fault,
    /// It was cancelled, and nothing of it is left.
    pub was_cancelled: bool,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self { fault, was_cancelled: false }
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
    let brought = bring(fleet, &source, &target, volume, Granting::Snapshot(from.clone()), None).await;
    brought.map(|brought| brought.made).map_err(|stopped| stopped.fault)
}

/// Has one host fetch a volume from another. The grant has been taken back when it is there.
pub async fn bring(
    fleet: &Fleet,
    source: &Agent,
    target: &Agent,
    volume: NewVolume,
    what: Granting,
    moved: Option<&Moved>,
) -> Result<Brought, Stopped> {
    let address = fleet.addresses().into_iter().find(|address| address.host == *source.host());
    let address = address.ok_or_else(|| {
        Fault::unavailable(format!("host {} has just left the fleet; ask again", source.host()))
    })?;
    let ticket = ticket()?;
    let granted = source.grant(&ticket, target.host(), &what, &volume.id).await?;
    let grant = Granted { source: source.clone(), ticket };
    point("controller.copy.granted");
    let mut running = fleet.transfers().begin(Transfer {
        volume: volume.id.clone(),
        name: volume.name.clone(),
        from: address.host.clone(),
        to: target.host().clone(),
        done: Bytes(0),
        total: Bytes(granted.allocated_bytes),
        began_at: Timestamp::now(),
    });
    let content = granted.content.clone();
    let request = ReceiveRequest {
        volume: Some(convert::new_volume_to_proto(&volume)),
        ticket: grant.ticket.clone(),
        from_host: address.host.to_string(),
        from_address: address.address,
        granted: Some(granted),
        moved: moved.map(convert::moved_to_proto),
    };
    let watching = watch(target, request, &running);
    let outcome = tokio::select! {
        made = watching => made,
        () = running.cancelled() => {
            running.failure = Some(Failure::Cancelled);
            let fault = drop_arrived(target, &volume, &content).await;
            return Err(Stopped { was_cancelled: fault.code == Code::Precondition, fault });
        }
    };
    let made = outcome.inspect_err(|fault| running.failure = Some(Failure::of(fault.code)))?;
    running.has_arrived = true;
    point("controller.copy.arrived");
    grant.withdraw().await;
    Ok(Brought { made, content })
}

/// Follows a copy to its end.
async fn watch(target: &Agent, request: ReceiveRequest, running: &Running) -> Result<VolumeInfo, Fault> {
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
            return convert::volume_from_proto(made).map_err(|fault| target.named(fault));
        }
    }
}

/// Removes what has arrived of a copy that was cancelled; FAILED_PRECONDITION says that nothing of it is left.
async fn drop_arrived(target: &Agent, volume: &NewVolume, content: &str) -> Fault {
    let deadline = Instant::now() + DROP_LIMIT;
    loop {
        // Until the target has noticed that nobody listens any more, it is at work on the volume.
        match target.abandon(&volume.id.pool, &volume.id.hash, Some(content)).await {
            Err(fault) if fault.code == Code::Aborted && Instant::now() < deadline => {
                tokio::time::sleep(DROP_PAUSE).await;
            }
            Err(fault) => {
                return Fault::unavailable(format!(
                    "the copy of {:?} was cancelled, but what has arrived could not be removed ({fault}); cancel it again",
                    volume.name
                ));
            }
            Ok(_) => {
                return Fault::precondition(format!(
                    "the copy of {:?} to host {} was cancelled by hand, and what had arrived is removed; \
                     asking again begins anew",
                    volume.name,
                    target.host()
                ));
            }
        }
    }
}

/// Cancels the copies of a volume, by its name or an id that it has or will have, and removes what has arrived, also of
/// one that broke off. Says from which hosts. NOT_FOUND when there is nothing of the kind.
pub async fn cancel(fleet: &Fleet, name_or_id: &str) -> Result<Vec<HostName>, Fault> {
    let name = name_or_id.parse::<VolumeId>().map_or_else(|_| NameHash::of(name_or_id), |id| id.hash);
    let mut hosts = fleet.transfers().cancel(&name);
    let deadline = Instant::now() + DROP_LIMIT;
    while fleet.transfers().is_running(&name) && Instant::now() < deadline {
        tokio::time::sleep(DROP_PAUSE).await;
    }
    for agent in fleet.agents() {
        for leaving in
            agent.moves().await?.0.iter().filter(|leaving| !leaving.has_left && leaving.to.hash == name)
        {
            agent.stay(&leaving.volume.record.id).await?;
            let target = fleet.agent_of_pool(&leaving.to.pool).await?;
            if target.abandon(&leaving.to.pool, &leaving.to.hash, Some(&leaving.content)).await? {
                hosts.push(target.host().clone());
            }
        }
        for pool in agent.describe().await?.pools {
            if agent.abandon(&pool.id, &name, None).await? {
                hosts.push(agent.host().clone());
            }
        }
    }
    hosts.sort();
    hosts.dedup();
    if hosts.is_empty() {
        return Err(Fault::not_found(format!(
            "nothing of {} is being copied from host to host; `stillpoint volumes` shows what is",
            shortened(name_or_id, 80)
        )));
    }
    Ok(hosts)
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
        match cuts.delete(&cut.handle()).await {
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
mod hostile;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;
