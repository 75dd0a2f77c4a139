//! Settles what dead controllers have left: sealed cuts are rolled forward, all others are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::list::merged;
use super::{Cuts, is_sealed};
use crate::controller::fleet::known::Remembered;
use crate::controller::fleet::{Agent, Everybody};
use crate::controller::merge::{Merge, Silence};
use crate::domain::listing::{CutFilter, CutScope, Detail};
use crate::domain::record::CutRecord;
use crate::domain::{CutId, Fault, HostName, PoolId};

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Cuts that were sealed on their home pool and are now sealed everywhere.
    pub rolled_forward: Vec<CutId>,
    /// Cuts that were not, and are gone.
    pub voided: Vec<CutId>,
    /// Cuts that could not be decided or settled now; the next sweep tries again.
    pub left: Vec<(CutId, Fault)>,
}

/// A cut as the hosts know it.
#[derive(Default)]
struct Known {
    records: BTreeMap<HostName, CutRecord>,
}

/// What is to be done about a cut.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All agree, or it is too young to judge.
    Leave,
    /// Sealed at home, not on these hosts.
    RollForward(BTreeSet<HostName>),
    /// Not sealed at home.
    Remove,
    /// Its home does not answer.
    Unknown,
}

/// Where the home pool of a cut is.
#[derive(Debug, PartialEq, Eq)]
enum Home {
    /// On this host, which has told all that it knows.
    Answers(HostName),
    /// The pool was dismissed: the cut does not exist, and nobody will ever seal it.
    Dismissed,
    /// On a host that is silent, or on none.
    Silent,
}

impl Cuts {
    /// Settles cuts whose attempt began longer than `grace` ago and that this process is not working on. Of what hosts
    /// tell, only the cut that is judged and a piece of each host's list are in memory.
    pub async fn sweep(&self, grace: Duration) -> Swept {
        let mut swept = Swept::default();
        // Nobody is known yet: there is nothing to settle.
        let Ok(everybody) = self.fleet.everybody() else { return swept };
        // Which host has which pool: hosts that are silent here have none.
        let hosts =
            self.fleet.survey().await.into_iter().filter_map(|(host, answer)| Some((host, answer.ok()?)));
        let homes: BTreeMap<PoolId, HostName> = hosts
            .flat_map(|(host, info)| info.pools.into_iter().map(move |pool| (pool.id, host.clone())))
            .collect();
        let filter = CutFilter::of(CutScope::Unsettled, Detail::Home);
        let mut merge = merged(&everybody, &filter, Silence::Noted);
        let oldest = (self.wall_clock)().saturating_sub(grace).unwrap_or(Timestamp::MIN);
        let mut known = Known::default();
        loop {
            // A host that is silent is noted, so there is no fault.
            let next = merge.next().await.ok().flatten();
            let is_another = next.as_ref().is_none_or(|(_, record)| known.id() != Some(&record.id));
            if is_another {
                let answering = Answering { everybody: &everybody, merge: &merge, homes: &homes };
                self.settle_known(std::mem::take(&mut known), answering, oldest, &mut swept).await;
            }
            let Some((part, record)) = next else { return swept };
            known.records.insert(everybody.agents[part].host().clone(), record);
        }
    }

