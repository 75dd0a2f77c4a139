//! The fleet as [`Hosts`].

use std::future::Future;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::{Hosts, Placed, Roll};
use crate::controller::fleet::{Agent, Everybody, Fleet};
use crate::controller::placement::HostFacts;
use crate::controller::transfers;
use crate::domain::listing::{Piece, Slice};
use crate::domain::{
    Bytes, Code, Fault, HostName, NameHash, NewVolume, PoolId, SnapshotId, VolumeId, VolumeInfo,
};
use crate::observe::request::carried;

#[async_trait]
impl Hosts for Fleet {
    async fn survey(&self) -> Vec<HostFacts> {
        let answers = Fleet::survey(self).await.into_iter();
        answers.map(|(host, answer)| HostFacts { host, pools: answer.map(|info| info.pools) }).collect()
    }

    async fn find(&self, name: &NameHash) -> Vec<(HostName, Result<Option<VolumeInfo>, Fault>)> {
        let name = name.clone();
        let mut answers = ask_all(self, move |agent| {
            let name = name.clone();
            async move { agent.find_volume(&name).await }
        })
        .await;
        for (host, answer) in &mut answers {
            // A move that is not settled: it may not exist anywhere else yet.
            let left = answer.as_ref().ok().and_then(Option::as_ref).filter(|info| info.moved.is_some());
            let Some(known_as) = left.map(|info| info.record.known_as().clone()) else { continue };
            match self.locate(&known_as).await {
                Ok((agent, info)) => (*host, *answer) = (agent.host().clone(), Ok(Some(info))),
                Err(fault) => tracing::warn!(volume = %known_as, %fault, "a move cannot be settled yet"),
            }
        }
        answers
    }

    fn everybody(&self) -> Result<Roll, Fault> {
        let Everybody { agents, generation } = Fleet::everybody(self)?;
        Ok(Roll { hosts: agents.iter().map(|agent| agent.host().clone()).collect(), generation })
    }

    async fn check_complete(&self) -> Result<(), Fault> {
        Fleet::check_complete(self).await
    }

    async fn volumes(&self, host: &HostName, slice: &Slice<VolumeId>) -> Result<Piece<VolumeInfo>, Fault> {
        self.agent(host)?.volumes_in(slice).await
    }

    async fn create(&self, host: &HostName, volume: NewVolume) -> Result<VolumeInfo, Fault> {
        self.agent(host)?.create_volume(&volume).await
    }

    async fn copy(&self, host: &HostName, volume: NewVolume, from: &SnapshotId) -> Result<VolumeInfo, Fault> {
        transfers::copy(self, host, volume, from).await
    }

    async fn volume(&self, id: &VolumeId) -> Result<Option<Placed>, Fault> {
        let found = optional(self.locate(id).await)?;
        Ok(found.map(|(agent, info)| Placed { host: agent.host().clone(), info }))
    }

    async fn delete(&self, id: &VolumeId) -> Result<(), Fault> {
        if let Some((agent, info)) = optional(self.locate(id).await)?
            && info.record.id != *id
        {
            agent.delete_volume(&info.record.id).await?;
            // A way that leads nowhere does no harm.
            let forgotten = match agent_of(self, &id.pool).await {
                Ok(Some(home)) => home.delete_volume(id).await,
                Ok(None) => Ok(()),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = forgotten {
                tracing::info!(volume = %id, %fault, "where it was once is not told of a volume's end");
            }
            return Ok(());
        }
        // Also of one that does not exist: a call that failed may have left something.
        let Some(agent) = agent_of(self, &id.pool).await? else {
            tracing::warn!(volume = %id, "asked to delete a volume whose pool is on none of the hosts, which all answer");
            return Ok(());
        };
        agent.delete_volume(id).await
    }

    async fn expand(&self, id: &VolumeId, to: Bytes) -> Result<Placed, Fault> {
        let (agent, info) = self.locate(id).await?;
        let info = agent.expand_volume(&info.record.id, to).await?;
        Ok(Placed { host: agent.host().clone(), info })
    }
}

/// Asks all agents at once; sorted by host.
async fn ask_all<T, F>(fleet: &Fleet, ask: impl Fn(Agent) -> F) -> Vec<(HostName, Result<T, Fault>)>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Fault>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for agent in fleet.agents() {
        let host = agent.host().clone();
        let answer = ask(agent);
        asked.spawn(carried(async move { (host, answer.await) }));
    }
    let mut answers = asked.join_all().await;
    answers.sort_by(|(left, _), (right, _)| left.cmp(right));
    answers
}

/// The agent that has the pool; `None` when all hosts answer and none has it.
async fn agent_of(fleet: &Fleet, pool: &PoolId) -> Result<Option<Agent>, Fault> {
    optional(fleet.agent_of_pool(pool).await)
}

fn optional<T>(outcome: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.code == Code::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}
