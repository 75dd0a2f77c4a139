//! The operator's use cases: what the command line asks for, over storage and the rules engine. No gRPC here.
//!
//! Flow of a snapshot:
//! 1. The name is checked; a cut that has it already is given back if it has the same members.
//! 2. Selectors and names become volumes. No match is an error, never an empty cut.
//! 3. The rules engine conducts the run: commands before, the cut, commands after.
//! 4. The run stays in the journal, for the cut's timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use stillpoint_rules::api::Rule;
use stillpoint_rules::engine::{Control, Engine, PlanningError, RunRequest};
use stillpoint_rules::plan::{CutVolume, Plan};
use stillpoint_rules::ports::{Inventory, JournalError};
use stillpoint_rules::run::Run;
use stillpoint_rules::standalone::FileJournal;
use stillpoint_rules::text;
use tokio::sync::{mpsc, watch};

use crate::controller::moves::Relocated;
use crate::controller::transfers::Transfer;
use crate::cutter::run_fault;
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{CutId, Fault, HostName};
use crate::observe::plain::shortened;
use crate::observe::{metrics, request};

use super::selection::{self, Wanted, check_name};
use super::storage::{PlacedVolume, Storage, Volumes};

/// A run that has not cut by then is stopped and undone; commands have timeouts of their own, at most an hour each.
const BUDGET: Duration = Duration::from_hours(2);

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOrder {
    /// Name of the cut; made from the time when empty.
    pub name: String,
    /// What is cut.
    pub wanted: Wanted,
    /// Text of the rule; empty: none.
    pub rule: String,
    /// Where pods are looked for; everywhere when empty.
    pub namespaces: Vec<String>,
    /// Values of the rule's parameters.
    pub params: BTreeMap<String, String>,
    /// Only try the steps; nothing is cut.
    pub rehearsal: bool,
    /// Together, or for comparison one after another.
    pub order: InOrder,
}

/// How the members of a cut follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InOrder {
    /// All held together.
    #[default]
    Together,
    /// Host after host, as tools without a barrier do.
    OneAfterAnother,
}

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
    /// Names that are being worked on.
    busy: Mutex<BTreeMap<String, watch::Sender<Option<String>>>>,
}

impl Operator {
    /// Over these parts. `inventory` must name volumes by id ([`WithVolumeIds`]).
    pub fn new(
        storage: Arc<dyn Storage>,
        inventory: Arc<dyn Inventory>,
        engines: Engines,
        journal: FileJournal,
    ) -> Self {
        Self { storage, inventory, engines, journal, busy: Mutex::default() }
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
        let (_busy, stop) = self.make_busy(&request.name)?;
        let control = Control { progress: Some(progress), stop: Some(stop) };
        Ok(self.engines.rehearsal.run(request, control).await)
    }

