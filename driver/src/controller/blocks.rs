//! Which blocks of snapshots hold data or changed: asked of the agent that has them, page by page.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tonic::Streaming;

use super::fleet::{Agent, Fleet};
use crate::domain::blocks::{BLOCK, WalkOrder};
use crate::domain::{Bytes, Fault};
use crate::proto::agent::WalkPage;
use crate::wire::fault_of;

/// An agent that is silent for so long has died; its pages take milliseconds.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// A page of ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Size of the snapshot's volume.
    pub size: Bytes,
    /// Ascending, never touching, also over pages.
    pub ranges: Vec<std::ops::Range<u64>>,
}

/// Tells blocks of snapshots; [`Fleet`] is the real one.
#[async_trait]
pub trait Blocks: Send + Sync + 'static {
    /// Begins a walk.
    async fn walk(&self, order: &WalkOrder) -> Result<Box<dyn Walk>, Fault>;
}

/// A walk that is under way; dropping it ends it.
#[async_trait]
pub trait Walk: Send {
    /// The next page; `None` only when everything was told. Not to be called after that or after a fault.
    async fn next(&mut self) -> Result<Option<Page>, Fault>;
}

#[async_trait]
impl Blocks for Fleet {
    async fn walk(&self, order: &WalkOrder) -> Result<Box<dyn Walk>, Fault> {
        let agent = self.agent_of_pool(&order.target.volume.pool).await?;
        let pages = agent.walk(order).await?;
        Ok(Box::new(AgentWalk { agent, pages, is_complete: false, told_until: order.start / BLOCK * BLOCK }))
    }
}

struct AgentWalk {
    agent: Agent,
    pages: Streaming<WalkPage>,
    is_complete: bool,
    /// Where the last range ended.
    told_until: u64,
}

#[async_trait]
impl Walk for AgentWalk {
    async fn next(&mut self) -> Result<Option<Page>, Fault> {
        if self.is_complete {
            return Ok(None);
        }
        let page = match timeout(PAGE_LIMIT, self.pages.message()).await {
            Ok(Ok(Some(page))) => page,
            Ok(Ok(None)) => return Err(self.agent.named(Fault::aborted(BROKEN_OFF))),
            Ok(Err(status)) => return Err(self.agent.named(fault_of(status))),
            Err(_) => {
                return Err(self.agent.named(Fault::deadline(format!(
                    "nothing more about the blocks within {PAGE_LIMIT:?}; ask again from where it ended"
                ))));
            }
        };
        self.is_complete = page.last;
        let page = read_page(&page, &mut self.told_until);
        page.map(Some).map_err(|fault| self.agent.named(fault))
    }
}

/// A page as it may be passed on: within the volume, ascending and not touching, also over pages. Whoever gets it reads
/// exactly these ranges.
fn read_page(page: &WalkPage, told_until: &mut u64) -> Result<Page, Fault> {
    let size = page.size_bytes;
    let mut ranges = Vec::with_capacity(page.ranges.len());
    for range in &page.ranges {
        let end = range.offset.checked_add(range.length).filter(|end| *end <= size && range.length > 0);
        let end = end.filter(|_| range.offset >= *told_until).ok_or_else(|| {
            Fault::internal(format!(
                "the agent told of a range that cannot be: {} bytes from {}, after {told_until}, in {size} bytes",
                range.length, range.offset
            ))
        })?;
        ranges.push(range.offset..end);
        *told_until = end;
    }
    Ok(Page { size: Bytes(size), ranges })
}

const BROKEN_OFF: &str = "the list of blocks broke off before its end; ask again from where it ended";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::agent::BlockRange;

    proptest! {
        #[test]
        fn ranges_of_any_numbers_are_refused_or_ascend_within_the_volume(
            pages in proptest::collection::vec(
                proptest::collection::vec((any::<u64>(), any::<u64>(), 0_u32..64), 0..4), 1..4
            ),
            size: u64,
        ) {
            let mut told_until = 0;
            let mut last = 0;
            for ranges in pages {
                let range = |(offset, length, shift): (u64, u64, u32)| {
                    BlockRange { offset: offset >> shift, length: length >> shift }
                };
                let page = WalkPage {
                    size_bytes: size,
                    ranges: ranges.into_iter().map(range).collect(),
                    ..WalkPage::default()
                };
                let Ok(page) = read_page(&page, &mut told_until) else { break };
                for range in page.ranges {
                    prop_assert!(last <= range.start && range.start < range.end && range.end <= size);
                    last = range.end;
                }
            }
        }
    }
}
