//! A controller's process: it takes jobs off a board and puts up what came of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use stillpoint::controller::cuts::{CutOrder, Cuts, Opened};
use stillpoint::controller::fleet::{AgentAddress, Fleet};
use stillpoint::domain::record::CutRecord;
use stillpoint::domain::round::Limits;
use stillpoint::domain::{CutHandle, CutKind, Fault, HostName, VolumeId};

use super::net::{PORT, Simulated};

/// How often the board is looked at.
const LOOK: Duration = Duration::from_millis(4);

/// What a controller is asked for.
#[derive(Debug, Clone)]
pub enum Job {
    Take(CutOrder),
    /// As `Take`, but between release and seal it waits until it is told to go on.
    TakeSlowly(CutOrder),
    Delete(String),
    /// As an orchestrator does it.
    DeleteById(CutHandle),
    Settle(String, Vec<VolumeId>),
    /// Settles everything that is older than this.
    Sweep(Duration),
}

/// What came of it.
#[derive(Debug)]
pub enum News {
    Taken(String, Result<CutRecord, Fault>),
    /// Released and not sealed: waits.
    Waits,
    Deleted(String, Result<(), Fault>),
    Settled(String, Result<Option<CutRecord>, Fault>),
    /// What could not be settled, and why.
    Swept(Vec<String>),
}

/// Between one controller and whoever watches it. What is on it survives the controller.
#[derive(Default)]
pub struct Board {
    jobs: Mutex<VecDeque<Job>>,
    news: Mutex<Vec<News>>,
    go_on: Mutex<bool>,
}

impl Board {
    pub fn ask(&self, job: Job) {
        lock(&self.jobs).push_back(job);
    }

    pub fn read(&self) -> Vec<News> {
        std::mem::take(&mut *lock(&self.news))
    }

    /// Lets a slow cut go on to its seal.
    pub fn go_on(&self) {
        *lock(&self.go_on) = true;
    }

    /// Forgets what was asked of a controller that is dead.
    pub fn clear(&self) {
        lock(&self.jobs).clear();
        *lock(&self.go_on) = false;
    }

    fn tell(&self, news: News) {
        lock(&self.news).push(news);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock of the simulation.
fn virtual_now() -> Timestamp {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    let elapsed = jiff::SignedDuration::try_from(elapsed).unwrap_or_default();
    Timestamp::UNIX_EPOCH.saturating_add(elapsed).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The controller's process.
pub async fn controller(board: Arc<Board>, hosts: Vec<HostName>) -> turmoil::Result {
    let address = |host: HostName| AgentAddress { address: format!("{host}:{PORT}"), host };
    let fleet = Fleet::reached_by(hosts.into_iter().map(address), Arc::new(Simulated))?;
    let cuts = Cuts::new(fleet, Limits::default()).dated_by(virtual_now);
    loop {
        let job = lock(&board.jobs).pop_front();
        if let Some(job) = job {
            tokio::spawn(work(cuts.clone(), Arc::clone(&board), job));
        } else {
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn work(cuts: Cuts, board: Arc<Board>, job: Job) {
    let news = match job {
        Job::Take(order) => News::Taken(order.name.clone(), cuts.take(order).await),
        Job::TakeSlowly(order) => News::Taken(order.name.clone(), take_slowly(&cuts, &board, order).await),
        Job::Delete(name) => {
            let deleted = delete(&cuts, &name).await;
            News::Deleted(name, deleted)
        }
        Job::DeleteById(id) => News::Deleted(id.to_string(), cuts.delete(&id).await),
        Job::Settle(name, volumes) => {
            let settled = cuts.settle(CutKind::Group, &name, &volumes).await;
            News::Settled(name, settled)
        }
        Job::Sweep(grace) => {
            let left = cuts.sweep(grace).await.left;
            News::Swept(left.into_iter().map(|(id, fault)| format!("{id}: {fault}")).collect())
        }
    };
    board.tell(news);
}

async fn take_slowly(cuts: &Cuts, board: &Board, order: CutOrder) -> Result<CutRecord, Fault> {
    let mut open = match cuts.open(order).await? {
        Opened::Exists(record) => return Ok(*record),
        Opened::Ready(open) => open,
    };
    let taken = open.cut().await?;
    board.tell(News::Waits);
    while !*lock(&board.go_on) {
        tokio::time::sleep(LOOK).await;
    }
    open.seal(taken.level, taken.reasons).await
}

async fn delete(cuts: &Cuts, name: &str) -> Result<(), Fault> {
    match cuts.find(CutKind::Group, name).await? {
        Some(record) => cuts.delete(&record.handle()).await,
        None => Ok(()),
    }
}
