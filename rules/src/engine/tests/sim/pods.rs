//! Commands and sessions. `do STEP` begins something in an application and `undo STEP` undoes it; every other command
//! does nothing that is remembered.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::fate::Luck;
use super::{Place, World};
use crate::api::Probe;
use crate::ports::{
    ExecError, ExecOutcome, ExecRequest, HttpOutcome, HttpRequest, Mark, PodExec, PodTarget, Session,
    SessionRequest,
};

pub(super) struct Exec(pub(super) Arc<World>);

fn lost(pod: &str) -> ExecError {
    ExecError::Lost { pod: pod.into(), why: "the line was cut".into() }
}

fn changed(pod: &str) -> ExecError {
    ExecError::PodChanged { pod: pod.into(), why: "it was replaced".into() }
}

fn exit(exit_code: i32) -> ExecOutcome {
    let output = if exit_code == 0 { String::new() } else { "it said no\n".to_owned() };
    ExecOutcome { exit_code, output, omitted_bytes: 0 }
}

impl World {
    /// What a call in this pod meets; a pod that is gone stays so.
    fn luck_in(&self, pod: &str, effect: &str) -> Luck {
        let luck = self.luck(effect);
        let mut state = self.state();
        if luck == Luck::PodGone {
            state.gone.insert(pod.to_owned());
        }
        if state.gone.contains(pod) { Luck::PodGone } else { luck }
    }

    fn deed(&self, pod: &str, argv: &[String]) {
        let [verb, step] = argv else { return };
        let mut state = self.state();
        if verb == "undo" && state.hosts.any_holds() {
            state.seen.push(format!("{step} was undone in {pod} while hosts held"));
        }
        let done = state.done.entry((step.clone(), pod.to_owned())).or_default();
        match verb.as_str() {
            "do" => done.begun = true,
            "undo" => done.undone += 1,
            _ => {}
        }
    }

    /// What was asked for has not happened yet, and will happen whenever it is worst, unless it is ended.
    fn comes_later(&self, request: &ExecRequest) {
        let [verb, step] = request.argv.as_slice() else { return };
        if verb == "do" {
            let place = (step.clone(), request.target.pod.clone());
            self.state().to_come.push((request.mark, place));
        }
    }

    fn runs_more(&self) {
        let mut state = self.state();
        state.running += 1;
        state.most = state.most.max(state.running);
    }
}

