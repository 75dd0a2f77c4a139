//! What the CSI services need of the rest, so that they can be tested over a model in memory. Nothing here decides
//! anything.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;

use super::backoff::DependsOn;
use crate::agent::volumes::NodeVolumes;
use crate::controller::cuts::{Barrier, CutOrder, Cuts};
use crate::controller::paging::{Page, PageRequest};
use crate::controller::volumes::Snapshots;
use crate::domain::health::Ailment;
use crate::domain::listing::SnapshotEntry;
use crate::domain::node::{GrowRequest, PublishRequest, StageRequest, Usage};
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{Bytes, CutHandle, CutKind, Fault, SnapshotId, VolumeId};

/// What the sidecars tell of a snapshot besides its name and volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The VolumeSnapshot or VolumeGroupSnapshot, where the sidecar passes it on.
    pub object: Option<SnapshotObject>,
    /// Parameter `stillpoint.dev/rule` of the class.
    pub rule: Option<String>,
}

/// A VolumeSnapshot or VolumeGroupSnapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotObject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What people change to put a failed snapshot right, besides its request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Circumstances {
    /// The snapshot's object is there and is not being deleted.
    pub is_wanted: bool,
    /// Its annotation that names a Rule.
    pub annotation: Option<String>,
    /// Versions of the Rules in its namespace, where they matter.
    pub rules: BTreeMap<String, String>,
}

/// Cuts; [`Cuts`] is the real one, without rules; in Kubernetes `kube::RuledCuts` runs them around it.
#[async_trait]
pub trait Cutting: Snapshots {
    /// Takes a cut, or gives the one of this name with the same members.
    async fn take(
        &self,
        kind: CutKind,
        name: &str,
        volumes: Vec<VolumeId>,
        asked: &Asked,
    ) -> Result<CutRecord, Fault>;
    /// The sealed cut of this name.
    async fn find(&self, kind: CutKind, name: &str) -> Result<Option<CutRecord>, Fault>;
    /// The sealed cut with this id.
    async fn get(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault>;
    /// The sealed cut that this snapshot is a member of.
    async fn of_snapshot(&self, snapshot: &SnapshotId) -> Result<Option<CutRecord>, Fault>;
    /// A page of the snapshots, of one volume or of all.
    async fn snapshots(
        &self,
        volume: Option<&VolumeId>,
        request: &PageRequest,
    ) -> Result<Page<SnapshotEntry>, Fault>;
    /// Deletes a cut with its snapshots; unknown ids are fine.
    async fn delete(&self, id: &CutHandle) -> Result<(), Fault>;
    /// What a snapshot for this object depends on; `None`: it cannot be told now, or there is nothing to ask.
    async fn circumstances(&self, _: CutKind, _: &SnapshotObject, _: DependsOn) -> Option<Circumstances> {
        None
    }
    /// Returns when its circumstances are no longer what `seen` says; `None` there becomes what is found first.
    /// Without somebody to ask it never returns.
    async fn changed(&self, _: CutKind, _: &SnapshotObject, _: DependsOn, _seen: &mut Option<Circumstances>) {
        let () = std::future::pending().await;
    }
}

#[async_trait]
impl Cutting for Cuts {
    async fn take(
        &self,
        kind: CutKind,
        name: &str,
        volumes: Vec<VolumeId>,
        asked: &Asked,
    ) -> Result<CutRecord, Fault> {
        if let Some(rule) = &asked.rule {
            // Taken in silence without its rule, a snapshot would look like more than it is.
            return Err(Fault::invalid(format!(
                "the snapshot class asks for rule {rule:?}, and rules of classes need `stillpoint controller` in \
                 Kubernetes; remove the parameter, or take the snapshot with `stillpoint snapshot --rule`"
            )));
        }
        Self::take(self, CutOrder { kind, name: name.to_owned(), volumes, barrier: Barrier::Up }).await
    }

    async fn find(&self, kind: CutKind, name: &str) -> Result<Option<CutRecord>, Fault> {
        Self::find(self, kind, name).await
    }

    async fn get(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        Self::get(self, id).await
    }

    async fn of_snapshot(&self, snapshot: &SnapshotId) -> Result<Option<CutRecord>, Fault> {
        Self::of_snapshot(self, snapshot).await
    }

