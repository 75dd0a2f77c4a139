//! Rules inside the CSI call.
//!
//! # Flow of CreateSnapshot and CreateVolumeGroupSnapshot
//! 1. A sealed cut of this name is the answer: nothing runs.
//! 2. The snapshot's rule is looked up ([`super::lookup`]). None: a plain cut.
//! 3. The `Run` object is found or made. Another controller has it: ABORTED, ask again. One that is gone has left it:
//!    what it owes is paid first. An earlier attempt has cut: that cut is asked for at its home pool.
//! 4. The rules engine conducts the run: it waits for runs that use the same pods or volumes, first come, first served.
//!    This process renews the object's lease meanwhile.
//! 5. The cut is the answer. Failures after the cut (an `after` that failed) are told by the `Run` and an event.
//!
//! # Guarantees
//! A rule runs once per attempt and at most one attempt is under way: calls under way are joined before they come here
//! (`csi::inflight`), controllers exclude each other by the `Run` object, a sealed cut ends it all. A final gRPC code
//! is given only when nothing of the cut is left on any host.
//! What failed is repeated after growing pauses only (`csi::backoff`).

mod debts;
mod lanes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::Client;
use stillpoint_rules::api::Rule;
use stillpoint_rules::engine::{Control, Engine, Limits, Ports, RunRequest};
use stillpoint_rules::failure;
use stillpoint_rules::kube::objects::{Lane, RULE_ANNOTATION};
use stillpoint_rules::kube::{
    Begun, EventKind, Events, KubeError, KubeJournal, KubePods, LEASE, ObjectRef, RunOrder, report,
};
use stillpoint_rules::machine::Phase;
use stillpoint_rules::plan::CutVolume;
use stillpoint_rules::run::Run;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::controller::cuts::Cuts;
use crate::controller::paging::{Page, PageRequest};
use crate::controller::volumes::{Snapshots, Volumes};
use crate::csi::DRIVER_NAME;
use crate::csi::backoff::DependsOn;
use crate::csi::ports::{Asked, Circumstances, Cutting, SnapshotObject};
use crate::cutter::run_fault;
use crate::domain::listing::SnapshotEntry;
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{Code, CutHandle, CutKind, Fault, SnapshotId, VolumeId};
use crate::observe::metrics;
use crate::observe::request::known_by;

use super::lookup::{Lookup, LookupError, Seen, object_ref};
use super::storage::{FleetStorage, Storage};
use lanes::lanes;

/// A run that has not cut by then is stopped and undone; commands have timeouts of their own.
const BUDGET: Duration = Duration::from_hours(2);
/// So long a run waits for others that use the same pods or volumes: less than a call of the sidecar, which asks again and
/// finds the run's place in the order kept.
const TURN: Duration = Duration::from_mins(4);
/// Between two renewals of a run's lease.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Cuts with rules around them.
pub struct RuledCuts {
    storage: Arc<dyn Storage>,
    lookup: Lookup,
    journal: KubeJournal,
    events: Events,
    single: Engine,
    group: Engine,
}

/// What earlier attempts have left.
struct Earlier {
    /// The id of a cut.
    earlier_cut: Option<String>,
    /// Since when they waited for their turn.
    waiting_since: Option<Timestamp>,
}

/// A rule that is to be run.
struct Order {
    kind: CutKind,
    name: String,
    volumes: Vec<VolumeId>,
    seen: Seen,
    rule: Rule,
}

impl RuledCuts {
    /// Over this cluster and this fleet. `holder` names this process: another one, also one of the same pod after a
    /// restart, must have another name.
    pub fn new(client: Client, holder: &str, cuts: Cuts, volumes: Arc<Volumes>) -> Self {
        Self::over(client, holder, Arc::new(FleetStorage { cuts, volumes }))
    }

    /// As [`RuledCuts::new`], over any storage.
    pub fn over(client: Client, holder: &str, storage: Arc<dyn Storage>) -> Self {
        let pods = KubePods::new(client.clone(), DRIVER_NAME);
        let journal = KubeJournal::new(client.clone(), holder);
        let engine = |kind| {
            let ports = Ports {
                inventory: Arc::new(pods.clone()),
                exec: Arc::new(pods.clone()),
                secrets: Arc::new(pods.clone()),
                cutter: storage.cutter(kind),
                journal: Arc::new(journal.clone()),
            };
            Engine::new(ports, Limits { turn: TURN, ..Limits::default() })
        };
        Self {
            single: engine(CutKind::Single),
            group: engine(CutKind::Group),
            lookup: Lookup::new(client.clone(), pods),
            events: Events::new(client, holder),
            journal,
            storage,
        }
    }

