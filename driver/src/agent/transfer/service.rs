//! Contents of images over gRPC: for the controller ([`Blocks`]), and for other agents ([`Peer`]).

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::grants::GrantedImage;
use super::receive::{Progress, ReceiveOrder};
use super::{Transfers, blocking, export};
use crate::agent::blocks::WalkStream;
use crate::agent::pool::Content;
use crate::agent::run::RunError;
use crate::domain::{Bytes, Fault, SnapshotId, VolumeId};
use crate::host::linux::memory;
use crate::identity::tls::calling_agent;
use crate::observe::holds;
use crate::observe::request::carried;
use crate::proto::agent::blocks_server::Blocks;
use crate::proto::agent::peer_server::Peer;
use crate::proto::agent::{self as proto, ExportChunk, ReceiveProgress};
use crate::wire::convert::{self, Side};
use crate::wire::status_of;

/// How often the controller is told how far a transfer is; it also shows that this agent lives.
const TOLD_EVERY: Duration = Duration::from_millis(500);
/// How often grants that nobody uses are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// After the last message a connection keeps its buffers this long at most.
const BUFFERS_GO_WITHIN: Duration = Duration::from_secs(1);
/// Progress that a slow controller has not taken yet.
const TOLD: usize = 4;

type Answer<T> = Result<Response<T>, Status>;

impl Transfers {
    async fn grant_snapshot(&self, request: proto::GrantRequest) -> Result<proto::GrantResponse, Fault> {
        let peer = Side::Caller.parse("peer", &request.peer)?;
        let makes = Side::Caller.parse("for_volume_id", &request.for_volume_id)?;
        let image = if request.leaving_volume_id.is_empty() {
            let snapshot: SnapshotId = Side::Caller.parse("snapshot_id", &request.snapshot_id)?;
            let pool = self.pools.get(&snapshot.volume.pool)?;
            blocking(move || Ok(GrantedImage::Snapshot(Box::new(pool.open_snapshot(&snapshot)?)))).await?
        } else {
            let volume: VolumeId = Side::Caller.parse("leaving_volume_id", &request.leaving_volume_id)?;
            let pool = self.pools.get(&volume.pool)?;
            blocking(move || Ok(GrantedImage::Leaving(pool.open_leaving(&volume)?))).await?
        };
        let Content { id, size, allocated } = image.content().clone();
        self.grants.add(&request.ticket, peer, image, makes)?;
        Ok(proto::GrantResponse { content: id, size_bytes: size.0, allocated_bytes: allocated.0 })
    }

    /// Tells how far it is until it is done; stops when nobody listens.
    async fn receive_and_tell(
        &self,
        order: ReceiveOrder,
        told: mpsc::Sender<Result<ReceiveProgress, Status>>,
    ) {
        let (progress, total) = (Progress::default(), order.content.allocated);
        let (stop, stopped) = watch::channel(false);
        let receiving = self.receive(order, &progress, stopped);
        tokio::pin!(receiving);
        let mut tick = interval(TOLD_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let so_far = || ReceiveProgress { done_bytes: progress.done().0, total_bytes: total.0, made: None };
        let outcome = loop {
            tokio::select! {
                outcome = &mut receiving => break outcome,
                () = told.closed(), if !*stop.borrow() => drop(stop.send_replace(true)),
                _ = tick.tick() => {
                    // A controller that is slow to read misses some.
                    let _ = told.try_send(Ok(so_far()));
                }
            }
        };
        let last =
            outcome.map(|info| ReceiveProgress { made: Some(convert::volume_to_proto(&info)), ..so_far() });
        let _ = told.send(last.map_err(status_of)).await;
    }
}

fn receive_order(request: proto::ReceiveRequest) -> Result<ReceiveOrder, Fault> {
    let missing = |field: &str| Fault::invalid(format!("{field}: it is missing"));
    let granted = request.granted.ok_or_else(|| missing("granted"))?;
    Ok(ReceiveOrder {
        volume: convert::new_volume_from_proto(request.volume.ok_or_else(|| missing("volume"))?)?,
        ticket: request.ticket,
        moved: request.moved.as_ref().map(convert::moved_from_proto).transpose()?,
        from: Side::Caller.parse("from_host", &request.from_host)?,
        address: request.from_address,
        content: Content {
            id: granted.content,
            size: Bytes(granted.size_bytes),
            allocated: Bytes(granted.allocated_bytes),
        },
    })
}

#[async_trait::async_trait]
impl Blocks for Transfers {
    type WalkStream = WalkStream;
    type ReceiveStream = ReceiverStream<Result<ReceiveProgress, Status>>;

    async fn walk(&self, request: Request<proto::WalkRequest>) -> Answer<WalkStream> {
        let order = convert::walk_order(request.get_ref()).map_err(status_of)?;
        self.local.walk(order).map(Response::new).map_err(status_of)
    }

    async fn grant(&self, request: Request<proto::GrantRequest>) -> Answer<proto::GrantResponse> {
        self.grant_snapshot(request.into_inner()).await.map(Response::new).map_err(status_of)
    }

    async fn withdraw(&self, request: Request<proto::WithdrawRequest>) -> Answer<proto::WithdrawResponse> {
        self.grants.withdraw(&request.into_inner().ticket);
        Ok(Response::new(proto::WithdrawResponse {}))
    }

    async fn receive(&self, request: Request<proto::ReceiveRequest>) -> Answer<Self::ReceiveStream> {
        let order = receive_order(request.into_inner()).map_err(status_of)?;
        let (told, progress) = mpsc::channel(TOLD);
        let this = self.clone();
        tokio::spawn(carried(async move {
            this.receive_and_tell(order, told).await;
            give_memory_back().await;
        }));
        Ok(Response::new(ReceiverStream::new(progress)))
    }
}

#[async_trait::async_trait]
impl Peer for Transfers {
    type ExportStream = ReceiverStream<Result<ExportChunk, Status>>;

    async fn export(&self, request: Request<proto::ExportRequest>) -> Answer<Self::ExportStream> {
        let peer = calling_agent(&request)?;
        let proto::ExportRequest { ticket, have_until } = request.into_inner();
        let stream = self.grants.begin(&ticket, &peer).map_err(status_of)?;
        let (out, chunks) = mpsc::channel(export::WAITING);
        let (host, counters) = (Arc::clone(&self.host), Arc::clone(&self.counters));
        tokio::spawn(async move {
            export::export(host, stream, have_until, counters, out).await;
            give_memory_back().await;
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }
}

/// What a transfer's buffers took would stay with this process otherwise. A little later, when the connection has let
/// go of its own; not while something is held, and then the next transfer does it.
async fn give_memory_back() {
    tokio::time::sleep(BUFFERS_GO_WITHIN).await;
    if holds::process().count() == 0 {
        // Its only failure is a panic, of which nobody needs to know here.
        let _ = tokio::task::spawn_blocking(memory::give_back_what_is_free).await;
    }
}

/// Lets snapshots go whose transfer nobody goes on with.
pub async fn end_idle_grants(
    transfers: Arc<Transfers>,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(TIDY_EVERY) => transfers.grants.end_idle(Instant::now()),
        }
    }
}
