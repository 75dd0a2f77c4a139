//! Whole conversations as text files in `rules/scenarios`: a rule, pods and what goes wrong above the line, and below it
//! every phase, call and write in the order in which they came, and how the run ended. Times are virtual.
//!
//! `STILLPOINT_WRITE=1 cargo test -p stillpoint-rules --lib golden` writes what is below the line; without that the test
//! fails where the two differ.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::super::super::hooks;
use super::fate::{Fate, Luck, WriteLuck};
use super::{LIFETIME, World, life, pod};
use crate::engine::{Control, Engine};
use crate::ports::Pod;
use crate::run::Run;
use crate::text::parse;

const LINE: &str = "---- what happens ----\n";
/// As the process does.
const COLLECT_EVERY: Duration = Duration::from_secs(2);
const COLLECTIONS: usize = 100;

/// What stands above the line, as YAML; comments say what it shows.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scenario {
    /// `name application host`.
    pods: Vec<String>,
    #[serde(default)]
    faults: Vec<Fault>,
    /// The process dies after this write of the journal, counted from 0.
    #[serde(default)]
    dies_after_write: Option<usize>,
    /// The same for each write in turn.
    #[serde(default)]
    dies_after_each_write: bool,
    /// The run is cancelled when this call is made.
    #[serde(default)]
    cancelled_at: Option<String>,
    rule: String,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fault {
    /// The call, as it is written below the line.
    at: String,
    what: FaultKind,
    #[serde(default = "once")]
    times: usize,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FaultKind {
    Fails,
    NotStarted,
    AnswerIsLost,
    NeverAnswers,
    TimesOut,
    PodIsReplaced,
}

const fn once() -> usize {
    1
}

impl From<FaultKind> for Luck {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Fails => Self::Fails,
            FaultKind::NotStarted => Self::NotStarted,
            FaultKind::AnswerIsLost => Self::LostAfter,
            FaultKind::NeverAnswers => Self::Hangs,
            FaultKind::TimesOut => Self::TimesOut,
            FaultKind::PodIsReplaced => Self::PodGone,
        }
    }
}

/// Faults by the call that they strike.
struct Written {
    faults: Vec<Fault>,
    dies_after: Option<usize>,
}

impl Fate for Written {
    fn luck(&mut self, _: usize, effect: &str) -> Luck {
        let Some(fault) = self.faults.iter_mut().find(|fault| fault.at == effect && fault.times > 0) else {
            return Luck::Good;
        };
        fault.times -= 1;
        fault.what.into()
    }

    fn write(&mut self, number: usize) -> WriteLuck {
        if self.dies_after == Some(number) { WriteLuck::DiesAfter } else { WriteLuck::Good }
    }
}

impl Scenario {
    fn world(&self, dies_after: Option<usize>) -> Arc<World> {
        let pods = self.pods.iter().map(|text| named(text)).collect();
        let rule = parse(&self.rule).unwrap_or_else(|error| panic!("{error}"));
        let world = World::new(rule, pods, Written { faults: self.faults.clone(), dies_after });
        world.state().trace = Some(Vec::new());
        world
    }

    /// Everything that happens, with the writes that the first process made.
    fn told(&self, dies_after: Option<usize>) -> (String, usize) {
        let world = self.world(dies_after);
        let phases = world.clone();
        hooks::tell_phases(move |phase| phases.tell(|| format!("phase {phase:?}")));
        let died = first_process(&world, self.cancelled_at.as_deref());
        let writes = world.state().writes;
        if died {
            next_process(&world);
        }
        hooks::tell_phases(|_| {});
        let mut text = String::new();
        for line in world.state().trace.take().unwrap() {
            text.push_str(&line);
            text.push('\n');
        }
        let state = world.state();
        state.stored.values().for_each(|run| text.push_str(&ended(run)));
        (text, writes)
    }

    fn all_told(&self) -> String {
        if !self.dies_after_each_write {
            return self.told(self.dies_after_write).0;
        }
        let (_, writes) = self.told(None);
        let mut text = String::new();
        for write in 0..writes {
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "== the process dies after write {write} ==\n{}", self.told(Some(write)).0);
        }
        text
    }
}

fn named(text: &str) -> Pod {
    let [name, app, host] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}: name app host") };
    pod(name, app, host)
}

/// Runs the rule and collects what it owes; whether the process died.
fn first_process(world: &Arc<World>, cancelled_at: Option<&str>) -> bool {
    let (stop, stopped) = watch::channel(None);
    world.state().cancel = cancelled_at.map(|at| (at.to_owned(), stop));
    life().block_on(async {
        world.state().began = Instant::now();
        let engine = world.engine();
        let living = async {
            let control = Control { stop: Some(stopped), progress: None };
            engine.run(world.request(), control).await;
            collect(world, &engine).await;
        };
        tokio::select! {
            ended = timeout(LIFETIME, living) => ended.expect("a run ends"),
            () = world.death() => {}
        }
    });
    world.state().dead
}

fn next_process(world: &Arc<World>) {
    // Without a time: there is none between two processes.
    world.state().trace.iter_mut().for_each(|trace| trace.push("-- the next process starts --".to_owned()));
    world.state().dead = false;
    life().block_on(async {
        world.state().began = Instant::now();
        let engine = world.engine();
        let living = async {
            engine.recover().await.unwrap();
            collect(world, &engine).await;
        };
        timeout(LIFETIME, living).await.expect("what it finds ends");
    });
}

async fn collect(world: &Arc<World>, engine: &Engine) {
    for _ in 0..COLLECTIONS {
        if engine.overdue().is_empty() {
            return;
        }
        sleep(COLLECT_EVERY).await;
        engine.collect().await;
    }
    world.tell(|| "nobody can pay this".to_owned());
}

fn ended(run: &Run) -> String {
    let level =
        run.level.map_or_else(|| "no cut".to_owned(), |level| format!("level {level:?}").to_lowercase());
    let mut text = format!("ended: {}, {level}\n", run.verdict());
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {line}");
    };
    run.reasons.iter().for_each(|reason| line(format!("reason: {reason}")));
    for failure in &run.failures {
        line(format!("failure, {}: {failure}", failure.kind.word()));
    }
    run.ignored.iter().for_each(|failure| line(format!("ignored, {}: {failure}", failure.kind.word())));
    for debt in &run.debts {
        line(format!("{}: {}", debt.in_words(), debt.state.word()));
    }
    if let Some(skew) = run.session_skew_us {
        line(format!("sessions held within {skew} µs"));
    }
    text
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_golden_scenario_happens_as_it_is_written() {
    let write = std::env::var_os("STILLPOINT_WRITE").is_some();
    let files = files();
    assert!(files.len() >= 15, "{}", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let above = text.split_once(LINE).map_or(text.as_str(), |(above, _)| above);
        let scenario: Scenario =
            serde_yaml::from_str(above).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let happened = format!("{above}{LINE}{}", scenario.all_told());
        if write {
            std::fs::write(&path, &happened).unwrap();
        } else if happened != text {
            wrong.push(format!("{} is out of date; now it is:\n{happened}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nSTILLPOINT_WRITE=1 writes them", wrong.join("\n"));
}
