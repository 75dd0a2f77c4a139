//! `stillpoint snapshots`, `stillpoint delete` and `stillpoint timeline`.

use serde_json::{Value, json};
use stillpoint_rules::run::Run;

use crate::args::{DeleteArgs, ListArgs, TimelineArgs};
use crate::domain::Fault;
use crate::domain::record::CutRecord;
use crate::observe::duration::human;
use crate::observe::plain::shortened;
use crate::observe::table::{right_align, with_header};
use crate::observe::timeline::{Picture, html, json as timeline_json, text};
use crate::proto::operator::{CutDetail, CutSummary, DeleteCutRequest, GetCutRequest, ListCutsRequest};
use crate::wire::status::fault_of;

use super::client::{connect, quick};
use super::output::{Format, TimelineFormat, print, print_json, read_json};

/// Lists cuts, newest first.
pub async fn list(args: ListArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let cuts = client.list_cuts(quick(ListCutsRequest {})).await.map_err(fault_of)?.into_inner().cuts;
    match args.output {
        Format::Json => print_json(&cuts.iter().map(summary_json).collect::<Vec<_>>()),
        Format::Text => print(&table(&cuts)),
    }
}

/// Deletes a cut.
pub async fn delete(args: DeleteArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let answer = client.delete_cut(DeleteCutRequest { id_or_name: args.id }).await.map_err(fault_of)?;
    let id = answer.into_inner().id;
    match args.output {
        Format::Json => print_json(&json!({ "deleted": id })),
        Format::Text => print(&format!("deleted {id}")),
    }
}

/// Shows what happened when.
pub async fn timeline(args: TimelineArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let answer = client.get_cut(quick(GetCutRequest { id_or_name: args.id })).await.map_err(fault_of)?;
    let picture = picture(&answer.into_inner())?;
    match args.output {
        TimelineFormat::Text => print(&text::render(&picture)),
        TimelineFormat::Json => print_json(&timeline_json::render(&picture)),
        TimelineFormat::Html => print(&html::render(&picture)),
    }
}

/// The picture of a cut as the controller sent it.
pub(super) fn picture(detail: &CutDetail) -> Result<Picture, Fault> {
    let record: CutRecord = read_json("record", &detail.record_json)?;
    let picture = Picture::of(&record);
    match detail.run_json.as_str() {
        "" => Ok(picture),
        run => Ok(picture.with_run(&read_json::<Run>("run", run)?)),
    }
}

/// One line per cut.
pub(super) fn table(cuts: &[CutSummary]) -> String {
    if cuts.is_empty() {
        return "no cuts".to_owned();
    }
    let mut table =
        with_header(&["NAME", "CUT AT", "LEVEL", "VOLUMES", "HOSTS", "WINDOW", "SKEW", "RUN", "ID"]);
    for cut in cuts {
        table.add_row([
            shortened(&cut.name, 40),
            cut.cut_at.clone(),
            cut.level.clone(),
            cut.members.to_string(),
            cut.hosts.to_string(),
            human(cut.window_us),
            human(cut.skew_us),
            if cut.verdict.is_empty() { "-".to_owned() } else { shortened(&cut.verdict, 20) },
            cut.id.clone(),
        ]);
    }
    right_align(&mut table, 3..7);
    table.to_string()
}

/// One cut for programs.
pub(super) fn summary_json(cut: &CutSummary) -> Value {
    json!({
        "id": cut.id, "name": cut.name, "level": cut.level, "cutAt": cut.cut_at,
        "volumes": cut.members, "hosts": cut.hosts, "windowUs": cut.window_us, "skewUs": cut.skew_us,
        "verdict": (!cut.verdict.is_empty()).then_some(&cut.verdict),
    })
}
