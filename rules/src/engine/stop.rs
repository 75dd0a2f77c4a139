//! What can stop a run: the process shutting down, the one who asked, the budget.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::{Failure, FailureKind};

use super::budget::Budget;

type Reason = watch::Receiver<Option<String>>;

#[derive(Clone)]
pub(super) struct Stop {
    shutdown: Option<Reason>,
    asked: Option<Reason>,
    budget: Option<(Instant, Duration)>,
}

impl Stop {
    pub(super) fn new(shutdown: Reason, asked: Option<Reason>, budget: &Budget) -> Self {
        Self { shutdown: Some(shutdown), asked, budget: budget.going_in() }
    }

    /// For what must be done whoever wants to stop.
    pub(super) fn never() -> Self {
        Self { shutdown: None, asked: None, budget: None }
    }

    /// Returns when the run shall stop, with the reason.
    pub(super) async fn wait(self) -> Failure {
        tokio::select! {
            biased;
            // The next controller may do it.
            why = reason(self.shutdown) => Failure::new(FailureKind::Stopped, why).passing(true),
            why = reason(self.asked) => Failure::new(FailureKind::Stopped, why),
            why = used_up(self.budget) => Failure::new(FailureKind::Budget, why),
        }
    }
}

/// A sender that is gone can no longer stop anything.
async fn reason(source: Option<Reason>) -> String {
    if let Some(mut source) = source {
        while source.borrow_and_update().is_none() {
            if source.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        return source.borrow().clone().unwrap_or_default();
    }
    std::future::pending().await
}

async fn used_up(budget: Option<(Instant, Duration)>) -> String {
    let Some((deadline, budget)) = budget else {
        return std::future::pending().await;
    };
    tokio::time::sleep_until(deadline).await;
    format!("the run had not cut within its budget of {budget:?}; raise the budget or shorten the commands")
}
