//! What is asked for, in the words of people, and what the engine is asked for then.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use stillpoint_rules::api::Rule;
use stillpoint_rules::engine::RunRequest;
use stillpoint_rules::plan::CutVolume;
use stillpoint_rules::text;

use crate::domain::Fault;
use crate::domain::record::CutRecord;

use super::Operator;
use crate::standalone::selection::{self, Wanted, check_name};
use crate::standalone::storage::{PlacedVolume, Volumes};

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
    /// A run that has not cut by then is stopped and undone; [`BUDGET`] when `None`.
    pub budget: Option<Duration>,
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

impl Operator {
    /// The volumes that are meant, sorted by id.
    pub async fn choose(&self, wanted: &Wanted, namespaces: &[String]) -> Result<Vec<PlacedVolume>, Fault> {
        let pods = match wanted.selectors.as_slice() {
            [] => Vec::new(),
            _ => self
                .inventory
                .pods(namespaces)
                .await
                .map_err(|error| Fault::unavailable(error.to_string()))?,
        };
        let volumes: Volumes = self.storage.volumes().await;
        Ok(selection::choose(wanted, &pods, &volumes)?.into_iter().cloned().collect())
    }

    pub(super) async fn request(&self, order: &SnapshotOrder) -> Result<RunRequest, Fault> {
        let name = if order.name.is_empty() { name_of_now() } else { order.name.clone() };
        check_name("the name of the cut", &name)?;
        let rule = read_rule(&order.rule)?;
        let chosen = self.choose(&order.wanted, &order.namespaces).await?;
        Ok(RunRequest {
            name,
            rule,
            volumes: chosen.iter().map(cut_volume).collect(),
            namespaces: order.namespaces.clone(),
            budget: order.budget.unwrap_or(BUDGET),
            params: order.params.clone(),
            waiting_since: None,
            rehearsal: order.rehearsal,
        })
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
pub(super) fn rehearsal_name(order: &SnapshotOrder) -> String {
    match order.name.as_str() {
        "" => format!("rehearsal-{}", name_of_now()),
        name => format!("rehearsal-{name}"),
    }
}

/// The rule of this text; `None` where there is none.
pub(crate) fn read_rule(text: &str) -> Result<Option<Rule>, Fault> {
    match text.trim() {
        "" => Ok(None),
        _ => text::parse(text)
            .map(Some)
            .map_err(|error| Fault::invalid(format!("cannot use the rule: {error}"))),
    }
}

/// Refuses a cut of the name that is asked for, where it is of other volumes.
pub(super) fn same_members(request: &RunRequest, record: &CutRecord) -> Result<(), Fault> {
    let wanted = request.volumes.iter().map(|volume| volume.id.parse()).collect::<Result<_, _>>();
    record.check_members(&wanted.map_err(|error| Fault::internal(format!("{error}; this is a bug")))?)
}
