//! What people ask the task with the books for, and what it answers.

use stillpoint_rules::executor::{Book, Deed, Outcome, limits};
use stillpoint_rules::schedule::Activity;
use tokio::sync::{mpsc, oneshot};

use super::desk::{Desk, Seen};
use super::executor::Executor;
use crate::domain::Fault;

/// What people ask for.
#[derive(Debug)]
pub(super) enum Command {
    /// Everything that is known.
    Look(oneshot::Sender<Vec<Seen>>),
    /// Starts nothing more.
    Suspend(String, oneshot::Sender<Result<(), Fault>>),
    /// Goes on.
    Resume(String, oneshot::Sender<Result<(), Fault>>),
    /// A run now; what it made is told when it has ended.
    Run(String, mpsc::Sender<String>, oneshot::Sender<Result<Ended, Fault>>),
}

/// Becomes the name of the cut that a run made, or why there is none.
pub(super) type Ended = oneshot::Receiver<Result<String, Fault>>;

/// Who asked for a run and follows it.
pub(super) struct Waiter {
    pub(super) progress: mpsc::Sender<String>,
    pub(super) ended: oneshot::Sender<Result<String, Fault>>,
}

impl Executor {
    /// Whoever asked and went away is not told.
    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Look(answer) => drop(answer.send(self.desks.values().map(Desk::seen).collect())),
            Command::Suspend(name, answer) => drop(answer.send(self.suspend(&name).await)),
            Command::Resume(name, answer) => drop(answer.send(self.resume(&name).await)),
            Command::Run(name, progress, answer) => drop(answer.send(self.run_now(&name, progress).await)),
        }
    }

    async fn suspend(&mut self, name: &str) -> Result<(), Fault> {
        let book = self.desk(name)?.book.suspend((self.clock)());
        self.save_for_somebody(name, book).await
    }

    async fn resume(&mut self, name: &str) -> Result<(), Fault> {
        let now = (self.clock)();
        let desk = self.desk(name)?;
        if desk.job.schedule.activity() == Activity::Suspended {
            return Err(Fault::precondition(format!(
                "the schedule {name} is suspended by the configuration; remove `suspend: true` there, and restart the controller"
            )));
        }
        if desk.book.suspended.is_none() {
            return Ok(());
        }
        let book = desk.book.skip_suspended(&desk.job, now).resume(now);
        self.save_for_somebody(name, book).await
    }

    async fn run_now(&mut self, name: &str, progress: mpsc::Sender<String>) -> Result<Ended, Fault> {
        let running = self.running();
        let desk = self.desk(name)?;
        if let Some(open) = &desk.book.open {
            return Err(Fault::aborted(format!(
                "the schedule {name} runs already ({}); there are never two runs of one schedule",
                open.cut
            )));
        }
        if running >= limits::AT_ONCE {
            return Err(Fault::aborted(format!(
                "{running} runs of schedules are under way, which is as many as may; try again when one has ended"
            )));
        }
        if desk.book.made.len() >= limits::CUTS {
            return Err(Fault::exhausted(format!(
                "the schedule {name} keeps {} cuts, which is as many as may; give it a retention",
                desk.book.made.len()
            )));
        }
        let book = desk.book.claim_by_hand((self.clock)());
        let Some(run) = book.open.clone() else {
            return Err(Fault::internal("a run was not claimed; this is a bug"));
        };
        self.save_for_somebody(name, book).await?;
        let (ended, answer) = oneshot::channel();
        self.perform(name, Deed::Take(run), Some(Waiter { progress, ended }));
        Ok(answer)
    }

    fn desk(&self, name: &str) -> Result<&Desk, Fault> {
        self.desks.get(name).ok_or_else(|| super::no_schedule(name, self.desks.keys()))
    }

    async fn save_for_somebody(&mut self, name: &str, book: Book) -> Result<(), Fault> {
        if self.save(name, book).await {
            return Ok(());
        }
        Err(Fault::unavailable(format!(
            "the record of schedule {name} cannot be written, nothing was changed; the log says why, look at stateDir"
        )))
    }
}

pub(super) fn answer(cut: String, outcome: Outcome) -> Result<String, Fault> {
    match outcome {
        Outcome::Made(_) => Ok(cut),
        Outcome::Failed(why) => Err(Fault::precondition(why)),
        Outcome::Unknown(why) => {
            Err(Fault::unavailable(format!("{why}; whether the cut {cut} exists is looked up again")))
        }
    }
}
