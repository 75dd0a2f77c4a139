//! `stillpoint cancel` and `stillpoint overdue`.

use serde_json::Value;
use stillpoint_rules::run::{Debt, Run};

use crate::args::{CancelArgs, ListArgs};
use crate::domain::Fault;
use crate::observe::table::with_header;
use crate::proto::operator::{CancelRequest, ListOverdueRequest};
use crate::wire::status::fault_of;

use super::client::{connect, quick};
use super::output::{Format, print, print_json, read_json};

/// Stops a run.
pub async fn cancel(args: CancelArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    client.cancel(quick(CancelRequest { name: args.name.clone() })).await.map_err(fault_of)?;
    print(&format!("the run of {} is being undone", args.name))
}

/// Lists what is owed to applications.
pub async fn overdue(args: ListArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let runs =
        client.list_overdue(quick(ListOverdueRequest {})).await.map_err(fault_of)?.into_inner().run_json;
    if args.output == Format::Json {
        let runs = runs.iter().map(|run| read_json::<Value>("run", run)).collect::<Result<Vec<_>, _>>()?;
        return print_json(&runs);
    }
    let runs = runs.iter().map(|run| read_json::<Run>("run", run)).collect::<Result<Vec<_>, _>>()?;
    if runs.is_empty() {
        return print("nothing is owed to any application");
    }
    let mut table = with_header(&["CUT", "RULE", "SINCE", "STATE", "OWED"]);
    for run in &runs {
        let owed: Vec<&Debt> = run.owed().collect();
        for debt in owed {
            table.add_row([
                run.name.clone(),
                run.rule.clone().unwrap_or_default(),
                run.started_at.to_string(),
                debt.state.word().to_owned(),
                debt.in_words(),
            ]);
        }
    }
    print(&table.to_string())
}
