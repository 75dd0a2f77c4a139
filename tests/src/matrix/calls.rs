//! The calls that are struck, once and as often as an orchestrator repeats them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stillpoint::domain::Bytes;
use stillpoint::proto::operator::MoveRequest;
use stillpoint::proto::operator::operator_client::OperatorClient;
use stillpoint_csi_proto::v1 as csi;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_csi_proto::v1::group_controller_client::GroupControllerClient;
use stillpoint_csi_proto::v1::node_client::NodeClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::csi::{TOPOLOGY_KEY, channel, mounted};

/// One call may take this long; a host that stands still is waited for.
const CALL_LIMIT: Duration = Duration::from_secs(40);
/// After a blow a call must succeed within this.
const RETRY_LIMIT: Duration = Duration::from_mins(1);
const RETRY_REST: Duration = Duration::from_millis(50);
/// Size of the volumes that are made; XFS wants 300 MiB.
pub const SIZE: Bytes = Bytes::mib(320);

/// A call with everything that a retry needs.
#[derive(Debug, Clone)]
pub enum Call {
    /// CreateVolumeGroupSnapshot.
    Cut { name: String, volumes: Vec<String> },
    /// DeleteVolumeGroupSnapshot.
    Uncut { id: String, snapshots: Vec<String> },
    /// CreateVolume.
    Create { name: String, host: String, source: Option<csi::VolumeContentSource> },
    /// DeleteVolume.
    Delete { id: String },
    /// NodeStageVolume.
    Stage { host: usize, id: String, staging: PathBuf },
    /// The operator's Move.
    Move { id: String, to: String },
    /// NodeUnstageVolume.
    Unstage { host: usize, id: String, staging: PathBuf },
}

/// What a call gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A group.
    Group(csi::VolumeGroupSnapshot),
    /// A volume.
    Volume(csi::Volume),
    /// Nothing but that it is done.
    Done,
}

/// Connections that find their server again when it was started anew.
#[derive(Debug, Clone)]
pub struct Caller {
    controller: ControllerClient<Channel>,
    group: GroupControllerClient<Channel>,
    nodes: Vec<NodeClient<Channel>>,
    operator: OperatorClient<Channel>,
}

impl Caller {
    /// Connects to both sockets of the controller and to the node service of each host.
    pub async fn connect(
        controller: &Path,
        operator: &Path,
        nodes: impl Iterator<Item = PathBuf>,
    ) -> Result<Self> {
        let channel_of = channel(controller).await?;
        let mut clients = Vec::new();
        for node in nodes {
            clients.push(NodeClient::new(channel(&node).await?));
        }
        Ok(Self {
            controller: ControllerClient::new(channel_of.clone()),
            group: GroupControllerClient::new(channel_of),
            nodes: clients,
            operator: OperatorClient::new(channel(operator).await?),
        })
    }

    /// Calls once.
    pub async fn once(&self, call: &Call) -> Result<Answer, Status> {
        match call.clone() {
            Call::Cut { name, volumes } => {
                let request = csi::CreateVolumeGroupSnapshotRequest {
                    name,
                    source_volume_ids: volumes,
                    ..Default::default()
                };
                let answer = self.group.clone().create_volume_group_snapshot(limited(request)).await?;
                let group = answer.into_inner().group_snapshot;
                group.map(Answer::Group).ok_or_else(|| Status::internal("an answer without a group"))
            }
            Call::Uncut { id, snapshots } => {
                let request = csi::DeleteVolumeGroupSnapshotRequest {
                    group_snapshot_id: id,
                    snapshot_ids: snapshots,
                    ..Default::default()
                };
                self.group.clone().delete_volume_group_snapshot(limited(request)).await?;
                Ok(Answer::Done)
            }
            Call::Create { name, host, source } => {
                let request = create(name, host, source);
                let answer = self.controller.clone().create_volume(limited(request)).await?.into_inner();
                answer
                    .volume
                    .map(Answer::Volume)
                    .ok_or_else(|| Status::internal("an answer without a volume"))
            }
            Call::Delete { id } => {
                let request = csi::DeleteVolumeRequest { volume_id: id, ..Default::default() };
                self.controller.clone().delete_volume(limited(request)).await?;
                Ok(Answer::Done)
            }
            Call::Stage { host, id, staging } => {
                let request = csi::NodeStageVolumeRequest {
                    volume_id: id,
                    staging_target_path: staging.display().to_string(),
                    volume_capability: Some(mounted("xfs")),
                    ..Default::default()
                };
                self.nodes[host].clone().node_stage_volume(limited(request)).await?;
                Ok(Answer::Done)
            }
            Call::Move { id, to } => {
                let request = MoveRequest { volume: id, to_host: to };
                self.operator.clone().r#move(limited(request)).await?;
                Ok(Answer::Done)
            }
            Call::Unstage { host, id, staging } => {
                let request = csi::NodeUnstageVolumeRequest {
                    volume_id: id,
                    staging_target_path: staging.display().to_string(),
                };
                self.nodes[host].clone().node_unstage_volume(limited(request)).await?;
                Ok(Answer::Done)
            }
        }
    }

