//! Who may fetch what from this host. Grants live in memory: with the agent they end, and the controller grants anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::pool::{Content, LeavingImage, SnapshotImage};
use crate::domain::{Fault, HostName, VolumeId};

/// A grant that nobody uses for so long ends: the snapshot may be deleted again.
pub const IDLE_LIMIT: Duration = Duration::from_mins(10);
/// The same, once everything was sent: a peer that is not content asks again at once.
pub const SENT_LIMIT: Duration = Duration::from_secs(10);
/// Grants at once.
const GRANTS_MAX: usize = 256;
/// Streams of one grant at once: the one that goes on after a broken connection begins before the other end is noticed.
const STREAMS_MAX: usize = 2;
/// Length of a ticket: 128 random bits in hex.
pub const TICKET_LENGTH: usize = 32;

/// What one peer may fetch; it cannot be deleted while this lives.
#[derive(Debug)]
pub enum GrantedImage {
    /// A snapshot.
    Snapshot(Box<SnapshotImage>),
    /// A volume that leaves.
    Leaving(LeavingImage),
}

impl GrantedImage {
    /// The image.
    pub fn path(&self) -> &Path {
        match self {
            Self::Snapshot(snapshot) => &snapshot.image,
            Self::Leaving(volume) => &volume.image,
        }
    }

    /// What is in it.
    pub fn content(&self) -> &Content {
        match self {
            Self::Snapshot(snapshot) => &snapshot.content,
            Self::Leaving(volume) => &volume.content,
        }
    }
}

/// A snapshot or volume that one peer may fetch.
#[derive(Debug)]
pub struct Grant {
    /// The host that may.
    pub peer: HostName,
    /// What.
    pub image: GrantedImage,
    /// The volume that the peer makes of it.
    makes: VolumeId,
    used: Mutex<Used>,
    streams: AtomicUsize,
}

/// One sending of a grant's image; it counts as long as this lives.
#[derive(Debug)]
pub struct GrantedStream {
    /// What is sent to whom.
    pub grant: Arc<Grant>,
}

impl GrantedStream {
    fn begin(grant: Arc<Grant>) -> Result<Self, Fault> {
        if grant.streams.fetch_add(1, Ordering::SeqCst) >= STREAMS_MAX {
            grant.streams.fetch_sub(1, Ordering::SeqCst);
            return Err(Fault::unavailable(format!(
                "{} fetches the same image {STREAMS_MAX} times already; ask again when one has ended",
                grant.peer
            )));
        }
        Ok(Self { grant })
    }
}

impl Drop for GrantedStream {
    fn drop(&mut self) {
        self.grant.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

/// When a grant was used last, and for how long from then on it is kept.
#[derive(Debug, Clone, Copy)]
struct Used {
    at: Instant,
    kept: Duration,
}

impl Grant {
    /// It is still needed.
    pub fn touch(&self) {
        self.keep(IDLE_LIMIT);
    }

    /// Everything was sent under it.
    pub fn sent(&self) {
        self.keep(SENT_LIMIT);
    }

    fn keep(&self, kept: Duration) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Used { at: Instant::now(), kept };
    }

    fn is_idle(&self, now: Instant) -> bool {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(used.at) > used.kept
    }
}

/// All grants of this host.
#[derive(Debug, Default)]
pub struct Grants(Mutex<BTreeMap<String, Arc<Grant>>>);

impl Grants {
    /// Lets `peer` fetch the image under this ticket, to make this volume of it. An earlier grant for the same, of a
    /// controller that has died, ends.
    pub fn add(
        &self,
        ticket: &str,
        peer: HostName,
        image: GrantedImage,
        makes: VolumeId,
    ) -> Result<(), Fault> {
        let is_ticket = ticket.len() == TICKET_LENGTH && ticket.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_ticket {
            return Err(Fault::invalid("ticket: it must be 32 hex digits"));
        }
        self.end_idle(Instant::now());
        let mut grants = self.lock();
        let is_for = |grant: &Grant| (&grant.makes.pool, &grant.makes.hash) == (&makes.pool, &makes.hash);
        grants.retain(|_, grant| grant.peer != peer || !is_for(grant));
        if grants.len() >= GRANTS_MAX {
            return Err(Fault::unavailable(format!(
                "{GRANTS_MAX} transfers are granted already; ask again later"
            )));
        }
        let used = Mutex::new(Used { at: Instant::now(), kept: IDLE_LIMIT });
        let grant = Grant { peer, image, makes, used, streams: AtomicUsize::new(0) };
        grants.insert(ticket.to_owned(), Arc::new(grant));
        Ok(())
    }

    /// Begins to send under this ticket, if it is this peer's. Both kinds of refusal sound the same.
    pub fn begin(&self, ticket: &str, peer: &HostName) -> Result<GrantedStream, Fault> {
        let granted = self.lock().get(ticket).cloned().filter(|grant| grant.peer == *peer);
        let grant = granted.ok_or_else(|| {
            Fault::denied(format!(
                "the controller has not granted {peer} this transfer, or this agent has been restarted since; \
                 ask the controller again"
            ))
        })?;
        grant.touch();
        GrantedStream::begin(grant)
    }

    /// Ends a grant; none is fine. A stream that is under way goes on to its end.
    pub fn withdraw(&self, ticket: &str) {
        let ended = self.lock().remove(ticket);
        drop(ended);
    }

    /// Ends grants that nobody uses.
    pub fn end_idle(&self, now: Instant) {
        self.lock().retain(|_, grant| !grant.is_idle(now));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Grant>>> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
