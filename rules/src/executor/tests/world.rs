//! A world that goes wrong: a process that dies at any save and between any two deeds, runs that hang, clocks that are
//! set, storage that does not answer. One job lives in it; after every act the guarantees are checked.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::retain::Fate;
use crate::schedule;

/// How a run goes.
#[derive(Debug, Clone, Copy)]
enum Plot {
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
enum Act {
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
}

struct Run {
    name: String,
    plot: Plot,
    began: Duration,
    stopped: Option<Duration>,
    counted: bool,
}

struct Process {
    book: Book,
    watched_from: Timestamp,
    runs: Vec<Run>,
}

struct World {
    job: Job,
    wall: Timestamp,
    mono: Duration,
    disk: Book,
    process: Option<Process>,
    plot: Plot,
    die_at_save: Option<bool>,
    fail_save: bool,
    /// A broken executor: what it has saved is not there after a restart.
    forgetful: bool,
    /// What exists: name → when it was cut.
    cuts: BTreeMap<String, Timestamp>,
    /// Due instants of each epoch that were started for the first time.
    started: BTreeSet<(u32, Timestamp)>,
    /// Due instants that were started or skipped, in this epoch.
    handled: u64,
    deleted: usize,
}

const FOREIGN: &str = "s-made-by-somebody";

impl World {
    fn new(job: Job, wall: Timestamp) -> Self {
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

    fn act(&mut self, act: Act) {
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
    fn save(&mut self, book: Book) -> bool {
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
                        _ => None,
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
                for_time: self.mono - run.began,
                stopping_for: run.stopped.map(|since| self.mono - since),
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
            Plot::Cuts { ends_s } | Plot::Fails { ends_s } => mono - run.began >= Duration::from_secs(ends_s),
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
        let newest = process.book.last_good().map(|cut| cut.name.clone());
        for cut in deletable(&self.job, &process.book.clone(), self.wall) {
            assert!(Some(&cut.name) != newest.as_ref(), "the newest good one is deleted");
            assert_ne!(cut.name, FOREIGN);
            self.cuts.remove(&cut.name);
            self.deleted += 1;
            let Some(process) = &self.process else { return };
            let book = process.book.forget(&cut.name);
            self.save(book);
        }
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

fn shifted(t: Timestamp, by_s: i64) -> Timestamp {
    Timestamp::from_second(t.as_second() + by_s).unwrap()
}

fn plots() -> impl Strategy<Value = Plot> {
    prop_oneof![
        4 => (0_u64..200).prop_map(|ends_s| Plot::Cuts { ends_s }),
        2 => (0_u64..200).prop_map(|ends_s| Plot::Fails { ends_s }),
        1 => Just(Plot::Uncertain),
        1 => Just(Plot::Hangs),
        1 => Just(Plot::Stubborn),
    ]
}

fn acts(steps: std::ops::Range<i64>) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (1_i64..150).prop_map(|seconds| Act::Pass { seconds }),
        2 => steps.prop_map(|by_s| Act::SetClock { by_s }),
        2 => (0_i64..2_000).prop_map(|down_s| Act::Die { down_s }),
        3 => any::<bool>().prop_map(|saved| Act::DieAtSave { saved }),
        1 => Just(Act::FailSave),
        4 => plots().prop_map(Act::Plot),
        1 => Just(Act::Suspend),
        1 => Just(Act::Resume),
        1 => Just(Act::RunNow),
        3 => Just(Act::Clean),
    ];
    proptest::collection::vec(act, 1..40)
}

fn jobs() -> impl Strategy<Value = Job> {
    let when = prop_oneof![
        Just("every: 7s"),
        Just("every: 1m"),
        Just("every: 5m\njitter: 2m"),
        Just("cron: '*/3 * * * *'"),
    ];
    let keep = prop_oneof![
        Just("{}"),
        Just("{last: 2, failed: 1}"),
        Just("{hourly: 2, maxAge: 1h}"),
        Just("{last: 1, daily: 1}"),
    ];
    (when, keep, 1_u32..4, 1_u32..6).prop_map(|(when, keep, catch_up, run)| {
        job(&format!("{when}\ncatchUp: {catch_up}m\nretention: {keep}\nlimits: {{run: {run}m}}"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_dies_or_hangs_each_due_instant_is_handled_once(
        job in jobs(), acts in acts(-3_000..3_000), second in 1_760_000_000_i64..1_790_000_000,
    ) {
        let mut world = World::new(job, Timestamp::from_second(second).unwrap());
        for act in acts {
            world.act(act);
        }
    }

    #[test]
    fn a_clock_that_jumps_by_days_starts_nothing_twice_and_loses_no_cut(
        job in jobs(), acts in acts(-400_000..400_000), second in 1_760_000_000_i64..1_790_000_000,
    ) {
        let mut world = World::new(job, Timestamp::from_second(second).unwrap());
        for act in acts {
            world.act(act);
        }
        // Whatever happened: where nothing goes wrong any more, it works again.
        world.plot = Plot::Cuts { ends_s: 0 };
        (world.die_at_save, world.fail_save) = (None, false);
        world.act(Act::Die { down_s: 1 });
        world.act(Act::Resume);
        world.act(Act::SetClock { by_s: 400_000 });
        world.act(Act::Die { down_s: 1 });
        let before = world.cuts.len();
        world.act(Act::Pass { seconds: 700 });
        prop_assert!(world.cuts.len() > before, "the schedule stands still: {:?}", world.disk);
        world.act(Act::Clean);
        let book = &world.process.as_ref().unwrap().book;
        let left = kept(&world.job, book, world.wall);
        prop_assert!(left.iter().all(|cut| matches!(cut.fate, Fate::Keep(_))), "something was left to delete");
    }
}

#[test]
fn a_crash_at_every_save_of_a_day_loses_nothing() {
    let job = job("every: 5m\ncatchUp: 1h\nretention: {last: 4}");
    let begin = at("2026-03-01T00:00:00Z");
    for saved in [true, false] {
        for strike in 0..40 {
            let mut world = World::new(job.clone(), begin);
            world.plot = Plot::Cuts { ends_s: 20 };
            let mut saves = 0;
            for _ in 0..90 {
                // One strike per life, at another save each time.
                saves += 1;
                if saves == strike {
                    world.act(Act::DieAtSave { saved });
                }
                world.act(Act::Pass { seconds: 60 });
                world.act(Act::Clean);
            }
            let due = 90 * 60 / 300;
            assert!((due - 1..=due).contains(&world.handled), "{} of {due} at {strike}", world.handled);
            assert!(world.deleted >= 10, "{}", world.deleted);
            let newest = world.cuts.keys().filter(|name| *name != FOREIGN).count();
            assert!((4..=5).contains(&newest), "{:?}", world.cuts);
        }
    }
}

#[test]
#[should_panic(expected = "is started twice")]
fn an_executor_whose_records_do_not_last_is_found_out() {
    let mut world = World::new(job("every: 5m"), at("2026-03-01T00:00:00Z"));
    world.forgetful = true;
    world.act(Act::Pass { seconds: 310 });
    world.act(Act::Die { down_s: 1 });
}
