//! Requests about blocks of snapshots.

use stillpoint_csi_proto::v1;

use super::lookup;
use crate::domain::{Fault, SnapshotId};

/// Blocks to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlocksOrder {
    /// Compared with this one; `None`: all that hold data.
    pub base: Option<SnapshotId>,
    /// Of this snapshot.
    pub target: SnapshotId,
    /// From this offset on; whether it is within the volume is not known yet.
    pub start: i64,
    /// Ranges per message at most.
    pub ranges_max: Option<usize>,
}

/// Blocks that hold data.
pub fn allocated_order(request: &v1::GetMetadataAllocatedRequest) -> Result<BlocksOrder, Fault> {
    let ranges_max = ranges_max(request.max_results)?;
    let target = lookup("snapshot_id", &request.snapshot_id)?;
    Ok(BlocksOrder { base: None, target, start: request.starting_offset, ranges_max })
}

/// Blocks that changed.
pub fn delta_order(request: &v1::GetMetadataDeltaRequest) -> Result<BlocksOrder, Fault> {
    let ranges_max = ranges_max(request.max_results)?;
    super::required("base_snapshot_id", &request.base_snapshot_id)?;
    super::required("target_snapshot_id", &request.target_snapshot_id)?;
    let base = lookup("base_snapshot_id", &request.base_snapshot_id)?;
    let target = lookup("target_snapshot_id", &request.target_snapshot_id)?;
    Ok(BlocksOrder { base: Some(base), target, start: request.starting_offset, ranges_max })
}

/// Zero stands for the plugin's choice.
fn ranges_max(given: i32) -> Result<Option<usize>, Fault> {
    match usize::try_from(given) {
        Ok(0) => Ok(None),
        Ok(some) => Ok(Some(some)),
        Err(_) => Err(Fault::invalid(format!(
            "max_results is {given}; give a positive number, or 0 for the plugin's choice"
        ))),
    }
}
