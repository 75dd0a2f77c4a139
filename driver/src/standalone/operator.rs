//! The operator's use cases: what the command line asks for, over storage and the rules engine. No gRPC here.
//!
//! Flow of a snapshot:
//! 1. The name is checked; a cut that has it already is given back if it has the same members.
//! 2. Selectors and names become volumes. No match is an error, never an empty cut.
//! 3. The rules engine conducts the run: commands before, the cut, commands after.
//! 4. The run stays in the journal, for the cut's timeline.

mod busy;
mod order;
mod restore;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stillpoint_rules::engine::{Control, Engine, PlanningError};
use stillpoint_rules::plan::Plan;
use stillpoint_rules::ports::{Inventory, JournalError};
use stillpoint_rules::run::Run;
use stillpoint_rules::standalone::FileJournal;
use tokio::sync::mpsc;

use crate::controller::moves::Relocated;
use crate::controller::transfers::Transfer;
pub use crate::controller::volumes::Origin;
use crate::cutter::run_fault;
use crate::domain::record::CutRecord;
use crate::domain::{CutHandle, Fault, HostName, PoolId};
use crate::observe::plain::shortened;
use crate::observe::{metrics, request};

use super::selection;
use super::storage::{Storage, Volumes};

use busy::BusyNames;
pub(crate) use order::read_rule;
pub use order::{InOrder, SnapshotOrder};
use order::{rehearsal_name, same_members};

/// The two ways to run a rule; they differ in the cutter only.
pub struct Engines {
    /// All members held together.
    pub together: Engine,
    /// Host after host.
    pub one_after_another: Engine,
    /// Cuts nothing: rules are tried with it.
    pub rehearsal: Engine,
}

impl Engines {
    fn of(&self, order: InOrder) -> &Engine {
        match order {
            InOrder::Together => &self.together,
            InOrder::OneAfterAnother => &self.one_after_another,
        }
    }
}

/// A cut and the run that made it, where there was one.
#[derive(Debug, Clone, PartialEq)]
pub struct CutAndRun {
    /// The cut.
    pub record: CutRecord,
    /// The run.
    pub run: Option<Run>,
}

/// The use cases.
pub struct Operator {
    storage: Arc<dyn Storage>,
    inventory: Arc<dyn Inventory>,
    engines: Engines,
    journal: FileJournal,
    busy: BusyNames,
}

impl Operator {
    /// Over these parts. `inventory` must name volumes by id ([`WithVolumeIds`]).
    pub fn new(
        storage: Arc<dyn Storage>,
        inventory: Arc<dyn Inventory>,
        engines: Engines,
        journal: FileJournal,
    ) -> Self {
        Self { storage, inventory, engines, journal, busy: BusyNames::default() }
    }

    /// What a snapshot would do. Executes nothing.
    pub async fn plan(&self, order: SnapshotOrder) -> Result<Plan, Fault> {
        let request = self.request(&order).await?;
        let plan = self.engines.of(order.order).plan(&request).await.map_err(planning_fault)?;
        let earlier = self.read_journal(FileJournal::list).await?;
        Ok(plan.with_history(&earlier))
    }

    /// Runs the steps of a rule without a cut, to try them.
    pub async fn rehearse(&self, order: SnapshotOrder, progress: mpsc::Sender<String>) -> Result<Run, Fault> {
        let order = SnapshotOrder { name: rehearsal_name(&order), ..order };
        let mut request = self.request(&order).await?;
        if request.rule.is_none() {
            return Err(Fault::invalid("there is no rule to try; give --rule FILE"));
        }
        request.rehearsal = true;
        let (_busy, stop) = self.busy.claim(&request.name)?;
        let control = Control { progress: Some(progress), stop: Some(stop) };
        Ok(self.engines.rehearsal.run(request, control).await)
    }

    /// Stops the run of this cut; what it did is undone.
    pub fn cancel(&self, name: &str) -> Result<(), Fault> {
        if self.stop(name, "it was cancelled by hand") {
            return Ok(());
        }
        Err(Fault::not_found(format!(
            "no run of a cut {} is under way; a cut that exists is deleted by `stillpoint delete`",
            shortened(name, 80)
        )))
    }

    /// The same for whoever has a reason of its own; whether there is such a run.
    pub fn stop(&self, name: &str, why: &str) -> bool {
        self.busy.stop(name, why)
    }

    /// Takes a cut with a rule around it, or gives the one that has the name and the same members.
    pub async fn snapshot(
        &self,
        order: SnapshotOrder,
        progress: mpsc::Sender<String>,
    ) -> Result<CutAndRun, Fault> {
        self.take(order, progress).await.map(|(cut, _)| cut)
    }