    async fn attempt(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
        asked: &Asked,
    ) -> Result<CutRecord, Fault> {
        if self.storage.find_of(kind, name, volumes).await?.is_some() {
            return self.existing(kind, name, volumes).await;
        }
        if let Some(order) = self.order(kind, name, volumes, asked).await? {
            return self.run(order).await;
        }
        self.storage.plain().take(kind, name, volumes.to_vec(), &Asked::default()).await
    }

    /// A cut that exists, once every host knows that it does.
    async fn existing(&self, kind: CutKind, name: &str, volumes: &[VolumeId]) -> Result<CutRecord, Fault> {
        let found = self.storage.settle(kind, name, volumes).await?;
        found.ok_or_else(|| Fault::aborted(format!("the cut {name} was deleted just now; ask again")))
    }

    /// What is to be run, if anything.
    async fn order(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
        asked: &Asked,
    ) -> Result<Option<Order>, Fault> {
        let Some(object) = self.lookup.object(kind, asked).await? else {
            tracing::warn!(
                name,
                "the sidecar does not tell whose snapshot this is: annotations are not looked at"
            );
            return Ok(None);
        };
        let owner = object_ref(kind, &object);
        let annotation = object.metadata.annotations.as_ref().and_then(|all| all.get(RULE_ANNOTATION));
        let chosen = async {
            let annotation = annotation.map(String::as_str);
            let named = self.names(volumes).await;
            let seen = self.lookup.choice(&owner, annotation, &named, asked.rule.as_deref()).await?;
            let Some(choice) = seen.choice.clone() else { return Ok(None) };
            let rule = self.lookup.rule(&owner.namespace, &choice).await?;
            Ok::<_, LookupError>(Some((seen, rule)))
        };
        match chosen.await {
            Ok(None) => Ok(None),
            Ok(Some((seen, rule))) => {
                Ok(Some(Order { kind, name: name.to_owned(), volumes: volumes.to_vec(), seen, rule }))
            }
            Err(error) => {
                self.events.tell(&owner, EventKind::Warning, error.reason(), &error.to_string()).await;
                Err(error.into())
            }
        }
    }

    /// The volumes by id, and by the names that they were made by as far as that is known now.
    async fn names(&self, volumes: &[VolumeId]) -> Vec<(String, Option<String>)> {
        let mut named = Vec::with_capacity(volumes.len());
        for id in volumes {
            let name = self.storage.volume(id).await.ok().map(|volume| volume.name);
            named.push((id.to_string(), name));
        }
        named
    }

    async fn run(&self, order: Order) -> Result<CutRecord, Fault> {
        let owner = &order.seen.object;
        let run_order = RunOrder {
            owner: owner.clone(),
            rule: order.rule.metadata.name.clone(),
            cut: order.name.clone(),
        };
        let volumes = self.volumes(&order).await?;
        let begun = self.begin(&run_order).await?;
        if let Some(cut) = begun.earlier_cut {
            let id: CutHandle = cut.parse().map_err(|error| {
                Fault::internal(format!("the run of {} names the cut {cut:?}: {error}", order.name))
            })?;
            // A host that is silent makes this fail: it might have the cut.
            if self.storage.plain().get(&id).await?.is_some() {
                self.let_go(&order.name, Vec::new()).await;
                return self.existing(order.kind, &order.name, &order.volumes).await;
            }
        }
        let request = RunRequest {
            name: order.name.clone(),
            rule: Some(order.rule.clone()),
            volumes,
            namespaces: vec![owner.namespace.clone()],
            budget: BUDGET,
            // Whoever makes a snapshot need not be allowed to run commands, so he chooses no values either.
            params: BTreeMap::new(),
            waiting_since: begun.waiting_since,
            rehearsal: false,
        };
        let run = self.conduct(order.kind, request).await;
        metrics::runs::ended(&run);
        let outcome = self.outcome(&run).await;
        if run.phase != Phase::Overdue {
            let lanes = outcome.as_ref().map(|record| lanes(record, &order.seen.claims)).unwrap_or_default();
            self.let_go(&order.name, lanes).await;
        }
        self.announce(owner, &run).await;
        outcome
    }