    /// Stops the run of this cut; what it did is undone.
    pub fn cancel(&self, name: &str) -> Result<(), Fault> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        match busy.get(name) {
            Some(stop) => {
                stop.send_replace(Some("it was cancelled by hand".to_owned()));
                Ok(())
            }
            None => Err(Fault::not_found(format!(
                "no run of a cut {} is under way; a cut that exists is deleted by `stillpoint delete`",
                shortened(name, 80)
            ))),
        }
    }

    /// Takes a cut with a rule around it, or gives the one that has the name and the same members.
    pub async fn snapshot(
        &self,
        order: SnapshotOrder,
        progress: mpsc::Sender<String>,
    ) -> Result<CutAndRun, Fault> {
        let request = self.request(&order).await?;
        let (_busy, stop) = self.make_busy(&request.name)?;
        if let Some(record) = self.storage.find_cut(&request.name).await? {
            same_members(&request, &record)?;
            tell(&progress, format!("the cut {} exists already, with the same volumes", request.name));
            return self.with_run(record).await;
        }
        let control = Control { progress: Some(progress.clone()), stop: Some(stop) };
        let _known = request::known_by(&request.name);
        let run = self.engines.of(order.order).run(request, control).await;
        metrics::runs::ended(&run);
        self.count_debts().await;
        self.settle(run).await
    }

    /// Gives back what a run has made, or why it has not.
    async fn settle(&self, run: Run) -> Result<CutAndRun, Fault> {
        let Some(cut) = run.cut.as_ref().filter(|cut| cut.sealed) else { return Err(run_fault(&run)) };
        let id: CutId = cut.id.parse().map_err(|error| Fault::internal(format!("{error}; this is a bug")))?;
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
        let with_run = |record: CutRecord| CutAndRun { run: runs.remove(&record.id.to_string()), record };
        Ok(records.into_iter().map(with_run).collect())
    }

    /// The cut of this id or name.
    pub async fn cut(&self, id_or_name: &str) -> Result<CutAndRun, Fault> {
        let record = self.record(id_or_name).await?;
        self.with_run(record).await
    }

    /// Deletes the cut of this id or name. An id that is gone already is fine; a name must exist.
    pub async fn delete(&self, id_or_name: &str) -> Result<CutId, Fault> {
        let id = match id_or_name.parse::<CutId>() {
            Ok(id) => id,
            Err(_) => self.record(id_or_name).await?.id,
        };
        self.storage.delete(&id).await?;
        Ok(id)
    }

    /// Makes volumes from a cut's members, each on its own host or all on one, called `<prefix><volume name>`. Idempotent;
    /// what was copied to another host before it broke off is not copied again.
    pub async fn restore(
        &self,
        id_or_name: &str,
        prefix: &str,
        only: &[String],
        to: Option<&HostName>,
    ) -> Result<Vec<(CutMember, PlacedVolume)>, Fault> {
        let record = self.record(id_or_name).await?;
        check_name("the prefix", prefix)?;
        let members = chosen_members(&record, only)?;
        for member in &members {
            check_name("the name of a restored volume", &format!("{prefix}{}", member.volume_name))?;
        }
        let mut restored = Vec::new();
        for member in members {
            let name = format!("{prefix}{}", member.volume_name);
            let volume = self.storage.restore(member, &name, to.unwrap_or(&member.host)).await.map_err(|fault| {
                fault.context(format_args!(
                    "cannot restore {} ({} of its {} volumes are restored; the same command goes on from there)",
                    member.volume_name,
                    restored.len(),
                    record.members.len()
                ))
            })?;
            restored.push((member.clone(), volume));
        }
        Ok(restored)
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
        match self.read_journal(FileJournal::list).await {
            Ok(runs) => metrics::runs::unpaid(runs.iter().map(metrics::runs::unpaid_of).sum()),
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

    /// Stops every run and waits until each is undone.
    pub async fn shutdown(&self, why: &str) {
        let Engines { together, one_after_another, rehearsal } = &self.engines;
        tokio::join!(together.shutdown(why), one_after_another.shutdown(why), rehearsal.shutdown(why));
    }

    async fn with_run(&self, record: CutRecord) -> Result<CutAndRun, Fault> {
        let id = record.id.to_string();
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
        let found = match id_or_name.parse::<CutId>() {
            Ok(id) => self.storage.cut(&id).await?,
            Err(_) => self.storage.find_cut(id_or_name).await?,
        };
        found.ok_or_else(|| {
            Fault::not_found(format!(
                "there is no cut {}; `stillpoint snapshots` lists those that exist",
                shortened(id_or_name, 80)
            ))
        })
    }

    async fn request(&self, order: &SnapshotOrder) -> Result<RunRequest, Fault> {
        let name = if order.name.is_empty() { name_of_now() } else { order.name.clone() };
        check_name("the name of the cut", &name)?;
        let rule = read_rule(&order.rule)?;
        let pods = match order.wanted.selectors.as_slice() {
            [] => Vec::new(),
            _ => self
                .inventory
                .pods(&order.namespaces)
                .await
                .map_err(|error| Fault::unavailable(error.to_string()))?,
        };
        let volumes = self.storage.volumes().await;
        let chosen = selection::choose(&order.wanted, &pods, &volumes)?;
        let volumes = chosen.into_iter().map(cut_volume).collect();
        Ok(RunRequest {
            name,
            rule,
            volumes,
            namespaces: order.namespaces.clone(),
            budget: BUDGET,
            params: order.params.clone(),
            rehearsal: order.rehearsal,
        })
    }

    fn make_busy(&self, name: &str) -> Result<(BusyName<'_>, watch::Receiver<Option<String>>), Fault> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.contains_key(name) {
            return Err(Fault::aborted(format!(
                "the cut {name} is being taken right now; try again when it is done"
            )));
        }
        let (stop, stopped) = watch::channel(None);
        busy.insert(name.to_owned(), stop);
        Ok((BusyName { operator: self, name: name.to_owned() }, stopped))
    }
}

