//! The GroupController service: one cut over several volumes, on however many hosts.

use std::collections::BTreeSet;
use std::sync::Arc;

use stillpoint_csi_proto::v1;
use tonic::{Request, Response, Status};
use v1::group_controller_service_capability::rpc::Type as Rpc;

use super::backoff::{Backoff, Call, DependsOn};
use super::inflight::Inflight;
use super::parse::{self, GroupOrder};
use super::ports::Cutting;
use super::{answer, reply, snapshots};
use crate::domain::record::CutRecord;
use crate::domain::{CutHandle, CutKind, Fault};

/// The GroupController service.
pub struct Group {
    cuts: Arc<dyn Cutting>,
    cutting: Inflight<GroupOrder, CutRecord>,
    uncutting: Inflight<BTreeSet<String>, ()>,
    backoff: Backoff,
}

impl Group {
    /// Over these cuts.
    pub fn new(cuts: Arc<dyn Cutting>) -> Self {
        Self {
            backoff: Backoff::new(Arc::clone(&cuts)),
            cuts,
            cutting: Inflight::new("group snapshot"),
            uncutting: Inflight::new("deletion"),
        }
    }

    async fn create(
        &self,
        request: Request<v1::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<v1::CreateVolumeGroupSnapshotResponse, Fault> {
        let (headers, _, request) = request.into_parts();
        let order = parse::group_order(&request);
        let call = Call::new(CutKind::Group, &request.name, parse::fingerprint_of_group(&request), &headers)
            .of(parse::snapshot_object(&request.parameters, CutKind::Group), DependsOn::of(&order));
        self.backoff.run(call, self.take(order)).await
    }

    async fn take(
        &self,
        order: Result<GroupOrder, Fault>,
    ) -> Result<v1::CreateVolumeGroupSnapshotResponse, Fault> {
        let order = order?;
        let name = order.name.clone();
        let cuts = Arc::clone(&self.cuts);
        let take = |order: GroupOrder| async move {
            let volumes = order.volumes.into_iter().collect();
            snapshots::take(&*cuts, CutKind::Group, &order.name, volumes, &order.asked).await
        };
        let cut = self.cutting.run(&name, order, take).await?;
        Ok(v1::CreateVolumeGroupSnapshotResponse { group_snapshot: Some(answer::group(&cut)) })
    }

    async fn get(
        &self,
        request: &v1::GetVolumeGroupSnapshotRequest,
    ) -> Result<v1::GetVolumeGroupSnapshotResponse, Fault> {
        let id = parse::group(&request.group_snapshot_id)?;
        let cut = existing(&*self.cuts, &id).await?;
        let cut = cut.ok_or_else(|| Fault::not_found(format!("group {id} does not exist")))?;
        same_members(&cut, &request.snapshot_ids.iter().cloned().collect())?;
        Ok(v1::GetVolumeGroupSnapshotResponse { group_snapshot: Some(answer::group(&cut)) })
    }

    async fn delete(
        &self,
        request: &v1::DeleteVolumeGroupSnapshotRequest,
    ) -> Result<v1::DeleteVolumeGroupSnapshotResponse, Fault> {
        let text = &request.group_snapshot_id;
        if let Some(id) = parse::doomed::<CutHandle>("group_snapshot_id", text)? {
            let cuts = Arc::clone(&self.cuts);
            let believed = request.snapshot_ids.iter().cloned().collect();
            self.uncutting
                .run(text, believed, |believed| async move { delete(&*cuts, &id, &believed).await })
                .await?;
        }
        Ok(v1::DeleteVolumeGroupSnapshotResponse {})
    }
}

/// A group; an id of a single snapshot names none.
async fn existing(cuts: &dyn Cutting, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
    match id.cut.kind {
        CutKind::Single => Ok(None),
        CutKind::Group => cuts.get(id).await,
    }
}

/// Deletes a group whose members are what the caller believes. One that is not sealed (any more) is deleted whatever
/// the caller believes: an earlier deletion may have been interrupted, and must be finished.
async fn delete(cuts: &dyn Cutting, id: &CutHandle, believed: &BTreeSet<String>) -> Result<(), Fault> {
    if id.cut.kind == CutKind::Single {
        return Ok(());
    }
    if let Some(cut) = cuts.get(id).await? {
        same_members(&cut, believed)?;
    }
    cuts.delete(id).await
}

/// Members are a set: their order and repetitions mean nothing.
fn same_members(cut: &CutRecord, believed: &BTreeSet<String>) -> Result<(), Fault> {
    let members: BTreeSet<String> = cut.members.iter().map(|member| member.snapshot.to_string()).collect();
    if members == *believed {
        return Ok(());
    }
    let missing = members.difference(believed).count();
    let extra = believed.difference(&members).count();
    Err(Fault::invalid(format!(
        "snapshot_ids are not the members of group {}: {missing} of its {} members are not named, and {extra} that are \
         named do not belong to it; name exactly its members",
        cut.handle(),
        members.len()
    )))
}

#[tonic::async_trait]
impl v1::group_controller_server::GroupController for Group {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<v1::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<v1::GroupControllerGetCapabilitiesResponse>, Status> {
        use v1::group_controller_service_capability::{Rpc as Capability, Type};
        let rpc = Capability { r#type: Rpc::CreateDeleteGetVolumeGroupSnapshot.into() };
        let capability = v1::GroupControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) };
        Ok(Response::new(v1::GroupControllerGetCapabilitiesResponse { capabilities: vec![capability] }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<v1::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<v1::CreateVolumeGroupSnapshotResponse>, Status> {
        reply(self.create(request).await)
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<v1::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<v1::DeleteVolumeGroupSnapshotResponse>, Status> {
        reply(self.delete(request.get_ref()).await)
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<v1::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<v1::GetVolumeGroupSnapshotResponse>, Status> {
        reply(self.get(request.get_ref()).await)
    }
}
