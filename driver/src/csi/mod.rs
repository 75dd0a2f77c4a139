//! What orchestrators speak: CSI 1.13 on unix sockets.
//!
//! ```text
//! request ─ parse ─► domain request ─ inflight ─► use case ─► domain value ─ answer ─► response
//!             │                          └ a retry joins                └ Fault ─ wire::status_of ─► Status
//!             └ secrets stop here
//! ```
//! Calls that make snapshots pass [`backoff`] before all of that: what failed is not repeated at once.
//!
//! Two kinds of sockets: the controller's ([`serve_controller`]: Identity, Controller, GroupController,
//! SnapshotMetadata) and each
//! host's ([`serve_node`]: Identity, Node).

mod answer;
pub mod backoff;
mod controller;
mod group;
mod identity;
mod inflight;
mod metadata;
mod node;
mod parse;
pub mod ports;
mod snapshots;
pub mod socket;
mod validate;

use std::future::Future;
use std::sync::Arc;

use stillpoint_csi_proto::v1;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Error, Server};
use tonic::{Response, Status};
use v1::controller_server::ControllerServer;
use v1::group_controller_server::GroupControllerServer;
use v1::identity_server::IdentityServer;
use v1::node_server::NodeServer;
use v1::snapshot_metadata_server::SnapshotMetadataServer;

use crate::controller::blocks::Blocks;
use crate::controller::volumes::Volumes;
use crate::domain::{Code, Fault, HostName};
use crate::observe::rpc::Observe;
use crate::wire::status_of;
use ports::{Cutting, NodeWork};

/// The driver's name: provisioner of StorageClasses. It must end in a letter.
pub const DRIVER_NAME: &str = "csi.stillpoint.dev";

/// Calls that one connection may have open at once.
const CALLS_LIMIT: usize = 256;

/// Serves the controller's socket until `stop` is done; calls under way are finished.
pub async fn serve_controller(
    listener: UnixListener,
    volumes: Arc<Volumes>,
    cuts: Arc<dyn Cutting>,
    blocks: Arc<dyn Blocks>,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    Server::builder()
        .layer(Observe)
        .concurrency_limit_per_connection(CALLS_LIMIT)
        .add_service(IdentityServer::new(identity::Identity))
        .add_service(ControllerServer::new(controller::Controller::new(volumes, Arc::clone(&cuts))))
        .add_service(GroupControllerServer::new(group::Group::new(Arc::clone(&cuts))))
        .add_service(SnapshotMetadataServer::new(metadata::Metadata::new(cuts, blocks)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
}

/// Serves a host's socket until `stop` is done; calls under way are finished.
pub async fn serve_node(
    listener: UnixListener,
    host: HostName,
    work: Arc<dyn NodeWork>,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    Server::builder()
        .layer(Observe)
        .concurrency_limit_per_connection(CALLS_LIMIT)
        .add_service(IdentityServer::new(identity::Identity))
        .add_service(NodeServer::new(node::Node::new(host, work)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
}

/// The answer to a call; a failure is logged here and nowhere else, within the span that names the call.
fn reply<T>(outcome: Result<T, Fault>) -> Result<Response<T>, Status> {
    match outcome {
        Ok(answer) => Ok(Response::new(answer)),
        Err(fault) => {
            match fault.code {
                Code::Internal => tracing::error!(code = ?fault.code, "{fault}"),
                Code::Aborted | Code::Unavailable | Code::Deadline | Code::Exhausted | Code::Denied => {
                    tracing::warn!(code = ?fault.code, "{fault}");
                }
                Code::Invalid
                | Code::NotFound
                | Code::AlreadyExists
                | Code::OutOfRange
                | Code::Precondition
                | Code::Unimplemented => tracing::info!(code = ?fault.code, "{fault}"),
            }
            Err(status_of(fault))
        }
    }
}

#[cfg(test)]
mod tests;
