//! What people do with the command line, over the same socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use stillpoint::domain::record::CutRecord;
use stillpoint::proto::operator as api;
use stillpoint::proto::operator::operator_client::OperatorClient;
use stillpoint_rules::run::Run;
use tonic::Request;
use tonic::transport::Channel;

use super::csi;

/// A snapshot with its rule; `nodetool flush` of a busy ring is the slowest part.
const CALL_LIMIT: Duration = Duration::from_mins(3);
/// A record with its timeline.
const MESSAGE_LIMIT: usize = 64 << 20;

/// Barrier or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    /// All members are held together.
    Together,
    /// One volume after another, as other tools do.
    OneByOne,
}

/// The connection to a standalone controller.
#[derive(Debug, Clone)]
pub struct Operator {
    client: OperatorClient<Channel>,
    socket: PathBuf,
}

/// A volume made from a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Name of the volume that was cut.
    pub from: String,
    /// Name of the new volume.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its host.
    pub host: String,
}

impl Operator {
    /// Connects.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let client =
            OperatorClient::new(csi::channel(socket).await?).max_decoding_message_size(MESSAGE_LIMIT);
        Ok(Self { client, socket: socket.into() })
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes a cut of the volumes of these pods, with a rule around it.
    pub async fn snapshot(
        &self,
        name: &str,
        selector: &str,
        rule: Option<&str>,
        barrier: Barrier,
    ) -> Result<CutRecord> {
        Ok(self.snapshot_and_run(name, selector, rule, barrier).await?.0)
    }

    /// The same with the run of the rule.
    pub async fn snapshot_and_run(
        &self,
        name: &str,
        selector: &str,
        rule: Option<&str>,
        barrier: Barrier,
    ) -> Result<(CutRecord, Option<Run>)> {
        let request = api::SnapshotRequest {
            name: name.into(),
            selectors: vec![selector.into()],
            rule_yaml: rule.unwrap_or_default().into(),
            without_barrier: barrier == Barrier::OneByOne,
            ..Default::default()
        };
        let mut client = self.client.clone();
        let mut lines = client.snapshot(limited(request)).await.map_err(said)?.into_inner();
        let mut last = None;
        while let Some(progress) = lines.message().await.map_err(said)? {
            last = progress.done.or(last);
        }
        let detail = last.context("the snapshot ended without a result")?;
        let record =
            serde_json::from_str(&detail.record_json).context("the snapshot's record cannot be read")?;
        let run = Some(&detail.run_json).filter(|json| !json.is_empty());
        let run = run.map(|json| serde_json::from_str(json).context("the snapshot's run cannot be read"));
        Ok((record, run.transpose()?))
    }

    /// New volumes from a cut: all members, or those whose names are in `only`.
    pub async fn restore(&self, cut: &str, prefix: &str, only: &[String]) -> Result<Vec<Restored>> {
        self.restore_to(cut, prefix, only, "").await
    }

    /// All on one host, or each on its own where none is named.
    pub async fn restore_to(
        &self,
        cut: &str,
        prefix: &str,
        only: &[String],
        to: &str,
    ) -> Result<Vec<Restored>> {
        let request = api::RestoreRequest {
            id_or_name: cut.into(),
            prefix: prefix.into(),
            only: only.to_vec(),
            to_host: to.into(),
        };
        let mut client = self.client.clone();
        let answer = client.restore(limited(request)).await.map_err(said)?.into_inner();
        let restored = answer.volumes.into_iter().map(|volume| Restored {
            from: volume.from_volume,
            name: volume.name,
            id: volume.volume_id,
            host: volume.host,
        });
        Ok(restored.collect())
    }

    /// Deletes a cut.
    pub async fn delete(&self, cut: &str) -> Result<()> {
        let mut client = self.client.clone();
        client.delete_cut(limited(api::DeleteCutRequest { id_or_name: cut.into() })).await.map_err(said)?;
        Ok(())
    }

    /// Names of the cuts that exist.
    pub async fn cuts(&self) -> Result<Vec<api::CutSummary>> {
        let mut client = self.client.clone();
        Ok(client.list_cuts(limited(api::ListCutsRequest {})).await.map_err(said)?.into_inner().cuts)
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_LIMIT);
    request
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow!("{:?}: {}", status.code(), status.message())
}
