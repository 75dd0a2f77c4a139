//! The Identity service: the same on every socket.

use std::collections::HashMap;

use stillpoint_csi_proto::v1;
use tonic::{Request, Response, Status};
use v1::plugin_capability::service::Type as Service;
use v1::plugin_capability::volume_expansion::Type as Expansion;
use v1::plugin_capability::{self, Type};

use super::DRIVER_NAME;

/// The Identity service.
#[derive(Debug, Clone, Copy)]
pub struct Identity;

/// What the plugin as a whole offers.
const SERVICES: [Service; 4] = [
    Service::ControllerService,
    Service::VolumeAccessibilityConstraints,
    Service::GroupControllerService,
    Service::SnapshotMetadataService,
];

#[tonic::async_trait]
impl v1::identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<v1::GetPluginInfoRequest>,
    ) -> Result<Response<v1::GetPluginInfoResponse>, Status> {
        Ok(Response::new(v1::GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<v1::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<v1::GetPluginCapabilitiesResponse>, Status> {
        let services =
            SERVICES.iter().map(|kind| Type::Service(plugin_capability::Service { r#type: (*kind).into() }));
        let online =
            Type::VolumeExpansion(plugin_capability::VolumeExpansion { r#type: Expansion::Online.into() });
        let capabilities =
            services.chain([online]).map(|kind| v1::PluginCapability { r#type: Some(kind) }).collect();
        Ok(Response::new(v1::GetPluginCapabilitiesResponse { capabilities }))
    }

    /// Whoever answers is ready: the controller has no state to load, and a host that is away is told of in the
    /// answers that need it, not by restarting this process.
    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeResponse>, Status> {
        Ok(Response::new(v1::ProbeResponse { ready: Some(true) }))
    }
}
