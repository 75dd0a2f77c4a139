//! Runs as objects.
//!
//! # Flow
//! [`KubeJournal::begin`] finds or makes the `Run` of a snapshot; the engine writes through [`Journal::persist`];
//! [`KubeJournal::renew`] says from time to time that the run is alive; [`KubeJournal::end`] lets go of it.
//!
//! # Guarantees
//! * Every write names the version of the object that this process wrote last, so a run that another controller has
//!   taken over can no longer be written by the first, and what would have to be undone is not begun by it.
//! * An open run has a label, by which it is found, and a finalizer: it is there until nothing is pending any more, also
//!   when its snapshot is deleted. Deleting it stops it; giving its cleanup up is an annotation.
//! * A record counts only in the object that it was written to (`object`): copies that a backup tool has made are
//!   reported and removed (`restored`), and nothing of them is ever run.
//! * What is listed are open runs, as metadata and page by page (`open`): their number does not grow with history.
//!
//! # Assumptions
//! Wall clocks of controllers differ by less than [`LEASE`] minus the pause between two renewals. A command that a
//! controller has begun ends within [`LEASE`] after that controller was last heard of, or with its connection.

mod object;
mod open;
mod restored;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::machine::Phase;
use crate::ports::{Journal, JournalError, Ownership};
use crate::run::Run as Record;
use crate::turns::{OpenRun, OpenRuns};

use super::error::KubeError;
use super::events::{EventKind, Events, ObjectRef};
use super::objects::{Lane, Run};
use super::report::{self, Before};

pub use object::run_object_name;
use object::{identity, made, mark_open, title};

/// A controller that has not renewed its run for this long is taken for dead.
pub const LEASE: Duration = Duration::from_secs(30);
/// So long before the end of its lease a controller begins nothing any more.
const MARGIN: Duration = Duration::from_secs(5);
/// What a run is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOrder {
    /// The snapshot, which owns the run.
    pub owner: ObjectRef,
    /// Name of the rule.
    pub rule: String,
    /// Name of the cut.
    pub cut: String,
}

/// What was found when a run was to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It may begin; the id of the cut that an earlier attempt has taken, where there was one.
    Ready {
        /// Id of an earlier attempt's cut.
        earlier_cut: Option<String>,
        /// Since when earlier attempts have waited for their turn.
        waiting_since: Option<Timestamp>,
    },
    /// Another controller conducts it.
    Held {
        /// Its name.
        by: String,
    },
    /// A controller that is gone has left it unfinished: [`Journal::unfinished`] claims it.
    Orphaned,
}

/// The journal of one controller.
#[derive(Clone)]
pub struct KubeJournal {
    client: Client,
    /// This process: another one, also of the same pod, has another name.
    holder: String,
    events: Events,
    homes: Arc<Mutex<BTreeMap<String, Arc<Home>>>>,
    /// Open runs of this process, as they were written last.
    open: OpenRuns,
}

/// The object of a run that this process conducts.
struct Home {
    namespace: String,
    name: String,
    kept: AsyncMutex<Kept>,
    lease: Mutex<Lease>,
}

/// An object as the API server has it, as far as this process knows.
struct Kept {
    object: Run,
    /// Which attempt this process makes.
    attempt: u32,
    /// The record's id, once it was written.
    run_id: Option<String>,
}

struct Lease {
    renewed: Instant,
    /// Another controller has the run.
    is_lost: bool,
}

impl Home {
    fn new(object: Run, attempt: u32) -> Arc<Self> {
        Arc::new(Self {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            kept: AsyncMutex::new(Kept { object, attempt, run_id: None }),
            lease: Mutex::new(Lease { renewed: Instant::now(), is_lost: false }),
        })
    }

    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a write that was begun at `began` tells about the lease.
    fn note<T>(&self, began: Instant, written: &Result<T, KubeError>) {
        match written {
            Ok(_) => self.lease().renewed = began,
            Err(KubeError::Conflict(_)) => self.lease().is_lost = true,
            Err(_) => {}
        }
    }
}

impl KubeJournal {
    /// A journal of the controller `holder`.
    pub fn new(client: Client, holder: impl Into<String>) -> Self {
        let holder = holder.into();
        let events = Events::new(client.clone(), &holder);
        Self { client, holder, events, homes: Arc::default(), open: OpenRuns::default() }
    }

