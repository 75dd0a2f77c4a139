//! The harness as an orchestrator: the same CSI calls that Kubernetes makes, in the same order.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hyper_util::rt::TokioIo;
use stillpoint::domain::Bytes;
use stillpoint_csi_proto::v1 as csi;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_csi_proto::v1::identity_client::IdentityClient;
use stillpoint_csi_proto::v1::node_client::NodeClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::Process;

/// Which host a volume is on.
pub const TOPOLOGY_KEY: &str = "topology.stillpoint.dev/node";
/// One call; sidecars wait longer, but nothing here should take that long.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// Calls that may be tried again are, for this long, as the sidecars do.
const RETRY_LIMIT: Duration = Duration::from_mins(1);
const RETRY_REST: Duration = Duration::from_millis(250);

/// A volume that is mounted on a host.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The name it was asked for by.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The host it is on.
    pub host: String,
    /// Where a pod would find it.
    pub path: PathBuf,
    staging: PathBuf,
    filesystem: String,
    context: HashMap<String, String>,
}

impl Volume {
    fn capability(&self) -> csi::VolumeCapability {
        mounted(&self.filesystem)
    }
}

/// A channel over a unix socket.
pub async fn channel(socket: &Path) -> Result<Channel> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://csi.sock")
        .connect_timeout(CALL_LIMIT)
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("cannot connect to {}", socket.display()))
}

/// Waits until the plugin behind a socket says that it is ready.
pub async fn wait_ready(socket: &Path, process: &mut Process, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        process.check_alive()?;
        let error = match probe(socket).await {
            Ok(true) => return Ok(()),
            Ok(false) => anyhow!("it says that it is not ready"),
            Err(error) => error,
        };
        if Instant::now() > end {
            let why = format!("{} is not served; the log ends with:\n{}", socket.display(), process.tail());
            return Err(error.context(why));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn probe(socket: &Path) -> Result<bool> {
    let mut identity = IdentityClient::new(channel(socket).await?);
    let answer = identity.probe(limited(csi::ProbeRequest {})).await?.into_inner();
    Ok(answer.ready.unwrap_or(true))
}

/// The controller's side.
#[derive(Debug, Clone)]
pub struct Controller {
    client: ControllerClient<Channel>,
}

impl Controller {
    /// Connects.
    pub async fn connect(socket: &Path) -> Result<Self> {
        Ok(Self { client: ControllerClient::new(channel(socket).await?) })
    }

    /// `CreateVolume` on a host, from nothing or from a snapshot or volume; the volume's id and context.
    pub async fn create(
        &self,
        name: &str,
        host: &str,
        size: Bytes,
        filesystem: &str,
        source: Option<csi::VolumeContentSource>,
    ) -> Result<csi::Volume> {
        let place = csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), host.to_owned())].into() };
        let request = csi::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: i64::try_from(size.0)?,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![mounted(filesystem)],
            volume_content_source: source,
            accessibility_requirements: Some(csi::TopologyRequirement {
                requisite: vec![place.clone()],
                preferred: vec![place],
            }),
            ..Default::default()
        };
        let answer = retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.create_volume(limited(request)).await }
        });
        let volume = answer.await.with_context(|| format!("CreateVolume {name} on {host}"))?.volume;
        volume.context("CreateVolume answered without a volume")
    }

    /// `DeleteVolume`.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let request = csi::DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
        let answer = retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.delete_volume(limited(request)).await }
        });
        answer.await.with_context(|| format!("DeleteVolume {id}"))?;
        Ok(())
    }

    /// `CreateSnapshot`; the snapshot's id.
    pub async fn snapshot(&self, name: &str, volume: &str) -> Result<String> {
        let request = csi::CreateSnapshotRequest {
            source_volume_id: volume.into(),
            name: name.into(),
            ..Default::default()
        };
        let answer = retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.create_snapshot(limited(request)).await }
        });
        let snapshot = answer.await.with_context(|| format!("CreateSnapshot of {volume}"))?.snapshot;
        Ok(snapshot.context("CreateSnapshot answered without a snapshot")?.snapshot_id)
    }

    /// `DeleteSnapshot`.
    pub async fn delete_snapshot(&self, id: &str) -> Result<()> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
        let answer = retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.delete_snapshot(limited(request)).await }
        });
        answer.await.with_context(|| format!("DeleteSnapshot {id}"))?;
        Ok(())
    }
}

