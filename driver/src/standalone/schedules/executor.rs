//! The task that has the books: it asks what is next, saves, and starts what is to be done. It never waits for a run, a
//! host or a person. Everything else sends it messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stillpoint_guard::fault::point;
use stillpoint_rules::executor::{Book, Deed, Facts, FoundCut, Job, Next, OpenRun, Outcome, limits, next};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::books::Books;
use super::clean::Chores;
use super::desk::{Desk, LiveRun};
use super::orders::{Command, Waiter, answer};
use super::pace::Pace;
use super::work::{Mode, Work};
use crate::controller::process::until;
use crate::domain::Fault;
use crate::observe::metrics;
use crate::standalone::operator::Operator;

/// The clock is looked at this often: it may be set at any time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After a book could not be saved.
const SAVE_AGAIN: Duration = Duration::from_secs(5);
/// Questions about one schedule in a row; more is a defect, and must not keep the others from being looked at.
const QUESTIONS: usize = 64;
/// Messages that wait.
const MESSAGES: usize = 64;
/// More than the budget of a run than its limit: the limit strikes first.
const BUDGET_MARGIN: Duration = Duration::from_mins(1);

/// What tasks tell.
#[derive(Debug)]
pub(super) enum Report {
    /// A run has ended.
    Ended { schedule: String, cut: String, outcome: Outcome },
    /// It is known now whether a cut exists.
    Resolved { schedule: String, cut: String, found: Option<FoundCut> },
    /// A cut is gone.
    Deleted { schedule: String, cut: String },
    /// The retention was looked at.
    Cleaned { schedule: String, fault: Option<Fault> },
}

/// All of them.
pub(super) struct Executor {
    operator: Arc<Operator>,
    books: Books,
    pub(super) clock: fn() -> Timestamp,
    watched_from: Timestamp,
    pace: Pace,
    pub(super) desks: BTreeMap<String, Desk>,
    tasks: JoinSet<()>,
    reports: mpsc::Receiver<Report>,
    report: mpsc::Sender<Report>,
    /// Becomes true when the process ends.
    ending: watch::Sender<bool>,
}

impl Executor {
    /// With the books of these jobs. Reads and writes files.
    pub(super) fn open(
        operator: Arc<Operator>,
        books: Books,
        jobs: Vec<Job>,
        clock: fn() -> Timestamp,
    ) -> Result<Self, Fault> {
        let now = clock();
        let mut desks = BTreeMap::new();
        for job in jobs {
            let book = books.load(&job, now)?;
            metrics::schedules::known(&job, &book);
            desks.insert(job.name().to_owned(), Desk::new(job, book));
        }
        for name in books.names().into_iter().filter(|name| !desks.contains_key(name)) {
            tracing::warn!(
                schedule = name,
                "a schedule that has cuts on record is not in the configuration any more; its cuts are kept until \
                 somebody deletes them"
            );
        }
        let (report, reports) = mpsc::channel(MESSAGES);
        let known = desks.values().filter_map(|desk| desk.book.newest()).max();
        let (pace, ending) = (Pace::new(now, known), watch::Sender::new(false));
        if !pace.is_believed() {
            tracing::warn!(?known, %now, "the clock is far ahead of what is on record; nothing is deleted by a retention for an hour");
        }
        Ok(Self {
            operator,
            books,
            clock,
            watched_from: now,
            pace,
            desks,
            tasks: JoinSet::new(),
            reports,
            report,
            ending,
        })
    }