    /// Makes a volume under this id of the request, once.
    pub async fn create_as(
        &self,
        request_id: &str,
        name: &str,
        host: &str,
        source: Option<csi::VolumeContentSource>,
    ) -> Result<csi::Volume> {
        let mut request = limited(create(name.to_owned(), host.to_owned(), source));
        request.metadata_mut().insert("x-request-id", request_id.parse()?);
        let answer = self.controller.clone().create_volume(request).await?.into_inner();
        answer.volume.context("an answer without a volume")
    }

    /// Repeats a call while nothing final is said; the answer, and how often it was asked for.
    pub async fn until_done(&self, call: &Call) -> Result<(Answer, u32)> {
        let end = Instant::now() + RETRY_LIMIT;
        for tries in 1.. {
            let status = match self.once(call).await {
                Ok(answer) => return Ok((answer, tries)),
                Err(status) => status,
            };
            if is_final(&status) {
                bail!("a final answer to {call:?}: {}", words(&status));
            }
            if Instant::now() > end {
                bail!("not done within {RETRY_LIMIT:?}: {}", words(&status));
            }
            tokio::time::sleep(RETRY_REST).await;
        }
        bail!("asked for ever")
    }

    /// As [`Self::until_done`], for a call that makes a volume.
    pub async fn volume(&self, call: &Call) -> Result<csi::Volume> {
        match self.until_done(call).await?.0 {
            Answer::Volume(volume) => Ok(volume),
            Answer::Group(_) | Answer::Done => bail!("{call:?} made no volume"),
        }
    }

    /// The host on which a volume is, and its id as the controller tells it.
    pub async fn whereabouts(&self, id: &str) -> Result<(String, String)> {
        let request = csi::ControllerGetVolumeRequest { volume_id: id.into() };
        let answer = self.controller.clone().controller_get_volume(limited(request)).await?.into_inner();
        let volume = answer.volume.context("an answer without a volume")?;
        let place = volume.accessible_topology.first().context("a volume without a place")?;
        let host = place.segments.get(TOPOLOGY_KEY).context("a place without a host")?;
        Ok((host.clone(), volume.volume_id))
    }

    /// As [`Self::until_done`], for a call that makes a group.
    pub async fn group(&self, call: &Call) -> Result<csi::VolumeGroupSnapshot> {
        match self.until_done(call).await?.0 {
            Answer::Group(group) => Ok(group),
            Answer::Volume(_) | Answer::Done => bail!("{call:?} made no group"),
        }
    }
}

/// The codes after which the snapshot sidecar forgets what it asked for. A status with a source was made on this
/// side, because the connection broke: nobody said anything.
fn is_final(status: &Status) -> bool {
    use std::error::Error;

    let open =
        [Code::Cancelled, Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
    status.source().is_none() && !open.contains(&status.code())
}

/// A status in words.
pub fn words(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn create(name: String, host: String, source: Option<csi::VolumeContentSource>) -> csi::CreateVolumeRequest {
    let place = csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), host)].into() };
    csi::CreateVolumeRequest {
        name,
        capacity_range: Some(csi::CapacityRange { required_bytes: SIZE.0.cast_signed(), limit_bytes: 0 }),
        volume_capabilities: vec![mounted("xfs")],
        volume_content_source: source,
        accessibility_requirements: Some(csi::TopologyRequirement {
            requisite: vec![place.clone()],
            preferred: vec![place],
        }),
        ..Default::default()
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_LIMIT);
    request
}

/// The snapshots of a group, by the volume that each is of.
pub fn snapshot_of<'a>(group: &'a csi::VolumeGroupSnapshot, volume: &str) -> Result<&'a csi::Snapshot> {
    let found = group.snapshots.iter().find(|snapshot| snapshot.source_volume_id == volume);
    found.with_context(|| format!("the group has no snapshot of {volume}"))
}
