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
            // Deleting the object is how people say that they have put things right by hand.
            if let Err(KubeError::NotFound(_)) = self.journal.renew(&run.name).await {
                tracing::warn!(run = run.id, "its object was deleted: what it owed is forgotten");
                self.single.forget(&run.name);
                self.group.forget(&run.name);
                self.let_go(&run.name, Vec::new()).await;
            }
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
