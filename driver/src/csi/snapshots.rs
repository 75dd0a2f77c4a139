//! Snapshots as CSI sees them: single ones, and members of groups that can only go as a whole.

use std::collections::BTreeSet;

use super::parse::SnapshotFilter;
use super::ports::{Asked, Cutting};
use crate::controller::paging::{Page, PageRequest};
use crate::domain::listing::SnapshotEntry;
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{Code, CutKind, Fault, SnapshotId, VolumeId};

/// Takes a cut, or gives the one that the same request made before, also when a volume has been deleted since.
pub async fn take(
    cuts: &dyn Cutting,
    kind: CutKind,
    name: &str,
    volumes: Vec<VolumeId>,
    asked: &Asked,
) -> Result<CutRecord, Fault> {
    let wanted: BTreeSet<VolumeId> = volumes.iter().cloned().collect();
    match cuts.take(kind, name, volumes, asked).await {
        Err(fault) if fault.code == Code::NotFound => {
            let earlier = cuts.find(kind, name).await?;
            let same = |cut: &CutRecord| {
                cut.members.iter().map(|member| member.known_as().clone()).collect::<BTreeSet<_>>() == wanted
            };
            earlier.filter(same).ok_or(fault)
        }
        outcome => outcome,
    }
}

/// One snapshot with its cut.
pub async fn one(cuts: &dyn Cutting, id: &SnapshotId) -> Result<Option<(CutRecord, CutMember)>, Fault> {
    let Some(cut) = cuts.of_snapshot(id).await? else { return Ok(None) };
    let member = cut.members.iter().find(|member| member.snapshot == *id).cloned();
    Ok(member.map(|member| (cut, member)))
}

/// A page of the snapshots that are asked for.
pub async fn page(
    cuts: &dyn Cutting,
    filter: &SnapshotFilter,
    request: &PageRequest,
) -> Result<Page<SnapshotEntry>, Fault> {
    match filter {
        SnapshotFilter::Nothing => Ok(Page::empty()),
        SnapshotFilter::One(id, volume) => {
            let is_of =
                |entry: &SnapshotEntry| volume.as_ref().is_none_or(|volume| volume == entry.known_as());
            let entries = one(cuts, id).await?.map(|(cut, member)| cut.entry_of(&member)).filter(is_of);
            Ok(Page { entries: entries.into_iter().collect(), next: String::new() })
        }
        SnapshotFilter::All => cuts.snapshots(None, request).await,
        SnapshotFilter::Of(volume) => cuts.snapshots(Some(volume), request).await,
    }
}

/// Deletes a snapshot that was taken alone; one that does not exist is fine. A member of a group goes only with its
/// group, for without it the others are no longer what was cut.
pub async fn delete_single(cuts: &dyn Cutting, id: &SnapshotId) -> Result<(), Fault> {
    let Some(cut) = cuts.of_snapshot(id).await? else { return Ok(()) };
    match cut.id.kind {
        CutKind::Single => cuts.delete(&cut.handle()).await,
        CutKind::Group => Err(Fault::invalid(format!(
            "snapshot {id} belongs to group {}; delete the group with DeleteVolumeGroupSnapshot",
            cut.handle()
        ))),
    }
}
