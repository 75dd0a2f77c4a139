//! Pods, hosts and a journal in virtual time, where every call may fail, hang, be cut off or be the last one of the
//! process, and where the next process finds what was written down. What must be true afterwards is in `check`.
//!
//! * `seeds`: a thousand worlds whose fate is thrown with dice.
//! * `properties`: random rules and faults that shrink; every fault at every call; death at every write.
//! * `golden`: whole conversations as text files.
//! * `turns`: several controllers and several runs over the same pods.

mod check;
mod fate;
mod golden;
mod hosts;
mod journal;
mod pods;
mod properties;
mod seeds;
mod shape;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::api::Rule;
use crate::ports::{Mark, Pod, PodState};
use crate::run::Run;

use super::*;
use fate::{Fate, Luck};
use hosts::Hosts;
use pods::Exec;

/// No life takes longer in its own time: every wait has a limit, and none of them is that long.
const LIFETIME: Duration = Duration::from_hours(24 * 30);
/// The next process looks so often at what is still owed.
const COLLECTIONS: usize = 20;

/// One pod under one step.
type Place = (String, String);

/// What has happened to the application in one place.
#[derive(Debug, Default, Clone)]
struct Done {
    begun: bool,
    undone: usize,
}

/// Everything that is remembered of a world.
struct State {
    fate: Box<dyn Fate>,
    /// Nothing fails any more.
    calm: bool,
    dead: bool,
    /// A write failed, so the next process may know less than happened.
    forgot: bool,
    effects: usize,
    writes: usize,
    done: BTreeMap<Place, Done>,
    /// What nobody has ended: it still happens.
    to_come: Vec<(Mark, Place)>,
    gone: BTreeSet<String>,
    /// Sessions that hold.
    holding: BTreeSet<Place>,
    /// Sessions that must have held for the cut to count, and did not.
    lost: BTreeSet<Place>,
    hosts: Hosts,
    /// What the engine must never do, as it was seen.
    seen: Vec<String>,
    sealed: usize,
    running: usize,
    most: usize,
    stored: BTreeMap<String, Run>,
    /// Where a trace is kept, line by line.
    trace: Option<Vec<String>>,
    began: Instant,
    /// The run is stopped when this call is made.
    cancel: Option<(String, watch::Sender<Option<String>>)>,
}

struct World {
    rule: Rule,
    pods: Vec<Pod>,
    parallel: usize,
    state: Mutex<State>,
    died: Notify,
}

impl World {
    fn new(rule: Rule, pods: Vec<Pod>, fate: impl Fate + 'static) -> Arc<Self> {
        let state = State {
            fate: Box::new(fate),
            calm: false,
            dead: false,
            forgot: false,
            effects: 0,
            writes: 0,
            done: BTreeMap::new(),
            to_come: Vec::new(),
            gone: BTreeSet::new(),
            holding: BTreeSet::new(),
            lost: BTreeSet::new(),
            hosts: Hosts::default(),
            seen: Vec::new(),
            sealed: 0,
            running: 0,
            most: 0,
            stored: BTreeMap::new(),
            trace: None,
            began: Instant::now(),
            cancel: None,
        };
        Arc::new(Self { rule, pods, parallel: 3, state: Mutex::new(state), died: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn engine(self: &Arc<Self>) -> Engine {
        let ports = Ports {
            inventory: self.clone(),
            exec: Arc::new(Exec(self.clone())),
            secrets: self.clone(),
            cutter: Arc::new(hosts::Cutters(self.clone())),
            journal: self.clone(),
        };
        Engine::new(ports, Limits { parallel_pods: self.parallel, ..Limits::default() })
    }

    /// What a dead process does: nothing, ever.
    async fn alive(&self) {
        if self.state().dead {
            std::future::pending::<()>().await;
        }
    }

    async fn death(&self) {
        self.died.notified().await;
    }

    /// What the next call meets.
    fn luck(&self, effect: &str) -> Luck {
        let mut state = self.state();
        let number = state.effects;
        state.effects += 1;
        if let Some((_, stop)) = state.cancel.as_ref().filter(|(at, _)| at == effect) {
            stop.send_replace(Some("somebody cancelled it".to_owned()));
        }
        if state.calm { Luck::Good } else { state.fate.luck(number, effect) }
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        let mut state = self.state();
        let at = state.began.elapsed().as_millis();
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{at:>9} ms  {}", line()));
        }
    }

    fn request(&self) -> RunRequest {
        RunRequest { rule: Some(self.rule.clone()), ..super::request(TWO_STEPS) }
    }

    /// The first process, until its run is over or it has died. Whether it ended at all.
    fn first_life(self: &Arc<Self>) -> bool {
        life().block_on(async {
            self.state().began = Instant::now();
            let engine = self.engine();
            let run = tokio::time::timeout(LIFETIME, engine.run(self.request(), Control::default()));
            tokio::select! {
                ended = run => ended.is_ok(),
                () = self.death() => true,
            }
        })
    }

    /// The next process, for which nothing fails: it settles what it finds and collects what is owed.
    fn next_life(self: &Arc<Self>) -> bool {
        {
            let mut state = self.state();
            (state.dead, state.calm, state.running) = (false, true, 0);
        }
        life().block_on(async {
            self.state().began = Instant::now();
            let engine = self.engine();
            let living = async {
                engine.recover().await.unwrap();
                for _ in 0..COLLECTIONS {
                    if engine.overdue().is_empty() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_mins(11)).await;
                    engine.collect().await;
                }
            };
            tokio::time::timeout(LIFETIME, living).await.is_ok()
        })
    }
}

/// A process: dropping it drops everything that it was about to do.
fn life() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

fn pod(name: &str, app: &str, host: &str) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        labels: BTreeMap::from([("app".into(), app.into())]),
        host: host.into(),
        containers: vec!["main".into()].into(),
        volumes: vec![],
        state: PodState::Ready,
    }
}

/// So many pods of one application, spread over the hosts.
fn ring(count: usize) -> Vec<Pod> {
    (0..count).map(|n| pod(&format!("p-{n}"), "db", hosts::NAMES[n % hosts::NAMES.len()])).collect()
}

/// How one world ended.
struct Outcome {
    died: bool,
    sealed: bool,
    effects: usize,
    writes: usize,
    violations: Vec<String>,
}

/// Both lives of a world, and what was wrong.
fn live(world: &Arc<World>) -> Outcome {
    let ended = world.first_life();
    let mut violations = check::after_a_life(world);
    if !ended {
        violations.push("a run never ends".to_owned());
    }
    let (died, effects, writes) = {
        let state = world.state();
        (state.dead, state.effects, state.writes)
    };
    let ended = world.next_life();
    violations.extend(check::after_a_life(world));
    if !ended {
        violations.push("the next process never ends what it found".to_owned());
    }
    violations.extend(check::in_the_end(world));
    let sealed = world.state().sealed > 0;
    Outcome { died, sealed, effects, writes, violations }
}