    async fn snapshots(
        &self,
        volume: Option<&VolumeId>,
        request: &PageRequest,
    ) -> Result<Page<SnapshotEntry>, Fault> {
        Self::snapshots(self, volume, request).await
    }

    async fn delete(&self, id: &CutHandle) -> Result<(), Fault> {
        Self::delete(self, id).await
    }
}

#[async_trait]
impl Snapshots for Cuts {
    async fn member(&self, snapshot: &SnapshotId) -> Result<Option<CutMember>, Fault> {
        let cut = self.of_snapshot(snapshot).await?;
        Ok(cut.and_then(|cut| cut.members.into_iter().find(|member| member.snapshot == *snapshot)))
    }

    async fn temporary(&self, volume: &VolumeId, name: &str) -> Result<CutMember, Fault> {
        let (name, volumes) = (name.to_owned(), vec![volume.clone()]);
        let cut = Self::take(self, CutOrder { kind: CutKind::Single, name, volumes, barrier: Barrier::Up });
        let first = cut.await?.members.into_iter().next();
        first.ok_or_else(|| Fault::internal(format!("a snapshot of volume {volume} has no member")))
    }

    async fn end_temporary(&self, snapshot: &SnapshotId) -> Result<(), Fault> {
        match self.of_snapshot(snapshot).await? {
            Some(cut) => Self::delete(self, &cut.handle()).await,
            None => Ok(()),
        }
    }
}

/// Volumes in use on this host; [`NodeVolumes`] is the real one. All calls block.
pub trait NodeWork: Send + Sync + 'static {
    /// Makes a volume ready on this host.
    fn stage(&self, request: &StageRequest) -> Result<(), Fault>;
    /// Gives a volume back; not staged is fine.
    fn unstage(&self, volume: &VolumeId, staging: &Path) -> Result<(), Fault>;
    /// Gives a staged volume to one consumer.
    fn publish(&self, request: &PublishRequest) -> Result<(), Fault>;
    /// Takes it from one consumer and removes the target; not published is fine.
    fn unpublish(&self, volume: &VolumeId, target: &Path) -> Result<(), Fault>;
    /// What is in use.
    fn stats(&self, volume: &VolumeId, path: &Path) -> Result<Usage, Fault>;
    /// Makes what is at a path as large as the volume has become; says how large.
    fn grow(&self, request: &GrowRequest) -> Result<Bytes, Fault>;
    /// What is wrong with a volume.
    fn health(&self, volume: &VolumeId) -> Result<Vec<Ailment>, Fault>;
    /// What is wrong with what volumes are stored on.
    fn storage_health(&self) -> Vec<Ailment>;
}

/// The orchestrator's ids end here: a volume that came from another pool has one of its own in this one.
impl NodeWork for NodeVolumes {
    fn stage(&self, request: &StageRequest) -> Result<(), Fault> {
        Self::stage(self, &StageRequest { volume: self.own_id(&request.volume), ..request.clone() })
    }

    fn unstage(&self, volume: &VolumeId, staging: &Path) -> Result<(), Fault> {
        Self::unstage(self, &self.own_id(volume), staging)
    }

    fn publish(&self, request: &PublishRequest) -> Result<(), Fault> {
        Self::publish(self, &PublishRequest { volume: self.own_id(&request.volume), ..request.clone() })
    }

    fn unpublish(&self, volume: &VolumeId, target: &Path) -> Result<(), Fault> {
        Self::unpublish(self, &self.own_id(volume), target)
    }

    fn stats(&self, volume: &VolumeId, path: &Path) -> Result<Usage, Fault> {
        Self::stats(self, &self.own_id(volume), path)
    }

    fn grow(&self, request: &GrowRequest) -> Result<Bytes, Fault> {
        Self::grow(self, &GrowRequest { volume: self.own_id(&request.volume), ..request.clone() })
    }

    fn health(&self, volume: &VolumeId) -> Result<Vec<Ailment>, Fault> {
        Self::health(self, &self.own_id(volume))
    }

    fn storage_health(&self) -> Vec<Ailment> {
        Self::storage_health(self)
    }
}
