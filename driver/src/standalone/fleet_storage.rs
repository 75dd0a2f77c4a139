//! [`Storage`] over a fleet of agents.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::controller::cuts::Cuts;
use crate::controller::fleet::Fleet;
use crate::controller::moves::{self, Relocated};
use crate::controller::orders::{Content, Copies, Places, SizeRange, VolumeOrder};
use crate::controller::transfers::{self, Transfer, is_temporary};
use crate::controller::volumes::{Origin, Volumes as VolumeCases};
use crate::domain::record::{CutMember, CutRecord, Source};
use crate::domain::{CutHandle, CutKind, Fault, HostName, PoolId, VolumeId};
use crate::observe::request::carried;

use super::storage::{PlacedVolume, Storage, Volumes};

/// The real storage.
pub struct FleetStorage {
    /// The agents.
    pub fleet: Fleet,
    /// Cuts over them.
    pub cuts: Cuts,
    /// Volumes over them.
    pub volumes: Arc<VolumeCases>,
}

#[async_trait]
impl Storage for FleetStorage {
    async fn volumes(&self) -> Volumes {
        let mut asked = JoinSet::new();
        for agent in self.fleet.agents() {
            asked.spawn(carried(async move { (agent.host().clone(), agent.volumes().await) }));
        }
        let mut found = Volumes::default();
        for (host, answer) in asked.join_all().await {
            match answer {
                Ok(list) => {
                    found.all.extend(list.into_iter().map(|info| PlacedVolume { host: host.clone(), info }));
                }
                Err(fault) => found.silent.push(fault),
            }
        }
        found.all.sort_by(|a, b| (a.name(), a.id()).cmp(&(b.name(), b.id())));
        if found.silent.is_empty() {
            found.silent.extend(self.fleet.check_complete().await.err());
        }
        found
    }

    async fn cuts(&self) -> Result<Vec<CutRecord>, Fault> {
        let mut cuts = self.cuts.list().await?;
        cuts.retain(|cut| !is_temporary(cut.id.kind, &cut.name));
        Ok(cuts)
    }

    async fn cut(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        self.cuts.get(id).await
    }

    async fn find_cut(&self, name: &str) -> Result<Option<CutRecord>, Fault> {
        self.cuts.find(CutKind::Group, name).await
    }

    async fn named(&self, name: &str) -> Result<Vec<CutRecord>, Fault> {
        let mut named = Vec::new();
        for kind in [CutKind::Group, CutKind::Single] {
            if !is_temporary(kind, name) {
                named.extend(self.cuts.find(kind, name).await?);
            }
        }
        Ok(named)
    }

    async fn delete(&self, id: &CutHandle) -> Result<(), Fault> {
        self.cuts.delete(id).await
    }

    async fn roll_forward(&self, cut: &CutRecord, members: &[CutMember]) -> Result<(), Fault> {
        self.cuts.roll_forward(cut, members).await
    }

    async fn restore(
        &self,
        member: &CutMember,
        name: &str,
        on: Option<&HostName>,
    ) -> Result<(PlacedVolume, Origin), Fault> {
        let on = match on {
            Some(host) => host.clone(),
            None => self.fleet.agent_of_pool(&member.volume.pool).await?.host().clone(),
        };
        let order = VolumeOrder {
            name: name.to_owned(),
            size: SizeRange { required: member.capacity, limit: None },
            content: member
                .filesystem
                .map_or(Content::Device, |filesystem| Content::Filesystem(Some(filesystem))),
            backend: None,
            source: Some(Source::Snapshot(member.snapshot.clone())),
            places: Places { requisite: Some(vec![on]), preferred: Vec::new() },
            copies: Copies::BesideSource,
            claim: None,
        };
        let (placed, origin) = self.volumes.make_or_find(&order).await?;
        Ok((PlacedVolume { host: placed.host, info: placed.info }, origin))
    }

    async fn relocate(&self, id: &VolumeId, to: &HostName) -> Result<Relocated, Fault> {
        moves::relocate(&self.fleet, id, to).await
    }

    async fn cancel_copy(&self, name_or_id: &str) -> Result<Vec<HostName>, Fault> {
        transfers::cancel(&self.fleet, name_or_id).await
    }

    async fn dismiss_pool(&self, pool: &PoolId) -> Result<(), Fault> {
        self.fleet.dismiss_pool(pool).await
    }

    fn transfers(&self) -> Vec<Transfer> {
        self.fleet.transfers().running()
    }
}
