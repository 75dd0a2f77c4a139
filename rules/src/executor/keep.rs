//! Which of a job's cuts are kept.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::retain::{Cut, Fate, KeepReason, Pin, Verdict};

use super::{Book, Job, MadeCut};

/// A cut of a job and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCut {
    /// The cut.
    pub cut: MadeCut,
    /// Kept or deleted, and why.
    pub fate: Fate,
}

/// What the retention says of each cut now, newest first. Cuts of which it is not known whether they exist are left out.
pub fn kept(job: &Job, book: &Book, now: Timestamp) -> Vec<KeptCut> {
    let known: BTreeMap<&str, &MadeCut> =
        book.made.iter().filter(|made| made.id.is_some()).map(|made| (made.name.as_str(), made)).collect();
    let cut =
        |made: &MadeCut| Cut { id: made.name.clone(), at: made.at, verdict: made.verdict, pin: Pin::Free };
    let cuts: Vec<Cut> = known.values().map(|made| cut(made)).collect();
    let rulings = job.retention.apply(&cuts, job.schedule.time_zone(), now);
    let with_cut = |ruling: crate::retain::Ruling<'_>| {
        let made = known.get(ruling.cut.id.as_str())?;
        Some(KeptCut { cut: (*made).clone(), fate: ruling.fate.clone() })
    };
    rulings.into_iter().filter_map(with_cut).collect()
}

/// The cuts that are to be deleted, oldest first.
pub fn deletable(job: &Job, book: &Book, now: Timestamp) -> Vec<MadeCut> {
    let delete = |kept: KeptCut| match kept.fate {
        Fate::Delete(_) => Some(kept.cut),
        Fate::Keep(_) => None,
    };
    kept(job, book, now).into_iter().rev().filter_map(delete).collect()
}

/// The newest good cut that is kept. Before anything is deleted it must be seen that it exists: somebody may have deleted
/// it by hand, and then it is to be forgotten first, or the last good one would be deleted for its sake.
pub fn anchor(job: &Job, book: &Book, now: Timestamp) -> Option<MadeCut> {
    let counts = |kept: &KeptCut| {
        let stays = matches!(&kept.fate, Fate::Keep(reasons) if !reasons.contains(&KeepReason::Ahead));
        stays && kept.cut.verdict == Verdict::Good
    };
    kept(job, book, now).into_iter().find(counts).map(|kept| kept.cut)
}
