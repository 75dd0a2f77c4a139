//! A walk as a stream of messages.
//!
//! The end of the stream means nothing by itself, since a thread that dies ends it too; so the last message says that
//! it is the last, and a stream that ends without it was broken off.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Listener, WalkError, tell};
use crate::agent::pool::Pool;
use crate::domain::blocks::WalkOrder;
use crate::domain::{Bytes, Fault};
use crate::host::Host;
use crate::proto::agent::{BlockRange, WalkPage};
use crate::wire::status_of;

/// Messages that wait for a slow reader.
const PAGES: usize = 4;
/// A reader that takes nothing for so long has gone: the snapshots are let go.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
/// Ranges of one message: 20 KiB.
const RANGES: usize = 1024;

/// What tonic sends.
pub type WalkStream = ReceiverStream<Result<WalkPage, Status>>;

/// Begins a walk on a thread of its own; it ends early when the stream is dropped.
pub fn walk(pool: Arc<Pool>, host: Arc<dyn Host>, order: WalkOrder) -> WalkStream {
    let (sender, receiver) = mpsc::channel(PAGES);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut pages = Outgoing { runtime, sender, page: WalkPage::default() };
        let told = tell(&pool, &*host, &order, &mut pages);
        if let Err(error) = told.and_then(|()| pages.last()) {
            // Where nobody listens nobody needs to know why.
            let _ = pages.sender.blocking_send(Err(status_of(Fault::from(error))));
        }
    });
    ReceiverStream::new(receiver)
}

struct Outgoing {
    runtime: Handle,
    sender: mpsc::Sender<Result<WalkPage, Status>>,
    page: WalkPage,
}

impl Outgoing {
    fn send(&mut self) -> Result<(), WalkError> {
        let empty = WalkPage { size_bytes: self.page.size_bytes, ..WalkPage::default() };
        let page = std::mem::replace(&mut self.page, empty);
        let sent = self.runtime.block_on(timeout(IDLE_LIMIT, self.sender.send(Ok(page))));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(WalkError::NobodyListens(IDLE_LIMIT.as_secs())),
        }
    }

    fn last(&mut self) -> Result<(), WalkError> {
        self.page.last = true;
        self.send()
    }
}

impl Listener for Outgoing {
    fn size(&mut self, size: Bytes) -> Result<(), WalkError> {
        self.page.size_bytes = size.0;
        Ok(())
    }

    fn range(&mut self, range: Range<u64>) -> Result<(), WalkError> {
        self.page.ranges.push(BlockRange { offset: range.start, length: range.end - range.start });
        if self.page.ranges.len() >= RANGES { self.send() } else { Ok(()) }
    }
}
