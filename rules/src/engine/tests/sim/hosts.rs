//! Three hosts that prepare, hold, cut and release, each of which may fail in each of these. They keep their own
//! promise, as the real ones do: what nobody waits for any more is let go. What is checked is when the engine asks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::World;
use super::fate::Luck;
use crate::ports::{CutError, CutReport, CutRequest, Cutter, OpenCut, SealRequest, StorageLevel};

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// What one host does for the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Doing {
    #[default]
    Nothing,
    Prepared,
    /// Writers wait.
    Holds,
    HasCut,
    HasReleased,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hosts {
    pub(super) doing: [Doing; 3],
}

impl Hosts {
    pub(super) fn are_idle(self) -> bool {
        self.doing == [Doing::Nothing; 3]
    }

    pub(super) fn any_holds(self) -> bool {
        self.doing.iter().any(|doing| matches!(doing, Doing::Holds | Doing::HasCut))
    }
}

pub(super) struct Cutters(pub(super) Arc<World>);

/// A round: the hosts let go when it is dropped.
struct Round {
    world: Arc<World>,
    sealed: bool,
}

impl Drop for Round {
    fn drop(&mut self) {
        self.world.state().hosts = Hosts::default();
        if !self.sealed {
            self.world.tell(|| "hosts let go and forget the cut".to_owned());
        }
    }
}

impl World {
    /// One phase on each host, one after the other.
    async fn on_hosts(&self, what: &str, then: Doing) -> Result<(), CutError> {
        for (index, host) in NAMES.iter().enumerate() {
            self.alive().await;
            let effect = format!("host {host}: {what}");
            let luck = self.luck(&effect);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.alive().await;
            let failed = || CutError { retry: true, message: format!("host {host} failed to {what}") };
            match luck {
                Luck::Good | Luck::LostAfter => self.state().hosts.doing[index] = then,
                Luck::Fails
                | Luck::NotStarted
                | Luck::LostBefore
                | Luck::PodGone
                | Luck::TimesOut
                | Luck::RunsOn => {}
                Luck::Hangs => {
                    self.tell(|| format!("{effect} -> never answers"));
                    std::future::pending::<()>().await;
                }
            }
            if luck != Luck::Good {
                self.tell(|| format!("{effect} -> failed"));
                return Err(failed());
            }
            self.tell(|| effect);
        }
        Ok(())
    }

    fn must_hold_everywhere(&self) {
        let wanted = super::check::wanted_sessions(self);
        let mut state = self.state();
        if let Some(missing) =
            wanted.iter().find(|place| !state.holding.contains(*place) && !state.lost.contains(*place))
        {
            let seen = format!("hosts held before the session {missing:?} did");
            state.seen.push(seen);
        }
    }
}

#[async_trait]
impl Cutter for Cutters {
    async fn open(&self, _: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        let round = Round { world: self.0.clone(), sealed: false };
        self.0.on_hosts("open", Doing::Prepared).await?;
        Ok(Box::new(round))
    }
}

#[async_trait]
impl OpenCut for Round {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        let world = self.world.clone();
        world.must_hold_everywhere();
        let done = async {
            world.on_hosts("hold", Doing::Holds).await?;
            world.on_hosts("cut", Doing::HasCut).await?;
            world.on_hosts("release", Doing::HasReleased).await
        };
        if let Err(error) = done.await {
            // Their own promise: after an error nothing is held.
            world.state().hosts = Hosts::default();
            return Err(error);
        }
        Ok(CutReport {
            cut_id: "id".into(),
            level: StorageLevel::Filesystem,
            reasons: vec![],
            hold_requested_at: Timestamp::now(),
            window_us: 900,
            skew_us: 10,
        })
    }

    /// The first host is the home: from its word on the cut is real, whatever becomes of the others.
    async fn seal(mut self: Box<Self>, request: SealRequest) -> Result<(), CutError> {
        let world = self.world.clone();
        world.alive().await;
        let word = if request.application { "seal, level application" } else { "seal" };
        let effect = format!("host {}: {word}", NAMES[0]);
        let luck = world.luck(&effect);
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.alive().await;
        let happens = matches!(luck, Luck::Good | Luck::LostAfter | Luck::TimesOut | Luck::RunsOn);
        self.sealed = happens;
        if happens {
            let mut state = world.state();
            state.sealed += 1;
            let cut = state.hosts.doing.iter().all(|doing| *doing == Doing::HasReleased);
            if !cut {
                let seen = format!("sealed although the hosts were {:?}", state.hosts.doing);
                state.seen.push(seen);
            }
            if !state.lost.is_empty() || !state.holding.is_empty() {
                let seen =
                    format!("sealed although {:?} was lost, or while {:?} held", state.lost, state.holding);
                state.seen.push(seen);
            }
        }
        world.tell(|| if luck == Luck::Good { effect } else { format!("{effect} -> {luck:?}") });
        match luck {
            Luck::Good => Ok(()),
            Luck::Hangs | Luck::TimesOut | Luck::RunsOn => {
                std::future::pending::<Result<(), CutError>>().await
            }
            Luck::Fails | Luck::NotStarted | Luck::LostAfter | Luck::LostBefore | Luck::PodGone => {
                Err(CutError { retry: true, message: "the home pool is away".into() })
            }
        }
    }
}
