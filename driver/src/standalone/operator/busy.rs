//! Names of cuts that are being worked on, and how their runs are told to stop.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::domain::Fault;

/// Becomes the reason when the run shall stop.
type Stop = watch::Receiver<Option<String>>;

#[derive(Default)]
pub(super) struct BusyNames(Mutex<BTreeMap<String, watch::Sender<Option<String>>>>);

/// Keeps a name busy while it lives.
pub(super) struct BusyName<'a> {
    names: &'a BusyNames,
    name: String,
}

impl Drop for BusyName<'_> {
    fn drop(&mut self) {
        self.names.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl BusyNames {
    /// The name, unless somebody has it.
    pub(super) fn claim(&self, name: &str) -> Result<(BusyName<'_>, Stop), Fault> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.contains_key(name) {
            return Err(Fault::aborted(format!(
                "the cut {name} is being taken right now; try again when it is done"
            )));
        }
        let (stop, stopped) = watch::channel(None);
        busy.insert(name.to_owned(), stop);
        Ok((BusyName { names: self, name: name.to_owned() }, stopped))
    }

    /// Tells the run of this name to stop; whether there is one.
    pub(super) fn stop(&self, name: &str, why: &str) -> bool {
        let busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.get(name).inspect(|stop| drop(stop.send_replace(Some(why.to_owned())))).is_some()
    }
}
