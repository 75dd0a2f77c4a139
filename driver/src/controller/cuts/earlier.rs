//! What earlier attempts under a name have left: found on all hosts, rolled forward where it is sealed, removed otherwise.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinSet;

use super::{CutOrder, Cuts, is_sealed, pools_of};
use crate::controller::fleet::Agent;
use crate::domain::record::CutRecord;
use crate::domain::{CutKind, Fault, NameHash, VolumeId};
use crate::observe::request::carried;

impl Cuts {
    /// Finds what earlier attempts under this name have left: a sealed cut is rolled forward and given back, anything
    /// else is removed.
    pub(super) async fn settle_earlier(&self, order: &CutOrder) -> Result<Option<CutRecord>, Fault> {
        // A silent host that has a member is found out when it is needed. That no other pool has a cut of this name is made
        // sure by whoever takes names from people; an orchestrator asks for a name with the same members only.
        for record in self.records_of(order.kind, &NameHash::of(&order.name)).await.records {
            match self.sealed(&record.id).await? {
                Some(sealed) => {
                    sealed.check_members(&order.volumes.iter().cloned().collect())?;
                    self.roll_forward(&sealed, &sealed.members).await?;
                    return Ok(Some(sealed));
                }
                None => self.remove_unsealed(&record).await?,
            }
        }
        Ok(None)
    }

    /// The sealed cut of this name, for an orchestrator that asks for a name with the same volumes only: hosts that have
    /// none of them may be silent. UNAVAILABLE where one that has, or had, one of them is.
    pub async fn find_of(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
    ) -> Result<Option<CutRecord>, Fault> {
        self.ask_pools_of(kind, name, volumes).await?;
        for record in self.records_of(kind, &NameHash::of(name)).await.records {
            if let Some(sealed) = self.sealed(&record.id).await? {
                return Ok(Some(sealed));
            }
        }
        Ok(None)
    }

    /// A silent host must not pass for one that has nothing: each one that has, or had, one of these volumes is asked.
    pub(super) async fn ask_pools_of(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
    ) -> Result<(), Fault> {
        let hash = NameHash::of(name);
        let mut pools: BTreeSet<_> = volumes.iter().map(|volume| volume.pool.clone()).collect();
        for volume in volumes {
            // It may have moved, and been cut where it is now.
            if let Ok((_, info)) = self.fleet.locate(volume).await {
                pools.insert(info.record.id.pool);
            }
        }
        for pool in pools {
            self.fleet.agent_of_pool(&pool).await?.find_cut(kind, &hash).await?;
        }
        Ok(())
    }

    /// A cut that is not sealed on its home pool: an attempt that died, or a deletion that did.
    ///
    /// Another controller may be at work on it, so the order matters: first see which attempts the other hosts have, and
    /// that their rounds have ended (one that has not may not have reached the home pool yet, which would then have nothing
    /// to void); then let the home pool void its own (it refuses when it has sealed meanwhile, and seals no more
    /// afterwards); then remove exactly those attempts elsewhere. So nothing of a cut that is or will be sealed is ever
    /// removed. `model/tests/round` shows it, and what each of these steps is for.
    pub(super) async fn remove_unsealed(&self, record: &CutRecord) -> Result<(), Fault> {
        let mut left = Vec::new();
        let home = self.home_of(record).await?;
        let is_other = |agent: &Agent| home.as_ref().is_none_or(|home| home.host() != agent.host());
        for agent in self.fleet.agents_of_pools(pools_of(&record.members)).await?.into_iter().filter(is_other)
        {
            if let Some(known) = agent.cut_at_rest(&record.id).await? {
                left.push((agent, known));
            }
        }
        if let Some(home) = home {
            self.void_at_home(&home, record).await?;
        }
        for (agent, known) in left {
            if is_sealed(&known) {
                agent.delete_cut(&record.id, known.attempt).await?;
            } else {
                agent.void(&record.id, known.attempt).await?;
            }
        }
        Ok(())
    }

    /// The agent that has the home pool; `None`: that pool was dismissed, so nothing of the cut will ever be sealed there.
    async fn home_of(&self, record: &CutRecord) -> Result<Option<Agent>, Fault> {
        Ok(self.fleet.agents_of_pools(std::iter::once(&record.id.home)).await?.pop())
    }

    async fn void_at_home(&self, home: &Agent, record: &CutRecord) -> Result<(), Fault> {
        let known = home.cut(&record.id).await?;
        if known.as_ref().is_some_and(is_sealed) {
            return Err(sealed_meanwhile(record));
        }
        let attempt = known.as_ref().unwrap_or(record).attempt;
        if let Err(fault) = home.void(&record.id, attempt).await {
            let sealed = home.cut(&record.id).await?.is_some_and(|known| is_sealed(&known));
            return Err(if sealed { sealed_meanwhile(record) } else { fault });
        }
        Ok(())
    }

    /// Records of any state under this name, from every host, one per cut id.
    pub(super) async fn records_of(&self, kind: CutKind, hash: &NameHash) -> Named {
        let mut asked = JoinSet::new();
        for agent in self.fleet.agents() {
            let hash = hash.clone();
            asked.spawn(carried(async move { (agent.host().clone(), agent.find_cut(kind, &hash).await) }));
        }
        let mut answers = asked.join_all().await;
        answers.sort_by(|(left, _), (right, _)| left.cmp(right));
        let (mut records, mut silent) = (BTreeMap::new(), None);
        for (_, answer) in answers {
            match answer {
                Ok(record) => records.extend(record.map(|record| (record.id.clone(), record))),
                Err(fault) => silent = silent.or(Some(fault)),
            }
        }
        Named { records: records.into_values().collect(), silent }
    }
}

/// What all hosts say about a name.
pub(super) struct Named {
    /// One of each cut id.
    pub(super) records: Vec<CutRecord>,
    /// Why a host did not answer.
    pub(super) silent: Option<Fault>,
}

fn sealed_meanwhile(record: &CutRecord) -> Fault {
    Fault::aborted(format!("the cut {:?} was sealed by another controller meanwhile; ask again", record.name))
}
