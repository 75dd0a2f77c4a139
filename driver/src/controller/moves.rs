//! A volume goes to another host for good, and keeps its id.
//!
//! # Flow
//! 1. The volume is located ([`Fleet::locate`]). At the host where it shall be: done.
//! 2. `Begin` at the source: refused while it is in use. From here on whoever uses it ends the move: use goes first.
//! 3. Its image is copied as a snapshot's would be ([`transfers`]), and what an earlier call copied is gone on with. Whole
//!    and proven, it is kept aside at the target.
//! 4. `Leave` at the source: **the commit point**, one rename. ABORTED where the volume was used since step 2.
//! 5. `Adopt` at the target: what was kept aside is the volume, by another rename.
//! 6. `Finish` at the source: the data is removed. What stays are the snapshots, which belong to their cuts, and a record
//!    that says where the volume is.
//!
//! # Guarantees
//! Before step 4 the volume is at the source and can be used, whoever dies; after it, it is the target's, and whoever looks
//! for it (also the sweep, every minute) does what is left of steps 5 and 6. It is never at both and never at none: while
//! it waits for step 5, asking for it does that step, or says UNAVAILABLE.

use std::time::Duration;

use stillpoint_guard::fault::point;

use super::fleet::agent::Granting;
use super::fleet::{Agent, Fleet};
use super::orders::{Copies, Places};
use super::placement::{self, HostFacts, Policy, Wish};
use super::transfers;
use super::volumes::Placed;
use crate::backend::BackendKind;
use crate::domain::record::VolumeRecord;
use crate::domain::{Code, Fault, HostName, Move, Moved, NewVolume, PoolId, VolumeId, VolumeInfo, Waiting};

/// How often, and how far apart, the source is asked to let go of what the copy has just stopped reading.
const LET_GO_TRIES: u32 = 20;
const LET_GO_PAUSE: Duration = Duration::from_millis(100);

/// What became of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocated {
    /// The volume where it is now.
    pub placed: Placed,
    /// The host that it came from; `None` when it was there already.
    pub from: Option<HostName>,
}

/// Moves a volume to a host. Idempotent: a repetition goes on with what was begun.
pub async fn relocate(fleet: &Fleet, id: &VolumeId, to: &HostName) -> Result<Relocated, Fault> {
    let target = fleet.agent(to)?;
    let (source, info) = fleet.locate(id).await?;
    if source.host() == to {
        return Ok(Relocated { placed: Placed { host: to.clone(), info }, from: None });
    }
    let goal = VolumeId { pool: choose_pool(fleet, &source, &info, to).await?, ..id.clone() };
    let begun = source.begin_move(&info.record.id, &goal).await?;
    point("controller.move.begun");
    let leaving = begun.volume.record;
    let (volume, moved) = arriving(&leaving, goal.clone());
    let what = Granting::Leaving(leaving.id.clone());
    let brought = transfers::bring(fleet, &source, &target, volume, what, Some(&moved)).await;
    let content = match brought {
        Ok(brought) => brought.content,
        Err(stopped) => {
            if stopped.was_cancelled {
                source.stay(&leaving.id).await?;
            }
            return Err(stopped.fault);
        }
    };
    point("controller.move.arrived");
    let_go(|| source.leave(&leaving.id, &goal, &content)).await?;
    point("controller.move.left");
    let info = fleet.settle_move(&source, &leaving.id).await?;
    tracing::info!(volume = %id, from = %source.host(), %to, "moved");
    Ok(Relocated { placed: Placed { host: to.clone(), info }, from: Some(source.host().clone()) })
}

/// The pool at the target: where an earlier call began, else as a new volume's.
async fn choose_pool(
    fleet: &Fleet,
    source: &Agent,
    info: &VolumeInfo,
    to: &HostName,
) -> Result<PoolId, Fault> {
    let facts: Vec<HostFacts> = fleet
        .survey()
        .await
        .into_iter()
        .map(|(host, answer)| HostFacts { host, pools: answer.map(|info| info.pools) })
        .collect();
    let of_target = facts.iter().find(|facts| facts.host == *to).and_then(|facts| facts.pools.as_ref().ok());
    let begun = source.moves().await?.0.into_iter().find(|begun| begun.volume.record.id == info.record.id);
    if let (Some(begun), Some(pools)) = (begun, of_target)
        && pools.iter().any(|pool| pool.id == begun.to.pool)
    {
        return Ok(begun.to.pool);
    }
    let places = Places { requisite: Some(vec![to.clone()]), preferred: vec![] };
    let memory = info.backend == BackendKind::Memory.as_str();
    let wish = Wish {
        size: info.record.capacity,
        backend: memory.then_some(BackendKind::Memory),
        places: &places,
        source: None,
        copies: Copies::BesideSource,
    };
    let spots = placement::rank(wish, &facts, &Policy::default())?;
    let first = spots.into_iter().next().map(|spot| spot.pool);
    first.ok_or_else(|| Fault::internal("placement named no pool and no reason"))
}