/// Keeps a name busy while it lives.
struct BusyName<'a> {
    operator: &'a Operator,
    name: String,
}

impl Drop for BusyName<'_> {
    fn drop(&mut self) {
        self.operator.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

fn cut_volume(volume: &PlacedVolume) -> CutVolume {
    CutVolume { id: volume.id().to_string(), name: volume.name().to_owned(), host: volume.host.to_string() }
}

/// `cut-20261120-020000-123`: sorts by time, and two within a millisecond do not happen by hand.
fn name_of_now() -> String {
    let now = Timestamp::now();
    let text = now.strftime("%Y%m%d-%H%M%S");
    format!("cut-{text}-{:03}", now.subsec_millisecond())
}

/// A rehearsal is never taken for the run of a cut.
fn rehearsal_name(order: &SnapshotOrder) -> String {
    match order.name.as_str() {
        "" => format!("rehearsal-{}", name_of_now()),
        name => format!("rehearsal-{name}"),
    }
}

fn read_rule(text: &str) -> Result<Option<Rule>, Fault> {
    match text.trim() {
        "" => Ok(None),
        _ => text::parse(text)
            .map(Some)
            .map_err(|error| Fault::invalid(format!("cannot use the rule: {error}"))),
    }
}

fn same_members(request: &RunRequest, record: &CutRecord) -> Result<(), Fault> {
    let wanted: BTreeSet<_> = request.volumes.iter().map(|volume| volume.id.clone()).collect();
    let has: BTreeSet<_> = record.members.iter().map(|member| member.known_as().to_string()).collect();
    if wanted == has {
        return Ok(());
    }
    Err(Fault::already_exists(format!(
        "a cut called {} exists with other volumes ({}, taken {}); choose another name, or delete it first",
        record.name,
        record.members.iter().map(|member| member.volume_name.as_str()).collect::<Vec<_>>().join(", "),
        record.cut_at
    )))
}

fn chosen_members<'a>(record: &'a CutRecord, only: &[String]) -> Result<Vec<&'a CutMember>, Fault> {
    if only.is_empty() {
        let mut members: Vec<_> = record.members.iter().collect();
        // Records are sorted by id, which begins with the pool's random one; people read names.
        members.sort_by(|a, b| (&a.volume_name, &a.volume).cmp(&(&b.volume_name, &b.volume)));
        return Ok(members);
    }
    let named = |text: &String| {
        record
            .members
            .iter()
            .find(|m| m.volume_name == *text || m.known_as().to_string() == *text)
            .ok_or_else(|| {
                let names =
                    record.members.iter().map(|member| member.volume_name.as_str()).collect::<Vec<_>>();
                Fault::not_found(format!(
                    "the cut {} has no volume {}; it has {}",
                    record.name,
                    shortened(text, 80),
                    names.join(", ")
                ))
            })
    };
    let chosen: BTreeSet<&String> = only.iter().collect();
    chosen.into_iter().map(named).collect()
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
mod tests;
