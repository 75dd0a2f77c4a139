//! Which blocks of snapshots hold data or changed: asked of the agent that has them, page by page.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tonic::Streaming;

use super::fleet::{Agent, Fleet};
use crate::domain::blocks::WalkOrder;
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
        Ok(Box::new(AgentWalk { agent, pages, is_complete: false }))
    }
}

struct AgentWalk {
    agent: Agent,
    pages: Streaming<WalkPage>,
    is_complete: bool,
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
        Ok(Some(Page {
            size: Bytes(page.size_bytes),
            ranges: page.ranges.iter().map(|range| range.offset..range.offset + range.length).collect(),
        }))
    }
}

const BROKEN_OFF: &str = "the list of blocks broke off before its end; ask again from where it ended";