    /// Claims the run's object; what earlier attempts have left in it.
    async fn begin(&self, order: &RunOrder) -> Result<Earlier, Fault> {
        for _ in 0..2 {
            match self.journal.begin(order).await.map_err(kube_fault)? {
                Begun::Ready { earlier_cut, waiting_since } => {
                    return Ok(Earlier { earlier_cut, waiting_since });
                }
                Begun::Held { by } => {
                    return Err(Fault::aborted(format!(
                        "the rule {} is being run for {} by the controller {by}; ask again when that has ended",
                        order.rule, order.owner.name
                    )));
                }
                Begun::Orphaned => {
                    self.recover().await?;
                }
            }
        }
        Err(Fault::aborted(format!(
            "what an earlier controller has left of the run for {} is not settled yet; ask again",
            order.owner.name
        )))
    }

    /// The volumes under the names that people know.
    async fn volumes(&self, order: &Order) -> Result<Vec<CutVolume>, Fault> {
        let mut volumes = Vec::new();
        for id in &order.volumes {
            let mut volume = self.storage.volume(id).await?;
            if let Some(claim) = order.seen.claims.get(&volume.id) {
                volume.name.clone_from(claim);
            }
            volumes.push(volume);
        }
        Ok(volumes)
    }

    /// Runs the rule and keeps its lease; a run whose lease is lost is stopped and undone.
    async fn conduct(&self, kind: CutKind, request: RunRequest) -> Run {
        let (stop, stopped) = watch::channel(None);
        let name = request.name.clone();
        let engine = match kind {
            CutKind::Single => &self.single,
            CutKind::Group => &self.group,
        };
        let control = Control { progress: None, stop: Some(stopped) };
        let _known = known_by(&request.name);
        let running = engine.run(request, control);
        tokio::pin!(running);
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                run = &mut running => return run,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            let renewal = tokio::time::timeout(RENEW_EVERY, self.journal.renew(&name));
            let lost = tokio::select! {
                run = &mut running => return run,
                renewal = renewal => match renewal {
                    Ok(Ok(())) => {
                        renewed = Instant::now();
                        None
                    }
                    Ok(Err(error)) if !error.is_passing() => Some(stopped_by(&error)),
                    Ok(Err(_)) | Err(_) => (renewed.elapsed() + 2 * RENEW_EVERY > LEASE)
                        .then(|| not_kept("the API server does not answer")),
                },
            };
            if let Some(why) = lost {
                stop.send_replace(Some(why));
            }
        }
    }

    async fn outcome(&self, run: &Run) -> Result<CutRecord, Fault> {
        let Some(cut) = run.cut.as_ref().filter(|cut| cut.sealed) else {
            return Err(match run_fault(run) {
                fault if run.may_be_repeated() => Fault::aborted(fault.message),
                fault => fault,
            });
        };
        let id: CutHandle =
            cut.id.parse().map_err(|error| Fault::internal(format!("{error}; this is a bug")))?;
        let record = self.storage.plain().get(&id).await?;
        record.ok_or_else(|| {
            Fault::aborted(format!("the cut {id} was sealed and is not found any more; ask again"))
        })
    }

    async fn let_go(&self, name: &str, lanes: Vec<Lane>) {
        if let Err(error) = self.journal.end(name, lanes).await {
            tracing::warn!(name, %error, "the volumes' part of a run's timeline could not be written");
        }
    }

    async fn announce(&self, owner: &ObjectRef, run: &Run) {
        let rule = run.rule.as_deref().unwrap_or_default();
        let failures = failure::in_words(&run.failures);
        let owed = report::unpaid(run);
        match (run.succeeded(), &run.cut) {
            (true, Some(cut)) => {
                let level = run.level.map_or_else(String::new, |level| format!("{level:?}").to_lowercase());
                let text = format!("rule {rule} was run, level {level}, window {} µs", cut.window_us);
                self.events.tell(owner, EventKind::Normal, "RuleSucceeded", &text).await;
            }
            (false, Some(cut)) if cut.sealed => {
                let text = format!("the cut is good, but rule {rule} failed after it: {failures}");
                self.events.tell(owner, EventKind::Warning, "RuleFailedAfterCut", &text).await;
            }
            (true, None) | (false, _) => {
                let text = format!("rule {rule} failed and nothing was cut: {failures}");
                self.events.tell(owner, EventKind::Warning, "RuleFailed", &text).await;
            }
        }
        if !owed.is_empty() {
            let text = format!("still owed to the application, look at it: {}", owed.join(", "));
            self.events.tell(owner, EventKind::Warning, "DebtUnpaid", &text).await;
        }
    }
}

