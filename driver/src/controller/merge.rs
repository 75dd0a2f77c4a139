//! Lists of all hosts as one, in order, without ever having all of it.
//!
//! Each host gives its part in pieces; the lowest entry of all heads is the next. Of each host at most one piece is in
//! memory, and only hosts whose piece is used up are asked again: ids begin with their pool, so a page comes mostly from
//! one host and costs two rounds of questions.
//!
//! # Guarantees
//! * Entries come ascending by key; of equal ones each host's is given, in the order of the hosts.
//! * An entry that exists on a host from the beginning to the end is given exactly once.
//! * Nobody concludes from silence: a host that does not answer makes it an error ([`Silence::Refused`]), or is noted
//!   before any entry that it could have come before is given ([`Silence::Noted`]).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::domain::listing::{Keyed, PIECE_LIMIT, Piece, Slice};
use crate::domain::{Fault, HostName};
use crate::observe::request::carried;

/// The smallest first piece: with few entries on each of many hosts the first question is the only one.
const FIRST_LEAST: usize = 16;
/// A host whose piece is empty though it says there is more is asked again so often: what it had was deleted just then.
const EMPTY_PIECES: usize = 8;

/// One host's part of a list.
#[async_trait]
pub trait HostList<T: Keyed>: Send + Sync + 'static {
    /// Whose.
    fn host(&self) -> &HostName;
    /// A piece of it.
    async fn piece(&self, slice: &Slice<T::Key>) -> Result<Piece<T>, Fault>;
}

/// What becomes of a list that lacks a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The list is UNAVAILABLE: one with holes would be taken for the truth.
    Refused,
    /// The list goes on without it; [`Merge::is_silent`] says so.
    Noted,
}

/// How many entries are asked for at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// At first, of every host.
    pub first: usize,
    /// Afterwards, of a host whose piece is used up.
    pub then: usize,
}

impl Steps {
    /// For so many entries in all from so many hosts.
    pub fn for_page(entries: usize, hosts: usize) -> Self {
        let then = entries.clamp(1, PIECE_LIMIT);
        Self { first: entries.div_ceil(hosts.max(1)).clamp(FIRST_LEAST.min(then), then), then }
    }
}

/// Lists of several hosts as one.
pub struct Merge<T: Keyed> {
    parts: Vec<Part<T>>,
    heads: BinaryHeap<Head<T>>,
    /// Parts without a head.
    headless: Vec<usize>,
    steps: Steps,
    silence: Silence,
}

struct Part<T: Keyed> {
    source: Arc<dyn HostList<T>>,
    ahead: VecDeque<T>,
    /// Where the next piece begins.
    after: Option<T::Key>,
    state: State,
    limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There may be more than what is ahead.
    Open,
    /// What is ahead is the rest.
    Ended,
    /// It does not answer.
    Silent,
}

struct Head<T: Keyed> {
    key: T::Key,
    part: usize,
    entry: T,
}

impl<T: Keyed + Send + 'static> Merge<T> {
    /// The lists of these hosts behind a key. Asks nobody yet.
    pub fn new(
        sources: Vec<Arc<dyn HostList<T>>>,
        after: Option<T::Key>,
        steps: Steps,
        silence: Silence,
    ) -> Self {
        let part = |source| Part {
            source,
            ahead: VecDeque::new(),
            after: after.clone(),
            state: State::Open,
            limit: steps.first,
        };
        let parts: Vec<_> = sources.into_iter().map(part).collect();
        let headless = (0..parts.len()).collect();
        Self { parts, heads: BinaryHeap::new(), headless, steps, silence }
    }

    /// The next entry, and whose it is: an index into the sources.
    pub async fn next(&mut self) -> Result<Option<(usize, T)>, Fault> {
        self.refill().await?;
        for part in std::mem::take(&mut self.headless) {
            if let Some(entry) = self.parts[part].ahead.pop_front() {
                self.heads.push(Head { key: entry.key(), part, entry });
            }
        }
        let Some(Head { part, entry, .. }) = self.heads.pop() else { return Ok(None) };
        self.headless.push(part);
        Ok(Some((part, entry)))
    }

    /// Whether a host has not answered, so that what it has is not known.
    pub fn is_silent(&self, part: usize) -> bool {
        self.parts[part].state == State::Silent
    }

    /// Asks every host whose piece is used up and who may have more, all at once.
    async fn refill(&mut self) -> Result<(), Fault> {
        let mut answers = JoinSet::new();
        for &index in &self.headless {
            let part = &self.parts[index];
            if part.ahead.is_empty() && part.state == State::Open {
                let source = Arc::clone(&part.source);
                let slice = Slice { after: part.after.clone(), limit: part.limit };
                answers.spawn(carried(async move { (index, ask(&*source, slice).await) }));
            }
        }
        while let Some(answer) = answers.join_next().await {
            let (index, answer) =
                answer.map_err(|error| Fault::internal(format!("asking for a list broke off: {error}")))?;
            self.take(index, answer)?;
        }
        Ok(())
    }

    fn take(&mut self, index: usize, answer: Result<Piece<T>, Fault>) -> Result<(), Fault> {
        let part = &mut self.parts[index];
        part.limit = self.steps.then;
        match (answer, self.silence) {
            (Ok(piece), _) => {
                part.state = if piece.more { State::Open } else { State::Ended };
                part.after = piece.entries.last().map(T::key).or(part.after.take());
                part.ahead = piece.entries.into();
                Ok(())
            }
            (Err(fault), Silence::Refused) => Err(Fault::unavailable(format!(
                "the list would be incomplete without host {}: {fault}",
                part.source.host()
            ))),
            (Err(fault), Silence::Noted) => {
                tracing::debug!(host = %part.source.host(), %fault, "a list goes on without a host");
                part.state = State::Silent;
                Ok(())
            }
        }
    }
}

/// A piece that can be relied on: sorted, behind what was asked for, and not empty while there is more.
async fn ask<T: Keyed + 'static>(source: &dyn HostList<T>, slice: Slice<T::Key>) -> Result<Piece<T>, Fault> {
    for _ in 0..EMPTY_PIECES {
        let piece = source.piece(&slice).await?;
        let mut last = slice.after.clone();
        for key in piece.entries.iter().map(T::key) {
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Fault::internal(
                    "its agent answers a list out of order; run the same version of stillpoint on all hosts",
                ));
            }
            last = Some(key);
        }
        if !piece.entries.is_empty() || !piece.more {
            return Ok(piece);
        }
    }
    Err(Fault::aborted("what is listed is deleted faster than it is read; ask again"))
}

/// The lowest key first, as the heap gives its greatest.
impl<T: Keyed> Ord for Head<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (&other.key, other.part).cmp(&(&self.key, self.part))
    }
}

impl<T: Keyed> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Keyed> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: Keyed> Eq for Head<T> {}
