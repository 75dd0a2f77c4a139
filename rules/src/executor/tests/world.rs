//! A world that goes wrong: a process that dies at any save and between any two deeds, runs that hang, clocks that are
//! set, storage that does not answer. One job lives in it; after every act the guarantees are checked.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::schedule;

/// How a run goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plot {
    /// It cuts at once and ends after so many seconds.
    Cuts { ends_s: u64 },
    /// It cuts nothing and ends after so many seconds.
    Fails { ends_s: u64 },
    /// It cuts, and is told that it may not have.
    Uncertain,
    /// It never ends, also when it is told to stop.
    Hangs,
    /// It ends when it is told to stop.
    Stubborn,
}

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// Time passes, in which the process does its work.
    Pass {
        seconds: i64,
    },
    /// The wall clock is set.
    SetClock {
        by_s: i64,
    },
    /// The process dies, and another one starts after so many seconds.
    Die {
        down_s: i64,
    },
    /// The process dies at its next save: before or after the book is durable.
    DieAtSave {
        saved: bool,
    },
    /// The next save fails.
    FailSave,
    /// How the next runs go.
    Plot(Plot),
    Suspend,
    Resume,
    RunNow,
    /// Deletes what is to be deleted.
    Clean,
    /// Somebody deletes the newest cut by hand.
    DeleteNewest,
}

pub(super) struct Run {
    name: String,
    plot: Plot,
    began: Duration,
    stopped: Option<Duration>,
    counted: bool,
}

pub(super) struct Process {
    pub(super) book: Book,
    watched_from: Timestamp,
    runs: Vec<Run>,
}

pub(super) struct World {
    pub(super) job: Job,
    pub(super) wall: Timestamp,
    pub(super) mono: Duration,
    pub(super) disk: Book,
    pub(super) process: Option<Process>,
    pub(super) plot: Plot,
    pub(super) die_at_save: Option<bool>,
    pub(super) fail_save: bool,
    /// A broken executor: what it has saved is not there after a restart.
    pub(super) forgetful: bool,
    /// What exists: name → when it was cut.
    pub(super) cuts: BTreeMap<String, Timestamp>,
    /// Due instants of each epoch that were started for the first time.
    pub(super) started: BTreeSet<(u32, Timestamp)>,
    /// Due instants that were started or skipped, in this epoch.
    pub(super) handled: u64,
    pub(super) deleted: usize,
}

pub(super) const FOREIGN: &str = "s-made-by-somebody";

impl World {
    pub(super) fn new(job: Job, wall: Timestamp) -> Self {
        let disk = Book::new(&job.schedule, wall);
        let cuts = BTreeMap::from([(FOREIGN.to_owned(), wall)]);
        let mut world = Self {
            job,
            wall,
            mono: Duration::ZERO,
            disk,
            process: None,
            plot: Plot::Cuts { ends_s: 1 },
            die_at_save: None,
            fail_save: false,
            forgetful: false,
            cuts,
            started: BTreeSet::new(),
            handled: 0,
            deleted: 0,
        };
        world.boot();
        world
    }

