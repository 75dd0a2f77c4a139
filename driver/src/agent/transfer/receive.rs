//! The target's side: fetches what is missing of a volume, proves it and makes it durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes as Data;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::counters::Counters;
use super::{DEPTH, Transfers, blocking};
use crate::agent::locks::Purpose;
use crate::agent::pool::{Arrival, Begun, Content, Mark, Pool, PoolError};
use crate::domain::transfer::{Chain, Chunk, hash};
use crate::domain::{Bytes, Code, Fault, HostName, NewVolume, VolumeInfo};
use crate::host::blocks::{AlignedBuffer, BlockAccess, BlockFile};
use crate::proto::agent::peer_client::PeerClient;
use crate::proto::agent::{ExportChunk, ExportRequest};
use crate::wire::{fault_of, transport_fault};

/// After so many bytes the part is made durable.
pub const NOTE_EVERY: u64 = 256 << 20;
/// Broken connections in a row without a byte of progress; then the call fails, and the part stays.
const TRIES: u32 = 6;
/// First pause before connecting again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A source that says nothing for so long is gone. Proving what is there already is not silence.
const MESSAGE_LIMIT: Duration = Duration::from_mins(1);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// What may be on its way: covers the memory of a fast link, and is bounded.
const WINDOW_BYTES: u32 = 8 << 20;
/// Largest TLS record many times over: fewer wake-ups.
const FRAME_BYTES: u32 = 256 << 10;

/// What is to be fetched from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveOrder {
    /// The volume to make.
    pub volume: NewVolume,
    /// What the source was told to expect.
    pub ticket: String,
    /// The source's host: its certificate must be this host's.
    pub from: HostName,
    /// Where its agent listens.
    pub address: String,
    /// What is fetched.
    pub content: Content,
}

/// How far it is.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Bytes of data that have arrived.
    pub fn done(&self) -> Bytes {
        Bytes(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, done: Bytes) {
        self.0.store(done.0, Ordering::Relaxed);
    }
}

/// Why an attempt ended.
enum Broken {
    /// The connection; what arrived counts.
    Off(Fault),
    /// What is there is not what the source has: from the beginning.
    Differs,
    /// Nothing that a repetition would change.
    For(Fault),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        match fault.code {
            Code::Unavailable | Code::Deadline => Self::Off(fault),
            Code::Invalid
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Exhausted
            | Code::OutOfRange
            | Code::Precondition
            | Code::Aborted
            | Code::Denied
            | Code::Unimplemented
            | Code::Internal => Self::For(fault),
        }
    }
}

