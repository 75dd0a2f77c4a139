//! An episode: some cuts are asked for while things go wrong, then everything is put right, swept and looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stillpoint::domain::record::CutRecord;
use stillpoint::domain::{Incarnation, VolumeId};

use super::check::{check, nothing_is_frozen};
use super::cluster::{CONTROLLERS, Cluster, HOSTS, TICK};
use super::controller::{Job, News};
use super::faults::Fault;
use super::ledger::Chain;

/// Every call of a controller ends within its limits.
const PATIENCE: Duration = Duration::from_secs(200);
/// The soft limit, and the slowest call that may be under way when it passes.
const LET_GO: Duration = Duration::from_millis(5500);
/// Cuts that are kept from one episode to the next.
const KEPT: usize = 3;

/// What the callers have been told.
#[derive(Default)]
pub struct Told {
    /// Names whose cut must exist, with the attempt.
    pub exists: BTreeMap<String, Incarnation>,
    /// Names that somebody has asked for and that may or may not exist.
    pub open: BTreeMap<String, Vec<VolumeId>>,
    pub rounds: u64,
    number: u64,
}

impl Told {
    fn name(&mut self) -> String {
        self.number += 1;
        format!("cut-{}", self.number)
    }
}

/// One episode. The error says what is wrong.
pub fn episode(cluster: &mut Cluster, told: &mut Told) -> Result<(), String> {
    let before: Vec<usize> = cluster.chains.iter().map(Chain::len).collect();
    let mut waiting = ask(cluster, told);
    let count = cluster.dice.below(4);
    let mut plan: Vec<(Duration, Fault)> = Vec::new();
    for _ in 0..count {
        let fault = Fault::any(cluster);
        plan.push((cluster.dice.ms(0..180), fault));
    }
    plan.sort_by_key(|(at, _)| *at);
    strike(cluster, told, &mut waiting, &plan);
    let calm = cluster.until(PATIENCE, |cluster| {
        hear(cluster, told, &mut waiting);
        waiting.is_empty().then_some(())
    });
    calm.ok_or_else(|| format!("{} calls were not answered within {PATIENCE:?}", waiting.len()))?;
    settle(cluster, told)?;
    // A chain that stands still would pass every check.
    match cluster.chains.iter().zip(before).position(|(chain, before)| chain.len() == before) {
        Some(chain) => Err(format!("the writer of chain {chain} could write nothing in this episode")),
        None => Ok(()),
    }
}

/// One to three cuts, sometimes of the same name at both controllers.
fn ask(cluster: &mut Cluster, told: &mut Told) -> BTreeSet<(usize, String)> {
    let mut waiting = BTreeSet::new();
    for _ in 0..=cluster.dice.below(3) {
        let name = told.name();
        let volumes = cluster.some_volumes();
        told.open.insert(name.clone(), volumes.clone());
        let controller = cluster.dice.below(CONTROLLERS.len());
        let both = cluster.dice.percent(25);
        for asked in [controller, 1 - controller].into_iter().take(if both { 2 } else { 1 }) {
            cluster.ask(asked, Job::Take(cluster.order(&name, volumes.clone())));
            waiting.insert((asked, name.clone()));
            told.rounds += 1;
            let pause = cluster.dice.ms(0..60);
            cluster.run(pause);
        }
        if cluster.dice.percent(30) {
            let sweeper = cluster.dice.below(CONTROLLERS.len());
            cluster.ask(sweeper, Job::Sweep(Duration::ZERO));
        }
    }
    waiting
}

/// Lets everything of the plan happen and puts it right again.
fn strike(
    cluster: &mut Cluster,
    told: &mut Told,
    waiting: &mut BTreeSet<(usize, String)>,
    plan: &[(Duration, Fault)],
) {
    let mut now = Duration::ZERO;
    let mut ends: Vec<(Duration, Fault)> = Vec::new();
    let mut begins = plan.iter().peekable();
    while begins.peek().is_some() || !ends.is_empty() {
        while let Some((_, fault)) = begins.next_if(|(at, _)| *at <= now) {
            fault.strikes(cluster);
            if let Fault::ControllerDies(controller) = fault {
                // Whoever asked it gets no answer.
                waiting.retain(|(asked, _)| asked != controller);
            }
            let lasts = fault.lasts(cluster);
            ends.push((now + lasts, *fault));
        }
        ends.retain(|(at, fault)| {
            if *at <= now {
                fault.is_put_right(cluster);
            }
            *at > now
        });
        cluster.step();
        hear(cluster, told, waiting);
        now += TICK;
    }
}

fn hear(cluster: &mut Cluster, told: &mut Told, waiting: &mut BTreeSet<(usize, String)>) {
    for (controller, news) in cluster.news() {
        match news {
            News::Taken(name, outcome) => {
                if let Ok(record) = outcome {
                    told.open.remove(&name);
                    told.exists.insert(name.clone(), record.attempt);
                }
                waiting.remove(&(controller, name));
            }
            News::Deleted(name, Ok(())) => {
                told.exists.remove(&name);
                waiting.remove(&(controller, name));
            }
            News::Deleted(name, Err(_)) => _ = waiting.remove(&(controller, name)),
            News::Waits | News::Settled(..) | News::Swept(_) => {}
        }
    }
}

