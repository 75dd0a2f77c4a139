//! The Controller service: volumes and single snapshots. One call is parse, call, answer.

use std::sync::Arc;

use stillpoint_csi_proto::v1;
use tonic::{Request, Response, Status};
use v1::controller_service_capability::rpc::Type as Rpc;

use super::backoff::{Backoff, Call, DependsOn};
use super::inflight::Inflight;
use super::parse::{self, SnapshotOrder};
use super::ports::Cutting;
use super::{answer, reply, snapshots, validate};
use crate::controller::orders::{SizeRange, VolumeOrder};
use crate::controller::paging::PageRequest;
use crate::controller::volumes::{Placed, Volumes};
use crate::domain::record::CutRecord;
use crate::domain::{CutKind, Fault, SnapshotId, VolumeId};

/// What this service offers.
const OFFERED: [Rpc; 12] = [
    Rpc::CreateDeleteVolume,
    Rpc::ListVolumes,
    Rpc::GetCapacity,
    Rpc::CreateDeleteSnapshot,
    Rpc::ListSnapshots,
    Rpc::CloneVolume,
    Rpc::ExpandVolume,
    Rpc::GetVolume,
    Rpc::SingleNodeMultiWriter,
    Rpc::GetSnapshot,
    Rpc::GetVolumeHealth,
    Rpc::ListVolumeHealth,
];

/// The Controller service.
pub struct Controller {
    volumes: Arc<Volumes>,
    cuts: Arc<dyn Cutting>,
    creating: Inflight<VolumeOrder, Placed>,
    deleting: Inflight<(), ()>,
    growing: Inflight<SizeRange, Placed>,
    cutting: Inflight<SnapshotOrder, CutRecord>,
    uncutting: Inflight<(), ()>,
    backoff: Backoff,
}

impl Controller {
    /// Over these volumes and cuts.
    pub fn new(volumes: Arc<Volumes>, cuts: Arc<dyn Cutting>) -> Self {
        Self {
            volumes,
            backoff: Backoff::new(Arc::clone(&cuts)),
            cuts,
            creating: Inflight::new("creation"),
            deleting: Inflight::new("deletion"),
            growing: Inflight::new("expansion"),
            cutting: Inflight::new("snapshot"),
            uncutting: Inflight::new("deletion"),
        }
    }

    async fn create(&self, request: &v1::CreateVolumeRequest) -> Result<v1::CreateVolumeResponse, Fault> {
        let order = parse::volume_order(request)?;
        let volumes = Arc::clone(&self.volumes);
        let placed = self
            .creating
            .run(&request.name, order, |order| async move { volumes.create(&order).await })
            .await?;
        Ok(v1::CreateVolumeResponse { volume: Some(answer::volume(&placed)) })
    }

    async fn delete(&self, id: &str) -> Result<v1::DeleteVolumeResponse, Fault> {
        if let Some(volume) = parse::doomed::<VolumeId>("volume_id", id)? {
            let volumes = Arc::clone(&self.volumes);
            self.deleting.run(id, (), |()| async move { volumes.delete(&volume).await }).await?;
        }
        Ok(v1::DeleteVolumeResponse {})
    }

    async fn expand(
        &self,
        request: &v1::ControllerExpandVolumeRequest,
    ) -> Result<v1::ControllerExpandVolumeResponse, Fault> {
        let size = parse::volume_size(request.capacity_range.as_ref());
        let volume = parse::volume(&request.volume_id)?;
        let size = size?;
        if let Some(given) = &request.volume_capability {
            parse::capability(given)?;
        }
        let volumes = Arc::clone(&self.volumes);
        let placed = self
            .growing
            .run(&request.volume_id, size, |size| async move { volumes.expand(&volume, size).await })
            .await?;
        Ok(v1::ControllerExpandVolumeResponse {
            capacity_bytes: answer::bytes(placed.info.record.capacity),
            node_expansion_required: true,
        })
    }

    async fn list(&self, request: &v1::ListVolumesRequest) -> Result<v1::ListVolumesResponse, Fault> {
        let wanted = PageRequest::new(request.max_entries, &request.starting_token)?;
        let page = self.volumes.page(&wanted, |_| true).await?;
        let entry = |placed: &Placed| v1::list_volumes_response::Entry {
            volume: Some(answer::volume(placed)),
            status: Some(v1::list_volumes_response::VolumeStatus {
                published_node_ids: answer::used_on(placed),
            }),
        };
        Ok(v1::ListVolumesResponse {
            entries: page.entries.iter().map(entry).collect(),
            next_token: page.next,
        })
    }