/// The volume as it is to be at the target.
fn arriving(leaving: &VolumeRecord, goal: VolumeId) -> (NewVolume, Moved) {
    let volume = NewVolume {
        id: goal,
        name: leaving.name.clone(),
        capacity: leaving.capacity,
        filesystem: leaving.filesystem,
        source: leaving.source.clone(),
    };
    let moved = Moved {
        known_as: leaving.known_as().clone(),
        from: leaving.id.clone(),
        created_at: leaving.created_at,
    };
    (volume, moved)
}

/// Asks again while something else is still at work on the volume.
async fn let_go<F: Future<Output = Result<(), Fault>>>(mut ask: impl FnMut() -> F) -> Result<(), Fault> {
    let mut outcome = ask().await;
    for _ in 0..LET_GO_TRIES {
        match &outcome {
            Err(fault) if fault.code == Code::Aborted => {}
            Ok(()) | Err(_) => break,
        }
        tokio::time::sleep(LET_GO_PAUSE).await;
        outcome = ask().await;
    }
    outcome
}

impl Fleet {
    /// Steps 5 and 6 for a volume that has left this host. When only the last one fails, the volume is where it should
    /// be, and the next sweep removes the rest.
    pub(super) async fn settle_move(&self, source: &Agent, id: &VolumeId) -> Result<VolumeInfo, Fault> {
        let moves = source.moves().await?.0.into_iter();
        let left = moves.into_iter().find(|left| left.has_left && left.volume.record.id == *id);
        let left = left.ok_or_else(|| {
            source.named(Fault::unavailable(format!(
                "the move of volume {id} was settled meanwhile; ask again"
            )))
        })?;
        let target = self.agent_of_pool(&left.to.pool).await?;
        let info = target.adopt(&left.to, &left.content).await?;
        point("controller.move.adopted");
        if let Err(fault) = let_go(|| source.finish_move(id)).await {
            tracing::warn!(volume = %id, %fault, "what is left of a volume that has moved is removed later");
        }
        point("controller.move.finished");
        Ok(info)
    }
}

/// Settles moves that dead controllers have left: those that were committed are finished, and what waits for a move that
/// has ended is removed. What cannot be settled now is left to the next sweep; the first reason is told.
pub async fn sweep(fleet: &Fleet) -> Result<(), Fault> {
    let (mut waiting, mut outcome) = (Vec::new(), Ok(()));
    for agent in fleet.agents() {
        let Ok((moves, here)) = agent.moves().await else { continue };
        for left in moves.into_iter().filter(|left| left.has_left) {
            let id = left.volume.record.id;
            match fleet.settle_move(&agent, &id).await {
                Ok(_) => tracing::info!(volume = %id, "finished a move that a dead controller had left"),
                Err(fault) => outcome = outcome.and(Err(fault)),
            }
        }
        waiting.extend(here.into_iter().map(|waiting| (agent.clone(), waiting)));
    }
    for (agent, waiting) in waiting {
        match remove_unwanted(fleet, &agent, &waiting).await {
            Ok(true) => {
                tracing::info!(volume = %waiting.volume, "removed what had arrived for a move that was given up");
            }
            Ok(false) => {}
            Err(fault) => outcome = outcome.and(Err(fault)),
        }
    }
    outcome
}

/// Removes what waits, unless its source still knows of the move. Asked after it was seen waiting; a source that does not
/// answer decides nothing.
async fn remove_unwanted(fleet: &Fleet, agent: &Agent, waiting: &Waiting) -> Result<bool, Fault> {
    let source = fleet.agent_of_pool(&waiting.from.pool).await?;
    let is_meant =
        |leaving: &Move| leaving.volume.record.id == waiting.from && leaving.content == waiting.content;
    if source.moves().await?.0.iter().any(is_meant) {
        return Ok(false);
    }
    agent.abandon(&waiting.volume.pool, &waiting.volume.hash, Some(&waiting.content)).await
}

#[cfg(test)]
mod tests;