    /// The same, and whether the cut was there already.
    pub async fn take(
        &self,
        order: SnapshotOrder,
        progress: mpsc::Sender<String>,
    ) -> Result<(CutAndRun, Origin), Fault> {
        let request = self.request(&order).await?;
        let (_busy, stop) = self.busy.claim(&request.name)?;
        if let Some(record) = self.storage.find_cut(&request.name).await? {
            same_members(&request, &record)?;
            tell(&progress, format!("the cut {} exists already, with the same volumes", request.name));
            return Ok((self.with_run(record).await?, Origin::Found));
        }
        let control = Control { progress: Some(progress.clone()), stop: Some(stop) };
        let _known = request::known_by(&request.name);
        let run = self.engines.of(order.order).run(request, control).await;
        metrics::runs::ended(&run);
        self.count_debts().await;
        Ok((self.settle(run).await?, Origin::Made))
    }

    /// Gives back what a run has made, or why it has not.
    async fn settle(&self, run: Run) -> Result<CutAndRun, Fault> {
        let Some(cut) = run.cut.as_ref().filter(|cut| cut.sealed) else { return Err(run_fault(&run)) };
        let id: CutHandle =
            cut.id.parse().map_err(|error| Fault::internal(format!("{error}; this is a bug")))?;
        let record = self.storage.cut(&id).await?.ok_or_else(|| {
            Fault::unavailable(format!(
                "the cut {id} was sealed and is not found any more; has somebody deleted it?"
            ))
        })?;
        Ok(CutAndRun { record, run: Some(run) })
    }

    /// All cuts, newest first.
    pub async fn cuts(&self) -> Result<Vec<CutAndRun>, Fault> {
        let mut records = self.storage.cuts().await?;
        records.sort_by(|a, b| (b.cut_at, &a.name).cmp(&(a.cut_at, &b.name)));
        let mut runs = BTreeMap::new();
        for run in self.read_journal(FileJournal::list).await? {
            let id = run.cut.as_ref().map(|cut| cut.id.clone());
            // Newest first: the first of a cut is the one that made it.
            if let Some(id) = id {
                runs.entry(id).or_insert(run);
            }
        }
        let with_run =
            |record: CutRecord| CutAndRun { run: runs.remove(&record.handle().to_string()), record };
        Ok(records.into_iter().map(with_run).collect())
    }

    /// The cut of this id or name.
    pub async fn cut(&self, id_or_name: &str) -> Result<CutAndRun, Fault> {
        let record = self.record(id_or_name).await?;
        self.with_run(record).await
    }

    /// The record of the cut with this id, where there is one.
    pub async fn by_id(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        self.storage.cut(id).await
    }

    /// The cut of this name, where there is one.
    pub async fn find(&self, name: &str) -> Result<Option<CutAndRun>, Fault> {
        match self.storage.find_cut(name).await? {
            Some(record) => self.with_run(record).await.map(Some),
            None => Ok(None),
        }
    }

    /// The newest run of the cut of this name, made or not.
    pub async fn last_run(&self, name: &str) -> Result<Option<Run>, Fault> {
        let name = name.to_owned();
        self.read_journal(move |journal| journal.of_cut(&name)).await
    }

    /// Deletes the cut of this id or name. An id that is gone already is fine; a name must exist. The run of one that is
    /// being taken right now is stopped and undone first.
    pub async fn delete(&self, id_or_name: &str) -> Result<CutHandle, Fault> {
        if self.stop(id_or_name, "its cut was deleted") {
            return Err(Fault::aborted(format!(
                "the cut {} is being taken: its run is stopped and undone; delete it again when that has ended",
                shortened(id_or_name, 80)
            )));
        }
        let id = match id_or_name.parse::<CutHandle>() {
            Ok(id) => id,
            Err(_) => self.record(id_or_name).await?.handle(),
        };
        self.storage.delete(&id).await?;
        Ok(id)
    }

    /// Moves the volume of this id or name to a host, under its own id. Idempotent.
    pub async fn relocate(&self, id_or_name: &str, to: &HostName) -> Result<Relocated, Fault> {
        let volumes = self.storage.volumes().await;
        let id = match selection::find(id_or_name, &volumes) {
            Ok(volume) => volume.id().clone(),
            // One whose move is not settled is in no list.
            Err(fault) => id_or_name.parse().map_err(|_| fault)?,
        };
        self.storage.relocate(&id, to).await
    }

    /// Cancels the copy of a volume from host to host and removes what has arrived; says to which hosts it went.
    pub async fn cancel_copy(&self, name_or_id: &str) -> Result<Vec<HostName>, Fault> {
        self.storage.cancel_copy(name_or_id).await
    }