    fn boot(&mut self) {
        if self.forgetful {
            self.disk = Book::new(&self.job.schedule, self.disk.created);
        }
        self.process = Some(Process { book: self.disk.clone(), watched_from: self.wall, runs: vec![] });
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Pass { seconds } => self.pass(seconds),
            Act::SetClock { by_s } => self.wall = shifted(self.wall, by_s),
            Act::Die { down_s } => {
                self.process = None;
                self.wall = shifted(self.wall, down_s);
                self.mono += Duration::from_secs(down_s.unsigned_abs());
            }
            Act::DieAtSave { saved } => self.die_at_save = Some(saved),
            Act::FailSave => self.fail_save = true,
            Act::Plot(plot) => self.plot = plot,
            Act::Suspend => self.change(|book, _, now| book.suspend(now)),
            Act::Resume => self.change(|book, job, now| book.skip_suspended(job, now).resume(now)),
            Act::RunNow => self.run_now(),
            Act::Clean => self.clean(),
            Act::DeleteNewest => {
                let own = self.cuts.iter().filter(|(name, _)| *name != FOREIGN);
                if let Some(name) = own.max_by_key(|(_, taken)| **taken).map(|(name, _)| name.clone()) {
                    self.cuts.remove(&name);
                }
            }
        }
        if self.process.is_none() {
            self.boot();
        }
        self.work();
        self.check();
    }

    /// A second at a time, so that whatever a wait was too long for shows as a late start.
    fn pass(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.wall = shifted(self.wall, 1);
            self.mono += Duration::from_secs(1);
            if self.process.is_none() {
                self.boot();
            }
            self.work();
        }
    }

    /// Whether the book is durable and the process alive.
    pub(super) fn save(&mut self, book: Book) -> bool {
        if std::mem::take(&mut self.fail_save) {
            return false;
        }
        let dies = self.die_at_save.take();
        if dies != Some(false) {
            self.follow(&book);
            self.disk = book.clone();
        }
        if dies.is_some() {
            self.process = None;
            return false;
        }
        if let Some(process) = &mut self.process {
            process.book = book;
        }
        true
    }

    /// What became durable: no due instant is left out, none is there twice.
    fn follow(&mut self, book: &Book) {
        let old = &self.disk;
        let done = old.handled.unwrap_or(old.created).max(old.created);
        let schedule = &self.job.schedule;
        if book.epoch != old.epoch {
            assert_eq!(book.epoch, old.epoch + 1);
            assert!(done > schedule::later(self.wall, schedule::limits::CLOCK_STEP));
            return;
        }
        let new = book.handled.unwrap_or(book.created).max(book.created);
        assert!(new >= done, "a due instant comes again");
        if let (Some(handled), true) = (book.handled, book.handled != old.handled) {
            assert_eq!(schedule.last_due(handled), Some(handled), "only due instants are handled");
            assert!(handled <= self.wall, "it was not due yet");
            let first = schedule.next_due(done).unwrap();
            match &book.open {
                Some(open) if open.due == Some(handled) => {
                    assert_eq!(first, handled, "started, and those before were neither started nor skipped");
                    assert!(self.started.insert((book.epoch, handled)), "{handled} is started twice");
                    self.handled += 1;
                }
                Some(_) | None => {
                    let skipped = std::iter::successors(Some(first), |due| schedule.next_due(*due));
                    let skipped = skipped.take_while(|due| *due <= handled).count();
                    assert!(skipped > 0);
                    let recorded = book.history.iter().rev().find_map(|entry| match &entry.event {
                        Event::Skipped { through, .. } => Some(*through),
                        Event::Succeeded { .. }
                        | Event::Failed { .. }
                        | Event::Suspended
                        | Event::Resumed
                        | Event::ClockSetBack { .. } => None,
                    });
                    assert_eq!(recorded, Some(handled), "handled without a run or a recorded skip");
                    self.handled += u64::try_from(skipped).unwrap();
                }
            }
        }
    }

    fn facts(&self) -> Facts {
        let process = self.process.as_ref().unwrap();
        let run = process.runs.iter().find(|run| run.counted);
        Facts {
            now: self.wall,
            watched_from: process.watched_from,
            live: run.map(|run| Live {
                for_time: self.mono.saturating_sub(run.began),
                stopping_for: run.stopped.map(|since| self.mono.saturating_sub(since)),
            }),
            slots: 1,
        }
    }

    fn work(&mut self) {
        for _ in 0..100 {
            self.end_runs();
            let Some(process) = &self.process else { return };
            let deed = match next(&self.job, &process.book, &self.facts()) {
                Next::Wait { until, .. } => {
                    assert!(
                        until.is_none_or(|until| until > self.wall),
                        "a wait that ends at once would spin"
                    );
                    return;
                }
                Next::Do(deed) => deed,
                Next::Save(book, deed) => {
                    if !self.save(*book) {
                        return;
                    }
                    deed
                }
            };
            self.perform(deed);
        }
        panic!("it does not come to rest");
    }

    fn perform(&mut self, deed: Deed) {
        let mono = self.mono;
        let runs = &mut self.process.as_mut().unwrap().runs;
        match deed {
            Deed::Nothing => {}
            Deed::Stop { .. } => {
                let run = runs.iter_mut().find(|run| run.counted).expect("something to stop");
                assert!(run.stopped.is_none(), "it is told once");
                run.stopped = Some(mono);
            }
            Deed::LetGo => runs.iter_mut().find(|run| run.counted).expect("a run").counted = false,
            Deed::Take(run) => {
                assert_eq!(self.disk.open.as_ref(), Some(&run), "it is not durable");
                assert!(!self.cuts.contains_key(&run.cut), "{} exists already", run.cut);
                self.begin(&run.cut, self.plot);
            }
            Deed::TakeAgain(run) => {
                assert_eq!(self.disk.open.as_ref(), Some(&run), "it is not durable");
                let plot =
                    if self.cuts.contains_key(&run.cut) { Plot::Cuts { ends_s: 0 } } else { self.plot };
                self.begin(&run.cut, plot);
            }
            Deed::LookFor(run) => {
                let there = self.cuts.contains_key(&run.cut);
                self.begin(
                    &run.cut,
                    if there { Plot::Cuts { ends_s: 0 } } else { Plot::Fails { ends_s: 0 } },
                );
            }
        }
    }

    fn begin(&mut self, name: &str, plot: Plot) {
        let process = self.process.as_mut().unwrap();
        assert!(process.runs.iter().all(|run| !run.counted), "two runs at once");
        if matches!(plot, Plot::Cuts { .. } | Plot::Uncertain) {
            self.cuts.entry(name.to_owned()).or_insert(self.wall);
        }
        process.runs.push(Run {
            name: name.to_owned(),
            plot,
            began: self.mono,
            stopped: None,
            counted: true,
        });
    }

    fn end_runs(&mut self) {
        let Some(process) = &mut self.process else { return };
        let mono = self.mono;
        let over = |run: &Run| match run.plot {
            Plot::Cuts { ends_s } | Plot::Fails { ends_s } => {
                mono.saturating_sub(run.began) >= Duration::from_secs(ends_s)
            }
            Plot::Uncertain => true,
            Plot::Hangs => false,
            Plot::Stubborn => run.stopped.is_some(),
        };
        let Some(index) = process.runs.iter().position(over) else { return };
        let (name, plot, book) = {
            let run = &process.runs[index];
            (run.name.clone(), run.plot, process.book.clone())
        };
        let outcome = match (plot, self.cuts.get(&name)) {
            (Plot::Uncertain, _) => Outcome::Unknown("no answer".into()),
            (_, Some(taken)) => Outcome::Made(found(&name, *taken, Verdict::Good)),
            (_, None) => Outcome::Failed("it failed".into()),
        };
        // A save that fails is tried again at the next occasion: the run stays known until then.
        if self.save(book.ended(&name, outcome, self.wall)) {
            self.process.as_mut().unwrap().runs.remove(index);
        }
    }

    fn change(&mut self, change: impl Fn(&Book, &Job, Timestamp) -> Book) {
        let Some(process) = &self.process else { return };
        // As the shell does: what is due by now is dealt with first.
        let book = change(&process.book, &self.job, self.wall);
        if book != process.book {
            self.save(book);
        }
    }

    fn run_now(&mut self) {
        let Some(process) = &self.process else { return };
        let name = process.book.claim_by_hand(self.wall).open.unwrap().cut;
        if self.facts().live.is_some() || process.book.open.is_some() || self.cuts.contains_key(&name) {
            return;
        }
        let book = process.book.claim_by_hand(self.wall);
        if self.save(book) {
            self.begin(&name, self.plot);
        }
    }

    fn clean(&mut self) {
        let Some(process) = &self.process else { return };
        let unknown: Vec<String> = process.book.unknown().map(|made| made.name.clone()).collect();
        let alive: BTreeSet<String> = process.runs.iter().map(|run| run.name.clone()).collect();
        for name in unknown.into_iter().filter(|name| !alive.contains(name)) {
            let Some(process) = &self.process else { return };
            let there = self.cuts.get(&name).map(|taken| found(&name, *taken, Verdict::Good));
            let book = process.book.resolve(&name, there);
            self.save(book);
        }
        let Some(process) = &self.process else { return };
        let mut book = process.book.clone();
        while let Some(anchor) = anchor(&self.job, &book, self.wall) {
            if self.cuts.contains_key(&anchor.name) {
                break;
            }
            book = book.forget(&anchor.name);
            if !self.save(book.clone()) {
                return;
            }
        }
        let good = |world: &Self| {
            let exists =
                |made: &&MadeCut| made.verdict == Verdict::Good && world.cuts.contains_key(&made.name);
            book.made.iter().filter(exists).count()
        };
        let before = good(self);
        for cut in deletable(&self.job, &book, self.wall) {
            assert_ne!(cut.name, FOREIGN);
            self.cuts.remove(&cut.name);
            self.deleted += 1;
            let Some(process) = &self.process else { return };
            let book = process.book.forget(&cut.name);
            self.save(book);
        }
        assert!(before == 0 || good(self) > 0, "the last good one is deleted");
    }

    fn check(&self) {
        assert!(self.cuts.contains_key(FOREIGN), "a cut of somebody else is gone");
        let Some(process) = &self.process else { return };
        let book = &process.book;
        assert!(process.runs.iter().filter(|run| run.counted).count() <= 1);
        assert!(book.history.len() <= limits::HISTORY);
        let known: BTreeSet<&str> = book.made.iter().map(|made| made.name.as_str()).collect();
        assert_eq!(known.len(), book.made.len(), "a cut is in the book twice");
        for name in self.cuts.keys().filter(|name| *name != FOREIGN) {
            let open = book.open.as_ref().is_some_and(|open| open.cut == *name);
            let running = process.runs.iter().any(|run| run.name == *name);
            assert!(open || running || known.contains(name.as_str()), "nobody knows of {name}");
        }
    }
}

pub(super) fn shifted(t: Timestamp, by_s: i64) -> Timestamp {
    Timestamp::from_second(t.as_second() + by_s).unwrap()
}
