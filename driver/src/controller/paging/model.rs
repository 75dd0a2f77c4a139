//! A host's list in memory, that changes while it is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::controller::merge::HostList;
use crate::domain::listing::{Keyed, Piece, Slice};
use crate::domain::{Fault, HostName};

/// What an agent answers from a sorted map.
pub(crate) fn piece_of<K: Ord + Clone, T: Clone>(map: &BTreeMap<K, T>, slice: &Slice<K>) -> Piece<T> {
    use std::ops::Bound::{Excluded, Unbounded};
    let from = slice.after.as_ref().map_or(Unbounded, Excluded);
    let entries = map.range((from, Unbounded)).take(slice.limit + 1).map(|(_, entry)| entry.clone());
    Piece::of(entries.collect(), slice.limit)
}

/// One host.
pub(crate) struct Listed<T: Keyed> {
    host: HostName,
    /// What it has; `None`: it is silent.
    pub(crate) entries: Mutex<Option<BTreeMap<T::Key, T>>>,
    /// What was asked of it.
    pub(crate) asked: Mutex<Vec<usize>>,
}

impl<T: Keyed + Clone + Send + Sync + 'static> Listed<T> {
    pub(crate) fn of(host: &str, entries: impl IntoIterator<Item = T>) -> Arc<Self> {
        let entries = entries.into_iter().map(|entry| (entry.key(), entry)).collect();
        Arc::new(Self {
            host: host.parse().unwrap(),
            entries: Mutex::new(Some(entries)),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn on(host: &str, entries: impl IntoIterator<Item = T>) -> Arc<dyn HostList<T>> {
        Self::of(host, entries)
    }
}

#[async_trait]
impl<T: Keyed + Clone + Send + Sync + 'static> HostList<T> for Listed<T> {
    fn host(&self) -> &HostName {
        &self.host
    }

    async fn piece(&self, slice: &Slice<T::Key>) -> Result<Piece<T>, Fault> {
        self.asked.lock().unwrap().push(slice.limit);
        match &*self.entries.lock().unwrap() {
            Some(entries) => Ok(piece_of(entries, slice)),
            None => Err(Fault::unavailable("no connection")),
        }
    }
}