    async fn get(
        &self,
        request: &v1::ControllerGetVolumeRequest,
    ) -> Result<v1::ControllerGetVolumeResponse, Fault> {
        let placed = self.volumes.get(&parse::volume(&request.volume_id)?).await?;
        Ok(v1::ControllerGetVolumeResponse {
            volume: Some(answer::volume(&placed)),
            status: Some(v1::controller_get_volume_response::VolumeStatus {
                published_node_ids: answer::used_on(&placed),
            }),
        })
    }

    async fn health(&self, id: &str) -> Result<v1::ControllerGetVolumeHealthResponse, Fault> {
        let placed = self.volumes.get(&parse::volume(id)?).await?;
        let volume_health = Some(answer::health(placed.id(), &placed.info.conditions));
        Ok(v1::ControllerGetVolumeHealthResponse { volume_health })
    }

    /// Only volumes with which something is wrong.
    async fn list_health(
        &self,
        request: &v1::ControllerListVolumeHealthRequest,
    ) -> Result<v1::ControllerListVolumeHealthResponse, Fault> {
        let wanted = PageRequest::new(request.max_entries, &request.starting_token)?;
        let page = self.volumes.page(&wanted, |volume| !volume.conditions.is_empty()).await?;
        let entry = |placed: &Placed| answer::health(placed.id(), &placed.info.conditions);
        Ok(v1::ControllerListVolumeHealthResponse {
            entries: page.entries.iter().map(entry).collect(),
            next_token: page.next,
        })
    }

    async fn validate(
        &self,
        request: &v1::ValidateVolumeCapabilitiesRequest,
    ) -> Result<v1::ValidateVolumeCapabilitiesResponse, Fault> {
        let volume = parse::volume(&request.volume_id);
        if request.volume_capabilities.is_empty() {
            return Err(Fault::invalid("volume_capabilities are missing; give at least one"));
        }
        let placed = self.volumes.get(&volume?).await?;
        validate::capabilities(request, &placed)
    }

    async fn capacity(&self, request: &v1::GetCapacityRequest) -> Result<v1::GetCapacityResponse, Fault> {
        let capacity = self.volumes.capacity(&parse::capacity_query(request)?).await?;
        Ok(v1::GetCapacityResponse {
            available_capacity: answer::bytes(capacity.available),
            maximum_volume_size: Some(answer::bytes(capacity.largest)),
            minimum_volume_size: None,
        })
    }

    async fn snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<v1::CreateSnapshotResponse, Fault> {
        let (headers, _, request) = request.into_parts();
        let order = parse::snapshot_order(&request);
        let call =
            Call::new(CutKind::Single, &request.name, parse::fingerprint_of_snapshot(&request), &headers)
                .of(parse::snapshot_object(&request.parameters, CutKind::Single), DependsOn::of(&order));
        self.backoff.run(call, self.take_snapshot(order)).await
    }

    async fn take_snapshot(
        &self,
        order: Result<SnapshotOrder, Fault>,
    ) -> Result<v1::CreateSnapshotResponse, Fault> {
        let order = order?;
        let name = order.name.clone();
        let cuts = Arc::clone(&self.cuts);
        let take = |order: SnapshotOrder| async move {
            snapshots::take(&*cuts, CutKind::Single, &order.name, vec![order.volume], &order.asked).await
        };
        let cut = self.cutting.run(&name, order, take).await?;
        let member = cut.members.first().ok_or_else(|| {
            Fault::internal(format!("snapshot {} has no member; its record is broken", cut.id))
        })?;
        Ok(v1::CreateSnapshotResponse { snapshot: Some(answer::snapshot(&cut, member)) })
    }

    async fn delete_snapshot(&self, id: &str) -> Result<v1::DeleteSnapshotResponse, Fault> {
        if let Some(snapshot) = parse::doomed::<SnapshotId>("snapshot_id", id)? {
            let cuts = Arc::clone(&self.cuts);
            self.uncutting
                .run(id, (), |()| async move { snapshots::delete_single(&*cuts, &snapshot).await })
                .await?;
        }
        Ok(v1::DeleteSnapshotResponse {})
    }

