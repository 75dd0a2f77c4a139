//! Runs as objects.
//!
//! # Flow
//! [`KubeJournal::begin`] finds or makes the `Run` of a snapshot; the engine writes through [`Journal::persist`];
//! [`KubeJournal::renew`] says from time to time that the run is alive; [`KubeJournal::end`] lets go of it.
//!
//! # Guarantees
//! Every write names the version of the object that this process wrote last, so a run that another controller has
//! taken over can no longer be written by the first, and what would have to be undone is not begun by it.
//!
//! # Assumptions
//! Wall clocks of controllers differ by less than [`LEASE`] minus the pause between two renewals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use tokio::sync::Mutex as AsyncMutex;

use crate::ports::{Journal, JournalError};
use crate::run::{FORMAT, Run as Record};

use super::error::KubeError;
use super::events::ObjectRef;
use super::objects::{Lane, Run, RunSpec, SnapshotRef};
use super::report::{self, Before};

/// A controller that has not renewed its run for this long is taken for dead.
pub const LEASE: Duration = Duration::from_secs(30);
/// Pauses before a write that did not reach the API server is made again.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Times that a write of this process's own is made again over a version that it did not know.
const CONFLICTS: usize = 3;

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
    homes: Arc<Mutex<BTreeMap<String, Home>>>,
}

/// The object of a run that this process conducts.
type Home = Arc<AsyncMutex<Kept>>;

/// An object as the API server has it, as far as this process knows.
struct Kept {
    object: Run,
    /// Which attempt this process makes.
    attempt: u32,
}

fn home(object: Run, attempt: u32) -> Home {
    Arc::new(AsyncMutex::new(Kept { object, attempt }))
}

impl KubeJournal {
    /// A journal of the controller `holder`.
    pub fn new(client: Client, holder: impl Into<String>) -> Self {
        Self { client, holder: holder.into(), homes: Arc::default() }
    }

    /// Finds or makes the object of a run, and claims it if nobody has it.
    pub async fn begin(&self, order: &RunOrder) -> Result<Begun, KubeError> {
        let object = match self.find(order).await? {
            Some(object) => object,
            None => self.create(order).await?,
        };
        match self.standing(&object, Timestamp::now()) {
            Standing::Free => {}
            Standing::Held(by) => return Ok(Begun::Held { by }),
            Standing::Orphaned => return Ok(Begun::Orphaned),
        }
        let earlier = object.status.as_ref().filter(|_| object.spec.cut == order.cut);
        let earlier_cut = earlier.and_then(|status| status.cut.as_ref()).map(|cut| cut.id.clone());
        let attempt = object.status.as_ref().map_or(0, |status| status.attempt) + 1;
        self.homes().insert(order.cut.clone(), home(object, attempt));
        Ok(Begun::Ready { earlier_cut })
    }

    /// Says that the run of this cut is alive.
    pub async fn renew(&self, cut: &str) -> Result<(), KubeError> {
        let Some(home) = self.home(cut) else { return Ok(()) };
        let mut kept = home.lock().await;
        let mut renewed = kept.object.clone();
        match &mut renewed.status {
            // Not written yet, or ended: nothing to renew.
            Some(status) if status.record.is_some() => status.renewed_at = Some(Timestamp::now().to_string()),
            Some(_) | None => return Ok(()),
        }
        kept.object = self.write_own(&kept.object, renewed).await?;
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

    /// Lets go of a run that has ended, after adding what the engine does not know.
    pub async fn end(&self, cut: &str, lanes: Vec<Lane>) -> Result<(), KubeError> {
        let home = self.homes().remove(cut);
        let Some(home) = home.filter(|_| !lanes.is_empty()) else { return Ok(()) };
        let kept = home.lock().await;
        let mut object = kept.object.clone();
        if let Some(status) = &mut object.status {
            status.timeline.extend(lanes);
        }
        self.write_own(&kept.object, object).await.map(drop)
    }

    /// Debts of all runs on record that were tried and failed.
    pub async fn unpaid_debts(&self) -> Result<usize, KubeError> {
        let api: Api<Run> = Api::all(self.client.clone());
        let objects = api.list(&ListParams::default()).await;
        let objects = objects.map_err(|error| KubeError::of("runs".to_owned(), error))?;
        let debts =
            objects.items.iter().filter_map(|object| object.status.as_ref()).flat_map(|status| &status.debts);
        Ok(debts.filter(|debt| matches!(debt.state.as_str(), "unpaid" | "unknown")).count())
    }

    async fn find(&self, order: &RunOrder) -> Result<Option<Run>, KubeError> {
        let name = run_object_name(&order.owner);
        let what = format!("run {}/{name}", order.owner.namespace);
        self.api(&order.owner.namespace).get_opt(&name).await.map_err(|error| KubeError::of(what, error))
    }

    async fn create(&self, order: &RunOrder) -> Result<Run, KubeError> {
        let name = run_object_name(&order.owner);
        let snapshot = SnapshotRef {
            kind: order.owner.kind.clone(),
            name: order.owner.name.clone(),
            uid: order.owner.uid.clone(),
        };
        let spec = RunSpec { snapshot, rule: order.rule.clone(), cut: order.cut.clone() };
        let mut object = Run::new(&name, spec);
        object.metadata.namespace = Some(order.owner.namespace.clone());
        object.metadata.owner_references = Some(vec![order.owner.owner()]);
        let what = format!("run {}/{name}", order.owner.namespace);
        let made = self.api(&order.owner.namespace).create(&PostParams::default(), &object).await;
        made.map_err(|error| KubeError::of(what, error))
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

    /// Writes the status over the version that this process knows, again while the API server cannot be reached.
    async fn write(&self, object: Run) -> Result<Run, KubeError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let api = self.api(&namespace);
        let mut pauses = AGAIN.iter();
        loop {
            let written = api.replace_status(&name, &PostParams::default(), &object).await;
            let error = match written {
                Ok(written) => return Ok(written),
                Err(error) => KubeError::of(format!("run {namespace}/{name}"), error),
            };
            match pauses.next().filter(|_| error.is_passing()) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(error),
            }
        }
    }