impl Transfers {
    /// Fetches a volume; gives it when all of it is there. Ends early when `stop` says so: what arrived is kept.
    pub async fn receive(
        &self,
        order: ReceiveOrder,
        progress: &Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<VolumeInfo, Fault> {
        let Ok(_place) = self.receiving.try_acquire() else {
            return Err(Fault::aborted(
                "as many volumes as this host takes at once are arriving; ask again later",
            ));
        };
        let _lock = self.locks.try_lock(&order.volume.id, Purpose::Create)?;
        let outcome = self.fetch(&order, progress, stop).await;
        match &outcome {
            Ok(()) => self.counters.arrived.add(1),
            Err(fault) => {
                self.counters.broken_off.add(1);
                if fault.code == Code::Exhausted {
                    // It will not fit, and the room is needed.
                    let (pool, id) =
                        (Arc::clone(self.pools.get(&order.volume.id.pool)?), order.volume.id.clone());
                    blocking(move || Ok(pool.drop_arrival(&id)?)).await?;
                }
            }
        }
        outcome?;
        let (local, id) = (Arc::clone(&self.local), order.volume.id);
        blocking(move || local.volume(&id)).await
    }

    async fn fetch(
        &self,
        order: &ReceiveOrder,
        progress: &Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Fault> {
        let pool = Arc::clone(self.pools.get(&order.volume.id.pool)?);
        let mut may_differ = true;
        loop {
            let Some(mut part) = self.open(&pool, order).await? else { return Ok(()) };
            progress.set(part.durable.data);
            match self.persist(order, &mut part, progress, stop.clone()).await {
                Ok(()) => {
                    let arrival = part.arrival.ok_or_else(lost)?;
                    return blocking(move || Ok(pool.publish_arrival(*arrival)?)).await.map(drop);
                }
                Err(Broken::Differs) if may_differ => {
                    tracing::warn!(volume = %order.volume.id, "what had arrived is not what the source has; from the beginning");
                    may_differ = false;
                    drop(part);
                    let (pool, id) = (Arc::clone(&pool), order.volume.id.clone());
                    blocking(move || Ok(pool.drop_arrival(&id)?)).await?;
                }
                Err(Broken::Differs) => {
                    return Err(Fault::internal("what arrives differs from what the source has"));
                }
                Err(Broken::Off(fault) | Broken::For(fault)) => return Err(fault),
            }
        }
    }

    /// `None`: the volume is there already.
    async fn open(&self, pool: &Arc<Pool>, order: &ReceiveOrder) -> Result<Option<Part>, Fault> {
        let (host, pool, order) = (Arc::clone(&self.host), Arc::clone(pool), order.clone());
        let counters = Arc::clone(&self.counters);
        blocking(move || match pool.begin_arrival(&order.volume, &order.content)? {
            Begun::Whole(_) => Ok(None),
            Begun::Part(arrival) => {
                let file = Arc::from(host.open_blocks(&arrival.image(), BlockAccess::Write)?);
                let mark = arrival.mark();
                Ok(Some(Part {
                    pool,
                    arrival: Some(arrival),
                    file,
                    durable: mark,
                    written: mark,
                    writing: VecDeque::new(),
                    counters,
                }))
            }
        })
        .await
    }

    /// Connects again as long as there is progress.
    async fn persist(
        &self,
        order: &ReceiveOrder,
        part: &mut Part,
        progress: &Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Broken> {
        let (mut tries, mut pause) = (0, FIRST_PAUSE);
        loop {
            let before = part.durable.until;
            let broken = match self.attempt(order, part, progress, stop.clone()).await {
                Ok(()) => return Ok(()),
                Err(broken) => broken,
            };
            // What was written before it broke counts, if it can be made durable.
            let noted = part.note().await;
            progress.set(part.durable.data);
            let Broken::Off(fault) = broken else { return Err(broken) };
            noted?;
            if part.durable.until > before {
                (tries, pause) = (0, FIRST_PAUSE);
            }
            tries += 1;
            if tries >= TRIES {
                return Err(Broken::For(fault));
            }
            tracing::info!(volume = %order.volume.id, %fault, "the transfer broke off; it goes on");
            self.counters.reconnects.add(1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(stop.clone()) => return Err(Broken::For(cancelled())),
            }
            pause *= 2;
        }
    }

    /// One connection, to the end of the content.
    async fn attempt(
        &self,
        order: &ReceiveOrder,
        part: &mut Part,
        progress: &Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Broken> {
        let mut client = PeerClient::new(self.connect(order).await?).max_decoding_message_size(
            2 * usize::try_from(crate::domain::transfer::CHUNK).unwrap_or_default(),
        );
        let have_until = part.durable.until;
        let request = ExportRequest { ticket: order.ticket.clone(), have_until };
        let answer = client.export(request).await.map_err(|status| fault_of(status).context(&order.from))?;
        let mut messages = answer.into_inner();
        // What is there already, as the source proves it, until it is compared.
        let mut proven = Some(Chain::default());
        let mut noted_at = part.durable.data;
        loop {
            let message = tokio::select! {
                message = timeout(MESSAGE_LIMIT, messages.message()) => message,
                () = stopped(stop.clone()) => return Err(Broken::For(cancelled())),
            };
            let message = message
                .map_err(|_| Fault::deadline(format!("{} sent nothing for {MESSAGE_LIMIT:?}", order.from)))?
                .map_err(|status| fault_of(status).context(&order.from))?
                .ok_or_else(|| {
                    Fault::unavailable(format!("{} ended the transfer before its end", order.from))
                })?;
            if message.last {
                part.settle().await?;
                let is_proven = proven.is_none_or(|proven| proven == part.durable.chain)
                    && message.whole == part.written.chain.whole(order.content.size);
                return if is_proven { part.note().await } else { Err(Broken::Differs) };
            }
            let arrived = Arrived::read(message, order.content.size)?;
            if arrived.chunk.end() <= have_until {
                proven = proven.map(|proven| proven.with(&arrived.chunk, &arrived.hash));
                continue;
            }
            if proven.take().is_some_and(|proven| proven != part.durable.chain) {
                return Err(Broken::Differs);
            }
            self.counters.received_bytes.add(arrived.chunk.length());
            part.write(arrived).await?;
            progress.set(part.written.data);
            if part.written.data.0 - noted_at.0 >= NOTE_EVERY {
                part.note().await?;
                noted_at = part.durable.data;
            }
        }
    }

    async fn connect(&self, order: &ReceiveOrder) -> Result<Channel, Fault> {
        let credentials = self.credentials.borrow().clone();
        let credentials =
            credentials.ok_or_else(|| Fault::unavailable("this agent has no certificate yet"))?;
        let wrong = |why: &dyn std::fmt::Display| {
            Fault::invalid(format!("from_address {:?} cannot be used: {why}", order.address))
        };
        let endpoint =
            Endpoint::from_shared(format!("https://{}", order.address)).map_err(|why| wrong(&why))?;
        let endpoint = endpoint.tls_config(credentials.client(&order.from)).map_err(|why| wrong(&why))?;
        endpoint
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .connect()
            .await
            .map_err(|error| transport_fault(&error).context(format_args!("agent of {}", order.from)))
    }
}

fn cancelled() -> Fault {
    Fault::aborted(
        "the transfer was cancelled; what has arrived is kept for a day, asking again goes on with it",
    )
}

/// Done when told to stop, or when nobody is left who could tell.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A chunk that came over the wire, not looked into yet.
struct Arrived {
    chunk: Chunk,
    hash: [u8; 32],
    data: Data,
}

impl Arrived {
    fn read(message: ExportChunk, size: Bytes) -> Result<Self, Fault> {
        let wrong =
            |why: &str| Fault::internal(format!("the source sent a chunk that cannot be used: {why}"));
        let piece = |piece: &crate::proto::agent::BlockRange| {
            Some(piece.offset..piece.offset.checked_add(piece.length)?)
        };
        let pieces: Option<Vec<_>> = message.pieces.iter().map(piece).collect();
        let chunk = Chunk { pieces: pieces.ok_or_else(|| wrong("a piece ends nowhere"))? };
        let length = if message.data.is_empty() { chunk.length() } else { message.data.len() as u64 };
        let image = Bytes(size.0.next_multiple_of(crate::domain::blocks::BLOCK));
        if let Some(fault) = chunk.fault(length, 0, image) {
            return Err(wrong(fault));
        }
        let hash = message.hash.try_into().map_err(|_| wrong("its hash is not one"))?;
        Ok(Self { chunk, hash, data: message.data })
    }
}

/// The part of a volume that is there, and what is on its way to it.
struct Part {
    pool: Arc<Pool>,
    /// Lent to a thread while it is written down.
    arrival: Option<Box<Arrival>>,
    file: Arc<dyn BlockFile>,
    /// Written down.
    durable: Mark,
    /// Handed to the disk, in order.
    written: Mark,
    writing: VecDeque<JoinHandle<Result<(), Fault>>>,
    counters: Arc<Counters>,
}

impl Part {
    /// Checks and writes a chunk; waits only when as many as may are being written.
    async fn write(&mut self, arrived: Arrived) -> Result<(), Broken> {
        if arrived.data.is_empty() || arrived.chunk.pieces[0].start < self.written.until {
            return Err(Broken::For(Fault::internal("the source sent a chunk twice, or without its data")));
        }
        while self.writing.len() >= DEPTH {
            self.finish_one().await?;
        }
        self.written = Mark {
            until: arrived.chunk.end(),
            data: Bytes(self.written.data.0 + arrived.chunk.length()),
            chain: self.written.chain.with(&arrived.chunk, &arrived.hash),
        };
        let (file, counters) = (Arc::clone(&self.file), Arc::clone(&self.counters));
        self.writing.push_back(tokio::task::spawn_blocking(move || write(&*file, &arrived, &counters)));
        Ok(())
    }

    async fn finish_one(&mut self) -> Result<(), Broken> {
        let Some(next) = self.writing.pop_front() else { return Ok(()) };
        let done = next.await.unwrap_or_else(|why| Err(Fault::internal(format!("writing broke off: {why}"))));
        if done.is_err() {
            // What follows it may be there, but it does not count.
            self.written = self.durable;
        }
        Ok(done?)
    }

    /// Waits for everything that is being written.
    async fn settle(&mut self) -> Result<(), Broken> {
        let mut outcome = Ok(());
        while !self.writing.is_empty() {
            let one = self.finish_one().await;
            if outcome.is_ok() {
                outcome = one;
            }
        }
        if outcome.is_err() {
            self.written = self.durable;
        }
        outcome
    }

    /// Makes what was written durable and writes it down.
    async fn note(&mut self) -> Result<(), Broken> {
        self.settle().await?;
        if self.written == self.durable {
            return Ok(());
        }
        let (file, pool, mark) = (Arc::clone(&self.file), Arc::clone(&self.pool), self.written);
        let mut arrival = self.arrival.take().ok_or_else(lost)?;
        let noting = tokio::task::spawn_blocking(move || {
            let noted =
                file.sync().map_err(PoolError::from).and_then(|()| pool.note_arrival(&mut arrival, mark));
            (arrival, noted)
        });
        let (arrival, noted) = noting.await.map_err(|_| lost())?;
        self.arrival = Some(arrival);
        noted.map_err(Fault::from)?;
        self.durable = mark;
        Ok(())
    }
}

fn lost() -> Fault {
    Fault::internal("writing down how far the transfer is broke off; ask again")
}

/// Checks and writes a chunk. Blocks.
fn write(file: &dyn BlockFile, arrived: &Arrived, counters: &Counters) -> Result<(), Fault> {
    if hash(&arrived.data) != arrived.hash {
        counters.corrupt_chunks.add(1);
        return Err(Fault::unavailable("a chunk arrived with a wrong hash; it is fetched again"));
    }
    let mut buffer = AlignedBuffer::zeroed(arrived.data.len());
    buffer.as_mut().copy_from_slice(&arrived.data);
    let mut rest = buffer.as_ref();
    for piece in &arrived.chunk.pieces {
        let (part, behind) = rest.split_at(usize::try_from(piece.end - piece.start).unwrap_or_default());
        file.write_at(piece.start, part).map_err(PoolError::from)?;
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Images;
    use crate::host::blocks::Blocks;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_chunk_with_a_wrong_hash_is_counted_and_fetched_again_and_nothing_of_it_is_written() {
        let host = FakeHost::new();
        let image = std::path::Path::new("/image");
        host.create_image(image, Bytes::mib(1)).unwrap();
        let file = host.open_blocks(image, BlockAccess::Write).unwrap();
        let counters = Counters::default();
        let data = Data::from(vec![7; 8192]);
        let chunk = Chunk { pieces: vec![0..4096, 16_384..20_480] };
        let mut arrived = Arrived { chunk, hash: hash(b"other"), data };
        let fault = write(&*file, &arrived, &counters).unwrap_err();
        assert!(matches!(Broken::from(fault), Broken::Off(_)), "the connection is made anew");
        assert_eq!((counters.corrupt_chunks.get(), host.calls_of("pwrite")), (1, 0));
        arrived.hash = hash(&arrived.data);
        write(&*file, &arrived, &counters).unwrap();
        let sevens = u64::from_be_bytes([7; 8]);
        let read = |block| host.read_block(image, block).unwrap();
        assert_eq!([read(0), read(1), read(4)], [sevens, 0, sevens], "each piece at its place");
    }

    #[test]
    fn a_chunk_that_does_not_say_where_it_belongs_is_refused() {
        let piece = |offset, length| crate::proto::agent::BlockRange { offset, length };
        let message = |pieces, hash: usize| ExportChunk {
            pieces,
            data: vec![0; 4096].into(),
            hash: vec![0; hash],
            ..ExportChunk::default()
        };
        let read = |message| Arrived::read(message, Bytes::mib(1)).is_ok();
        assert!(read(message(vec![piece(0, 4096)], 32)));
        assert!(!read(message(vec![piece(0, 4096)], 31)));
        assert!(!read(message(vec![piece(4096, u64::MAX)], 32)));
        assert!(!read(message(vec![piece(1 << 20, 4096)], 32)), "beyond the end of the image");
        assert!(!read(message(vec![], 32)));
    }
}
