//! One case from its preparation to the proof that nothing is left of it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stillpoint_csi_proto::v1 as csi;

use super::calls::{Answer, Call, snapshot_of, words};
use super::carry;
use super::case::{Case, Deed, Party};
use super::field::{Field, HARD_LIMIT, PATIENCE, no_context};
use crate::harness::csi::{from_snapshot, from_volume};
use crate::workloads::ledger::{self, Mark};

/// A call that is struck ends within this, whatever happens: hosts let go, connections break.
const FIRST_LIMIT: Duration = Duration::from_mins(1);
/// What a writer may stand still beyond the hard limit.
const SLACK: Duration = Duration::from_secs(1);

/// What came of a case.
#[derive(Debug, Clone)]
pub struct Report {
    /// The case.
    pub case: Case,
    /// What the call that was struck said.
    pub first: String,
    /// How often it was asked for afterwards.
    pub tries: u32,
    /// The longest pause of the writer.
    pub stall: Duration,
    /// From the preparation to the end.
    pub took: Duration,
    /// Whether everything held.
    pub verdict: Verdict,
}

/// Whether everything held that must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It did.
    Held,
    /// It did not: why.
    Broken(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("ok"),
            Self::Broken(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// Runs one case. An error is a broken case, never an end of the matrix.
pub async fn conduct(field: &mut Field, case: Case) -> Report {
    let start = Instant::now();
    let mut seen = Seen { first: "-".into(), tries: 0, stall: Duration::ZERO };
    let verdict = match strike_and_check(field, &case, &mut seen).await {
        Ok(()) => Verdict::Held,
        Err(error) => {
            // What the next case needs; its own failure is the next case's to tell.
            drop(field.revive().await);
            drop(field.forgive());
            Verdict::Broken(format!("{error:#}"))
        }
    };
    Report { case, first: seen.first, tries: seen.tries, stall: seen.stall, took: start.elapsed(), verdict }
}

struct Seen {
    first: String,
    tries: u32,
    stall: Duration,
}

async fn strike_and_check(field: &mut Field, case: &Case, seen: &mut Seen) -> Result<()> {
    let call = prepare(field, case).await.context("preparing")?;
    let begin = field.mark()?;
    field.arm(case)?;
    let first = field.until_hit(case, &call).await?;
    field.strike(case).await?;
    field.revive().await.context("starting what died")?;
    let after = field.all_written_since(Mark { ..begin }).await;
    let first = tokio::time::timeout(FIRST_LIMIT, first).await.context("the first call does not end")??;
    seen.first = match &first {
        Ok(_) => "ok".into(),
        Err(status) => format!("{:?}", status.code()),
    };
    seen.stall = after?.longest;
    let (answer, tries) = field.caller().until_done(&call).await.with_context(|| match &first {
        Ok(_) => "asked again after a success".to_owned(),
        Err(status) => format!("after {}", words(status)),
    })?;
    seen.tries = tries;
    if let Ok(first) = first {
        ensure!(first == answer, "a success was not the last word: {first:?}, then {answer:?}");
    }
    check(field, case, begin.written, &call, &answer).await?;
    let now = field.mark()?;
    let last = field.all_written_since(now).await?;
    seen.stall = seen.stall.max(now.longest).max(last.longest);
    field.check_nothing_left(PATIENCE).await?;
    ensure!(
        seen.stall <= HARD_LIMIT + SLACK,
        "a writer stood still for {:?}, and {HARD_LIMIT:?} is the hard limit",
        seen.stall
    );
    Ok(())
}

/// Makes what the deed needs; the call that is struck.
async fn prepare(field: &mut Field, case: &Case) -> Result<Call> {
    if matches!(case.deed, Deed::Copy | Deed::Move) {
        return carry::prepare(field, case).await;
    }
    let host = match case.at {
        Party::Agent(host) | Party::Guard(host) => host,
        Party::Controller => 0,
    };
    let name = field.new_name("case");
    let volumes: Vec<String> = field.volumes().iter().map(|volume| volume.id.clone()).collect();
    let cut = Call::Cut { name: name.clone(), volumes };
    let new = |source| Call::Create { name: name.clone(), host: Field::host(host).into(), source };
    Ok(match case.deed {
        Deed::Cut => cut,
        Deed::Uncut => uncut(&field.caller().group(&cut).await?),
        Deed::Create => new(None),
        Deed::Clone => new(Some(from_volume(&field.volumes()[host].id))),
        Deed::Delete => Call::Delete { id: field.caller().volume(&new(None)).await?.volume_id },
        Deed::Stage => {
            let id = field.caller().volume(&new(None)).await?.volume_id;
            Call::Stage { host, id, staging: field.staging(host, &name)? }
        }
        Deed::Copy | Deed::Move => bail!("{case} is prepared elsewhere"),
    })
}

/// The call that deletes a group.
pub(super) fn uncut(group: &csi::VolumeGroupSnapshot) -> Call {
    Call::Uncut {
        id: group.group_snapshot_id.clone(),
        snapshots: group.snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect(),
    }
}

/// What the deed made is as it must be; then it is taken away again. `acknowledged`: what the ledger's writer had written
/// before the first call.
async fn check(field: &Field, case: &Case, acknowledged: u64, call: &Call, answer: &Answer) -> Result<()> {
    match (call, answer) {
        (Call::Cut { .. }, Answer::Group(group)) => {
            let audited = audit(field, group, acknowledged).await;
            field.caller().until_done(&uncut(group)).await.context("deleting the group")?;
            audited
        }
        (Call::Create { name, host, source }, Answer::Volume(volume)) if case.deed == Deed::Copy => {
            carry::check_copy(field, name, host, source.as_ref(), volume).await
        }
        (Call::Move { id, to }, Answer::Done) => carry::check_move(field, id, to).await,
        (Call::Create { name, host, .. }, Answer::Volume(volume)) => {
            let used = use_once(field, name, host, volume).await;
            field.caller().until_done(&Call::Delete { id: volume.volume_id.clone() }).await?;
            used
        }
        (Call::Stage { host, id, staging }, Answer::Done) => {
            std::fs::write(staging.join("written"), "x").context("a staged volume cannot be written")?;
            let unstage = Call::Unstage { host: *host, id: id.clone(), staging: staging.clone() };
            field.caller().until_done(&unstage).await?;
            std::fs::remove_dir(staging)?;
            field.caller().until_done(&Call::Delete { id: id.clone() }).await.map(drop)
        }
        (Call::Uncut { .. } | Call::Delete { .. } | Call::Unstage { .. }, Answer::Done) => Ok(()),
        _ => bail!("{case} was answered with {answer:?}"),
    }
}

/// A volume that was made can be used.
async fn use_once(field: &Field, name: &str, host: &str, volume: &csi::Volume) -> Result<()> {
    let node = field.stack().hosts().iter().find(|found| found.name == host).context("no such host")?.node();
    let attached = node.attach(name, host, &volume.volume_id, "xfs", no_context()).await?;
    let written = std::fs::write(attached.path.join("written"), "x");
    node.detach(&attached).await?;
    written.context("a new volume cannot be written")
}

/// Restores all members of a group and asks the ledger whether they are of one instant that is late enough.
async fn audit(field: &Field, group: &csi::VolumeGroupSnapshot, acknowledged: u64) -> Result<()> {
    let [a, b, c] = field.volumes() else { bail!("the ledger has three volumes") };
    let (a, b, c) =
        tokio::try_join!(restore(field, group, a), restore(field, group, b), restore(field, group, c))?;
    let readings = [a, b, c];
    let audit = ledger::audit(&readings, acknowledged);
    ensure!(audit.is_consistent(), "the group is not of one instant, or is stale: {audit}");
    Ok(())
}

async fn restore(
    field: &Field,
    group: &csi::VolumeGroupSnapshot,
    of: &crate::harness::csi::Volume,
) -> Result<ledger::Reading> {
    let snapshot = snapshot_of(group, &of.id)?;
    let name = format!("restored-{}", snapshot.snapshot_id);
    let source = Some(from_snapshot(&snapshot.snapshot_id));
    let volume = field
        .caller()
        .volume(&Call::Create { name: name.clone(), host: of.host.clone(), source })
        .await
        .with_context(|| format!("restoring {}", of.name))?;
    let node = field.stack().hosts().iter().find(|host| host.name == of.host).context("no such host")?.node();
    let attached = node.attach(&name, &of.host, &volume.volume_id, "xfs", no_context()).await?;
    let reading = ledger::read(&attached.path);
    node.detach(&attached).await?;
    field.caller().until_done(&Call::Delete { id: volume.volume_id }).await?;
    reading
}
