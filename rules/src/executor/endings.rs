//! How runs end, and what is known of their cuts then.

use jiff::Timestamp;

use crate::retain::Verdict;

use super::{Book, Event, MadeCut, OpenRun, limits};

/// A cut that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCut {
    /// Its id.
    pub id: String,
    /// When it was taken.
    pub at: Timestamp,
    /// The level that it reached.
    pub level: String,
    /// Whether it can be restored.
    pub verdict: Verdict,
    /// What went wrong after it; empty when nothing did.
    pub remark: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its cut exists.
    Made(FoundCut),
    /// There is no cut of it.
    Failed(String),
    /// It could not be learned whether there is a cut.
    Unknown(String),
}

impl Book {
    /// The run `cut` has ended. One that the schedule has let go of before counts as well: its cut is the job's.
    #[must_use]
    pub fn ended(&self, cut: &str, outcome: Outcome, now: Timestamp) -> Self {
        let mut book = self.clone();
        let open = book.open.take_if(|open| open.cut == cut);
        let known = book.made.iter().position(|made| made.name == cut).map(|index| book.made.remove(index));
        let started = open.as_ref().map(|open| open.started).or(known.map(|made| made.at)).unwrap_or(now);
        match &outcome {
            Outcome::Made(found) => book.made.push(made(cut, found)),
            Outcome::Failed(_) => {}
            Outcome::Unknown(_) => book.made.push(unknown(cut, started)),
        }
        let Some(run) = open else { return book };
        let event = match outcome {
            Outcome::Made(FoundCut { verdict: Verdict::Good, level, remark, .. }) => {
                Event::Succeeded { run, level, remark: shortened(remark) }
            }
            Outcome::Made(FoundCut { verdict: Verdict::Failed, remark, .. }) => {
                Event::Failed { run, why: shortened(format!("the cut exists, but: {remark}")) }
            }
            Outcome::Failed(why) => Event::Failed { run, why: shortened(why) },
            Outcome::Unknown(why) => {
                let why = format!("{why}; whether its cut exists is looked up again");
                Event::Failed { run, why: shortened(why) }
            }
        };
        book.note(now, event);
        book
    }

    /// The schedule goes on without its run, which was told to stop and does not end.
    #[must_use]
    pub fn let_go(&self, now: Timestamp) -> Self {
        let Some(OpenRun { cut, .. }) = &self.open else { return self.clone() };
        let why = format!(
            "the run was given up at its limit and is still being undone {} min later; the schedule goes on without it",
            limits::LET_GO_AFTER.as_secs() / 60
        );
        self.ended(cut, Outcome::Unknown(why), now)
    }

    /// It was looked up whether a cut exists of which that was not known.
    #[must_use]
    pub fn resolve(&self, name: &str, found: Option<FoundCut>) -> Self {
        let mut book = self.clone();
        match (book.made.iter_mut().find(|made| made.name == name && made.id.is_none()), found) {
            (Some(entry), Some(found)) => *entry = made(name, &found),
            (Some(_), None) => return self.forget(name),
            (None, _) => {}
        }
        book
    }

    /// Cuts of which it is not known whether they exist.
    pub fn unknown(&self) -> impl Iterator<Item = &MadeCut> {
        self.made.iter().filter(|made| made.id.is_none())
    }
}

fn made(name: &str, found: &FoundCut) -> MadeCut {
    let FoundCut { id, at, level, verdict, .. } = found.clone();
    MadeCut { name: name.to_owned(), id: Some(id), at, verdict, level }
}

/// It takes no place of a good one, and it is not forgotten.
fn unknown(name: &str, at: Timestamp) -> MadeCut {
    MadeCut { name: name.to_owned(), id: None, at, verdict: Verdict::Failed, level: String::new() }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(limits::REASON) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
