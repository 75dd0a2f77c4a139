//! What [`Storage`] promises, over the real one (whole agents, mTLS) and over the double that the tests of the operator and
//! of schedules use: a double that is kinder than the real storage hides faults, a stricter one invents them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::fixtures::{record, volumes};
use super::fleet_storage::FleetStorage;
use super::operator::tests::World as Double;
use super::storage::Storage;
use crate::controller::cuts::{Barrier, CutOrder, Cuts};
use crate::controller::placement::Policy;
use crate::controller::transfers::world::{World as Agents, order};
use crate::controller::volumes::Volumes;
use crate::domain::record::CutRecord;
use crate::domain::{Code, CutId, CutKind};

/// Storage with two volumes on different nodes, of which one node can fall silent.
#[async_trait]
trait Stage {
    fn storage(&self) -> Arc<dyn Storage>;
    /// Takes a cut of the first volume (single) or of both (group).
    async fn take(&self, kind: CutKind, name: &str) -> CutRecord;
    /// The node of the second volume answers no more.
    async fn silence(&mut self);
}

async fn keeps_its_promises(stage: &mut dyn Stage) {
    let storage = stage.storage();
    assert_eq!(storage.find_cut("nightly").await.unwrap(), None);
    assert_eq!(storage.named("nightly").await.unwrap(), []);
    let group = stage.take(CutKind::Group, "nightly").await;
    let single = stage.take(CutKind::Single, "alone").await;
    let both = stage.take(CutKind::Single, "nightly").await;

    // List and look-up agree on what exists.
    let listed = storage.cuts().await.unwrap();
    assert_eq!(listed.len(), 3);
    for cut in &listed {
        assert!(
            storage.named(&cut.name).await.unwrap().iter().any(|found| found.id == cut.id),
            "{}",
            cut.name
        );
        assert_eq!(storage.cut(&cut.handle()).await.unwrap().as_ref().map(|found| &found.id), Some(&cut.id));
    }
    let ids = |mut cuts: Vec<CutRecord>| {
        cuts.sort_by(|a, b| a.id.cmp(&b.id));
        cuts.into_iter().map(|cut| cut.id).collect::<Vec<CutId>>()
    };
    assert_eq!(ids(storage.named("nightly").await.unwrap()), ids(vec![group.clone(), both.clone()]));
    assert_eq!(storage.find_cut("nightly").await.unwrap().map(|cut| cut.id), Some(group.id.clone()));
    assert_eq!(storage.find_cut("alone").await.unwrap(), None, "a single snapshot is no group");

    // What is deleted is gone from both, and deleting it again is fine.
    for _ in 0..2 {
        storage.delete(&both.handle()).await.unwrap();
    }
    assert_eq!(ids(storage.named("nightly").await.unwrap()), std::slice::from_ref(&group.id));
    assert_eq!(storage.cut(&both.handle()).await.unwrap(), None);

    // Nobody concludes from silence.
    stage.silence().await;
    let silent = |outcome: Result<bool, crate::domain::Fault>, what: &str| {
        assert_eq!(outcome.unwrap_err().code, Code::Unavailable, "{what}");
    };
    silent(storage.find_cut("never").await.map(|cut| cut.is_some()), "a group that was never taken");
    silent(storage.named("never").await.map(|cuts| cuts.is_empty()), "a name that was never used");
    silent(storage.cuts().await.map(|cuts| cuts.is_empty()), "a list with holes");
    assert!(!storage.volumes().await.silent.is_empty(), "volumes are missing, and it is told");
    // What answers is there all the same.
    assert_eq!(storage.cut(&single.handle()).await.unwrap().map(|cut| cut.id), Some(single.id));
}

struct DoubleStage(Arc<Double>);

#[async_trait]
impl Stage for DoubleStage {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.0) as _
    }

    async fn take(&self, kind: CutKind, name: &str) -> CutRecord {
        let all = volumes().all;
        let mut record = record(name, if kind == CutKind::Single { &all[..1] } else { &all[..2] }, 1_000);
        record.id.kind = kind;
        for member in &mut record.members {
            member.snapshot.kind = kind;
        }
        self.0.cuts.lock().unwrap().insert(record.handle(), record.clone());
        record
    }

    async fn silence(&mut self) {
        self.0.silent.store(true, Ordering::SeqCst);
    }
}

struct RealStage {
    agents: Agents,
    cuts: Cuts,
}

#[async_trait]
impl Stage for RealStage {
    fn storage(&self) -> Arc<dyn Storage> {
        let fleet = self.agents.fleet.clone();
        let volumes = Volumes::new(Arc::new(fleet.clone()), Arc::new(self.cuts.clone()), Policy::default());
        Arc::new(FleetStorage { fleet, cuts: self.cuts.clone(), volumes: Arc::new(volumes) })
    }

    async fn take(&self, kind: CutKind, name: &str) -> CutRecord {
        let mut volumes = Vec::new();
        for (name, node) in [("x", "a"), ("y", "b")] {
            volumes.push(self.agents.volumes.create(&order(name, None, node)).await.unwrap().info.record.id);
        }
        volumes.truncate(if kind == CutKind::Single { 1 } else { 2 });
        self.cuts.take(CutOrder { kind, name: name.into(), volumes, barrier: Barrier::Up }).await.unwrap()
    }

    async fn silence(&mut self) {
        self.agents.b.end().await;
    }
}

#[tokio::test]
async fn the_double_keeps_what_storage_promises() {
    keeps_its_promises(&mut DoubleStage(Arc::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_keep_what_storage_promises() {
    let agents = Agents::new().await;
    let cuts = agents.cuts.clone();
    keeps_its_promises(&mut RealStage { agents, cuts }).await;
}
