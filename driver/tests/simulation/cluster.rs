//! Everything together: hosts, controllers, network, clock, writers; one step at a time, all of it decided by one seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use stillpoint::controller::cuts::{Barrier, CutOrder};
use stillpoint::domain::{CutKind, HostName, VolumeId};
use turmoil::{Builder, Sim};

use super::controller::{Board, Job, News, controller};
use super::dice::Dice;
use super::ledger::{Chain, place};
use super::machine::Machine;

pub const HOSTS: [&str; 3] = ["a", "b", "c"];
pub const CONTROLLERS: [&str; 2] = ["controller-0", "controller-1"];
/// The host that has a raw volume.
const WITH_RAW: &str = "c";
const VOLUMES: usize = 2;
const CHAINS: usize = 2;
/// Two milliseconds of the world at a time: fine enough for messages and kernel calls of up to a dozen.
pub const TICK: Duration = Duration::from_millis(2);

pub struct Cluster {
    sim: Sim<'static>,
    pub machines: Vec<Machine>,
    pub boards: Vec<Arc<Board>>,
    pub chains: Vec<Chain>,
    pub dice: Dice,
    pub barrier: Barrier,
    /// For each name of a group snapshot: how many entries each chain had when it was first asked for.
    pub asked: BTreeMap<String, Vec<usize>>,
    trace: String,
    /// By host: for how many milliseconds something has been held, and for how many of them without an agent.
    frozen: [(u64, u64); 3],
    /// The first hold that lasted too long.
    wrong: Option<String>,
}

/// No hold lasts longer than the guard's limit, and one whose agent is dead ends when the guard notices.
const LONGEST_HOLD_MS: u64 = 10_100;
const LONGEST_WITHOUT_AGENT_MS: u64 = 20;