    /// Finds or makes the object of a run, and claims it if nobody has it.
    pub async fn begin(&self, order: &RunOrder) -> Result<Begun, KubeError> {
        let object = match self.find(order).await? {
            Some(object) if object::is_of(&object, order) => object,
            // Its name is that of this snapshot's run, and it is not that: it must not stand in the way.
            Some(copy) => {
                self.remove_copy(&copy).await?;
                self.create(order).await?
            }
            None => self.create(order).await?,
        };
        match self.standing(&object, Timestamp::now()) {
            Standing::Free => {}
            Standing::Held(by) => return Ok(Begun::Held { by }),
            Standing::Orphaned => return Ok(Begun::Orphaned),
        }
        let object = self.opened(object).await?;
        let earlier = object.status.as_ref().filter(|_| object.spec.cut == order.cut);
        let earlier_cut = earlier.and_then(|status| status.cut.as_ref()).map(|cut| cut.id.clone());
        let waiting_since = earlier.and_then(|status| status.waiting_since.as_ref()?.parse().ok());
        let attempt = object.status.as_ref().map_or(0, |status| status.attempt) + 1;
        self.homes().insert(order.cut.clone(), Home::new(object, attempt));
        Ok(Begun::Ready { earlier_cut, waiting_since })
    }

    /// Says that the run of this cut is alive. That its object is being deleted is an error, and the run is renewed all
    /// the same.
    pub async fn renew(&self, cut: &str) -> Result<(), KubeError> {
        let Some(home) = self.home(cut) else { return Ok(()) };
        let mut kept = home.kept.lock().await;
        let mut renewed = kept.object.clone();
        match &mut renewed.status {
            // Not written yet, or ended: nothing to renew.
            Some(status) if status.record.is_some() => status.renewed_at = Some(Timestamp::now().to_string()),
            Some(_) | None => return Ok(()),
        }
        let began = Instant::now();
        let written = self.write_own(&kept.object, renewed).await;
        home.note(began, &written);
        kept.object = written?;
        if kept.object.metadata.deletion_timestamp.is_some() {
            return Err(KubeError::Deleting(title(&kept.object)));
        }
        Ok(())
    }

    /// Says that every run of this process is alive. What fails is tried again the next time.
    pub async fn renew_all(&self) {
        let cuts: Vec<String> = self.homes().keys().cloned().collect();
        for cut in cuts {
            if let Err(error) = self.renew(&cut).await {
                tracing::warn!(cut, %error, "the lease of a run could not be renewed");
            }
        }
    }

    /// Why people have given up the cleanup of this run, where they have; as of the last write or renewal.
    pub async fn given_up(&self, cut: &str) -> Option<String> {
        let home = self.home(cut)?;
        let kept = home.kept.lock().await;
        object::given_up(&kept.object)
    }

    /// Lets go of a run that has ended, after adding what the engine does not know.
    pub async fn end(&self, cut: &str, lanes: Vec<Lane>) -> Result<(), KubeError> {
        let home = self.homes().remove(cut);
        let Some(home) = home else { return Ok(()) };
        let mut kept = home.kept.lock().await;
        if let Some(id) = &kept.run_id {
            self.open.forget(id);
        }
        if kept.object.status.as_ref().is_some_and(|status| status.record.is_some()) {
            // Its end could not be written down: whoever finds it writes it.
            return Ok(());
        }
        let mut next = kept.object.clone();
        if let (Some(status), false) = (&mut next.status, lanes.is_empty()) {
            status.timeline.extend(lanes);
            kept.object = self.write_own(&kept.object, next).await?;
        }
        self.close(kept.object.clone()).await
    }

    async fn find(&self, order: &RunOrder) -> Result<Option<Run>, KubeError> {
        let name = run_object_name(&order.owner);
        let what = format!("run {}/{name}", order.owner.namespace);
        self.api(&order.owner.namespace).get_opt(&name).await.map_err(|error| KubeError::of(what, error))
    }

    async fn create(&self, order: &RunOrder) -> Result<Run, KubeError> {
        let object = made(order);
        let created = self.api(&order.owner.namespace).create(&PostParams::default(), &object).await;
        created.map_err(|error| KubeError::of(title(&object), error))
    }

