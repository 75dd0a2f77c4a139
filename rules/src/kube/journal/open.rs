//! Open runs of all controllers: asked for by label, as metadata, page by page. An object is read only where another
//! controller has it.

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, PartialObjectMeta};

use super::super::error::KubeError;
use super::super::objects::{OPEN_LABEL, Run};
use super::object::{Origin, given_up, origin, title};
use super::{Home, KubeJournal, Standing};
use crate::ports::PodTarget;
use crate::run::{FORMAT, Run as Record};
use crate::turns::{Decision, OpenRun, decide};

/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// An open object that says nothing for so long was left by a controller that died before its first or after its last
/// word.
const SILENT_FOR: i64 = 600;

impl KubeJournal {
    /// Open runs that `asking` may meet: those of this process, and those of others in its namespace. Rules work in their
    /// own namespace only.
    pub(super) async fn open_for(&self, asking: &Record) -> Result<Vec<OpenRun>, KubeError> {
        let mut open = self.open.all();
        let mine = OpenRun::of(asking, String::new(), true);
        // It waits for a run of this process anyway, and is told when that ends.
        if matches!(decide(&mine, &open), Decision::Wait(_)) {
            return Ok(open);
        }
        let Some(namespace) = self.home(&asking.name).map(|home| home.namespace.clone()) else {
            return Ok(open);
        };
        for object in self.of_others(Some(&namespace)).await? {
            open.extend(self.seen(&object, &mine));
        }
        Ok(open)
    }

    /// Another controller's run as `mine` must know it.
    fn seen(&self, object: &Run, mine: &OpenRun) -> Option<OpenRun> {
        if origin(object) != Origin::Ours {
            return None;
        }
        object.status.as_ref()?.record.as_ref()?;
        let is_alive = self.standing(object, Timestamp::now()) != Standing::Orphaned;
        Some(match record(object) {
            Ok(record) => OpenRun::of(&record, title(object), is_alive),
            // What it uses is not known, so it may be the same.
            Err(_) => {
                OpenRun { id: title(object), name: title(object), claimed: true, is_alive, ..mine.clone() }
            }
        })
    }

    /// After commands that were tried and failed, of all open runs. Ended ones owe nothing.
    pub async fn unpaid_debts(&self) -> Result<usize, KubeError> {
        let homes: Vec<_> = self.homes().values().cloned().collect();
        let mut objects = Vec::new();
        for home in homes {
            objects.push(home.kept.lock().await.object.clone());
        }
        objects
            .extend(self.of_others(None).await?.into_iter().filter(|object| origin(object) == Origin::Ours));
        let debts =
            objects.iter().filter_map(|object| object.status.as_ref()).flat_map(|status| &status.debts);
        Ok(debts.filter(|debt| matches!(debt.state.as_str(), "unpaid" | "unknown")).count())
    }

    /// Runs whose controllers are gone, claimed by this one.
    pub(super) async fn left_by_others(&self) -> Result<Vec<Record>, KubeError> {
        let mut records = Vec::new();
        for object in self.of_others(None).await? {
            // Another controller was quicker, or the next time will tell.
            let failed =
                |error: KubeError| tracing::info!(%error, "a run that was left could not be taken over");
            match origin(&object) {
                Origin::Copy => drop(self.remove_copy(&object).await.map_err(failed)),
                Origin::Unmarked => self.report_unmarked(&object).await,
                Origin::Ours => match self.standing(&object, Timestamp::now()) {
                    Standing::Held(_) => {}
                    Standing::Orphaned => {
                        records.extend(self.claim(&object).await.map_err(failed).ok().flatten());
                    }
                    Standing::Free if is_silent(&object) => drop(self.close(object).await.map_err(failed)),
                    Standing::Free => {}
                },
            }
        }
        Ok(records)
    }

    /// Takes over a run that its controller has left.
    async fn claim(&self, object: &Run) -> Result<Option<Record>, KubeError> {
        let record = match record(object) {
            Ok(record) => record,
            Err(why) if given_up(object).is_some() => {
                tracing::warn!(
                    run = title(object),
                    why,
                    "the cleanup of a run that cannot be read is given up"
                );
                return self.close(object.clone()).await.map(|()| None);
            }
            Err(why) => {
                tracing::error!(run = title(object), why, "a run that was left cannot be undone");
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
        self.remember(&record, &claimed);
        self.homes().insert(record.name.clone(), Home::new(claimed, attempt));
        Ok(Some(record))
    }

    /// Open objects that this process does not conduct, whatever they say.
    async fn of_others(&self, namespace: Option<&str>) -> Result<Vec<Run>, KubeError> {
        let mut objects = Vec::new();
        let api: Api<Run> = match namespace {
            Some(namespace) => self.api(namespace),
            None => Api::all(self.client.clone()),
        };
        let listed = ListParams::default().labels(&format!("{OPEN_LABEL}=true"));
        let mut names = Vec::new();
        pages(&api, listed, |object| names.push((object.namespace().unwrap_or_default(), object.name_any())))
            .await?;
        for (namespace, name) in names {
            if self.homes().values().any(|home| home.namespace == namespace && home.name == name) {
                continue;
            }
            let what = format!("Run {namespace}/{name}");
            let found = self.api(&namespace).get_opt(&name).await;
            objects.extend(found.map_err(|error| KubeError::of(what, error))?);
        }
        Ok(objects)
    }
}

/// Shows the metadata of everything that is listed, page by page.
pub(super) async fn pages(
    api: &Api<Run>,
    mut listed: ListParams,
    mut see: impl FnMut(PartialObjectMeta<Run>),
) -> Result<(), KubeError> {
    listed = listed.limit(PAGE);
    loop {
        let page = api.list_metadata(&listed).await.map_err(|error| KubeError::of("runs", error))?;
        page.items.into_iter().for_each(&mut see);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => listed = listed.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// The record in an object, if it may be acted on: one that names pods of another namespace, or another snapshot, was not
/// written by a controller.
fn record(object: &Run) -> Result<Record, String> {
    let value =
        object.status.as_ref().and_then(|status| status.record.clone()).ok_or("there is no record")?;
    let record: Record = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if record.format != FORMAT {
        return Err(format!("its record is of format {}, this program reads {FORMAT}", record.format));
    }
    if record.name != object.spec.cut {
        return Err(format!("its record is that of {}", record.name));
    }
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let planned = record.plan.iter().flat_map(|plan| &plan.steps).flat_map(|step| &step.targets);
    let mut pods = planned.map(|target| &target.at).chain(record.debts.iter().map(|debt| &debt.target));
    match pods.find(|pod: &&PodTarget| pod.namespace != namespace) {
        Some(pod) => {
            Err(format!("its record works with pod {}/{} of another namespace", pod.namespace, pod.pod))
        }
        None => Ok(record),
    }
}

fn is_silent(object: &Run) -> bool {
    let ended = object.status.as_ref().and_then(|status| status.ended_at.as_ref()?.parse().ok());
    let made = object.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let last: Option<Timestamp> = ended.max(made);
    last.is_none_or(|at| Timestamp::now().as_second().saturating_sub(at.as_second()) > SILENT_FOR)
}