    /// Writes the next version of a run that this process has. A conflict is none where only this process wrote (an
    /// answer was lost) or somebody changed labels; it is one where another controller has the run by now.
    async fn write_own(&self, known: &Run, mut next: Run) -> Result<Run, KubeError> {
        for _ in 0..CONFLICTS {
            match self.write(next.clone()).await {
                Err(KubeError::Conflict(_)) => {}
                outcome => return outcome,
            }
            let (namespace, name) = (next.metadata.namespace.as_deref(), next.metadata.name.as_deref());
            let what = format!("run {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
            let found = self.api(namespace.unwrap_or_default()).get(name.unwrap_or_default()).await;
            let found = found.map_err(|error| KubeError::of(what.clone(), error))?;
            if found.status == next.status {
                return Ok(found);
            }
            let holder = found.status.as_ref().and_then(|status| status.holder.as_deref());
            if holder != Some(&self.holder) && found.status != known.status {
                return Err(KubeError::Conflict(what));
            }
            next.metadata = found.metadata;
        }
        Err(KubeError::Conflict(format!("run of {}", next.spec.cut)))
    }

    /// Takes over a run that its controller has left.
    async fn claim(&self, object: &Run) -> Result<Option<Record>, KubeError> {
        let Some(record) = object.status.as_ref().and_then(|status| status.record.clone()) else {
            return Ok(None);
        };
        let record: Record = match serde_json::from_value::<Record>(record) {
            Ok(record) if record.format == FORMAT => record,
            Ok(record) => {
                tracing::error!(
                    run = object.spec.cut,
                    format = record.format,
                    "a run of another version cannot be ended"
                );
                return Ok(None);
            }
            Err(error) => {
                tracing::error!(run = object.spec.cut, %error, "a run's record cannot be read");
                return Ok(None);
            }
        };
        let mut claimed = object.clone();
        let status = claimed.status.get_or_insert_default();
        status.holder = Some(self.holder.clone());
        status.renewed_at = Some(Timestamp::now().to_string());
        let attempt = status.attempt;
        // Strictly over the version that was looked at: a controller that has renewed it meanwhile is alive.
        let claimed = self.write(claimed).await?;
        self.homes().insert(record.name.clone(), home(claimed, attempt));
        Ok(Some(record))
    }

    fn api(&self, namespace: &str) -> Api<Run> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn homes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Home>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn home(&self, cut: &str) -> Option<Home> {
        self.homes().get(cut).cloned()
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
        let mut kept = home.lock().await;
        let earlier = kept.object.status.clone().unwrap_or_default();
        let before = Before { attempt: kept.attempt, conditions: earlier.conditions, lanes: Vec::new() };
        let status = report::status(run, &before, &self.holder, Timestamp::now())
            .map_err(|error| fail(error.to_string()))?;
        let mut next = kept.object.clone();
        next.status = Some(status);
        let written = self.write_own(&kept.object, next).await;
        kept.object = written.map_err(|error| match error {
            KubeError::Conflict(_) => fail("another controller has taken it over".to_owned()),
            KubeError::NotFound(_) => fail("its object is gone; was the snapshot deleted?".to_owned()),
            KubeError::Forbidden(_) | KubeError::Refused { .. } | KubeError::Unavailable { .. } => {
                fail(error.to_string())
            }
        })?;
        Ok(())
    }

    /// Runs whose controllers are gone, claimed by this one.
    async fn unfinished(&self) -> Result<Vec<Record>, JournalError> {
        let api: Api<Run> = Api::all(self.client.clone());
        let objects = api.list(&ListParams::default()).await;
        let objects = objects.map_err(|error| JournalError(KubeError::of("runs", error).to_string()))?;
        let now = Timestamp::now();
        let mut records = Vec::new();
        for object in objects.items.iter().filter(|object| self.standing(object, now) == Standing::Orphaned) {
            match self.claim(object).await {
                Ok(record) => records.extend(record),
                // Another controller was quicker, or the next time will tell.
                Err(error) => tracing::info!(%error, "a run that was left could not be taken over"),
            }
        }
        Ok(records)
    }
}

/// Name of a snapshot's run: readable, and never that of another snapshot.
pub fn run_object_name(owner: &ObjectRef) -> String {
    let hash = blake3::hash(owner.uid.as_bytes()).to_hex();
    let readable: String = owner.name.chars().take(200).collect();
    format!("{}-{}", readable.trim_end_matches(['.', '-']), &hash[..10])
}
