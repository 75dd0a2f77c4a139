//! `stillpoint snapshot`, with or without `--plan`.

use std::path::Path;

use serde_json::{Value, json};
use stillpoint_rules::run::Run;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::args::SnapshotArgs;
use crate::domain::Fault;
use crate::observe::timeline::text;
use crate::proto::operator::operator_client::OperatorClient;
use crate::proto::operator::{CutDetail, SnapshotProgress, SnapshotRequest};
use crate::text_file;
use crate::wire::status::fault_of;

use super::client::{connect, quick};
use super::cuts::{picture, summary_json};
use super::output::{Format, print, print_json, progress, read_json};

/// A rule that is larger than this is not one; the rules engine has its own, smaller limit.
const RULE_LIMIT: u64 = 1 << 20;

/// Takes a cut, or shows what it would do.
pub async fn run(args: SnapshotArgs) -> Result<(), Fault> {
    let request = request(&args)?;
    let mut client = connect(&args.socket.socket).await?;
    if args.plan {
        let plan = client.plan(quick(request)).await.map_err(fault_of)?.into_inner();
        return match args.output {
            Format::Json => print_json(&read_json::<Value>("plan", &plan.json)?),
            Format::Text => print(&plan.text),
        };
    }
    let done = followed(&mut client, request).await?;
    let detail = done.ok_or_else(|| {
        Fault::unavailable(
            "the controller went away before the cut was done; ask `stillpoint snapshots` whether it exists, and \
             repeat the command with the same --name",
        )
    })?;
    show(&detail, args.output)?;
    aftermath(&detail)
}

/// Asks for a run, tells its progress, and gives what it made.
async fn followed(
    client: &mut OperatorClient<Channel>,
    request: SnapshotRequest,
) -> Result<Option<CutDetail>, Fault> {
    progressed(client.snapshot(request).await.map_err(fault_of)?.into_inner()).await
}

/// Tells the progress of a run, and gives what it made.
pub(super) async fn progressed(mut stream: Streaming<SnapshotProgress>) -> Result<Option<CutDetail>, Fault> {
    let mut done = None;
    while let Some(message) = stream.message().await.map_err(fault_of)? {
        if !message.line.is_empty() {
            progress(&message.line);
        }
        done = message.done.or(done);
    }
    Ok(done)
}

/// Runs the steps of a rule without a cut, and prints what happened.
pub(super) async fn rehearse(args: SnapshotArgs) -> Result<(), Fault> {
    let request = SnapshotRequest { rehearsal: true, ..request(&args)? };
    let mut client = connect(&args.socket.socket).await?;
    let done = followed(&mut client, request).await?;
    let detail = done.ok_or_else(|| {
        Fault::unavailable(
            "the controller went away before the rule was tried; what it began is undone at its next start",
        )
    })?;
    let run: Run = read_json("run", &detail.run_json)?;
    match args.output {
        Format::Json => print_json(&run)?,
        Format::Text => print(&super::rehearsal::report(&run))?,
    }
    if run.succeeded() {
        return Ok(());
    }
    Err(Fault::precondition(format!(
        "the rule {}: {}",
        run.verdict(),
        stillpoint_rules::failure::in_words(&run.failures)
    )))
}

/// A cut can exist although its run failed after it: an `after` command owes the application something. The cut is
/// shown, and the command fails.
pub(super) fn aftermath(detail: &CutDetail) -> Result<(), Fault> {
    if detail.run_json.is_empty() {
        return Ok(());
    }
    let run: Run = read_json("run", &detail.run_json)?;
    if run.succeeded() {
        return Ok(());
    }
    Err(Fault::precondition(format!(
        "the cut {} exists, but its run {}: {}; look at the application",
        run.name,
        run.verdict(),
        stillpoint_rules::failure::in_words(&run.failures)
    )))
}

pub(super) fn show(detail: &CutDetail, output: Format) -> Result<(), Fault> {
    match output {
        Format::Text => print(&text::render(&picture(detail)?)),
        Format::Json => {
            let run = match detail.run_json.as_str() {
                "" => Value::Null,
                run => read_json("run", run)?,
            };
            print_json(&json!({
                "cut": detail.summary.as_ref().map(summary_json),
                "record": read_json::<Value>("record", &detail.record_json)?,
                "run": run,
            }))
        }
    }
}

fn request(args: &SnapshotArgs) -> Result<SnapshotRequest, Fault> {
    if args.selectors.is_empty() && args.volumes.is_empty() {
        return Err(Fault::invalid(
            "nothing to cut: no volume was named; give --selector app=… or --volume NAME",
        ));
    }
    Ok(SnapshotRequest {
        name: args.name.clone().unwrap_or_default(),
        selectors: args.selectors.clone(),
        volumes: args.volumes.clone(),
        rule_yaml: args.rule.as_deref().map(read_rule).transpose()?.unwrap_or_default(),
        namespaces: args.namespaces.clone(),
        #[cfg(feature = "test-switches")]
        without_barrier: args.without_barrier,
        #[cfg(not(feature = "test-switches"))]
        without_barrier: false,
        params: args.params.iter().cloned().collect(),
        rehearsal: false,
    })
}

/// The text of a rule file.
pub(super) fn read_rule(path: &Path) -> Result<String, Fault> {
    let text = text_file::read(path, RULE_LIMIT)
        .map_err(|error| Fault::invalid(format!("cannot use the rule {error}")))?;
    if text.trim().is_empty() {
        return Err(Fault::invalid(format!(
            "cannot use the rule {}: it is empty; write a rule into it, or leave --rule out",
            path.display()
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillpoint_rules::failure::{Failure, FailureKind};
    use stillpoint_rules::machine::Phase;

    fn detail(phase: Phase) -> CutDetail {
        let mut run = Run::new("nightly", Some("rule"), jiff::Timestamp::UNIX_EPOCH);
        run.phase = phase;
        run.failures = vec![Failure::of_step(FailureKind::After, "unlock", "step `unlock` failed in db-0")];
        CutDetail { run_json: serde_json::to_string(&run).unwrap(), ..CutDetail::default() }
    }

    #[test]
    fn a_cut_whose_run_failed_afterwards_is_told_and_ends_with_a_failure() {
        assert_eq!(aftermath(&detail(Phase::Succeeded)), Ok(()));
        assert_eq!(aftermath(&CutDetail::default()), Ok(()));
        let fault = aftermath(&detail(Phase::Failed)).unwrap_err();
        assert!(fault.message.contains("nightly") && fault.message.contains("unlock"), "{fault}");
    }
}
