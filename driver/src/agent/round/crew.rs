//! The seam to whoever runs a round: threads of this process, or tasks on a simulated clock.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::conductor::{Conductor, Input};
use super::member::{Answer, Work, Worker};

/// Where a conductor takes its inputs from. Clones lead to the same one.
#[derive(Clone)]
pub struct Inbox(Arc<dyn Fn(Input) -> bool + Send + Sync>);

impl Inbox {
    /// An inbox into which `put` puts; it says whether the conductor is still there.
    pub fn new(put: impl Fn(Input) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(put))
    }

    /// Whether the conductor is still there to take it.
    pub fn put(&self, input: Input) -> bool {
        (self.0)(input)
    }
}

/// Makes a conductor that has this inbox.
pub type Start = Box<dyn FnOnce(Inbox) -> Conductor + Send>;
/// Tells a member's worker what to do; says whether it is still there.
pub type Errands = Box<dyn Fn(Work) -> bool + Send>;
/// Sets an alarm that rings once, after this time, unless it is dropped before.
pub type Alarm = Box<dyn Fn(Duration) + Send>;
/// What an alarm does.
pub type Ring = Box<dyn FnOnce() + Send>;
/// Takes what a worker answers.
pub type Reply = Box<dyn Fn(Answer) + Send>;

/// Runs conductors and workers. Each worker does what it is told in order, each conductor takes one input at a time and
/// is told when its deadline has passed.
pub trait Crew: Send + Sync {
    /// Runs a conductor until it is over.
    fn conduct(&self, start: Start) -> io::Result<Inbox>;
    /// Runs a worker until its errands are dropped.
    fn employ(&self, worker: Worker, reply: Reply) -> io::Result<Errands>;
    /// Runs the worker of a member that is alone on this host. There is nobody else to order to while its kernel call
    /// lasts, so whoever gives the order may do the work as well: it needs no second thread to wake up twice.
    fn employ_alone(&self, worker: Worker, reply: Reply) -> io::Result<Errands> {
        self.employ(worker, reply)
    }
    /// Makes an alarm that is not set yet. It rings on none of the threads that conduct and work, for those may be in a
    /// kernel call that lasts.
    fn alarm(&self, ring: Ring) -> io::Result<Alarm>;
    /// Carries out one call, which may block.
    fn carry_out(&self, call: Box<dyn FnOnce() + Send>);
}

/// A thread per round, one for its limit and, unless it is alone, one per member: FIFREEZE cannot be interrupted.
#[derive(Debug, Clone, Copy)]
pub struct Threads;

impl Crew for Threads {
    fn conduct(&self, start: Start) -> io::Result<Inbox> {
        let (inputs, queue) = channel();
        let inbox = Inbox::new(move |input| inputs.send(input).is_ok());
        let conductor = start(inbox.clone());
        thread::Builder::new().name("round".into()).spawn(move || run(conductor, &queue))?;
        Ok(inbox)
    }

    fn employ(&self, worker: Worker, reply: Reply) -> io::Result<Errands> {
        let (orders, queue) = channel();
        thread::Builder::new().name("member".into()).spawn(move || work(worker, &queue, &reply))?;
        Ok(Box::new(move |work| orders.send(work).is_ok()))
    }

    fn employ_alone(&self, worker: Worker, reply: Reply) -> io::Result<Errands> {
        let here = OnTheSpot(RefCell::new(Some(worker)));
        Ok(Box::new(move |work| here.perform(work, &reply)))
    }

    fn alarm(&self, ring: Ring) -> io::Result<Alarm> {
        let (set, limits) = channel::<Duration>();
        let wait = move || {
            let Ok(limit) = limits.recv() else { return };
            if limits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                ring();
            }
        };
        thread::Builder::new().name("limit".into()).spawn(wait)?;
        // Without its thread nobody waits for it any more.
        Ok(Box::new(move |limit| {
            let _ = set.send(limit);
        }))
    }

    fn carry_out(&self, call: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(call);
    }
}

/// A worker that works on the thread that gives the orders.
struct OnTheSpot(RefCell<Option<Worker>>);

impl OnTheSpot {
    fn perform(&self, work: Work, reply: &Reply) -> bool {
        let Some(worker) = &mut *self.0.borrow_mut() else { return false };
        reply(worker.perform(work));
        true
    }
}

impl Drop for OnTheSpot {
    fn drop(&mut self) {
        if let Some(worker) = self.0.take() {
            worker.abandoned();
        }
    }
}

/// Runs a conductor on this thread until it is over.
pub fn run(mut conductor: Conductor, queue: &Receiver<Input>) {
    while !conductor.is_over() {
        let now = Instant::now();
        let input = match conductor.deadline() {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            // Before what is waiting: the deadline passed while this thread was in a kernel call.
            Some(at) if at <= now => Err(RecvTimeoutError::Timeout),
            Some(at) => queue.recv_timeout(at - now),
        };
        match input {
            Ok(input) => conductor.take(input),
            Err(RecvTimeoutError::Timeout) => conductor.deadline_passed(),
            // The conductor itself keeps the queue connected, so it never ends by itself.
            Err(RecvTimeoutError::Disconnected) => conductor.take(Input::StreamEnded),
        }
    }
}

fn work(mut worker: Worker, queue: &Receiver<Work>, reply: &Reply) {
    for work in queue {
        reply(worker.perform(work));
    }
    worker.abandoned();
}
