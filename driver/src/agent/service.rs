//! The agent API over gRPC: parse, call on a blocking thread, answer. A caller that goes away does not stop what it
//! asked for; asking again finds it done.

use std::sync::Arc;

use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::local::LocalHost;
use super::pool::Fence;
use super::round::{self, RoundContext};
use crate::domain::{Bytes, Fault};
use crate::proto::agent::{self as proto, RoundOrder, agent_server};
use crate::wire::convert::{self, CutKey, Side, VolumeKey};
use crate::wire::status_of;

/// The agent API.
pub struct Service {
    local: Arc<LocalHost>,
    rounds: Arc<RoundContext>,
}

pub(super) type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// The API of this host.
    pub fn new(local: Arc<LocalHost>, rounds: Arc<RoundContext>) -> Self {
        Self { local, rounds }
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&LocalHost) -> Result<T, Fault> + Send + 'static,
    ) -> Answer<T> {
        let local = Arc::clone(&self.local);
        let (done, outcome) = oneshot::channel();
        // A caller that is gone does not hear of the outcome.
        self.rounds.crew.carry_out(Box::new(move || drop(done.send(deed(&local)))));
        let broke_off = |_| Err(Fault::internal("the operation broke off; the agent's log says why"));
        let outcome = outcome.await.unwrap_or_else(broke_off);
        outcome.map(Response::new).map_err(status_of)
    }
}

pub(super) fn parse<T>(field: &str, text: &str) -> Result<T, Status>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    Side::Caller.parse(field, text).map_err(status_of)
}

fn fence(attempt: &str) -> Result<Fence, Status> {
    if attempt.is_empty() { Ok(Fence::Any) } else { parse("attempt", attempt).map(Fence::Attempt) }
}

#[async_trait::async_trait]
impl agent_server::Agent for Service {
    type RoundStream = round::Reports;

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Answer<proto::DescribeResponse> {
        self.call(|local| Ok(convert::host_to_proto(&local.describe()?))).await
    }

    async fn create_volume(&self, request: Request<proto::CreateVolumeRequest>) -> Answer<proto::Volume> {
        let volume = convert::new_volume_from_proto(request.into_inner()).map_err(status_of)?;
        self.call(|local| Ok(convert::volume_to_proto(&local.create_volume(volume)?))).await
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Answer<proto::DeleteVolumeResponse> {
        let id = parse("id", &request.into_inner().id)?;
        self.call(move |local| local.delete_volume(&id).map(|()| proto::DeleteVolumeResponse {})).await
    }

    async fn get_volume(&self, request: Request<proto::GetVolumeRequest>) -> Answer<proto::Volume> {
        let key = convert::volume_key(request.into_inner()).map_err(status_of)?;
        self.call(move |local| {
            let volume = match key {
                VolumeKey::Id(id) => local.volume(&id),
                VolumeKey::Name(hash) => local.find_volume(&hash),
            };
            Ok(convert::volume_to_proto(&volume?))
        })
        .await
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Answer<proto::ListVolumesResponse> {
        let slice = convert::slice_from_proto(request.into_inner().slice).map_err(status_of)?;
        self.call(|local| {
            let piece = local.volumes_in(slice)?;
            let volumes = piece.entries.iter().map(convert::volume_to_proto).collect();
            Ok(proto::ListVolumesResponse { volumes, more: piece.more })
        })
        .await
    }

    async fn expand_volume(&self, request: Request<proto::ExpandVolumeRequest>) -> Answer<proto::Volume> {
        let request = request.into_inner();
        let id = parse("id", &request.id)?;
        let capacity = Bytes(request.capacity_bytes);
        self.call(move |local| Ok(convert::volume_to_proto(&local.expand_volume(&id, capacity)?))).await
    }

    async fn round(&self, request: Request<Streaming<RoundOrder>>) -> Answer<Self::RoundStream> {
        round::serve(Arc::clone(&self.rounds), request.into_inner()).map(Response::new)
    }

    async fn seal(&self, request: Request<proto::SealRequest>) -> Answer<proto::SealResponse> {
        let record =
            convert::record_from_proto(Side::Caller, request.into_inner().record).map_err(status_of)?;
        self.call(move |local| local.seal(&record).map(|()| proto::SealResponse {})).await
    }

    async fn void(&self, request: Request<proto::VoidRequest>) -> Answer<proto::VoidResponse> {
        let request = request.into_inner();
        let (id, fence) = (parse("cut_id", &request.cut_id)?, fence(&request.attempt)?);
        self.call(move |local| local.void(&id, &fence).map(|()| proto::VoidResponse {})).await
    }

    async fn get_cut(&self, request: Request<proto::GetCutRequest>) -> Answer<proto::GetCutResponse> {
        let key = convert::cut_key(request.into_inner()).map_err(status_of)?;
        self.call(move |local| {
            let record = match key {
                CutKey::Id(id) => local.cut(&id),
                CutKey::Name(kind, hash) => local.find_cut(kind, &hash),
            };
            let record = record?;
            let answer = convert::cut_to_proto(&record)?;
            // Asked after the record was read: a round that has ended by now leaves the record as it was read, or void.
            Ok(proto::GetCutResponse { under_way: local.is_under_way(&record), ..answer })
        })
        .await
    }

    async fn list_cuts(&self, request: Request<proto::ListCutsRequest>) -> Answer<proto::ListCutsResponse> {
        let (slice, filter) = convert::cuts_wanted(request.into_inner()).map_err(status_of)?;
        self.call(move |local| {
            let piece = local.cuts_in(slice, &filter);
            let cuts = piece.entries.iter().map(convert::cut_to_proto).collect::<Result<_, _>>()?;
            Ok(proto::ListCutsResponse { cuts, more: piece.more })
        })
        .await
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Answer<proto::ListSnapshotsResponse> {
        let request = request.into_inner();
        let slice = convert::slice_from_proto(request.slice).map_err(status_of)?;
        let of =
            (!request.volume_id.is_empty()).then(|| parse("volume_id", &request.volume_id)).transpose()?;
        self.call(move |local| {
            let piece = local.snapshots_in(slice, of.as_ref());
            let snapshots = piece.entries.iter().map(convert::snapshot_to_proto).collect();
            Ok(proto::ListSnapshotsResponse { snapshots, more: piece.more })
        })
        .await
    }

    async fn delete_cut(
        &self,
        request: Request<proto::DeleteCutRequest>,
    ) -> Answer<proto::DeleteCutResponse> {
        let request = request.into_inner();
        let (id, fence) = (parse("cut_id", &request.cut_id)?, fence(&request.attempt)?);
        self.call(move |local| local.delete_cut(&id, &fence).map(|()| proto::DeleteCutResponse {})).await
    }
}