/// A host's side.
#[derive(Debug, Clone)]
pub struct Node {
    client: NodeClient<Channel>,
    directory: PathBuf,
}

impl Node {
    /// Connects; volumes will be staged and published below `directory`.
    pub async fn connect(socket: &Path, directory: PathBuf) -> Result<Self> {
        Ok(Self { client: NodeClient::new(channel(socket).await?), directory })
    }

    /// `NodeStageVolume`, then `NodePublishVolume`.
    pub async fn attach(
        &self,
        name: &str,
        host: &str,
        id: &str,
        filesystem: &str,
        context: HashMap<String, String>,
    ) -> Result<Volume> {
        let staging = self.directory.join("staging").join(name);
        let targets = self.directory.join("pods");
        for directory in [&staging, &targets] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let volume = Volume {
            name: name.into(),
            id: id.into(),
            host: host.into(),
            path: targets.join(name),
            staging,
            filesystem: filesystem.into(),
            context,
        };
        self.stage(&volume).await.with_context(|| format!("NodeStageVolume {name} on {host}"))?;
        self.publish(&volume).await.with_context(|| format!("NodePublishVolume {name} on {host}"))?;
        Ok(volume)
    }

    async fn stage(&self, volume: &Volume) -> Result<()> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: text(&volume.staging)?,
            volume_capability: Some(volume.capability()),
            volume_context: volume.context.clone(),
            ..Default::default()
        };
        retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.node_stage_volume(limited(request)).await }
        })
        .await?;
        Ok(())
    }

    async fn publish(&self, volume: &Volume) -> Result<()> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: text(&volume.staging)?,
            target_path: text(&volume.path)?,
            volume_capability: Some(volume.capability()),
            volume_context: volume.context.clone(),
            ..Default::default()
        };
        retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.node_publish_volume(limited(request)).await }
        })
        .await?;
        Ok(())
    }

    /// `NodeUnpublishVolume`, then `NodeUnstageVolume`.
    pub async fn detach(&self, volume: &Volume) -> Result<()> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: volume.id.clone(),
            target_path: text(&volume.path)?,
        };
        retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.node_unpublish_volume(limited(request)).await }
        })
        .await
        .with_context(|| format!("NodeUnpublishVolume {}", volume.name))?;
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: text(&volume.staging)?,
        };
        retried(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.node_unstage_volume(limited(request)).await }
        })
        .await
        .with_context(|| format!("NodeUnstageVolume {}", volume.name))?;
        Ok(())
    }
}

/// A volume that one node writes, with a filesystem.
pub fn mounted(filesystem: &str) -> csi::VolumeCapability {
    use csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: filesystem.into(),
            ..Default::default()
        })),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    }
}

/// From a snapshot.
pub fn from_snapshot(id: &str) -> csi::VolumeContentSource {
    use csi::volume_content_source::{SnapshotSource, Type};
    csi::VolumeContentSource { r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id: id.into() })) }
}

/// From another volume.
pub fn from_volume(id: &str) -> csi::VolumeContentSource {
    use csi::volume_content_source::{Type, VolumeSource};
    csi::VolumeContentSource { r#type: Some(Type::Volume(VolumeSource { volume_id: id.into() })) }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_LIMIT);
    request
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Repeats a call while its answer is one of those after which an orchestrator tries again.
async fn retried<T, F, C>(call: C) -> Result<T>
where
    C: Fn() -> F,
    F: Future<Output = Result<Response<T>, Status>>,
{
    let end = Instant::now() + RETRY_LIMIT;
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let is_final = !matches!(status.code(), Code::Aborted | Code::Unavailable | Code::DeadlineExceeded);
        if is_final || Instant::now() > end {
            return Err(anyhow!("{:?}: {}", status.code(), status.message()));
        }
        tokio::time::sleep(RETRY_REST).await;
    }
}
