//! The Node service: volumes on this host. One call is parse, call, answer; the doing blocks and runs on a thread of
//! its own, which goes on when the caller stops waiting.

use std::sync::Arc;

use stillpoint_csi_proto::v1;
use tonic::{Request, Response, Status};
use v1::node_service_capability::rpc::Type as Rpc;

use super::inflight::Inflight;
use super::parse::{self, NodePath};
use super::{answer, ports::NodeWork, reply};
use crate::domain::node::{GrowRequest, PublishRequest, StageRequest};
use crate::domain::{Bytes, Fault, HostName};

/// What this service offers.
const OFFERED: [Rpc; 6] = [
    Rpc::StageUnstageVolume,
    Rpc::GetVolumeStats,
    Rpc::ExpandVolume,
    Rpc::SingleNodeMultiWriter,
    Rpc::GetVolumeHealth,
    Rpc::GetStorageHealth,
];

/// What can be asked to be changed on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Stage(StageRequest),
    Unstage(NodePath),
    Publish(PublishRequest),
    Unpublish(NodePath),
}

/// The Node service.
pub struct Node {
    host: HostName,
    work: Arc<dyn NodeWork>,
    changing: Inflight<Change, ()>,
    growing: Inflight<GrowRequest, Bytes>,
}

impl Node {
    /// Of this host.
    pub fn new(host: HostName, work: Arc<dyn NodeWork>) -> Self {
        Self { host, work, changing: Inflight::new("work"), growing: Inflight::new("expansion") }
    }

    /// One change at a time per volume and path; the same change again joins it.
    async fn change(&self, change: Result<Change, Fault>) -> Result<(), Fault> {
        let change = change?;
        let (volume, path) = match &change {
            Change::Stage(request) => (&request.volume, &request.target),
            Change::Publish(request) => (&request.volume, &request.target),
            Change::Unstage(at) | Change::Unpublish(at) => (&at.volume, &at.path),
        };
        let key = format!("{volume} at {}", path.display());
        let work = Arc::clone(&self.work);
        let apply = |change: Change| {
            on_a_thread(move || match &change {
                Change::Stage(request) => work.stage(request),
                Change::Unstage(at) => work.unstage(&at.volume, &at.path),
                Change::Publish(request) => work.publish(request),
                Change::Unpublish(at) => work.unpublish(&at.volume, &at.path),
            })
        };
        self.changing.run(&key, change, apply).await
    }

    async fn grow(&self, request: Result<GrowRequest, Fault>) -> Result<Bytes, Fault> {
        let request = request?;
        let key = format!("{} at {}", request.volume, request.path.display());
        let work = Arc::clone(&self.work);
        self.growing.run(&key, request, |request| on_a_thread(move || work.grow(&request))).await
    }

    async fn health(&self, id: &str) -> Result<v1::NodeGetVolumeHealthResponse, Fault> {
        let volume = parse::volume(id)?;
        let work = Arc::clone(&self.work);
        let asked = volume.clone();
        let found = on_a_thread(move || work.health(&asked)).await?;
        Ok(v1::NodeGetVolumeHealthResponse { volume_health: Some(answer::health(&volume, &found)) })
    }

    async fn storage_health(&self) -> Result<v1::NodeGetStorageHealthResponse, Fault> {
        let work = Arc::clone(&self.work);
        let found = on_a_thread(move || Ok(work.storage_health())).await?;
        Ok(v1::NodeGetStorageHealthResponse { backend_health: answer::storage_health(&found) })
    }

    async fn stats(&self, at: Result<NodePath, Fault>) -> Result<v1::NodeGetVolumeStatsResponse, Fault> {
        let at = at?;
        let work = Arc::clone(&self.work);
        let usage = on_a_thread(move || work.stats(&at.volume, &at.path)).await?;
        Ok(v1::NodeGetVolumeStatsResponse { usage: answer::usage(usage) })
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|died| Err(Fault::aborted(format!("the work died on the way: {died}; ask again"))))
}

#[tonic::async_trait]
impl v1::node_server::Node for Node {
    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<v1::NodeGetCapabilitiesResponse>, Status> {
        use v1::node_service_capability::{Rpc as Capability, Type};
        let capability = |kind: &Rpc| v1::NodeServiceCapability {
            r#type: Some(Type::Rpc(Capability { r#type: (*kind).into() })),
        };
        let capabilities = OFFERED.iter().map(capability).collect();
        Ok(Response::new(v1::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<v1::NodeGetInfoRequest>,
    ) -> Result<Response<v1::NodeGetInfoResponse>, Status> {
        Ok(Response::new(v1::NodeGetInfoResponse {
            node_id: self.host.to_string(),
            max_volumes_per_node: 0,
            accessible_topology: Some(answer::topology(&self.host)),
        }))
    }

    async fn node_stage_volume(
        &self,
        request: Request<v1::NodeStageVolumeRequest>,
    ) -> Result<Response<v1::NodeStageVolumeResponse>, Status> {
        let change = parse::stage(request.get_ref()).map(Change::Stage);
        reply(self.change(change).await.map(|()| v1::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Result<Response<v1::NodeUnstageVolumeResponse>, Status> {
        let change = parse::unstage(request.get_ref()).map(Change::Unstage);
        reply(self.change(change).await.map(|()| v1::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Result<Response<v1::NodePublishVolumeResponse>, Status> {
        let change = parse::publish(request.get_ref()).map(Change::Publish);
        reply(self.change(change).await.map(|()| v1::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<v1::NodeUnpublishVolumeResponse>, Status> {
        let change = parse::unpublish(request.get_ref()).map(Change::Unpublish);
        reply(self.change(change).await.map(|()| v1::NodeUnpublishVolumeResponse {}))
    }

    async fn node_expand_volume(
        &self,
        request: Request<v1::NodeExpandVolumeRequest>,
    ) -> Result<Response<v1::NodeExpandVolumeResponse>, Status> {
        let grown = self.grow(parse::expand_node(request.get_ref())).await;
        reply(grown.map(|size| v1::NodeExpandVolumeResponse { capacity_bytes: answer::bytes(size) }))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<v1::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<v1::NodeGetVolumeStatsResponse>, Status> {
        reply(self.stats(parse::stats(request.get_ref())).await)
    }

    async fn node_get_volume_health(
        &self,
        request: Request<v1::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<v1::NodeGetVolumeHealthResponse>, Status> {
        reply(self.health(&request.get_ref().volume_id).await)
    }

    async fn node_get_storage_health(
        &self,
        _: Request<v1::NodeGetStorageHealthRequest>,
    ) -> Result<Response<v1::NodeGetStorageHealthResponse>, Status> {
        reply(self.storage_health().await)
    }
}