    fn standing(&self, object: &Run, now: Timestamp) -> Standing {
        let Some(status) = object.status.as_ref().filter(|status| status.record.is_some()) else {
            return Standing::Free;
        };
        let holder = status.holder.clone().unwrap_or_default();
        if holder == self.holder {
            let mine = self.homes().contains_key(&object.spec.cut);
            return if mine { Standing::Held(holder) } else { Standing::Orphaned };
        }
        let renewed: Option<Timestamp> = status.renewed_at.as_deref().and_then(|at| at.parse().ok());
        let silent = renewed.map(|at| now.duration_since(at));
        match silent {
            Some(silent) if silent.unsigned_abs() < LEASE => Standing::Held(holder),
            Some(_) | None => Standing::Orphaned,
        }
    }

    fn api(&self, namespace: &str) -> Api<Run> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn homes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Home>>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn home(&self, cut: &str) -> Option<Arc<Home>> {
        self.homes().get(cut).cloned()
    }

    /// Remembers a run as it was written, so that others of this process know of its turn.
    fn remember(&self, run: &Record, object: &Run) {
        if run.phase.is_final() {
            self.open.forget(&run.id);
        } else {
            self.open.keep(OpenRun::of(run, title(object), true));
        }
    }

    /// People who look at the snapshot see what it waits for.
    async fn tell_waiting(&self, run: &Record, object: &Run) {
        let waits_for = run.turn.as_ref().and_then(|turn| turn.waits_for.as_ref());
        let owner = object::owner(object).filter(|_| run.phase == Phase::Waiting);
        if let (Some(other), Some(owner)) = (waits_for, owner) {
            self.events
                .tell(&owner, EventKind::Normal, "WaitingForRun", &format!("waiting for {other}"))
                .await;
        }
    }
}

/// Who has a run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Free,
    Held(String),
    Orphaned,
}

#[async_trait]
impl Journal for KubeJournal {
    async fn persist(&self, run: &Record) -> Result<(), JournalError> {
        let fail = |why: String| JournalError(format!("run of {}: {why}", run.name));
        let home = self.home(&run.name).ok_or_else(|| fail("it was not begun; this is a bug".to_owned()))?;
        let mut kept = home.kept.lock().await;
        let earlier = kept.object.status.clone().unwrap_or_default();
        let is_told = earlier.doing == report::doing(run);
        let before = Before { attempt: kept.attempt, conditions: earlier.conditions, lanes: Vec::new() };
        let mut status = report::status(run, &before, &self.holder, Timestamp::now())
            .map_err(|error| fail(error.to_string()))?;
        status.identity = Some(identity(&kept.object));
        let mut next = kept.object.clone();
        next.status = Some(status);
        let began = Instant::now();
        let mut written = self.write_own(&kept.object, next).await;
        home.note(began, &written);
        if let (Ok(object), false) = (&written, run.phase.is_final()) {
            // Somebody may have taken the marks away: nothing is begun without them.
            written = self.marked(object.clone(), mark_open).await;
        }
        kept.run_id = Some(run.id.clone());
        let failed = |error: &KubeError| match error {
            KubeError::Conflict(_) => fail("another controller has taken it over".to_owned()),
            KubeError::NotFound(_) => fail("its object is gone; was the snapshot deleted?".to_owned()),
            KubeError::Forbidden(_)
            | KubeError::Refused { .. }
            | KubeError::Deleting(_)
            | KubeError::Unavailable { .. } => fail(error.to_string()),
        };
        match written {
            Ok(object) => {
                self.remember(run, &object);
                if !is_told {
                    self.tell_waiting(run, &object).await;
                }
                kept.object = object;
                Ok(())
            }
            Err(error) => {
                if run.phase.is_final() || matches!(error, KubeError::Conflict(_)) {
                    self.open.forget(&run.id);
                }
                Err(failed(&error))
            }
        }
    }

    /// Runs whose controllers are gone, claimed by this one.
    async fn unfinished(&self) -> Result<Vec<Record>, JournalError> {
        self.left_by_others().await.map_err(|error| JournalError(error.to_string()))
    }

    fn ownership(&self, name: &str) -> Ownership {
        let Some(home) = self.home(name) else { return Ownership::Ours };
        let lease = home.lease();
        if lease.is_lost {
            Ownership::Lost
        } else if lease.renewed.elapsed() + MARGIN > LEASE {
            Ownership::Unsure
        } else {
            Ownership::Ours
        }
    }

    async fn open_runs(&self, asking: &Record) -> Result<Vec<OpenRun>, JournalError> {
        self.open_for(asking).await.map_err(|error| JournalError(error.to_string()))
    }

    async fn run_ended(&self) {
        self.open.changed().await;
    }
}