impl Cluster {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut sim = Builder::new()
            .rng_seed(dice.next())
            .tick_duration(TICK)
            .simulation_duration(Duration::from_hours(1000))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(12))
            .tcp_capacity(4096)
            .build();
        let machine = |name: &&str| Machine::new(name, VOLUMES, *name == WITH_RAW, dice.split());
        let machines: Vec<_> = HOSTS.iter().map(machine).collect();
        for machine in &machines {
            let machine = machine.clone();
            sim.host(machine.name.to_string(), move || machine.clone().agent());
        }
        let hosts: Vec<HostName> = machines.iter().map(|machine| machine.name.clone()).collect();
        let boards: Vec<Arc<Board>> = CONTROLLERS.iter().map(|_| Arc::default()).collect();
        for (name, board) in CONTROLLERS.iter().zip(&boards) {
            let (hosts, board) = (hosts.clone(), Arc::clone(board));
            sim.host(*name, move || controller(Arc::clone(&board), hosts.clone()));
        }
        let chains = (0..CHAINS).map(|index| Chain::new(index, dice.split())).collect();
        Self {
            sim,
            machines,
            boards,
            chains,
            dice,
            barrier: Barrier::Up,
            asked: BTreeMap::new(),
            trace: String::new(),
            frozen: [(0, 0); 3],
            wrong: None,
        }
    }

    /// What happened, with the virtual time.
    pub fn note(&mut self, what: &str) {
        let _ = writeln!(self.trace, "{:>9.3} s  {what}", self.sim.elapsed().as_secs_f64());
    }

    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// One tick.
    pub fn step(&mut self) {
        self.sim.step().expect("no simulated process ends by itself");
        for machine in &self.machines {
            machine.host.advance_us(u64::try_from(TICK.as_micros()).unwrap_or(1));
            machine.guard.tick();
        }
        for chain in &mut self.chains {
            chain.write(&self.machines);
        }
        self.watch_holds();
    }

    fn watch_holds(&mut self) {
        for (host, name) in HOSTS.iter().enumerate() {
            let machine = &self.machines[host];
            let alone = machine.guard.is_alive() && !self.sim.is_host_running(*name);
            let (frozen, without_agent) = &mut self.frozen[host];
            if !machine.holds_something() {
                (*frozen, *without_agent) = (0, 0);
                continue;
            }
            let tick = u64::try_from(TICK.as_millis()).unwrap_or(1);
            *frozen += tick;
            *without_agent = if alone { *without_agent + tick } else { 0 };
            if *frozen > LONGEST_HOLD_MS || *without_agent > LONGEST_WITHOUT_AGENT_MS {
                self.wrong.get_or_insert(format!(
                    "something on host {name} is held for {frozen} ms, {without_agent} ms of it without an agent"
                ));
            }
        }
    }

    /// What was wrong at any moment.
    pub fn verdict(&self) -> Result<(), String> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    /// Steps until this says something, at most so long.
    pub fn until<T>(&mut self, limit: Duration, mut look: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        for _ in 0..limit.as_millis() / TICK.as_millis() {
            if let Some(seen) = look(self) {
                return Some(seen);
            }
            self.step();
        }
        look(self)
    }

    pub fn run(&mut self, time: Duration) {
        let _ = self.until(time, |_| None::<()>);
    }

    /// Asks a controller.
    pub fn ask(&mut self, controller: usize, job: Job) {
        let told = match &job {
            Job::Take(order) | Job::TakeSlowly(order) => {
                let written = || self.chains.iter().map(Chain::len).collect();
                self.asked.entry(order.name.clone()).or_insert_with(written);
                format!("take {} of {} members", order.name, order.volumes.len())
            }
            Job::Delete(name) => format!("delete {name}"),
            Job::DeleteById(id) => format!("delete {id}"),
            Job::Settle(name, _) => format!("settle {name}"),
            Job::Sweep(grace) => format!("sweep what is older than {grace:?}"),
        };
        self.note(&format!("{}: {told}", CONTROLLERS[controller]));
        self.boards[controller].ask(job);
    }

    /// What controllers have told since the last look.
    pub fn news(&mut self) -> Vec<(usize, News)> {
        let mut all = Vec::new();
        for (controller, name) in CONTROLLERS.iter().enumerate() {
            for news in self.boards[controller].read() {
                self.note(&format!("{name}: {}", told(&news)));
                all.push((controller, news));
            }
        }
        all
    }

    pub fn all_volumes(&self) -> Vec<VolumeId> {
        let count = self.machines.len() * VOLUMES;
        (0..count)
            .map(|number| place(&self.machines, number))
            .map(|(machine, at)| machine.volumes[at].id.clone())
            .collect()
    }

    /// Some volumes, at least one.
    pub fn some_volumes(&mut self) -> Vec<VolumeId> {
        let mut volumes = self.all_volumes();
        volumes.retain(|_| self.dice.percent(70));
        if volumes.is_empty() { self.all_volumes() } else { volumes }
    }

    pub fn order(&self, name: &str, volumes: Vec<VolumeId>) -> CutOrder {
        CutOrder { kind: CutKind::Group, name: name.to_owned(), volumes, barrier: self.barrier }
    }

    // ---- what can go wrong -----------------------------------------------------------------------

    pub fn kill(&mut self, process: &str) {
        if self.is_running(process) {
            self.note(&format!("{process} dies"));
            self.sim.crash(process.to_owned());
            if let Some(controller) = CONTROLLERS.iter().position(|name| *name == process) {
                self.boards[controller].clear();
            }
        }
    }

    pub fn start(&mut self, process: &str) {
        let without_power = |machine: &Machine| machine.name.to_string() == process && !machine.has_power();
        if !self.is_running(process) && !self.machines.iter().any(without_power) {
            self.note(&format!("{process} starts"));
            self.sim.bounce(process.to_owned());
        }
    }

    pub fn is_running(&mut self, process: &str) -> bool {
        self.sim.is_host_running(process.to_owned())
    }

    /// Nothing gets through any more; what was on the way is lost.
    pub fn part(&mut self, controller: usize, host: usize) {
        self.note(&format!("{} and {} are parted", CONTROLLERS[controller], HOSTS[host]));
        self.sim.partition(CONTROLLERS[controller], HOSTS[host]);
    }

    /// Everything arrives, but only when it is released.
    pub fn delay(&mut self, controller: usize, host: usize) {
        self.note(&format!(
            "{} and {} hear nothing of each other for now",
            CONTROLLERS[controller], HOSTS[host]
        ));
        self.sim.hold(CONTROLLERS[controller], HOSTS[host]);
    }

    pub fn join(&mut self, controller: usize, host: usize) {
        self.note(&format!("{} and {} hear each other again", CONTROLLERS[controller], HOSTS[host]));
        self.sim.release(CONTROLLERS[controller], HOSTS[host]);
        self.sim.repair(CONTROLLERS[controller], HOSTS[host]);
    }
}

fn told(news: &News) -> String {
    match news {
        News::Taken(name, Ok(record)) => format!("{name} is taken, attempt {}", record.attempt),
        News::Taken(name, Err(fault)) => format!("{name} is not taken: {:?}: {fault}", fault.code),
        News::Waits => "released, waits before the seal".into(),
        News::Deleted(name, Ok(())) => format!("{name} is deleted"),
        News::Deleted(name, Err(fault)) => format!("{name} is not deleted: {fault}"),
        News::Settled(name, Ok(found)) => {
            format!("{name} is settled: {}", if found.is_some() { "it exists" } else { "nothing" })
        }
        News::Settled(name, Err(fault)) => format!("{name} is not settled: {fault}"),
        News::Swept(left) if left.is_empty() => "swept".into(),
        News::Swept(left) => format!("swept, left: {}", left.join("; ")),
    }
}