    async fn get_snapshot(&self, id: &str) -> Result<v1::GetSnapshotResponse, Fault> {
        let id = parse::snapshot(id)?;
        let found = snapshots::one(&*self.cuts, &id).await?;
        let (cut, member) = found.ok_or_else(|| Fault::not_found(format!("snapshot {id} does not exist")))?;
        Ok(v1::GetSnapshotResponse { snapshot: Some(answer::snapshot(&cut, &member)) })
    }

    async fn list_snapshots(
        &self,
        request: &v1::ListSnapshotsRequest,
    ) -> Result<v1::ListSnapshotsResponse, Fault> {
        let wanted = PageRequest::new(request.max_entries, &request.starting_token)?;
        let page = snapshots::page(&*self.cuts, &parse::snapshot_filter(request), &wanted).await?;
        let entry = |found| v1::list_snapshots_response::Entry { snapshot: Some(answer::listed(found)) };
        Ok(v1::ListSnapshotsResponse {
            entries: page.entries.iter().map(entry).collect(),
            next_token: page.next,
        })
    }
}

fn not_offered<T>(call: &str, why: &str) -> Result<Response<T>, Status> {
    reply(Err(Fault::unimplemented(format!("{call} is not offered: {why}"))))
}

const LOCAL: &str = "volumes are local to their host and need no attaching";

#[tonic::async_trait]
impl v1::controller_server::Controller for Controller {
    async fn controller_get_capabilities(
        &self,
        _: Request<v1::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<v1::ControllerGetCapabilitiesResponse>, Status> {
        use v1::controller_service_capability::{Rpc as Capability, Type};
        let capability = |kind: &Rpc| v1::ControllerServiceCapability {
            r#type: Some(Type::Rpc(Capability { r#type: (*kind).into() })),
        };
        let capabilities = OFFERED.iter().map(capability).collect();
        Ok(Response::new(v1::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeResponse>, Status> {
        reply(self.create(request.get_ref()).await)
    }

    async fn delete_volume(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Result<Response<v1::DeleteVolumeResponse>, Status> {
        reply(self.delete(&request.get_ref().volume_id).await)
    }

    async fn controller_expand_volume(
        &self,
        request: Request<v1::ControllerExpandVolumeRequest>,
    ) -> Result<Response<v1::ControllerExpandVolumeResponse>, Status> {
        reply(self.expand(request.get_ref()).await)
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<v1::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<v1::ValidateVolumeCapabilitiesResponse>, Status> {
        reply(self.validate(request.get_ref()).await)
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        reply(self.list(request.get_ref()).await)
    }

    async fn controller_get_volume(
        &self,
        request: Request<v1::ControllerGetVolumeRequest>,
    ) -> Result<Response<v1::ControllerGetVolumeResponse>, Status> {
        reply(self.get(request.get_ref()).await)
    }

    async fn get_capacity(
        &self,
        request: Request<v1::GetCapacityRequest>,
    ) -> Result<Response<v1::GetCapacityResponse>, Status> {
        reply(self.capacity(request.get_ref()).await)
    }

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        reply(self.snapshot(request).await)
    }

    async fn delete_snapshot(
        &self,
        request: Request<v1::DeleteSnapshotRequest>,
    ) -> Result<Response<v1::DeleteSnapshotResponse>, Status> {
        reply(self.delete_snapshot(&request.get_ref().snapshot_id).await)
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        reply(self.list_snapshots(request.get_ref()).await)
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        reply(self.get_snapshot(&request.get_ref().snapshot_id).await)
    }

    async fn controller_publish_volume(
        &self,
        _: Request<v1::ControllerPublishVolumeRequest>,
    ) -> Result<Response<v1::ControllerPublishVolumeResponse>, Status> {
        not_offered("ControllerPublishVolume", LOCAL)
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<v1::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<v1::ControllerUnpublishVolumeResponse>, Status> {
        not_offered("ControllerUnpublishVolume", LOCAL)
    }

    async fn controller_modify_volume(
        &self,
        _: Request<v1::ControllerModifyVolumeRequest>,
    ) -> Result<Response<v1::ControllerModifyVolumeResponse>, Status> {
        not_offered("ControllerModifyVolume", "volumes have no parameters that can be changed")
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<v1::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<v1::ControllerListVolumeHealthResponse>, Status> {
        reply(self.list_health(request.get_ref()).await)
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<v1::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<v1::ControllerGetVolumeHealthResponse>, Status> {
        reply(self.health(&request.get_ref().volume_id).await)
    }
}
