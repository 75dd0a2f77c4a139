//! Contents of images over gRPC, for the controller.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::WalkStream;
use crate::agent::local::LocalHost;
use crate::proto::agent::{WalkRequest, blocks_server};
use crate::wire::{convert, status_of};

/// The service.
pub struct Service {
    local: Arc<LocalHost>,
}

impl Service {
    /// For this host.
    pub fn new(local: Arc<LocalHost>) -> Self {
        Self { local }
    }
}

#[async_trait::async_trait]
impl blocks_server::Blocks for Service {
    type WalkStream = WalkStream;

    async fn walk(&self, request: Request<WalkRequest>) -> Result<Response<WalkStream>, Status> {
        let order = convert::walk_order(request.get_ref()).map_err(status_of)?;
        self.local.walk(order).map(Response::new).map_err(status_of)
    }
}
