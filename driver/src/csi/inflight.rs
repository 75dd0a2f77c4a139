//! A timeout is not a cancel: when a caller stops waiting, tonic drops the handler, and the caller comes back with
//! the same call. So the work runs in a task of its own, and a call that finds its own work under way joins it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::Instrument;

use crate::domain::Fault;
use crate::observe::request::carried;

/// Operations of one kind that may be under way at once; more is a caller that does not wait for answers.
const LIMIT: usize = 1024;

type Outcome<T> = Option<Result<T, Fault>>;

struct Running<Q, T> {
    request: Q,
    outcome: watch::Receiver<Outcome<T>>,
}

type Table<Q, T> = Arc<Mutex<HashMap<String, Running<Q, T>>>>;

/// The operations of one kind that are under way, by the name of what they work on.
pub struct Inflight<Q, T> {
    operation: &'static str,
    running: Table<Q, T>,
}

impl<Q, T> Inflight<Q, T>
where
    Q: Clone + PartialEq + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Operations of this kind (for messages).
    pub fn new(operation: &'static str) -> Self {
        Self { operation, running: Table::default() }
    }

    /// Runs `work` for `request` on `name`, or joins it where the same request is under way already. Another
    /// request on the same name is ABORTED. The work goes on when the caller stops waiting.
    pub async fn run<F>(&self, name: &str, request: Q, work: impl FnOnce(Q) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut outcome = self.join_or_start(name, request, work)?;
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(self.lost(name))),
            Err(_) => Err(self.lost(name)),
        }
    }

    fn join_or_start<F>(
        &self,
        name: &str,
        request: Q,
        work: impl FnOnce(Q) -> F,
    ) -> Result<watch::Receiver<Outcome<T>>, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(found) = running.get(name) {
            return if found.request == request {
                Ok(found.outcome.clone())
            } else {
                Err(Fault::aborted(format!(
                    "{} of {name} is under way with other arguments; wait for it and ask again",
                    self.operation
                )))
            };
        }
        if running.len() >= LIMIT {
            return Err(Fault::unavailable(format!(
                "{LIMIT} operations ({}) are under way already; ask again later",
                self.operation
            )));
        }
        let (sender, outcome) = watch::channel(None);
        let entry = Entry { table: Arc::clone(&self.running), name: name.to_owned() };
        running.insert(name.to_owned(), Running { request: request.clone(), outcome: outcome.clone() });
        let work = work(request);
        let work_in_its_span = async move {
            // Dropped last, also on a panic, so that the name is free again.
            let entry = entry;
            let result = work.await;
            drop(entry);
            sender.send_replace(Some(result));
        };
        // What it logs belongs to the call that began it.
        tokio::spawn(carried(work_in_its_span).in_current_span());
        Ok(outcome)
    }

    fn lost(&self, name: &str) -> Fault {
        // Not a final code: nobody knows how far it came.
        Fault::aborted(format!(
            "{} of {name} died on the way (see the log of this process); ask again",
            self.operation
        ))
    }
}

/// Takes its name out of the table when dropped.
struct Entry<Q, T> {
    table: Table<Q, T>,
    name: String,
}

impl<Q, T> Drop for Entry<Q, T> {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.name);
    }
}

/// The table is consistent after every single change, so a panic elsewhere does not spoil it.
fn lock<Q, T>(table: &Table<Q, T>) -> MutexGuard<'_, HashMap<String, Running<Q, T>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::domain::Code;

    struct Gate {
        started: AtomicUsize,
        open: Semaphore,
    }

    fn gate() -> Arc<Gate> {
        Arc::new(Gate { started: AtomicUsize::new(0), open: Semaphore::new(0) })
    }

    type Work = std::pin::Pin<Box<dyn Future<Output = Result<u32, Fault>> + Send>>;

    fn work(gate: &Arc<Gate>) -> impl FnOnce(u32) -> Work + use<> {
        let gate = Arc::clone(gate);
        move |n| {
            Box::pin(async move {
                gate.started.fetch_add(1, Ordering::SeqCst);
                gate.open.acquire().await.unwrap().forget();
                Ok(n * 10)
            })
        }
    }

    #[tokio::test]
    async fn a_retry_joins_the_work_of_a_caller_that_went_away() {
        let (calls, gate) = (Arc::new(Inflight::new("create")), gate());
        let first = tokio::time::timeout(Duration::from_millis(20), calls.run("v", 7, work(&gate))).await;
        assert!(first.is_err(), "the first caller gave up");
        gate.open.add_permits(1);
        assert_eq!(calls.run("v", 7, work(&gate)).await, Ok(70));
        assert_eq!(gate.started.load(Ordering::SeqCst), 1, "the work was done twice");
    }

    #[tokio::test]
    async fn other_arguments_on_the_same_name_are_aborted_and_other_names_run() {
        let (calls, gate) = (Arc::new(Inflight::new("create")), gate());
        let task = tokio::spawn({
            let (calls, work) = (Arc::clone(&calls), work(&gate));
            async move { calls.run("v", 7, work).await }
        });
        while gate.started.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let refused = calls.run("v", 8, work(&gate)).await.unwrap_err();
        assert_eq!(refused.code, Code::Aborted);
        gate.open.add_permits(2);
        assert_eq!(calls.run("w", 8, work(&gate)).await, Ok(80));
        assert_eq!(task.await.unwrap(), Ok(70));
    }

    #[tokio::test]
    async fn a_finished_operation_is_forgotten_and_done_anew() {
        let (calls, gate) = (Inflight::new("create"), gate());
        gate.open.add_permits(2);
        assert_eq!(calls.run("v", 1, work(&gate)).await, Ok(10));
        assert_eq!(calls.run("v", 2, work(&gate)).await, Ok(20));
        assert_eq!(gate.started.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn work_that_panics_is_aborted_and_frees_its_name() {
        let calls: Inflight<u32, u32> = Inflight::new("create");
        let fault = calls.run("v", 1, |_| async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(fault.code, Code::Aborted);
        assert_eq!(calls.run("v", 2, |n| async move { Ok(n) }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_failure_reaches_everyone_who_waits() {
        let calls: Inflight<u32, u32> = Inflight::new("create");
        let fail = |_| async { Err(Fault::exhausted("full")) };
        let (one, two) = tokio::join!(calls.run("v", 1, fail), calls.run("v", 1, fail));
        assert_eq!((one, two), (Err(Fault::exhausted("full")), Err(Fault::exhausted("full"))));
    }

    #[tokio::test]
    async fn there_is_a_bound_on_what_is_under_way() {
        let (calls, gate) = (Arc::new(Inflight::new("create")), gate());
        let waiting: Vec<_> =
            (0..LIMIT).map(|n| calls.join_or_start(&n.to_string(), 1, work(&gate)).unwrap()).collect();
        assert_eq!(calls.run("one more", 1, work(&gate)).await.unwrap_err().code, Code::Unavailable);
        gate.open.add_permits(waiting.len());
    }
}
