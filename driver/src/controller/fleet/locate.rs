//! Where a volume is. An id names the pool that the volume was made in; a volume that has moved keeps its id, and its
//! record at the new pool says by which id it is known.
//!
//! 1. The id's own pool is asked. *It is here*, and *it never left* are answers; *it has moved* names the new pool.
//! 2. A move that is not settled (its controller died after the commit point) is settled now: the volume exists at one
//!    of two hosts, and this makes it the right one.
//! 3. Where the new pool does not have it any more, or the id's own pool is gone or silent, all hosts are asked for the
//!    volume's name, whose hash is in every id that it ever had. Nobody concludes from silence.

use tokio::task::JoinSet;

use super::{Agent, Fleet};
use crate::domain::{Code, Departure, Fault, NameHash, VolumeId, VolumeInfo};
use crate::observe::request::carried;

impl Fleet {
    /// The volume that orchestrators know by this id, and the agent of its host; its record has the id that this agent
    /// knows. NOT_FOUND when it exists nowhere.
    pub async fn locate(&self, id: &VolumeId) -> Result<(Agent, VolumeInfo), Fault> {
        let agent = match self.agent_of_pool(&id.pool).await {
            Ok(agent) => agent,
            Err(fault) => return self.elsewhere(id, fault).await,
        };
        let gone =
            || Fault::not_found(format!("volume {id} does not exist; it was never made or has been deleted"));
        match agent.volume(id).await {
            Ok(info) if info.record.known_as() != id => Err(agent.named(gone())),
            Ok(info) => match info.moved.clone() {
                None => Ok((agent, info)),
                Some(departure) => match self.follow(&agent, &info, &departure).await {
                    Err(fault) if fault.code == Code::NotFound => self.elsewhere(id, gone()).await,
                    outcome => outcome,
                },
            },
            Err(fault) if fault.code == Code::NotFound => Err(fault),
            Err(fault) => self.elsewhere(id, fault).await,
        }
    }

    /// From where a volume was to where it is.
    async fn follow(
        &self,
        source: &Agent,
        left: &VolumeInfo,
        departure: &Departure,
    ) -> Result<(Agent, VolumeInfo), Fault> {
        let target = self.agent_of_pool(&departure.to.pool).await?;
        if !departure.is_settled {
            let info = self.settle_move(source, &left.record.id).await?;
            return Ok((target, info));
        }
        let info = target.volume(&departure.to).await?;
        if info.moved.is_none() && info.record.known_as() == left.record.known_as() {
            return Ok((target, info));
        }
        Err(Fault::not_found(format!("volume {} has moved on", left.record.known_as())))
    }

    /// Asks everybody for the volume's name. `otherwise` is what is known without them.
    async fn elsewhere(&self, id: &VolumeId, otherwise: Fault) -> Result<(Agent, VolumeInfo), Fault> {
        let mut silent = None;
        for (agent, answer) in self.named(&id.hash).await {
            match answer {
                Ok(Some(info)) if info.record.known_as() == id => match info.moved.clone() {
                    None => return Ok((agent, info)),
                    Some(departure) => return self.follow(&agent, &info, &departure).await,
                },
                Ok(_) => {}
                Err(fault) => silent = Some(fault),
            }
        }
        if otherwise.code != Code::NotFound {
            return Err(otherwise);
        }
        let complete = match silent {
            Some(fault) => Err(fault),
            None => self.check_complete().await,
        };
        Err(complete.err().map_or(otherwise, |fault| {
            Fault::unavailable(format!(
                "cannot tell where volume {id} is while not every pool can be asked: {fault}"
            ))
        }))
    }

    /// What each host has of this name, or which way it has gone.
    async fn named(&self, name: &NameHash) -> Vec<(Agent, Result<Option<VolumeInfo>, Fault>)> {
        let mut asked = JoinSet::new();
        for agent in self.agents() {
            let name = name.clone();
            asked.spawn(carried(async move {
                let answer = agent.find_volume(&name).await;
                (agent, answer)
            }));
        }
        let mut answers = asked.join_all().await;
        answers.sort_by(|(left, _), (right, _)| left.host().cmp(right.host()));
        answers
    }
}
