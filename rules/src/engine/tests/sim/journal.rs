//! What survives a process: the journal. And the two ports that hardly ever fail.

use std::time::Duration;

use async_trait::async_trait;

use super::World;
use super::fate::WriteLuck;
use crate::api::SecretRef;
use crate::ports::{Inventory, InventoryError, Journal, JournalError, Pod, SecretError, Secrets};
use crate::run::Run;
use crate::turns::OpenRun;

#[async_trait]
impl Journal for World {
    async fn persist(&self, run: &Run) -> Result<(), JournalError> {
        self.alive().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let luck = {
            let mut state = self.state();
            let number = state.writes;
            state.writes += 1;
            if state.calm { WriteLuck::Good } else { state.fate.write(number) }
        };
        let words = in_words(run);
        match luck {
            WriteLuck::Good | WriteLuck::DiesAfter => {
                self.tell(|| format!("journal: {words}"));
                self.state().stored.insert(run.id.clone(), run.clone());
            }
            WriteLuck::Fails => {
                self.tell(|| format!("journal: {words} -> cannot be written"));
                self.state().forgot = true;
                return Err(JournalError("no space left".into()));
            }
            WriteLuck::DiesBefore => {}
        }
        if matches!(luck, WriteLuck::DiesAfter | WriteLuck::DiesBefore) {
            self.tell(|| "the process dies".to_owned());
            self.state().dead = true;
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn unfinished(&self) -> Result<Vec<Run>, JournalError> {
        Ok(self.state().stored.values().filter(|run| !run.phase.is_final()).cloned().collect())
    }

    async fn open_runs(&self, _: &Run) -> Result<Vec<OpenRun>, JournalError> {
        let open = self
            .state()
            .stored
            .values()
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|run| !run.phase.is_final());
        Ok(open.map(|run| OpenRun::of(&run, run.id.clone(), true)).collect())
    }

    async fn run_ended(&self) {
        std::future::pending::<()>().await;
    }
}

fn in_words(run: &Run) -> String {
    let debts: Vec<String> = run
        .debts
        .iter()
        .map(|debt| format!("{} in {} {}", debt.command, debt.target.pod, debt.state.word()))
        .collect();
    let debts = if debts.is_empty() { "nothing owed".to_owned() } else { debts.join(", ") };
    format!("{:?}; {debts}", run.phase)
}

#[async_trait]
impl Inventory for World {
    async fn pods(&self, _: &[String]) -> Result<Vec<Pod>, InventoryError> {
        self.alive().await;
        Ok(self.pods.clone())
    }
}

#[async_trait]
impl Secrets for World {
    async fn read(&self, namespace: &str, secret: &SecretRef) -> Result<String, SecretError> {
        Err(SecretError::of(namespace, secret, "there are none here"))
    }
}
