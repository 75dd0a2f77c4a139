//! Who may fetch what from this host. Grants live in memory: with the agent they end, and the controller grants anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::pool::{Content, LeavingImage, SnapshotImage};
use crate::domain::{Fault, HostName};

/// A grant that nobody uses for so long ends: the snapshot may be deleted again.
pub const IDLE_LIMIT: Duration = Duration::from_mins(10);
/// Grants at once.
const GRANTS_MAX: usize = 256;
/// Length of a ticket: 128 random bits in hex.
pub const TICKET_LENGTH: usize = 32;

/// What one peer may fetch; it cannot be deleted while this lives.
#[derive(Debug)]
pub enum GrantedImage {
    /// A snapshot.
    Snapshot(SnapshotImage),
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
    used_at: Mutex<Instant>,
}

impl Grant {
    /// It is still needed.
    pub fn touch(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_idle(&self, now: Instant) -> bool {
        let used_at = *self.used_at.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(used_at) > IDLE_LIMIT
    }
}

/// All grants of this host.
#[derive(Debug, Default)]
pub struct Grants(Mutex<BTreeMap<String, Arc<Grant>>>);

impl Grants {
    /// Lets `peer` fetch the image under this ticket. The same ticket again replaces its grant.
    pub fn add(&self, ticket: &str, peer: HostName, image: GrantedImage) -> Result<(), Fault> {
        let is_ticket = ticket.len() == TICKET_LENGTH && ticket.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_ticket {
            return Err(Fault::invalid("ticket: it must be 32 hex digits"));
        }
        self.end_idle(Instant::now());
        let mut grants = self.lock();
        if grants.len() >= GRANTS_MAX {
            return Err(Fault::unavailable(format!(
                "{GRANTS_MAX} transfers are granted already; ask again later"
            )));
        }
        let grant = Grant { peer, image, used_at: Mutex::new(Instant::now()) };
        grants.insert(ticket.to_owned(), Arc::new(grant));
        Ok(())
    }

    /// The grant under this ticket, if it is this peer's. Both kinds of refusal sound the same.
    pub fn of(&self, ticket: &str, peer: &HostName) -> Result<Arc<Grant>, Fault> {
        let granted = self.lock().get(ticket).cloned().filter(|grant| grant.peer == *peer);
        let grant = granted.ok_or_else(|| {
            Fault::denied(format!(
                "the controller has not granted {peer} this transfer, or this agent has been restarted since; \
                 ask the controller again"
            ))
        })?;
        grant.touch();
        Ok(grant)
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
