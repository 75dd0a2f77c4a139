//! Lists of cuts and of snapshots over all hosts.
//!
//! What exists is decided by home pools: a host tells of the members, on whatever host, of the cuts that are sealed on
//! its own pools. So a deletion that was interrupted is not listed, and a cut that some host has not heard of yet is.

use std::sync::Arc;

use async_trait::async_trait;

use super::Cuts;
use crate::controller::fleet::{Agent, Everybody};
use crate::controller::merge::{HostList, Merge, Silence, Steps};
use crate::controller::paging::{Page, PageRequest, page};
use crate::controller::transfers::is_temporary;
use crate::domain::listing::{CutFilter, CutScope, Detail, Piece, Slice, SnapshotEntry};
use crate::domain::record::CutRecord;
use crate::domain::{CutId, Fault, HostName, SnapshotId, VolumeId};

/// Entries that are asked for at once where all of a list is gone through.
const AT_ONCE: usize = 128;

/// The cuts of one host.
pub(super) struct CutsOf {
    pub(super) agent: Agent,
    pub(super) filter: CutFilter,
}

#[async_trait]
impl HostList<CutRecord> for CutsOf {
    fn host(&self) -> &HostName {
        self.agent.host()
    }

    async fn piece(&self, slice: &Slice<CutId>) -> Result<Piece<CutRecord>, Fault> {
        self.agent.cuts_in(slice, &self.filter).await
    }
}

/// The snapshots of the cuts whose home is on one host.
struct SnapshotsOf {
    agent: Agent,
    volume: Option<VolumeId>,
}

#[async_trait]
impl HostList<SnapshotEntry> for SnapshotsOf {
    fn host(&self) -> &HostName {
        self.agent.host()
    }

    async fn piece(&self, slice: &Slice<SnapshotId>) -> Result<Piece<SnapshotEntry>, Fault> {
        self.agent.snapshots_in(slice, self.volume.as_ref()).await
    }
}

impl Cuts {
    /// A page of the snapshots that people asked for, of one volume or of all, sorted by id.
    pub async fn snapshots(
        &self,
        volume: Option<&VolumeId>,
        request: &PageRequest,
    ) -> Result<Page<SnapshotEntry>, Fault> {
        let everybody = self.fleet.everybody()?;
        let source = |agent: &Agent| {
            let source = SnapshotsOf { agent: agent.clone(), volume: volume.cloned() };
            Arc::new(source) as Arc<dyn HostList<SnapshotEntry>>
        };
        let sources = everybody.agents.iter().map(source).collect();
        let page =
            page(sources, request, |entry: &SnapshotEntry| !is_temporary(entry.kind(), &entry.cut_name))
                .await?;
        self.fleet.is_still(&everybody)?;
        self.fleet.check_complete().await?;
        Ok(page)
    }

    /// All sealed cuts, oldest first. A host that does not answer, or a pool that is missing, makes this UNAVAILABLE: a list
    /// with holes would be taken for the truth.
    pub async fn list(&self) -> Result<Vec<CutRecord>, Fault> {
        let mut cuts = self.existing("", Detail::Members).await?;
        cuts.sort_by(|left, right| (left.cut_at, &left.id).cmp(&(right.cut_at, &right.id)));
        Ok(cuts)
    }

    /// The sealed cuts whose name begins so, in brief, sorted by id.
    pub async fn named(&self, prefix: &str) -> Result<Vec<CutRecord>, Fault> {
        self.existing(prefix, Detail::Home).await
    }

    async fn existing(&self, prefix: &str, detail: Detail) -> Result<Vec<CutRecord>, Fault> {
        let everybody = self.fleet.everybody()?;
        let filter =
            CutFilter { name_prefix: prefix.to_owned(), ..CutFilter::of(CutScope::Existing, detail) };
        let mut merge = merged(&everybody, &filter, Silence::Refused);
        let mut cuts: Vec<CutRecord> = Vec::new();
        while let Some((_, record)) = merge.next().await? {
            // A pool that moves while it is listed may be told of by both hosts.
            if cuts.last().is_none_or(|last| last.id != record.id) {
                cuts.push(record);
            }
        }
        self.fleet.is_still(&everybody)?;
        self.fleet.check_complete().await?;
        Ok(cuts)
    }
}

/// The cuts of all hosts, sorted by id; of each cut one record of every host that has one.
pub(super) fn merged(everybody: &Everybody, filter: &CutFilter, silence: Silence) -> Merge<CutRecord> {
    let source = |agent: &Agent| {
        let source = CutsOf { agent: agent.clone(), filter: filter.clone() };
        Arc::new(source) as Arc<dyn HostList<CutRecord>>
    };
    let sources = everybody.agents.iter().map(source).collect();
    Merge::new(sources, None, Steps::for_page(AT_ONCE, everybody.agents.len()), silence)
}
