//! The target's side: fetches what is missing of a volume, proves it and makes it durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::part::{Arrived, Part};
use super::{Transfers, blocking};
use crate::agent::locks::Purpose;
use crate::agent::pool::{Begun, Content, Pool};
use crate::domain::record::VolumeRecord;
use crate::domain::transfer::Chain;
use crate::domain::{Bytes, Code, Fault, HostName, Moved, NewVolume, VolumeId, VolumeInfo};
use crate::observe::request::carrier;
use crate::proto::agent::ExportRequest;
use crate::proto::agent::peer_client::PeerClient;
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
    /// It moves: what has arrived is kept aside until its source has let go.
    pub moved: Option<Moved>,
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
#[derive(Debug)]
pub enum Broken {
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

/// What became of a volume that arrived whole.
enum Outcome {
    Published(VolumeId),
    /// It moves, and is kept aside.
    Kept(Box<VolumeRecord>),
}

/// What is there at the beginning.
enum Opened {
    Part(Part),
    /// All of it.
    Done(Outcome),
}

impl Transfers {
    /// Fetches a volume; gives it when all of it is there. Ends early when `stop` says so: what arrived is kept. A volume of
    /// that name that has arrived in part is gone on with, and keeps the birth that it was given at first.
    pub async fn receive(
        &self,
        mut order: ReceiveOrder,
        progress: &Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<VolumeInfo, Fault> {
        let Ok(_place) = self.receiving.try_acquire() else {
            return Err(Fault::aborted(
                "as many volumes as this host takes at once are arriving; ask again later",
            ));
        };
        if order.moved.is_none() {
            let (pool, name) = (self.pools.get(&order.volume.id.pool)?, order.volume.id.hash.clone());
            if let Some(known) = blocking(move || Ok(pool.part_named(&name)?)).await? {
                order.volume.id = known;
            }
        }
        let _lock = self.locks.try_lock(&order.volume.id, Purpose::Create)?;
        let _under_way = self.counters.receiving.enter();
        let outcome = self.fetch(&order, progress, stop).await;
        match &outcome {
            Ok(_) => self.counters.arrived.add(1),
            Err(fault) => {
                self.counters.broken_off(fault.code);
                if fault.code == Code::Exhausted {
                    // It will not fit, and the room is needed.
                    let (pool, id) = (self.pools.get(&order.volume.id.pool)?, order.volume.id.clone());
                    blocking(move || Ok(pool.drop_arrival(&id)?)).await?;
                }
            }
        }
        match outcome? {
            Outcome::Published(id) => {
                let local = Arc::clone(&self.local);
                blocking(move || local.volume(&id)).await
            }
            Outcome::Kept(record) => Ok(VolumeInfo {
                backend: self.pools.get(&record.id.pool)?.kind().to_string(),
                allocated: order.content.allocated,
                published_at: None,
                conditions: vec![],
                moved: None,
                record: *record,
            }),
        }
    }

    async fn fetch(
        &self,
        order: &ReceiveOrder,
        progress: &Progress,
        stop: watch::Receiver<bool>,
    ) -> Result<Outcome, Fault> {
        let pool = self.pools.get(&order.volume.id.pool)?;
        let mut may_differ = true;
        loop {
            let mut part = match self.open(&pool, order).await? {
                Opened::Part(part) => part,
                Opened::Done(outcome) => return Ok(outcome),
            };
            let had = part.durable.data;
            progress.set(had);
            match self.persist(order, &mut part, progress, stop.clone()).await {
                Ok(()) => {
                    self.counters.resumed_bytes.add(had.0);
                    let (arrival, moves) = (part.into_arrival()?, order.moved.is_some());
                    return blocking(move || {
                        if moves {
                            return Ok(Outcome::Kept(Box::new(pool.keep_arrival(arrival)?)));
                        }
                        Ok(Outcome::Published(pool.publish_arrival(arrival)?.id))
                    })
                    .await;
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

    async fn open(&self, pool: &Arc<Pool>, order: &ReceiveOrder) -> Result<Opened, Fault> {
        let (host, pool, order) = (Arc::clone(&self.host), Arc::clone(pool), order.clone());
        let counters = Arc::clone(&self.counters);
        blocking(move || match pool.begin_arrival(&order.volume, &order.content, order.moved.as_ref())? {
            Begun::Whole(record) => Ok(Opened::Done(Outcome::Published(record.id))),
            Begun::Kept(record) => Ok(Opened::Done(Outcome::Kept(record))),
            Begun::Part(arrival) => Ok(Opened::Part(Part::open(&*host, pool, arrival, counters)?)),
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
        let mut client = PeerClient::new(carrier(self.connect(order).await?)).max_decoding_message_size(
            2 * usize::try_from(crate::domain::transfer::CHUNK).unwrap_or_default(),
        );
        let have_until = part.durable.until;
        let request = ExportRequest { ticket: order.ticket.clone(), have_until };
        let answer = client.export(request).await.map_err(|status| {
            let fault = fault_of(status).context(&order.from);
            if fault.code == Code::Denied {
                // Its agent was started anew and knows no grants. The controller grants again when it is asked again.
                Broken::For(Fault::unavailable(fault.message))
            } else {
                Broken::from(fault)
            }
        })?;
        let mut messages = answer.into_inner();
        // What is there already, as the source proves it, until it is compared.
        let mut proven = Some(Chain::default());
        let mut noted_at = part.durable.data;
        let mut after = 0;
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
            let arrived = Arrived::read(message, order.content.size, after)?;
            after = arrived.chunk.end();
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
            if part.written.data.saturating_sub(noted_at).0 >= NOTE_EVERY {
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
