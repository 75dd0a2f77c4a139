//! What the operator's service asks of storage, so that it can be tested without hosts.

use async_trait::async_trait;

use crate::controller::transfers::Transfer;
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{CutId, Fault, HostName, VolumeId, VolumeInfo};

/// A volume and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedVolume {
    /// The host.
    pub host: HostName,
    /// The volume.
    pub info: VolumeInfo,
}

impl PlacedVolume {
    /// Its id.
    pub fn id(&self) -> &VolumeId {
        &self.info.record.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.info.record.name
    }
}

/// The volumes of all hosts that answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volumes {
    /// Sorted by name, then id.
    pub all: Vec<PlacedVolume>,
    /// Why some hosts did not answer: their volumes are missing.
    pub silent: Vec<Fault>,
}

/// Storage as the operator's service needs it.
#[async_trait]
pub trait Storage: Send + Sync {
    /// All volumes.
    async fn volumes(&self) -> Volumes;
    /// All sealed cuts.
    async fn cuts(&self) -> Result<Vec<CutRecord>, Fault>;
    /// The sealed cut with this id.
    async fn cut(&self, id: &CutId) -> Result<Option<CutRecord>, Fault>;
    /// The sealed group cut of this name.
    async fn find_cut(&self, name: &str) -> Result<Option<CutRecord>, Fault>;
    /// Removes a cut with all its snapshots; idempotent.
    async fn delete(&self, id: &CutId) -> Result<(), Fault>;
    /// Makes sure that the hosts of these members know that their cut is sealed.
    async fn roll_forward(&self, cut: &CutRecord, members: &[CutMember]) -> Result<(), Fault>;
    /// Makes a volume of this name from a member, on this host; idempotent.
    async fn restore(&self, member: &CutMember, name: &str, on: &HostName) -> Result<PlacedVolume, Fault>;
    /// Copies between hosts that are under way.
    fn transfers(&self) -> Vec<Transfer> {
        Vec::new()
    }
}
