//! The source's side: what holds data, chunk by chunk, each with its hash.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes as Data;
use stillpoint_guard::fault::point;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;

use super::counters::Counters;
use super::grants::{Grant, GrantedStream};
use super::{DEPTH, blocking};
use crate::agent::blocks::each_allocated;
use crate::domain::Fault;
use crate::domain::blocks::BLOCK;
use crate::domain::transfer::{Chain, Chunk, Chunker, hash};
use crate::host::Host;
use crate::host::blocks::{AlignedBuffer, BlockAccess, BlockFile};
use crate::proto::agent::{BlockRange, ExportChunk};
use crate::wire::status_of;

/// Messages that wait for the network.
pub const WAITING: usize = 4;
/// Chunks that are known and not read yet: only their places.
const PLANNED: usize = 64;

/// Sends everything, or an error.
pub async fn export(
    host: Arc<dyn Host>,
    stream: GrantedStream,
    have_until: u64,
    counters: Arc<Counters>,
    out: mpsc::Sender<Result<ExportChunk, Status>>,
) {
    let export = Export { host, grant: Arc::clone(&stream.grant), have_until, counters };
    if let Err(fault) = export.run(&out).await {
        // Who has gone needs to know nothing.
        let _ = out.send(Err(status_of(fault))).await;
    }
}

struct Export {
    host: Arc<dyn Host>,
    grant: Arc<Grant>,
    have_until: u64,
    counters: Arc<Counters>,
}

/// A chunk that was read.
struct Read {
    chunk: Chunk,
    hash: [u8; 32],
    data: Data,
}

impl Export {
    async fn run(&self, out: &mpsc::Sender<Result<ExportChunk, Status>>) -> Result<(), Fault> {
        let _under_way = self.counters.sending.enter();
        let (host, grant) = (Arc::clone(&self.host), Arc::clone(&self.grant));
        let file = blocking(move || {
            Ok(Arc::<dyn BlockFile>::from(host.open_blocks(grant.image.path(), BlockAccess::Read)?))
        })
        .await?;
        let (plans, mut planned) = mpsc::channel(PLANNED);
        let (host, grant) = (Arc::clone(&self.host), Arc::clone(&self.grant));
        let planning = tokio::task::spawn_blocking(move || plan(&*host, &grant, &plans));
        let mut chain = Chain::default();
        let mut reading: VecDeque<JoinHandle<Result<Read, Fault>>> = VecDeque::new();
        loop {
            while reading.len() < DEPTH
                && let Some(chunk) = planned.recv().await
            {
                let file = Arc::clone(&file);
                reading.push_back(tokio::task::spawn_blocking(move || read(&*file, chunk)));
            }
            let Some(next) = reading.pop_front() else { break };
            let read =
                next.await.unwrap_or_else(|why| Err(Fault::internal(format!("reading broke off: {why}"))))?;
            chain = chain.with(&read.chunk, &read.hash);
            self.grant.touch();
            let message = self.message(read);
            out.send(Ok(message)).await.map_err(|_| Fault::aborted("the other host went away"))?;
        }
        planning
            .await
            .unwrap_or_else(|why| Err(Fault::internal(format!("looking for data broke off: {why}"))))?;
        let whole = chain.whole(self.grant.image.content().size).to_vec();
        let last = ExportChunk { last: true, whole, ..ExportChunk::default() };
        out.send(Ok(last)).await.map_err(|_| Fault::aborted("the other host went away"))?;
        self.grant.sent();
        Ok(())
    }

    fn message(&self, read: Read) -> ExportChunk {
        let Read { chunk, hash, data } = read;
        let data = if chunk.end() <= self.have_until { Data::new() } else { data };
        self.counters.sent_bytes.add(data.len() as u64);
        let piece = |piece: &std::ops::Range<u64>| BlockRange {
            offset: piece.start,
            length: piece.end - piece.start,
        };
        ExportChunk {
            pieces: chunk.pieces.iter().map(piece).collect(),
            data,
            hash: hash.to_vec(),
            ..ExportChunk::default()
        }
    }
}

/// Finds what holds data. Blocks.
fn plan(host: &dyn Host, grant: &Grant, planned: &mpsc::Sender<Chunk>) -> Result<(), Fault> {
    // Whole blocks, also where the last one is longer than the volume.
    let size = grant.image.content().size.0;
    let size = size.checked_next_multiple_of(BLOCK).unwrap_or(size);
    let gone = |_| Fault::aborted("the other host went away");
    let mut chunker = Chunker::default();
    each_allocated(host, grant.image.path(), size, &mut |range| {
        chunker.push(range).into_iter().try_for_each(|chunk| planned.blocking_send(chunk).map_err(gone))
    })?;
    chunker.finish().map_or(Ok(()), |chunk| planned.blocking_send(chunk).map_err(gone))
}

/// Reads a chunk. Blocks.
fn read(file: &dyn BlockFile, chunk: Chunk) -> Result<Read, Fault> {
    point("agent.copy.sending");
    let mut buffer = AlignedBuffer::zeroed(usize::try_from(chunk.length()).unwrap_or_default());
    let mut rest = buffer.as_mut();
    for piece in &chunk.pieces {
        let (part, behind) = rest.split_at_mut(usize::try_from(piece.end - piece.start).unwrap_or_default());
        file.read_at(piece.start, part)?;
        rest = behind;
    }
    let hash = hash(buffer.as_ref());
    Ok(Read { chunk, hash, data: Data::from_owner(buffer) })
}
