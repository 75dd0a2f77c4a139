//! The SnapshotMetadata service: which blocks of a snapshot hold data, and which changed since another one.
//!
//! A stream that ends without an error means that everything was told. So it ends that way only after the walk said
//! that it was complete; whatever else ends it, a task that dies included, is an error that the caller sees.

use std::ops::Range;
use std::sync::Arc;

use stillpoint_csi_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::parse::{self, BlocksOrder};
use super::ports::Cutting;
use super::{answer, reply, snapshots};
use crate::controller::blocks::{Blocks, Page, Walk};
use crate::domain::blocks::{Comparison, WalkOrder};
use crate::domain::{Bytes, Fault, SnapshotId};
use crate::observe::request::carried;
use crate::wire::status_of;

/// Messages that wait for a slow reader.
const WAITING: usize = 4;
/// Ranges of one message where the caller does not say.
const RANGES: usize = 1024;

/// The SnapshotMetadata service.
pub struct Metadata {
    cuts: Arc<dyn Cutting>,
    blocks: Arc<dyn Blocks>,
}

impl Metadata {
    /// Over these cuts and their blocks.
    pub fn new(cuts: Arc<dyn Cutting>, blocks: Arc<dyn Blocks>) -> Self {
        Self { cuts, blocks }
    }

    /// Everything that can be wrong with the request is found before the stream begins.
    async fn begin(&self, order: BlocksOrder) -> Result<Begun, Fault> {
        let mut size = self.size(&order.target).await?;
        if let Some(base) = &order.base {
            self.size(base).await?;
            if base.volume != order.target.volume {
                return Err(Fault::invalid(format!(
                    "base_snapshot_id {base} and target_snapshot_id {} are snapshots of different volumes; \
                     name two snapshots of one volume",
                    order.target
                )));
            }
        }
        let start = u64::try_from(order.start).ok().filter(|start| *start <= size.0).ok_or_else(|| {
            Fault::out_of_range(format!(
                "starting_offset {} is not within the volume, which has {} bytes",
                order.start, size.0
            ))
        })?;
        let walk =
            WalkOrder { base: order.base, target: order.target, start, comparison: Comparison::Addresses };
        let mut walk = self.blocks.walk(&walk).await?;
        // The first page tells whether the agent takes the request at all.
        let first = walk.next().await?;
        if let Some(page) = &first {
            size = page.size;
        }
        Ok(Begun { walk, first, size, ranges_max: order.ranges_max.unwrap_or(RANGES) })
    }

    async fn size(&self, snapshot: &SnapshotId) -> Result<Bytes, Fault> {
        let found = snapshots::one(&*self.cuts, snapshot).await?;
        found
            .map(|(_, member)| member.capacity)
            .ok_or_else(|| Fault::not_found(format!("snapshot {snapshot} does not exist")))
    }
}

/// A walk of which the first page is there.
struct Begun {
    walk: Box<dyn Walk>,
    first: Option<Page>,
    size: Bytes,
    ranges_max: usize,
}

/// What one message says.
struct Told {
    size: Bytes,
    ranges: Vec<Range<u64>>,
}

enum Next {
    Message(Told),
    Failed(Fault),
    Complete,
}

impl Begun {
    async fn tell(mut self, listener: mpsc::Sender<Next>) {
        let end = match self.pages(&listener).await {
            Ok(()) => Next::Complete,
            Err(fault) => {
                tracing::warn!(code = ?fault.code, "{fault}");
                Next::Failed(fault)
            }
        };
        // A caller that has gone needs to know nothing.
        let _ = listener.send(end).await;
    }

    async fn pages(&mut self, listener: &mpsc::Sender<Next>) -> Result<(), Fault> {
        let gone = |_| Fault::aborted("the caller went away");
        let mut next = self.first.take();
        if next.as_ref().is_none_or(|page| page.ranges.is_empty()) {
            // The size is told also where there is nothing else to tell.
            let nothing = Told { size: self.size, ranges: vec![] };
            listener.send(Next::Message(nothing)).await.map_err(gone)?;
        }
        while let Some(page) = next {
            for ranges in page.ranges.chunks(self.ranges_max) {
                let told = Told { size: self.size, ranges: ranges.to_vec() };
                listener.send(Next::Message(told)).await.map_err(gone)?;
            }
            next = self.walk.next().await?;
        }
        Ok(())
    }
}

/// Answers of a walk; only a walk that was complete ends it without an error.
fn messages<T: Send + 'static>(begun: Begun, message: fn(Told) -> T) -> Messages<T> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(carried(begun.tell(sender)));
    Messages { receiver: ReceiverStream::new(receiver), message, has_ended: false }
}

/// What tonic sends.
pub struct Messages<T> {
    receiver: ReceiverStream<Next>,
    message: fn(Told) -> T,
    has_ended: bool,
}

impl<T> Stream for Messages<T> {
    type Item = Result<T, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::Poll;
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(std::pin::Pin::new(&mut self.receiver).poll_next(context));
        if let Some(Next::Message(told)) = next {
            return Poll::Ready(Some(Ok((self.message)(told))));
        }
        self.has_ended = true;
        Poll::Ready(match next {
            Some(Next::Complete) => None,
            Some(Next::Failed(fault)) => Some(Err(status_of(fault))),
            Some(Next::Message(_)) | None => Some(Err(status_of(Fault::aborted(
                "the list of blocks broke off; ask again from where it ended",
            )))),
        })
    }
}

fn block_metadata(ranges: &[Range<u64>]) -> Vec<v1::BlockMetadata> {
    let block = |range: &Range<u64>| v1::BlockMetadata {
        byte_offset: answer::bytes(Bytes(range.start)),
        size_bytes: answer::bytes(Bytes(range.end - range.start)),
    };
    ranges.iter().map(block).collect()
}

fn allocated(told: Told) -> v1::GetMetadataAllocatedResponse {
    v1::GetMetadataAllocatedResponse {
        block_metadata_type: v1::BlockMetadataType::VariableLength.into(),
        volume_capacity_bytes: answer::bytes(told.size),
        block_metadata: block_metadata(&told.ranges),
    }
}

fn delta(told: Told) -> v1::GetMetadataDeltaResponse {
    v1::GetMetadataDeltaResponse {
        block_metadata_type: v1::BlockMetadataType::VariableLength.into(),
        volume_capacity_bytes: answer::bytes(told.size),
        block_metadata: block_metadata(&told.ranges),
    }
}

#[tonic::async_trait]
impl v1::snapshot_metadata_server::SnapshotMetadata for Metadata {
    type GetMetadataAllocatedStream = Messages<v1::GetMetadataAllocatedResponse>;
    type GetMetadataDeltaStream = Messages<v1::GetMetadataDeltaResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<v1::GetMetadataAllocatedRequest>,
    ) -> Result<Response<Self::GetMetadataAllocatedStream>, Status> {
        let begun = match parse::allocated_order(request.get_ref()) {
            Ok(order) => self.begin(order).await,
            Err(fault) => Err(fault),
        };
        reply(begun.map(|begun| messages(begun, allocated)))
    }

    async fn get_metadata_delta(
        &self,
        request: Request<v1::GetMetadataDeltaRequest>,
    ) -> Result<Response<Self::GetMetadataDeltaStream>, Status> {
        let begun = match parse::delta_order(request.get_ref()) {
            Ok(order) => self.begin(order).await,
            Err(fault) => Err(fault),
        };
        reply(begun.map(|begun| messages(begun, delta)))
    }
}
