//! What to do next about a job.

use std::time::Duration;

use jiff::Timestamp;

use crate::schedule::{self, Activity, Decision, SkipReason, Way, decide};

use super::{Book, Job, OpenRun, limits};

/// What is known beside the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The wall clock.
    pub now: Timestamp,
    /// When this process began to look.
    pub watched_from: Timestamp,
    /// The run of this job that this process has under way.
    pub live: Option<Live>,
    /// How many more runs may start, over all jobs.
    pub slots: usize,
}

/// A run that is under way in this process. Lengths are of a clock that is never set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Since it was started.
    pub for_time: Duration,
    /// Since it was told to stop.
    pub stopping_for: Option<Duration>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing; ask again when one of these has come, or something has happened.
    Wait {
        /// By the wall clock.
        until: Option<Timestamp>,
        /// By the clock that is never set.
        within: Option<Duration>,
    },
    /// Save the book, then do the deed, then ask again.
    Save(Box<Book>, Deed),
    /// Do the deed, then ask again.
    Do(Deed),
}

/// What is done in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    Nothing,
    /// Take the cut. The run starts for the first time.
    Take(OpenRun),
    /// Look for the cut by its name; take it when it is not there. An earlier process had started the run.
    TakeAgain(OpenRun),
    /// Look for the cut by its name, and nothing else.
    LookFor(OpenRun),
    /// Tell the run under way to stop; it is undone.
    Stop {
        /// Why, for the run's record.
        why: String,
    },
    /// Count the run under way no longer.
    LetGo,
}

/// What to do next. To be asked until it says [`Next::Wait`].
pub fn next(job: &Job, book: &Book, facts: &Facts) -> Next {
    if let Some(next) = facts.live.as_ref().and_then(|live| about_live(job, book, live, facts.now)) {
        return next;
    }
    if let (Some(open), None) = (&book.open, &facts.live) {
        return about_interrupted(job, book, open, facts);
    }
    let known = schedule::Facts {
        since: book.created,
        handled: book.handled,
        activity: book.activity(job),
        watched_from: facts.watched_from,
        way: way(book, facts),
        now: facts.now,
    };
    match decide(&job.schedule, &known) {
        Decision::Wait { until, .. } => Next::Wait { until, within: within(job, facts.live.as_ref()) },
        Decision::Start { due, .. } => {
            let book = book.claim(due, facts.now);
            let deed = book.open.clone().map_or(Deed::Nothing, Deed::Take);
            Next::Save(Box::new(book), deed)
        }
        Decision::Skip { through, missed, why } => save(book.skip(through, missed, why, facts.now)),
        Decision::Rewind { to } => save(book.rewind(to)),
    }
}

fn save(book: Book) -> Next {
    Next::Save(Box::new(book), Deed::Nothing)
}

fn way(book: &Book, facts: &Facts) -> Way {
    if facts.live.is_some() || book.open.is_some() {
        Way::Running
    } else if book.made.len() >= limits::CUTS {
        Way::Full
    } else if facts.slots == 0 {
        Way::NoSlot
    } else {
        Way::Free
    }
}

fn about_live(job: &Job, book: &Book, live: &Live, now: Timestamp) -> Option<Next> {
    match live.stopping_for {
        None if live.for_time >= job.run_limit => {
            let why = format!(
                "its schedule {} gives a run {}; shorten what it does, or raise limits.run",
                job.name(),
                schedule::Span::new(job.run_limit)
            );
            Some(Next::Do(Deed::Stop { why }))
        }
        Some(stopping) if stopping >= limits::LET_GO_AFTER => {
            Some(Next::Save(Box::new(book.let_go(now)), Deed::LetGo))
        }
        None | Some(_) => None,
    }
}

fn within(job: &Job, live: Option<&Live>) -> Option<Duration> {
    let live = live?;
    Some(match live.stopping_for {
        None => job.run_limit.saturating_sub(live.for_time),
        Some(stopping) => limits::LET_GO_AFTER.saturating_sub(stopping),
    })
}

/// A run that an earlier process started. It is started again where it still may be, under the name that it has.
fn about_interrupted(job: &Job, book: &Book, open: &OpenRun, facts: &Facts) -> Next {
    let in_time = open.due.is_some_and(|due| {
        schedule::between(job.schedule.start_of(due), facts.now) <= job.schedule.catch_up()
    });
    let may = in_time && open.tries < limits::TRIES && book.activity(job) == Activity::Active;
    if !may {
        return Next::Do(Deed::LookFor(open.clone()));
    }
    if facts.slots == 0 {
        return Next::Wait { until: None, within: None };
    }
    let book = book.retry();
    let deed = book.open.clone().map_or(Deed::Nothing, Deed::TakeAgain);
    Next::Save(Box::new(book), deed)
}

impl Deed {
    /// Whether it is a run that takes one of the slots.
    pub fn is_run(&self) -> bool {
        match self {
            Self::Take(_) | Self::TakeAgain(_) | Self::LookFor(_) => true,
            Self::Nothing | Self::Stop { .. } | Self::LetGo => false,
        }
    }
}

impl Book {
    /// The same, with everything that was due until now skipped because it was suspended; to be saved before
    /// [`Book::resume`].
    #[must_use]
    pub fn skip_suspended(&self, job: &Job, now: Timestamp) -> Self {
        let known = schedule::Facts {
            since: self.created,
            handled: self.handled,
            activity: Activity::Suspended,
            watched_from: now,
            way: Way::Free,
            now,
        };
        match decide(&job.schedule, &known) {
            Decision::Skip { through, missed, .. } => self.skip(through, missed, SkipReason::Suspended, now),
            Decision::Wait { .. } | Decision::Start { .. } | Decision::Rewind { .. } => self.clone(),
        }
    }
}