    async fn settle_known(&self, cut: Known, answering: Answering<'_>, oldest: Timestamp, swept: &mut Swept) {
        let Some(any) = cut.records.values().next() else { return };
        let id = any.id.clone();
        let Ok(_busy) = self.make_busy(id.kind, &any.name) else { return };
        let dismissed = self.fleet.known_pools().get(&id.home) == Some(Remembered::Dismissed);
        let home = match answering.home(&id.home) {
            Some(home) => Home::Answers(home.clone()),
            None if dismissed && !answering.homes.contains_key(&id.home) => Home::Dismissed,
            None => Home::Silent,
        };
        let (list, done) = match judge(&cut, &home, oldest) {
            Verdict::Leave => return,
            Verdict::RollForward(hosts) => {
                (&mut swept.rolled_forward, roll_forward(&id, &hosts, answering).await)
            }
            Verdict::Remove => match self.sealed(&id).await {
                // The list does not know: a seal was written, and the call failed before it was durable. Sealing it again
                // makes it so, on every host.
                Ok(Some(sealed)) => {
                    let pools = sealed.members.iter().map(|member| &member.volume.pool);
                    let hosts = pools.filter_map(|pool| answering.homes.get(pool)).cloned().collect();
                    (&mut swept.rolled_forward, roll_forward(&id, &hosts, answering).await)
                }
                Ok(None) => (&mut swept.voided, self.remove_as_known(&cut, oldest).await),
                Err(fault) => (&mut swept.voided, Err(fault)),
            },
            Verdict::Unknown => {
                let why = format!(
                    "no host answers that has its home pool {}, so nobody knows whether it exists; if the pool is lost for \
                     good, run `stillpoint pool dismiss {}`",
                    id.home, id.home
                );
                swept.left.push((id, Fault::unavailable(why)));
                return;
            }
        };
        match done {
            Ok(()) => list.push(id),
            Err(fault) => swept.left.push((id, fault)),
        }
    }

    /// Removes a cut with all its members, of which lists tell only one: the rest is asked of a host that has told. What
    /// a host has removed meanwhile, or had half removed and finishes when it is asked, is no work for a sweep.
    async fn remove_as_known(&self, cut: &Known, oldest: Timestamp) -> Result<(), Fault> {
        for (host, judged) in &cut.records {
            match self.fleet.agent(host)?.cut(&judged.id).await? {
                Some(record) if record.attempt == judged.attempt || record.cut_at <= oldest => {
                    return self.remove_unsealed(&record).await;
                }
                Some(_) => return Err(Fault::aborted("somebody else is at work on it")),
                None => {}
            }
        }
        Ok(())
    }
}

/// The agents that have told all that they know up to here.
#[derive(Clone, Copy)]
struct Answering<'a> {
    everybody: &'a Everybody,
    merge: &'a Merge<CutRecord>,
    homes: &'a BTreeMap<PoolId, HostName>,
}

impl<'a> Answering<'a> {
    /// The host that has this pool and has told all that it knows.
    fn home(self, pool: &PoolId) -> Option<&'a HostName> {
        self.homes.get(pool).filter(|host| self.agent(host).is_some())
    }

    fn agent(self, host: &HostName) -> Option<&'a Agent> {
        let at = self.everybody.agents.binary_search_by(|agent| agent.host().cmp(host)).ok()?;
        (!self.merge.is_silent(at)).then(|| &self.everybody.agents[at])
    }
}

impl Known {
    fn id(&self) -> Option<&CutId> {
        self.records.first_key_value().map(|(_, record)| &record.id)
    }
}

fn judge(cut: &Known, home: &Home, oldest: Timestamp) -> Verdict {
    let Some(any) = cut.records.values().next() else { return Verdict::Leave };
    let home = match home {
        Home::Answers(home) => Some(home),
        Home::Dismissed => None,
        Home::Silent => return Verdict::Unknown,
    };
    if home.and_then(|home| cut.records.get(home)).is_some_and(is_sealed) {
        let behind = |host: &&HostName| cut.records.get(*host).is_some_and(|record| !is_sealed(record));
        let hosts: BTreeSet<_> = cut.records.keys().filter(behind).cloned().collect();
        return if hosts.is_empty() { Verdict::Leave } else { Verdict::RollForward(hosts) };
    }
    if any.cut_at > oldest { Verdict::Leave } else { Verdict::Remove }
}

