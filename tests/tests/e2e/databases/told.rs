//! What a Run says of itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use stillpoint_rules::kube::objects::{CutStatus, RunStatus};
use stillpoint_tests::cluster::workspace::Workspace;

/// A run that has ended, as kubectl shows it.
pub struct RunTold {
    status: RunStatus,
    /// The same instant on both clocks.
    now: (Timestamp, Instant),
}

impl RunTold {
    /// The run of a snapshot.
    pub fn of(space: &Workspace, snapshot: &str) -> Result<Self> {
        let listed = space.run(&["get", "runs", "-o", "json"])?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let all = listed["items"].as_array().context("kubectl lists no items")?;
        let run = all.iter().find(|run| run["spec"]["snapshot"]["name"] == snapshot);
        let run = run.with_context(|| format!("no run of {snapshot}: {listed:#}"))?;
        let status = serde_json::from_value(run["status"].clone()).context("a run of another shape")?;
        Ok(Self { status, now: (Timestamp::now(), Instant::now()) })
    }

    /// Succeeded with level application, and flushed in every pod of the ring.
    pub fn check_level(&self) -> Result<()> {
        let status = &self.status;
        let whole = || serde_json::to_string_pretty(status).unwrap_or_default();
        ensure!(status.phase == "Succeeded", "{}", whole());
        ensure!(status.level.as_deref() == Some("application"), "{}", whole());
        ensure!(status.failures.is_empty() && status.debts.is_empty(), "{}", whole());
        let attempts = status.pods.iter().filter(|pod| {
            (pod.step.as_str(), pod.action.as_str(), pod.command.as_str())
                == ("flush", "before", "nodetool flush")
        });
        let flushed: BTreeSet<_> =
            attempts.filter(|pod| pod.exit_code == Some(0)).map(|pod| &pod.pod).collect();
        ensure!(status.pods.len() == 3 && flushed.len() == 3, "{}", whole());
        let nodes: BTreeSet<_> = status.pods.iter().map(|pod| &pod.node).collect();
        ensure!(nodes.len() == 3, "pods of three nodes, not {nodes:?}");
        Ok(())
    }

    /// And that at once, with every volume held, cut and let go.
    pub fn check(&self) -> Result<()> {
        self.check_level()?;
        let status = &self.status;
        let whole = || serde_json::to_string_pretty(status).unwrap_or_default();
        ensure!(status.attempt == 1, "{}", whole());
        let cut = self.cut()?;
        ensure!(cut.sealed && cut.window_micros > 0 && cut.skew_micros <= cut.window_micros, "{}", whole());
        let lanes = |of: &str| status.timeline.iter().filter(|lane| lane.of.starts_with(of)).count();
        ensure!((lanes("pod "), lanes("volume ")) == (3, 4), "{}", whole());
        let of_volumes = status.timeline.iter().filter(|lane| lane.of.starts_with("volume "));
        for lane in of_volumes {
            let did = |what: &str| lane.spans.iter().any(|span| span.what == what && !span.failed);
            ensure!(did("freeze") && did("cut") && did("thaw"), "{}: {}", lane.of, whole());
        }
        Ok(())
    }

    /// For people.
    pub fn line(&self) -> String {
        self.status.message.clone()
    }

    /// When the first flush was asked for.
    pub fn flush_began(&self) -> Result<Instant> {
        let first = self.status.pods.iter().map(|pod| pod.started_at.as_str()).min();
        self.instant(first.context("nothing was flushed")?)
    }

    /// When the first hold was asked for.
    pub fn hold_began(&self) -> Result<Instant> {
        self.instant(&self.cut()?.hold_requested_at)
    }

    /// From the first hold to the last release.
    pub fn window(&self) -> Result<(Instant, Instant)> {
        let began = self.hold_began()?;
        Ok((began, began + Duration::from_micros(self.cut()?.window_micros)))
    }

    fn cut(&self) -> Result<&CutStatus> {
        self.status.cut.as_ref().context("the run has no cut")
    }

    /// The cluster's clock is ours.
    fn instant(&self, at: &str) -> Result<Instant> {
        let at: Timestamp = at.parse().with_context(|| format!("{at:?} is no time"))?;
        let ago = Duration::try_from(self.now.0.duration_since(at)).context("it is in the future")?;
        self.now.1.checked_sub(ago).context("it is before the machine's start")
    }
}