#[async_trait]
impl PodExec for Exec {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        let (world, pod) = (&self.0, request.target.pod.clone());
        world.alive().await;
        let effect = format!("{pod}: {}", request.argv.join(" "));
        world.runs_more();
        let luck = world.luck_in(&pod, &effect);
        let takes = world.state().fate.takes_ms();
        tokio::time::sleep(Duration::from_millis(takes)).await;
        world.state().running -= 1;
        if world.state().dead {
            world.comes_later(&request);
        }
        world.alive().await;
        let ended = match luck {
            Luck::Good => Ok(exit(0)),
            Luck::Fails => Ok(exit(1)),
            Luck::NotStarted => Err(ExecError::NotStarted { pod: pod.clone(), why: "not now".into() }),
            Luck::LostAfter => Err(lost(&pod)),
            Luck::LostBefore => {
                world.comes_later(&request);
                Err(lost(&pod))
            }
            Luck::PodGone => Err(changed(&pod)),
            Luck::Hangs => {
                world.comes_later(&request);
                world.tell(|| format!("{effect} -> never answers"));
                std::future::pending().await
            }
            Luck::TimesOut | Luck::RunsOn => {
                tokio::time::sleep(request.timeout).await;
                let (limit, output) = (request.timeout, "half of i".to_owned());
                let still_running = luck == Luck::RunsOn;
                if still_running {
                    world.comes_later(&request);
                }
                Err(ExecError::TimedOut { pod: pod.clone(), limit, still_running, output })
            }
        };
        let has_effect = match luck {
            Luck::Good | Luck::LostAfter => true,
            // One that failed may have done half of it.
            Luck::Fails | Luck::TimesOut => request.argv[0] == "do",
            Luck::NotStarted | Luck::LostBefore | Luck::Hangs | Luck::RunsOn | Luck::PodGone => false,
        };
        if has_effect {
            world.deed(&pod, &request.argv);
        }
        world.tell(|| match &ended {
            Ok(outcome) if outcome.exit_code == 0 => effect,
            Ok(outcome) => format!("{effect} -> exit code {}", outcome.exit_code),
            Err(error) => format!("{effect} -> {error}"),
        });
        ended
    }

    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        let (world, pod) = (&self.0, request.target.pod.clone());
        world.alive().await;
        let effect = format!("{pod}: session {}", request.argv.join(" "));
        let luck = world.luck_in(&pod, &effect);
        tokio::time::sleep(Duration::from_millis(2)).await;
        let refused = match luck {
            Luck::Good => None,
            Luck::Hangs => {
                world.tell(|| format!("{effect} -> never says that it holds"));
                std::future::pending().await
            }
            Luck::PodGone => Some(changed(&pod)),
            Luck::Fails
            | Luck::NotStarted
            | Luck::LostAfter
            | Luck::LostBefore
            | Luck::TimesOut
            | Luck::RunsOn => Some(lost(&pod)),
        };
        if let Some(error) = refused {
            world.tell(|| format!("{effect} -> {error}"));
            return Err(error);
        }
        let step = request.argv.get(1).cloned().unwrap_or_default();
        let tolerated = request.argv.iter().any(|word| word == "degrade");
        let place = (step, pod);
        world.state().holding.insert(place.clone());
        world.tell(|| format!("{effect} -> holds"));
        Ok(Box::new(Held { world: world.clone(), place, tolerated }))
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError> {
        Err(lost(&request.target.pod))
    }

    async fn end(&self, target: &PodTarget, mark: Mark) -> Result<(), ExecError> {
        let (world, pod) = (&self.0, target.pod.as_str());
        world.alive().await;
        let effect = format!("{pod}: end what may still run");
        let luck = world.luck_in(pod, &effect);
        tokio::time::sleep(Duration::from_millis(2)).await;
        world.alive().await;
        let ended = match luck {
            Luck::Good => Ok(()),
            Luck::PodGone => Err(changed(pod)),
            Luck::Hangs => {
                world.tell(|| format!("{effect} -> never answers"));
                std::future::pending().await
            }
            Luck::Fails
            | Luck::NotStarted
            | Luck::LostAfter
            | Luck::LostBefore
            | Luck::TimesOut
            | Luck::RunsOn => Err(lost(pod)),
        };
        if matches!(luck, Luck::Good | Luck::PodGone | Luck::LostAfter) {
            world.state().to_come.retain(|(of, _)| *of != mark);
        }
        world.tell(|| match &ended {
            Ok(()) => effect,
            Err(error) => format!("{effect} -> {error}"),
        });
        ended
    }
}

/// Holds as long as it lives.
struct Held {
    world: Arc<World>,
    place: Place,
    /// Its loss only lowers the level.
    tolerated: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.world.state();
        if state.hosts.any_holds() {
            let seen = format!("{:?} was let go while hosts held", self.place);
            state.seen.push(seen);
        }
        state.holding.remove(&self.place);
    }
}

#[async_trait]
impl Session for Held {
    async fn prove(&mut self, _: Option<&Probe>) -> Result<(), ExecError> {
        let pod = &self.place.1;
        self.world.alive().await;
        let effect = format!("{pod}: is it still held?");
        if self.world.luck_in(pod, &effect) == Luck::Good {
            self.world.tell(|| format!("{effect} yes"));
            return Ok(());
        }
        if !self.tolerated {
            self.world.state().lost.insert(self.place.clone());
        }
        self.world.tell(|| format!("{effect} no: it is gone"));
        Err(lost(pod))
    }

    async fn release(self: Box<Self>, finish: &[String]) -> Result<ExecOutcome, ExecError> {
        let pod = &self.place.1;
        self.world.alive().await;
        let said =
            if finish.is_empty() { String::new() } else { format!(", last words: {}", finish.join(" ")) };
        let effect = format!("{pod}: session ends{said}");
        let luck = self.world.luck_in(pod, &effect);
        self.world.tell(|| if luck == Luck::Good { effect } else { format!("{effect} -> {luck:?}") });
        match luck {
            Luck::Good => Ok(exit(0)),
            Luck::Hangs => std::future::pending().await,
            Luck::Fails
            | Luck::NotStarted
            | Luck::LostAfter
            | Luck::LostBefore
            | Luck::TimesOut
            | Luck::RunsOn
            | Luck::PodGone => Err(lost(pod)),
        }
    }
}
