//! Rounds as tasks on simulated time: each kernel call takes as long as the dice say.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stillpoint::agent::round::conductor::Input;
use stillpoint::agent::round::crew::{Alarm, Crew, Errands, Inbox, Reply, Ring, Start};
use stillpoint::agent::round::member::{Work, Worker};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, timeout_at};

use super::dice::Dice;

/// How long kernel calls take at most.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub longest_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { longest_ms: 8 }
    }
}

pub struct Tasks {
    pub pace: Arc<Mutex<Pace>>,
    pub dice: Arc<Mutex<Dice>>,
}

impl Crew for Tasks {
    fn conduct(&self, start: Start) -> io::Result<Inbox> {
        let (inputs, mut queue) = mpsc::unbounded_channel();
        let inbox = Inbox::new(move |input| inputs.send(input).is_ok());
        let mut conductor = start(inbox.clone());
        tokio::spawn(async move {
            while !conductor.is_over() {
                let input = match conductor.deadline() {
                    None => Ok(queue.recv().await),
                    Some(at) => timeout_at(at, queue.recv()).await,
                };
                match input {
                    Ok(input) => conductor.take(input.unwrap_or(Input::StreamEnded)),
                    Err(_) => conductor.deadline_passed(),
                }
            }
        });
        Ok(inbox)
    }

    fn employ(&self, mut worker: Worker, reply: Reply) -> io::Result<Errands> {
        let (orders, mut queue) = mpsc::unbounded_channel::<Work>();
        let (pace, dice) = (Arc::clone(&self.pace), Arc::clone(&self.dice));
        tokio::spawn(async move {
            while let Some(work) = queue.recv().await {
                // The kernel does it at some moment of the call. A process that is killed meanwhile has done it or not.
                let (before, after) = times(&pace, &dice);
                sleep(before).await;
                let answer = worker.perform(work);
                sleep(after).await;
                reply(answer);
            }
            worker.abandoned();
        });
        Ok(Box::new(move |work| orders.send(work).is_ok()))
    }

    fn alarm(&self, ring: Ring) -> io::Result<Alarm> {
        let (set, mut limits) = mpsc::unbounded_channel::<Duration>();
        tokio::spawn(async move {
            let Some(limit) = limits.recv().await else { return };
            if timeout(limit, limits.recv()).await.is_err() {
                ring();
            }
        });
        Ok(Box::new(move |limit| {
            let _ = set.send(limit);
        }))
    }

    /// At once and here: threads would end in another order each time.
    fn carry_out(&self, call: Box<dyn FnOnce() + Send>) {
        call();
    }
}

fn times(pace: &Mutex<Pace>, dice: &Mutex<Dice>) -> (Duration, Duration) {
    let longest = pace.lock().unwrap_or_else(PoisonError::into_inner).longest_ms;
    let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
    (dice.ms(0..longest), dice.ms(0..longest))
}
