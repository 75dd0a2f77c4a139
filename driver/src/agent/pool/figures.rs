//! What a pool has, in numbers: for metrics.

use super::Pool;
use crate::domain::record::CutState;

impl Pool {
    /// Bytes that all volumes together were promised.
    pub fn provisioned(&self) -> u64 {
        self.index().promised().0
    }

    /// Number of volumes.
    pub fn volume_count(&self) -> usize {
        self.index().volumes().count()
    }

    /// Number of snapshots: members on this pool of sealed cuts.
    pub fn snapshot_count(&self) -> usize {
        let index = self.index();
        let sealed = index.cuts().filter(|cut| cut.state == CutState::Sealed);
        let own = sealed.flat_map(|cut| &cut.members).filter(|member| member.volume.pool == *self.id());
        own.count()
    }

    /// Number of cuts that are neither sealed nor void.
    pub fn round_count(&self) -> usize {
        self.index().round_count()
    }
}