/// Why a run whose object could not be renewed must stop.
fn stopped_by(error: &KubeError) -> String {
    match error {
        KubeError::Deleting(run) => format!("{run} was deleted, or the snapshot that it is for"),
        KubeError::NotFound(_)
        | KubeError::Conflict(_)
        | KubeError::Forbidden(_)
        | KubeError::Refused { .. }
        | KubeError::Unavailable { .. } => not_kept(&error.to_string()),
    }
}

fn not_kept(why: &str) -> String {
    format!("the run's object can no longer be kept ({why}), so another controller may take it over")
}

fn kube_fault(error: KubeError) -> Fault {
    let message = format!("no snapshot was taken: {error}");
    match error {
        KubeError::Conflict(_)
        | KubeError::Deleting(_)
        | KubeError::Unavailable { .. }
        | KubeError::NotFound(_) => Fault::unavailable(message),
        KubeError::Forbidden(_) | KubeError::Refused { .. } => Fault::precondition(message),
    }
}

#[async_trait]
impl Cutting for RuledCuts {
    async fn take(
        &self,
        kind: CutKind,
        name: &str,
        volumes: Vec<VolumeId>,
        asked: &Asked,
    ) -> Result<CutRecord, Fault> {
        let fault = match self.attempt(kind, name, &volumes, asked).await {
            Err(fault) if fault.code.is_final() => fault,
            outcome => return outcome,
        };
        // The caller concludes from a final code that nothing exists, and never asks for a deletion.
        match self.storage.settle(kind, name, &volumes).await {
            Ok(None) => Err(fault),
            Ok(Some(record)) if fault.code == Code::NotFound => Ok(record),
            Ok(Some(_)) => Err(Fault::aborted(format!("{fault}; yet the cut exists by now: ask again"))),
            Err(left) if left.code.is_final() => Err(fault),
            Err(left) => Err(Fault::unavailable(format!(
                "{fault}; whether something of it is left is not known ({left}): ask again"
            ))),
        }
    }

    async fn find(&self, kind: CutKind, name: &str) -> Result<Option<CutRecord>, Fault> {
        self.storage.plain().find(kind, name).await
    }

    async fn get(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        self.storage.plain().get(id).await
    }

    async fn of_snapshot(&self, snapshot: &SnapshotId) -> Result<Option<CutRecord>, Fault> {
        self.storage.plain().of_snapshot(snapshot).await
    }

    async fn snapshots(
        &self,
        volume: Option<&VolumeId>,
        request: &PageRequest,
    ) -> Result<Page<SnapshotEntry>, Fault> {
        self.storage.plain().snapshots(volume, request).await
    }

    async fn delete(&self, id: &CutHandle) -> Result<(), Fault> {
        self.storage.plain().delete(id).await
    }

    async fn circumstances(
        &self,
        kind: CutKind,
        object: &SnapshotObject,
        depends_on: DependsOn,
    ) -> Option<Circumstances> {
        self.lookup.circumstances(kind, object, depends_on).await
    }

    async fn changed(
        &self,
        kind: CutKind,
        object: &SnapshotObject,
        depends_on: DependsOn,
        seen: &mut Option<Circumstances>,
    ) {
        self.lookup.changed(kind, object, depends_on, seen).await;
    }
}

#[async_trait]
impl Snapshots for RuledCuts {
    async fn member(&self, snapshot: &SnapshotId) -> Result<Option<CutMember>, Fault> {
        self.storage.plain().member(snapshot).await
    }
}

#[cfg(test)]
mod tests;
