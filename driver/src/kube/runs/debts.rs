//! What runs owe to their applications after they are over: paid at the next start, or tried again from time to time.

use std::collections::BTreeMap;
use std::time::Duration;

use stillpoint_rules::kube::KubeError;
use stillpoint_rules::machine::Phase;
use stillpoint_rules::run::Run;

use super::lanes::lanes;
use super::{RENEW_EVERY, RuledCuts};
use crate::domain::Fault;
use crate::observe::metrics;

/// Between two tries to finish a run whose object is being deleted.
const HASTE: Duration = Duration::from_secs(10);

impl RuledCuts {
    /// Ends what controllers that are gone have left: pays what their runs owe. To be called at the start and from
    /// time to time.
    pub async fn recover(&self) -> Result<Vec<Run>, Fault> {
        let recovering = self.group.recover();
        tokio::pin!(recovering);
        let runs = loop {
            tokio::select! {
                runs = &mut recovering => break runs.map_err(|error| Fault::unavailable(error.to_string()))?,
                () = tokio::time::sleep(RENEW_EVERY) => self.journal.renew_all().await,
            }
        };
        match self.journal.unpaid_debts().await {
            Ok(debts) => metrics::runs::unpaid(debts),
            Err(error) => tracing::warn!(%error, "what runs owe could not be counted"),
        }
        for run in &runs {
            if run.phase == Phase::Overdue {
                continue;
            }
            tracing::warn!(
                run = run.id,
                verdict = run.verdict(),
                "settled a run that another controller had left"
            );
            if let Err(error) = self.journal.end(&run.name, Vec::new()).await {
                tracing::warn!(run = run.id, %error, "the end of a run could not be written");
            }
        }
        Ok(runs)
    }

    /// Tries again what runs still owe to their applications, and says that they are alive. To be called every few
    /// seconds.
    pub async fn collect(&self) {
        if self.overdue().is_empty() {
            return;
        }
        for run in self.overdue() {
            self.look_at(&run).await;
        }
        let (single, group) = tokio::join!(self.single.collect(), self.group.collect());
        for run in single.into_iter().chain(group) {
            tracing::warn!(
                run = run.id,
                verdict = run.verdict(),
                "what a run owed to its application is paid"
            );
            let id = run.cut.as_ref().filter(|cut| cut.sealed).and_then(|cut| cut.id.parse().ok());
            let record = match id {
                Some(id) => self.storage.plain().get(&id).await.ok().flatten(),
                None => None,
            };
            let lanes = record.as_ref().map(|record| lanes(record, &BTreeMap::new()));
            self.let_go(&run.name, lanes.unwrap_or_default()).await;
        }
    }

    /// Says that a run with pending cleanup is alive, and does what people have said about it.
    async fn look_at(&self, run: &Run) {
        let engines = [&self.single, &self.group];
        match self.journal.renew(&run.name).await {
            // Its finalizer was taken away by hand.
            Err(KubeError::NotFound(_)) => {
                tracing::error!(
                    run = run.id,
                    "its object was removed by force: its pending cleanup is given up"
                );
                for engine in engines {
                    engine.forget(&run.name);
                }
                self.let_go(&run.name, Vec::new()).await;
            }
            // A namespace or a person waits for its end; pods that are gone by now end it.
            Err(KubeError::Deleting(_)) => {
                for engine in engines {
                    engine.hasten(&run.name, HASTE);
                }
            }
            Ok(())
            | Err(
                KubeError::Conflict(_)
                | KubeError::Forbidden(_)
                | KubeError::Refused { .. }
                | KubeError::Unavailable { .. },
            ) => {}
        }
        if let Some(why) = self.journal.given_up(&run.name).await {
            tracing::warn!(run = run.id, why, "its pending cleanup is given up by an annotation");
            for engine in engines {
                engine.give_up(&run.name);
            }
        }
    }

    /// Removes copies of Runs that a backup tool has restored. To be called at the start and from time to time.
    pub async fn remove_restored(&self) {
        match self.journal.remove_restored().await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "copies of Runs were removed"),
            Err(error) => tracing::warn!(%error, "copies of Runs could not be looked for"),
        }
    }

    /// Runs that are over but still owe something to their application.
    pub fn overdue(&self) -> Vec<Run> {
        [self.single.overdue(), self.group.overdue()].concat()
    }

    /// Stops every run and waits until each is undone, at most about `grace`; how many have not ended by then. No run
    /// begins afterwards.
    pub async fn shutdown(&self, why: &str, grace: Duration) -> usize {
        let (single, group) = tokio::join!(self.single.shutdown(why, grace), self.group.shutdown(why, grace));
        single + group
    }
}