/// Sweeps, looks, retries what was not answered, looks again, and deletes what is too much.
fn settle(cluster: &mut Cluster, told: &mut Told) -> Result<(), String> {
    for process in HOSTS.iter().chain(&CONTROLLERS) {
        cluster.start(process);
    }
    // Holds end by themselves: no sweep and no retry is needed for that.
    cluster.until(LET_GO, |cluster| nothing_is_frozen(&cluster.machines).ok());
    cluster.verdict()?;
    nothing_is_frozen(&cluster.machines)?;
    sweep(cluster)?;
    look(cluster, told)?;
    let open = std::mem::take(&mut told.open);
    for (name, volumes) in open {
        retry(cluster, told, &name, &volumes)?;
    }
    look(cluster, told)?;
    while told.exists.len() > KEPT {
        let Some(name) = told.exists.keys().next().cloned() else { break };
        delete(cluster, told, &name)?;
    }
    look(cluster, told).map(drop)
}

fn sweep(cluster: &mut Cluster) -> Result<(), String> {
    for _ in 0..40 {
        cluster.ask(0, Job::Sweep(Duration::ZERO));
        let left = cluster.until(PATIENCE, |cluster| {
            cluster
                .news()
                .into_iter()
                .find_map(|(_, news)| if let News::Swept(left) = news { Some(left) } else { None })
        });
        match left {
            None => return Err(format!("a sweep did not end within {PATIENCE:?}")),
            // It may have asked a host that it could not reach, and does not say so.
            Some(left) if left.is_empty() && reaches_all(cluster) => return Ok(()),
            Some(_) => cluster.run(Duration::from_millis(500)),
        }
    }
    Err("sweeps do not settle everything although everything is up".into())
}

/// Whether the controller that sweeps has connections to all hosts: settling an unknown name asks the hosts of its volumes.
fn reaches_all(cluster: &mut Cluster) -> bool {
    let volumes = cluster.all_volumes();
    cluster.ask(0, Job::Settle("nothing".into(), volumes));
    let settled = cluster.until(PATIENCE, |cluster| {
        cluster
            .news()
            .into_iter()
            .find_map(|(_, news)| if let News::Settled(_, settled) = news { Some(settled) } else { None })
    });
    let reaches = matches!(settled, Some(Ok(None)));
    if reaches {
        // All are reached now, so one more sweep sees everything.
        cluster.ask(0, Job::Sweep(Duration::ZERO));
        let swept = |cluster: &mut Cluster| {
            cluster.news().into_iter().find(|(_, news)| matches!(news, News::Swept(left) if left.is_empty()))
        };
        return cluster.until(PATIENCE, swept).is_some();
    }
    false
}

/// Everything is whole, and everything that callers were told of is there.
fn look(cluster: &mut Cluster, told: &Told) -> Result<(), String> {
    nothing_is_frozen(&cluster.machines)?;
    let sealed: BTreeMap<String, CutRecord> = check(&cluster.machines, &cluster.chains, &cluster.asked)?
        .into_values()
        .map(|record| (record.name.clone(), record))
        .collect();
    for (name, attempt) in &told.exists {
        match sealed.get(name) {
            Some(record) if record.attempt == *attempt => {}
            Some(record) => {
                return Err(format!("{name}: attempt {attempt} was told of, {} is there", record.attempt));
            }
            None => return Err(format!("{name} was told of and does not exist")),
        }
    }
    Ok(())
}

fn retry(cluster: &mut Cluster, told: &mut Told, name: &str, volumes: &[VolumeId]) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..40 {
        let controller = cluster.dice.below(CONTROLLERS.len());
        cluster.ask(controller, Job::Take(cluster.order(name, volumes.to_vec())));
        told.rounds += 1;
        let taken = cluster.until(PATIENCE, |cluster| {
            cluster
                .news()
                .into_iter()
                .find_map(|(_, news)| if let News::Taken(_, taken) = news { Some(taken) } else { None })
        });
        match taken {
            Some(Ok(record)) => {
                told.exists.insert(name.to_owned(), record.attempt);
                return Ok(());
            }
            Some(Err(fault)) => last = fault.to_string(),
            None => return Err(format!("the retry of {name} was not answered within {PATIENCE:?}")),
        }
        cluster.run(Duration::from_millis(500));
    }
    Err(format!("retries of {name} do not succeed although everything is up: {last}"))
}

fn delete(cluster: &mut Cluster, told: &mut Told, name: &str) -> Result<(), String> {
    for _ in 0..40 {
        cluster.ask(0, Job::Delete(name.to_owned()));
        let deleted = cluster.until(PATIENCE, |cluster| {
            cluster
                .news()
                .into_iter()
                .find_map(|(_, news)| if let News::Deleted(_, done) = news { Some(done) } else { None })
        });
        match deleted {
            Some(Ok(())) => {
                told.exists.remove(name);
                return Ok(());
            }
            Some(Err(_)) => cluster.run(Duration::from_millis(500)),
            None => return Err(format!("deleting {name} was not answered within {PATIENCE:?}")),
        }
    }
    Err(format!("{name} cannot be deleted although everything is up"))
}
