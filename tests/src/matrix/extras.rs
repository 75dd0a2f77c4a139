//! Volumes beside the ledger's, for the thrasher: cut together with them, restored and given back.

use std::path::Path;

use anyhow::{Context, Result, bail};
use stillpoint_csi_proto::v1 as csi;

use super::calls::{Call, snapshot_of};
use super::conduct::uncut;
use super::field::{Field, no_context};
use crate::harness::csi::{Volume, from_snapshot, from_volume};

impl Field {
    /// The run's directory.
    pub fn path(&self) -> &Path {
        self.stack().path()
    }

    /// A group snapshot of all volumes, the ledger's included.
    pub async fn cut_all(&mut self) -> Result<csi::VolumeGroupSnapshot> {
        let name = self.new_name("thrash");
        let volumes = self.volumes().iter().chain(self.extra()).map(|volume| volume.id.clone()).collect();
        self.caller().group(&Call::Cut { name, volumes }).await
    }

    /// A new volume from an extra volume's snapshot, mounted.
    pub async fn restore_extra(&self, group: &csi::VolumeGroupSnapshot, index: usize) -> Result<Volume> {
        let Some(of) = self.extra().get(index) else { bail!("there is no extra volume {index}") };
        let snapshot = snapshot_of(group, &of.id)?;
        let name = format!("copy-{}", snapshot.snapshot_id);
        let source = Some(from_snapshot(&snapshot.snapshot_id));
        let call = Call::Create { name: name.clone(), host: of.host.clone(), source };
        let volume = self.caller().volume(&call).await?;
        let node = self.stack().hosts().iter().find(|host| host.name == of.host).context("no such host")?;
        node.node().attach(&name, &of.host, &volume.volume_id, "xfs", no_context()).await
    }

    /// Unmounts and deletes it.
    pub async fn drop_copy(&self, copy: &Volume) -> Result<()> {
        self.stack().detach(copy).await?;
        self.caller().until_done(&Call::Delete { id: copy.id.clone() }).await.map(drop)
    }

    /// Clones the ledger's volume of one host onto another under this id of the request, and deletes the clone.
    pub async fn clone_as(&mut self, request_id: &str, from: usize, to: usize) -> Result<()> {
        let (name, source) = (self.new_name("followed"), from_volume(&self.volumes()[from].id));
        let made = self.caller().create_as(request_id, &name, Self::host(to), Some(source)).await?;
        self.caller().until_done(&Call::Delete { id: made.volume_id }).await.map(drop)
    }

    /// Deletes a group.
    pub async fn drop_group(&self, group: &csi::VolumeGroupSnapshot) -> Result<()> {
        self.caller().until_done(&uncut(group)).await.map(drop)
    }
}
