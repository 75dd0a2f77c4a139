//! What is remembered of a job, and how it changes. Every change gives a new book; nothing is changed in place, so that
//! a book that could not be saved is simply dropped.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::retain::Verdict;
use crate::schedule::{Activity, Schedule, SkipReason};

use super::{Job, limits};

/// Version of the form in which books are kept; another one is not read.
pub const FORMAT: u32 = 1;

/// What is remembered of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Book {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// Name of the schedule.
    pub schedule: String,
    /// When the schedule was first seen. What was due until then is not made up for.
    pub created: Timestamp,
    /// The last due instant that was started or skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled: Option<Timestamp>,
    /// How often the clock was set back by so much that due instants came again. Part of the names of cuts from 1 on.
    #[serde(default)]
    pub epoch: u32,
    /// Since when it is suspended by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Timestamp>,
    /// The run that was started and has not been recorded as ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<OpenRun>,
    /// The cuts that its runs made and that are not deleted, in the order in which they were made.
    #[serde(default)]
    pub made: Vec<MadeCut>,
    /// The last that happened, oldest first; at most [`limits::HISTORY`].
    #[serde(default)]
    pub history: Vec<Entry>,
}

/// A run that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenRun {
    /// Name of its cut.
    pub cut: String,
    /// When it was due; `None`: started by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// When it was first started.
    pub started: Timestamp,
    /// How often it was started.
    pub tries: u32,
}

/// A cut that a run made, or may have made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MadeCut {
    /// Its name.
    pub name: String,
    /// Its id; `None` where it is not known whether there is such a cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it was taken, or may have been.
    pub at: Timestamp,
    /// Whether it can be restored.
    pub verdict: Verdict,
    /// The level that it reached.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub level: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// When it was recorded.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Event {
    /// A run made a cut that can be restored.
    Succeeded {
        /// The run.
        run: OpenRun,
        /// The level reached.
        level: String,
        /// What went wrong after the cut; empty when nothing did.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        remark: String,
    },
    /// A run made no cut, or one that cannot be relied on.
    Failed {
        /// The run.
        run: OpenRun,
        /// What, why, fix.
        why: String,
    },
    /// Due instants were not made up for.
    Skipped {
        /// The first of them is after this.
        after: Timestamp,
        /// The last of them.
        through: Timestamp,
        /// How many, counted up to [`crate::schedule::limits::MISSED`].
        missed: u32,
        /// Why.
        why: SkipReason,
    },
    /// It was suspended by hand.
    Suspended,
    /// It was resumed by hand.
    Resumed,
    /// The clock was set back from about here: due instants that follow may have been handled before, by the wrong clock.
    ClockSetBack {
        /// The due instant that was recorded last.
        from: Option<Timestamp>,
    },
}

impl Book {
    /// The newest instant that it knows of, by the clocks of then; of one that was just made that is its creation.
    pub fn newest(&self) -> Option<Timestamp> {
        let made = self.made.iter().map(|made| made.at);
        let open = self.open.iter().map(|open| open.started);
        let told = self.history.iter().map(|entry| entry.at);
        made.chain(open).chain(told).chain([self.created]).max()
    }

