//! What the operator's service asks of storage, so that it can be tested without hosts.

use async_trait::async_trait;

use crate::controller::moves::Relocated;
use crate::controller::transfers::Transfer;
use crate::controller::volumes::Origin;
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{CutHandle, Fault, HostName, PoolId, VolumeId, VolumeInfo};

/// A volume and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedVolume {
    /// The host.
    pub host: HostName,
    /// The volume.
    pub info: VolumeInfo,
}

impl PlacedVolume {
    /// The id by which orchestrators know it.
    pub fn id(&self) -> &VolumeId {
        self.info.record.known_as()
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
    async fn cut(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault>;
    /// The sealed group cut of this name. `None` only where every remembered pool was searched, else UNAVAILABLE.
    async fn find_cut(&self, name: &str) -> Result<Option<CutRecord>, Fault>;
    /// All that [`Storage::cuts`] lists under this name: a group, a single snapshot, or both. Empty as with `find_cut`.
    async fn named(&self, name: &str) -> Result<Vec<CutRecord>, Fault>;
    /// Removes a cut with all its snapshots; idempotent.
    async fn delete(&self, id: &CutHandle) -> Result<(), Fault>;
    /// Makes sure that the hosts of these members know that their cut is sealed.
    async fn roll_forward(&self, cut: &CutRecord, members: &[CutMember]) -> Result<(), Fault>;
    /// Makes a volume of this name from a member, on this host or (`None`) in the member's pool, wherever that is now.
    /// Idempotent: one that was made from the same snapshot before is found.
    async fn restore(
        &self,
        member: &CutMember,
        name: &str,
        on: Option<&HostName>,
    ) -> Result<(PlacedVolume, Origin), Fault>;
    /// Moves the volume of this id to this host; idempotent.
    async fn relocate(&self, id: &VolumeId, to: &HostName) -> Result<Relocated, Fault> {
        Err(Fault::unimplemented(format!("volume {id} cannot be moved to {to} from here")))
    }
    /// Cancels copies of the volume of this name or id; says to which hosts they went.
    async fn cancel_copy(&self, _name_or_id: &str) -> Result<Vec<HostName>, Fault> {
        Err(Fault::unimplemented("there are no copies between hosts here"))
    }
    /// A pool that is on no host will not come back; idempotent.
    async fn dismiss_pool(&self, pool: &PoolId) -> Result<(), Fault> {
        Err(Fault::unimplemented(format!("pool {pool} cannot be dismissed from here")))
    }
    /// Copies between hosts that are under way.
    fn transfers(&self) -> Vec<Transfer> {
        Vec::new()
    }
}
