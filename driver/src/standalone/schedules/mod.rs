//! Runs the schedules of the configuration. What is done next is decided in [`stillpoint_rules::executor`], which is
//! pure; here it is done.
//!
//! # Flow of a run
//! 1. The task with the books ([`executor`]) asks the executor; a run is due.
//! 2. The book with the claimed due instant and the name of the cut is written and synced ([`books`]).
//! 3. A task of its own takes the cut as a snapshot by hand is taken ([`work`]), up to three times where something is busy.
//! 4. At its limit it is told to stop and undone; after five minutes more the schedule goes on without it.
//! 5. The outcome is written and synced; the cut is the schedule's now, and its retention is looked at ([`clean`]).
//!
//! A process that dies between 2 and 5 leaves an open run: the next one looks for its cut by name, and takes it again
//! under that name where it is not there and not too late.
//!
//! Nobody waits for anybody: one task has the books and only writes small files; runs and deletions are tasks that report.

mod books;
mod clean;
mod desk;
mod executor;
mod orders;
mod pace;
pub mod report;
mod view;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use stillpoint_rules::api::params;
use stillpoint_rules::executor::Job;
use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::Fault;
use crate::observe::plain::shortened;
use crate::text_file;

use super::operator::{CutAndRun, Operator, read_rule};
use books::Books;
use desk::Seen;
use executor::Executor;
use orders::Command;
use report::{Overview, PlanReport};

/// Questions that wait for the task.
const QUESTIONS: usize = 16;
/// A rule that is larger than this is not one.
const RULE_LIMIT: u64 = 1 << 20;

/// What people do with schedules. Cheap to clone.
#[derive(Clone)]
pub struct Schedules {
    operator: Arc<Operator>,
    commands: mpsc::Sender<Command>,
    clock: fn() -> Timestamp,
}

/// The schedules of a controller that is put together and does not serve yet.
pub struct Runner {
    executor: Executor,
    commands: mpsc::Receiver<Command>,
}

impl Runner {
    /// Starts what is due until it is told to stop.
    pub async fn serve(self, stopped: watch::Receiver<bool>) {
        self.executor.serve(self.commands, stopped).await;
    }
}

/// Reads the records of these jobs, and their rules, so that mistakes show at the start.
pub fn open(
    operator: Arc<Operator>,
    jobs: Vec<Job>,
    directory: PathBuf,
    clock: fn() -> Timestamp,
) -> Result<(Schedules, Runner), Fault> {
    for job in &jobs {
        check_rule(job)?;
    }
    let executor = Executor::open(Arc::clone(&operator), Books::open(directory)?, jobs, clock)?;
    let (sender, commands) = mpsc::channel(QUESTIONS);
    Ok((Schedules { operator, commands: sender, clock }, Runner { executor, commands }))
}

/// Reads the rule as each run will, and puts the parameters in.
fn check_rule(job: &Job) -> Result<(), Fault> {
    let Some(path) = &job.cut.rule else { return Ok(()) };
    let of = format!("schedule {}", job.name());
    let text = text_file::read(path, RULE_LIMIT)
        .map_err(|error| Fault::invalid(format!("{of}: cannot use the rule {error}")))?;
    let refused = |fault: Fault| fault.context(format_args!("{of}, rule {}", path.display()));
    let Some(rule) = read_rule(&text).map_err(refused)? else {
        return Err(refused(Fault::invalid("the file is empty; write a rule into it, or leave `rule` out")));
    };
    params::resolve(rule, &job.cut.params).map_err(|error| refused(Fault::invalid(error.to_string())))?;
    Ok(())
}

impl Schedules {
    /// All of them, and what they protect.
    pub async fn overview(&self) -> Result<Overview, Fault> {
        let seen = self.look().await?;
        Ok(view::overview(&self.operator, &seen, (self.clock)()).await)
    }

    /// What will be due, and what the retention would do now. Executes nothing.
    pub async fn plan(&self, name: &str, count: usize) -> Result<PlanReport, Fault> {
        let seen = self.look().await?;
        let one = seen.iter().find(|one| one.job.name() == name);
        let one = one.ok_or_else(|| no_schedule(name, seen.iter().map(|one| one.job.name())))?;
        Ok(view::plan(one, (self.clock)(), count))
    }

    /// Starts no more runs, also after a restart, until it is resumed. A run under way goes on.
    pub async fn suspend(&self, name: &str) -> Result<(), Fault> {
        self.ask(|answer| Command::Suspend(name.to_owned(), answer)).await?
    }

    /// Goes on with what is due from now on; what was due meanwhile is not made up for.
    pub async fn resume(&self, name: &str) -> Result<(), Fault> {
        self.ask(|answer| Command::Resume(name.to_owned(), answer)).await?
    }

    /// A run now, unless one is under way. It goes on when the caller goes away.
    pub async fn run_now(&self, name: &str, progress: mpsc::Sender<String>) -> Result<CutAndRun, Fault> {
        let ended = self.ask(|answer| Command::Run(name.to_owned(), progress, answer)).await??;
        let cut = ended.await.map_err(|_| {
            Fault::unavailable(format!(
                "the controller was told to stop before the run ended; look at `stillpoint schedules {name}` later"
            ))
        })??;
        self.operator.cut(&cut).await
    }

    async fn look(&self) -> Result<Vec<Seen>, Fault> {
        self.ask(Command::Look).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Fault> {
        let gone = || Fault::unavailable("the controller is ending; ask again when it is back");
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

fn no_schedule(name: &str, known: impl Iterator<Item = impl AsRef<str>>) -> Fault {
    let known: Vec<String> = known.take(12).map(|name| name.as_ref().to_owned()).collect();
    let there = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Fault::not_found(format!("there is no schedule {}; there are {there}", shortened(name, 80)))
}

#[cfg(test)]
mod tests;