    /// A pool that is on no host will not come back; idempotent.
    pub async fn dismiss_pool(&self, pool: &PoolId) -> Result<(), Fault> {
        self.storage.dismiss_pool(pool).await?;
        tracing::warn!(%pool, "a pool was dismissed by hand: what only it had is lost");
        Ok(())
    }

    /// Copies between hosts that are under way.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.storage.transfers()
    }

    /// All volumes of all hosts.
    pub async fn volumes(&self) -> Volumes {
        self.storage.volumes().await
    }

    /// Ends what a dead controller left: pays what its runs owe.
    pub async fn recover(&self) -> Result<Vec<Run>, Fault> {
        let runs = self.engines.together.recover().await;
        self.count_debts().await;
        runs.map_err(|error| Fault::internal(error.to_string()))
    }

    /// What runs on record owe, for whoever watches.
    async fn count_debts(&self) {
        let count = |journal: &FileJournal| {
            let mut unpaid = 0;
            journal.visit(|run| unpaid += metrics::runs::unpaid_of(&run))?;
            Ok(unpaid)
        };
        match self.read_journal(count).await {
            Ok(unpaid) => metrics::runs::unpaid(unpaid),
            Err(fault) => tracing::warn!(%fault, "what runs owe could not be counted"),
        }
    }

    /// Tries again what runs still owe to their applications.
    pub async fn collect(&self) {
        let (together, one_by_one) =
            tokio::join!(self.engines.together.collect(), self.engines.one_after_another.collect());
        let rehearsed = self.engines.rehearsal.collect().await;
        for run in together.into_iter().chain(one_by_one).chain(rehearsed) {
            tracing::warn!(
                run = run.id,
                verdict = run.verdict(),
                "what a run owed to its application is paid"
            );
        }
    }

    /// Runs that are over but still owe something to their application.
    pub fn overdue(&self) -> Vec<Run> {
        let Engines { together, one_after_another, rehearsal } = &self.engines;
        [together.overdue(), one_after_another.overdue(), rehearsal.overdue()].concat()
    }

    /// Stops every run and waits until each is undone, at most about `grace`; how many have not ended by then.
    pub async fn shutdown(&self, why: &str, grace: Duration) -> usize {
        let Engines { together, one_after_another, rehearsal } = &self.engines;
        let engines = [together, one_after_another, rehearsal];
        let [a, b, c] = engines.map(|engine| engine.shutdown(why, grace));
        let (a, b, c) = tokio::join!(a, b, c);
        a + b + c
    }

    async fn with_run(&self, record: CutRecord) -> Result<CutAndRun, Fault> {
        let id = record.handle().to_string();
        let run = self.read_journal(move |journal| journal.of_cut(&id)).await?;
        Ok(CutAndRun { record, run })
    }

    /// The journal is files: read on a thread that may block.
    async fn read_journal<T: Send + 'static>(
        &self,
        read: impl FnOnce(&FileJournal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, Fault> {
        let journal = self.journal.clone();
        match tokio::task::spawn_blocking(move || read(&journal)).await {
            Ok(outcome) => outcome.map_err(|error| Fault::internal(error.to_string())),
            Err(error) => Err(Fault::internal(format!("reading the journal of runs died: {error}"))),
        }
    }

    async fn record(&self, id_or_name: &str) -> Result<CutRecord, Fault> {
        let found = match id_or_name.parse::<CutHandle>() {
            Ok(id) => self.storage.cut(&id).await?.into_iter().collect(),
            Err(_) => self.storage.named(id_or_name).await?,
        };
        match found.as_slice() {
            [record] => Ok(record.clone()),
            [] => Err(Fault::not_found(format!(
                "there is no cut {}; `stillpoint snapshots` lists those that exist",
                shortened(id_or_name, 80)
            ))),
            several => {
                let ids = several.iter().map(|record| record.handle().to_string()).collect::<Vec<_>>();
                Err(Fault::precondition(format!(
                    "{} is the name of a group snapshot and of a single snapshot; give the id of the one that is meant: {}",
                    shortened(id_or_name, 80),
                    ids.join(" or ")
                )))
            }
        }
    }
}

fn planning_fault(error: PlanningError) -> Fault {
    match error {
        PlanningError::Plan(_) => Fault::precondition(error.to_string()),
        PlanningError::Inventory(_) | PlanningError::TooSlow(_) => Fault::unavailable(error.to_string()),
    }
}

/// A line for whoever listens; nobody has to.
fn tell(progress: &mpsc::Sender<String>, line: String) {
    let _ = progress.try_send(line);
}

#[cfg(test)]
pub(crate) mod tests;