async fn roll_forward(
    id: &CutId,
    behind: &BTreeSet<HostName>,
    answering: Answering<'_>,
) -> Result<(), Fault> {
    let home = answering.home(&id.home).and_then(|host| answering.agent(host));
    let home =
        home.ok_or_else(|| Fault::unavailable("the host of its home pool does not answer any more"))?;
    // With its timeline, which lists leave out.
    let record = home.cut(id).await?.filter(is_sealed);
    let record = record.ok_or_else(|| Fault::aborted("it was deleted meanwhile"))?;
    for agent in behind.iter().filter_map(|host| answering.agent(host)) {
        agent.seal(&record).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Incarnation;
    use crate::domain::record::{CutMember, CutState};
    use crate::domain::{Bytes, CutKind, Level, SnapshotId, VolumeId};

    fn record(state: CutState) -> CutRecord {
        let volumes = [1, 2].map(|pool| VolumeId::new(PoolId::from_random([pool; 6]), "v", Incarnation(1)));
        let id = CutId::new(CutKind::Group, "nightly", &volumes).unwrap();
        let member = |(volume, host): (&VolumeId, &str)| CutMember {
            known_as: None,
            volume: volume.clone(),
            volume_name: "v".into(),
            snapshot: SnapshotId::of(volume, &id, Incarnation(1)),
            host: host.parse().unwrap(),
            capacity: Bytes::gib(1),
            filesystem: None,
        };
        CutRecord {
            name: "nightly".into(),
            state,
            attempt: Incarnation(1),
            members: volumes.iter().zip(["a", "b"]).map(member).collect(),
            cut_at: Timestamp::UNIX_EPOCH,
            level: Level::Group,
            reasons: vec![],
            timeline: None,
            id,
        }
    }

    fn home_on(host: &str) -> Home {
        Home::Answers(host.parse().unwrap())
    }

    fn verdict(on_home: Option<CutState>, on_other: Option<CutState>, home: &Home) -> Verdict {
        let entries = [("a", on_home), ("b", on_other)];
        let known =
            entries.into_iter().filter_map(|(host, state)| Some((host.parse().unwrap(), record(state?))));
        let cut = Known { records: known.collect() };
        judge(&cut, home, Timestamp::now())
    }

    #[test]
    fn only_the_home_pool_decides() {
        use CutState::{Round, Sealed};
        let behind = BTreeSet::from(["b".parse().unwrap()]);
        assert_eq!(verdict(Some(Sealed), Some(Sealed), &home_on("a")), Verdict::Leave);
        assert_eq!(verdict(Some(Sealed), Some(Round), &home_on("a")), Verdict::RollForward(behind));
        assert_eq!(verdict(Some(Round), Some(Round), &home_on("a")), Verdict::Remove);
        assert_eq!(verdict(Some(Round), None, &home_on("a")), Verdict::Remove);
        assert_eq!(verdict(None, Some(Round), &home_on("a")), Verdict::Remove);
        assert_eq!(
            verdict(None, Some(Sealed), &home_on("a")),
            Verdict::Remove,
            "its deletion was interrupted"
        );
        assert_eq!(verdict(None, Some(Sealed), &Home::Silent), Verdict::Unknown);
        assert_eq!(verdict(None, Some(Round), &Home::Silent), Verdict::Unknown);
        assert_eq!(
            verdict(None, Some(Sealed), &Home::Dismissed),
            Verdict::Remove,
            "its home pool is lost for good"
        );
    }

    #[test]
    fn the_home_is_where_its_pool_is_now_whatever_the_record_says() {
        // Records say a and b; the disk with the home pool is in node c by now.
        let sealed = record(CutState::Sealed);
        let at = |host: &str, record: CutRecord| (host.parse().unwrap(), record);
        let told = Known { records: BTreeMap::from([at("b", record(CutState::Round)), at("c", sealed)]) };
        let behind = BTreeSet::from(["b".parse().unwrap()]);
        assert_eq!(judge(&told, &home_on("c"), Timestamp::now()), Verdict::RollForward(behind));
        assert_eq!(
            judge(&told, &home_on("b"), Timestamp::now()),
            Verdict::Remove,
            "that is another pool's record"
        );
    }

    #[test]
    fn a_young_attempt_is_left_alone() {
        let mut young = record(CutState::Round);
        young.cut_at = Timestamp::now();
        let cut = Known { records: BTreeMap::from([("a".parse().unwrap(), young)]) };
        assert_eq!(judge(&cut, &home_on("a"), Timestamp::UNIX_EPOCH), Verdict::Leave);
    }
}