    /// The book of a schedule that is new.
    pub fn new(schedule: &Schedule, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            schedule: schedule.name().to_owned(),
            created: now,
            handled: None,
            epoch: 0,
            suspended: None,
            open: None,
            made: Vec::new(),
            history: Vec::new(),
        }
    }

    /// Whether runs are started: the configuration and people at the command line both can suspend.
    pub fn activity(&self, job: &Job) -> Activity {
        match (self.suspended, job.schedule.activity()) {
            (None, Activity::Active) => Activity::Active,
            (Some(_), _) | (None, Activity::Suspended) => Activity::Suspended,
        }
    }

    /// The newest cut that can be restored.
    pub fn last_good(&self) -> Option<&MadeCut> {
        self.made.iter().filter(|cut| cut.verdict == Verdict::Good).max_by_key(|cut| (cut.at, &cut.name))
    }

    /// The run that ended last, with what became of it.
    pub fn last_run(&self) -> Option<&Entry> {
        let is_run = |event: &Event| match event {
            Event::Succeeded { .. } | Event::Failed { .. } => true,
            Event::Skipped { .. } | Event::Suspended | Event::Resumed | Event::ClockSetBack { .. } => false,
        };
        self.history.iter().rev().find(|entry| is_run(&entry.event))
    }

    /// A run of this due instant is about to start.
    #[must_use]
    pub fn claim(&self, due: Timestamp, now: Timestamp) -> Self {
        let cut = self.cut_name(due);
        let open = OpenRun { cut, due: Some(due), started: now, tries: 1 };
        Self { open: Some(open), handled: Some(due), ..self.clone() }
    }

    /// A run by hand is about to start.
    #[must_use]
    pub fn claim_by_hand(&self, now: Timestamp) -> Self {
        let cut = format!(
            "{}-now-{}{:03}Z",
            self.schedule,
            now.strftime("%Y%m%dT%H%M%S"),
            now.subsec_millisecond()
        );
        Self { open: Some(OpenRun { cut, due: None, started: now, tries: 1 }), ..self.clone() }
    }

    /// The open run is about to start again.
    #[must_use]
    pub fn retry(&self) -> Self {
        let mut book = self.clone();
        if let Some(open) = &mut book.open {
            open.tries += 1;
        }
        book
    }

    /// `nightly-20261120T023000Z`: the name of the cut that is due then.
    fn cut_name(&self, due: Timestamp) -> String {
        let due = due.strftime("%Y%m%dT%H%M%SZ");
        match self.epoch {
            0 => format!("{}-{due}", self.schedule),
            epoch => format!("{}-{due}-r{epoch}", self.schedule),
        }
    }

    /// What is due until `through` is not made up for.
    #[must_use]
    pub fn skip(&self, through: Timestamp, missed: u32, why: SkipReason, now: Timestamp) -> Self {
        let mut book = self.clone();
        let after = self.handled.unwrap_or(self.created).max(self.created);
        book.handled = Some(through);
        // One entry for many in a row: an interval of a minute would push out everything else.
        if let Some(Entry { at, event: Event::Skipped { through: end, missed: count, why: reason, .. } }) =
            book.history.last_mut()
            && *reason == why
            && *end == after
        {
            (*at, *end) = (now, through);
            *count = count.saturating_add(missed);
            return book;
        }
        book.note(now, Event::Skipped { after, through, missed, why });
        book
    }

    /// The clock was set back: what is due from now on is counted anew.
    #[must_use]
    pub fn rewind(&self, now: Timestamp) -> Self {
        let mut book = self.clone();
        book.note(now, Event::ClockSetBack { from: self.handled });
        book.epoch = book.epoch.saturating_add(1);
        book.handled = Some(now);
        book.created = book.created.min(now);
        book
    }

    /// Nothing is started until [`Book::resume`].
    #[must_use]
    pub fn suspend(&self, now: Timestamp) -> Self {
        if self.suspended.is_some() {
            return self.clone();
        }
        let mut book = Self { suspended: Some(now), ..self.clone() };
        book.note(now, Event::Suspended);
        book
    }

    /// It goes on. What was due until now was skipped before, with its reason ([`Book::skip_suspended`]), so that nothing
    /// of it is made up for.
    #[must_use]
    pub fn resume(&self, now: Timestamp) -> Self {
        if self.suspended.is_none() {
            return self.clone();
        }
        let mut book = Self { suspended: None, ..self.clone() };
        book.note(now, Event::Resumed);
        book
    }

    /// A cut is gone.
    #[must_use]
    pub fn forget(&self, name: &str) -> Self {
        let mut book = self.clone();
        book.made.retain(|cut| cut.name != name);
        book
    }

    pub(super) fn note(&mut self, at: Timestamp, event: Event) {
        self.history.push(Entry { at, event });
        let surplus = self.history.len().saturating_sub(limits::HISTORY);
        self.history.drain(..surplus);
    }
}