    /// Until it is told to stop; then what has been made is still recorded.
    pub(super) async fn serve(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stopped: watch::Receiver<bool>,
    ) {
        // What was due while a dead controller's runs were being settled was due while nobody looked.
        self.watched_from = (self.clock)();
        let stop = until(stopped);
        tokio::pin!(stop);
        loop {
            let wait = self.work().await;
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(report) = self.reports.recv() => self.take_in(report).await,
                Some(command) = commands.recv() => self.obey(command).await,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => complain(ended),
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.finish().await;
    }

    /// Runs are being stopped by whoever conducts them. One that has made its cut all the same is recorded; one that has
    /// not stays open, and the next process goes on with it.
    async fn finish(mut self) {
        drop(std::mem::replace(&mut self.report, mpsc::channel(1).0));
        self.ending.send_replace(true);
        for desk in self.desks.values() {
            if let Some(live) = &desk.live {
                live.stop.send_replace(Some("the controller was told to stop".to_owned()));
            }
        }
        while let Some(report) = self.reports.recv().await {
            match &report {
                Report::Ended { outcome: Outcome::Failed(_) | Outcome::Unknown(_), .. } => {}
                Report::Ended { .. }
                | Report::Resolved { .. }
                | Report::Deleted { .. }
                | Report::Cleaned { .. } => {
                    self.take_in(report).await;
                }
            }
        }
    }

    /// Does everything that is to be done now; how long until there may be more.
    async fn work(&mut self) -> Duration {
        if let Some(step) = self.pace.look((self.clock)()) {
            tracing::warn!(step, "the clock was set; nothing is deleted by a retention for an hour");
        }
        let names: Vec<String> = self.desks.keys().cloned().collect();
        let mut wait = LOOK_EVERY;
        for name in names {
            wait = wait.min(self.work_at(&name).await);
        }
        metrics::schedules::running(self.running());
        wait
    }

    async fn work_at(&mut self, name: &str) -> Duration {
        for _ in 0..QUESTIONS {
            let slots = limits::AT_ONCE.saturating_sub(self.running());
            let (now, watched_from) = ((self.clock)(), self.watched_from);
            let Some(desk) = self.desks.get_mut(name) else { return LOOK_EVERY };
            if let Some(pause) = desk.pause() {
                return pause;
            }
            if !desk.unsaved.is_empty() {
                let report = desk.unsaved.remove(0);
                self.take_in(report).await;
                continue;
            }
            let facts = Facts { now, watched_from, live: desk.live.as_ref().map(LiveRun::fact), slots };
            match next(&desk.job, &desk.book, &facts) {
                Next::Wait { until, within } => {
                    let until =
                        until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
                    self.clean(name, now);
                    let cleaning = self.desks.get(name).and_then(|desk| desk.cleaning.wait());
                    let waits = [until, within, cleaning];
                    return waits
                        .into_iter()
                        .flatten()
                        .min()
                        .unwrap_or(LOOK_EVERY)
                        .max(Duration::from_millis(1));
                }
                Next::Save(book, deed) => {
                    if !self.save(name, *book).await {
                        return SAVE_AGAIN;
                    }
                    self.perform(name, deed, None);
                }
                Next::Do(deed) => self.perform(name, deed, None),
            }
        }
        tracing::error!(schedule = name, "a schedule does not come to rest; report this");
        LOOK_EVERY
    }

    pub(super) fn running(&self) -> usize {
        self.desks.values().filter(|desk| desk.live.is_some()).count()
    }

    /// Makes a book durable and puts it in place of the old one.
    pub(super) async fn save(&mut self, name: &str, book: Book) -> bool {
        let (books, written) = (self.books.clone(), book.clone());
        let saved = tokio::task::spawn_blocking(move || books.save(&written)).await;
        let saved = saved.unwrap_or_else(|error| Err(Fault::internal(format!("writing died: {error}"))));
        let Some(desk) = self.desks.get_mut(name) else { return false };
        match saved {
            Ok(()) => {
                metrics::schedules::changed(&desk.job, &desk.book, &book);
                desk.tell(&book);
                desk.book = book;
                true
            }
            Err(fault) => {
                tracing::error!(schedule = name, %fault, "nothing is done until it can be recorded");
                metrics::schedules::not_saved(name);
                desk.not_before = Some(Instant::now() + SAVE_AGAIN);
                false
            }
        }
    }

    pub(super) fn perform(&mut self, name: &str, deed: Deed, waiter: Option<Waiter>) {
        match deed {
            Deed::Nothing => {}
            Deed::Take(run) => {
                point("controller.schedule.recorded");
                self.begin(name, run, Mode::Take, waiter);
            }
            Deed::TakeAgain(run) => self.begin(name, run, Mode::TakeAgain, waiter),
            Deed::LookFor(run) => self.begin(name, run, Mode::LookFor, waiter),
            Deed::Stop { why } => {
                let live = self.desks.get_mut(name).and_then(|desk| desk.live.as_mut());
                if let Some(live) = live {
                    tracing::warn!(schedule = name, cut = live.cut, why, "a scheduled run is given up");
                    live.stopping = Some(Instant::now());
                    live.stop.send_replace(Some(why));
                }
            }
            Deed::LetGo => {
                let Some(desk) = self.desks.get_mut(name) else { return };
                if let Some(live) = desk.live.take() {
                    tracing::error!(
                        schedule = name,
                        cut = live.cut,
                        "a run does not end; the schedule goes on without it"
                    );
                    desk.let_go.insert(live.cut);
                }
            }
        }
    }

    fn begin(&mut self, name: &str, run: OpenRun, mode: Mode, waiter: Option<Waiter>) {
        let Some(desk) = self.desks.get_mut(name) else { return };
        let (stop, stopped) = watch::channel(None);
        let cut = run.cut.clone();
        tracing::info!(schedule = name, cut, due = ?run.due.map(|due| due.to_string()), ?mode, "a scheduled run begins");
        let (progress, waiter) = waiter.map(|waiter| (waiter.progress, waiter.ended)).unzip();
        desk.live = Some(LiveRun { cut: cut.clone(), began: Instant::now(), stopping: None, stop, waiter });
        let work = Work {
            operator: Arc::clone(&self.operator),
            what: desk.job.cut.clone(),
            run,
            mode,
            budget: desk.job.run_limit + BUDGET_MARGIN,
            stop: stopped,
            progress,
        };
        let (schedule, report) = (name.to_owned(), self.report.clone());
        self.tasks.spawn(async move {
            let outcome = work.done().await;
            // Nobody listens only where the process ends.
            let _ = report.send(Report::Ended { schedule, cut, outcome }).await;
        });
    }

    fn clean(&mut self, name: &str, now: Timestamp) {
        let believed = self.pace.is_believed().then_some(now);
        let Some(desk) = self.desks.get_mut(name) else { return };
        if !desk.cleaning.begin() {
            return;
        }
        let chores = Chores::of(
            Arc::clone(&self.operator),
            &desk.job,
            &desk.book,
            &desk.let_go,
            believed,
            self.ending.subscribe(),
        );
        if chores.is_empty() {
            desk.cleaning.ended(None);
            return;
        }
        self.tasks.spawn(chores.done(self.report.clone()));
    }

    /// Records what a task tells.
    async fn take_in(&mut self, report: Report) {
        let now = (self.clock)();
        let (name, book) = match &report {
            Report::Ended { schedule, cut, outcome } => {
                (schedule, self.book(schedule).map(|book| book.ended(cut, outcome.clone(), now)))
            }
            Report::Resolved { schedule, cut, found } => {
                (schedule, self.book(schedule).map(|book| book.resolve(cut, found.clone())))
            }
            Report::Deleted { schedule, cut } => (schedule, self.book(schedule).map(|book| book.forget(cut))),
            Report::Cleaned { schedule, fault } => {
                if let Some(desk) = self.desks.get_mut(schedule) {
                    desk.cleaning.ended(fault.clone());
                }
                return;
            }
        };
        let (name, Some(book)) = (name.clone(), book) else { return };
        let saved = self.save(&name, book).await;
        let Some(desk) = self.desks.get_mut(&name) else { return };
        if !saved {
            desk.unsaved.push(report);
            return;
        }
        desk.cleaning.soon();
        if let Report::Ended { cut, outcome, .. } = report {
            desk.let_go.remove(&cut);
            if let Some(live) = desk.live.take_if(|live| live.cut == cut) {
                let _ = live.waiter.map(|waiter| waiter.send(answer(cut, outcome)));
            }
        }
    }

    fn book(&self, name: &str) -> Option<&Book> {
        self.desks.get(name).map(|desk| &desk.book)
    }
}

/// A task that panicked: its run is over its limit some time, and let go of.
fn complain(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task of a schedule died; report this");
    }
}
