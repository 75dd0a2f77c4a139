//! What rules need of storage, so that they can be tested without hosts.

use std::sync::Arc;

use async_trait::async_trait;
use stillpoint_rules::plan::CutVolume;
use stillpoint_rules::ports::Cutter;

use crate::controller::cuts::{Barrier, Cuts};
use crate::controller::volumes::Volumes;
use crate::csi::ports::Cutting;
use crate::cutter::FleetCutter;
use crate::domain::record::CutRecord;
use crate::domain::{CutKind, Fault, VolumeId};

/// Cuts and volumes of the fleet.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Cuts without rules.
    fn plain(&self) -> &dyn Cutting;
    /// Takes cuts of this kind for the rules engine.
    fn cutter(&self, kind: CutKind) -> Arc<dyn Cutter>;
    /// As [`Cuts::find_of`].
    async fn find_of(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
    ) -> Result<Option<CutRecord>, Fault>;
    /// As [`Cuts::settle`].
    async fn settle(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
    ) -> Result<Option<CutRecord>, Fault>;
    /// A volume as the engine names it; NOT_FOUND when it does not exist.
    async fn volume(&self, id: &VolumeId) -> Result<CutVolume, Fault>;
}

/// The real storage.
pub struct FleetStorage {
    /// Cuts over the fleet.
    pub cuts: Cuts,
    /// Its volumes.
    pub volumes: Arc<Volumes>,
}

#[async_trait]
impl Storage for FleetStorage {
    fn plain(&self) -> &dyn Cutting {
        &self.cuts
    }

    fn cutter(&self, kind: CutKind) -> Arc<dyn Cutter> {
        Arc::new(FleetCutter::new(self.cuts.clone(), kind, Barrier::Up))
    }

    async fn find_of(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
    ) -> Result<Option<CutRecord>, Fault> {
        self.cuts.find_of(kind, name, volumes).await
    }

    async fn settle(
        &self,
        kind: CutKind,
        name: &str,
        volumes: &[VolumeId],
    ) -> Result<Option<CutRecord>, Fault> {
        self.cuts.settle(kind, name, volumes).await
    }

    async fn volume(&self, id: &VolumeId) -> Result<CutVolume, Fault> {
        let placed = self.volumes.get(id).await?;
        Ok(CutVolume {
            id: id.to_string(),
            name: placed.info.record.name.clone(),
            host: placed.host.to_string(),
        })
    }
}
