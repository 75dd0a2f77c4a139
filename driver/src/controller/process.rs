//! What every controller process does, with and without Kubernetes: signals, sockets, parts that live and die
//! together, and the sweep.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cuts::Cuts;
use super::fleet::Fleet;
use super::{moves, transfers};
use crate::csi::socket;
use crate::domain::Fault;
use crate::observe::metrics;

/// How often cuts that dead controllers have left are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// A cut that is younger may still be under way in another controller: longer than any round.
const SWEEP_GRACE: Duration = Duration::from_mins(5);
/// How long calls under way may take after the controller was told to end.
const GOODBYE_LIMIT: Duration = Duration::from_secs(20);
/// How much of that runs of rules have to undo what they did. What is still owed then is on record, and the next
/// controller goes on with it; Kubernetes gives a pod 30 s.
pub const UNDO_GRACE: Duration = Duration::from_secs(12);

/// Why runs are stopped then.
pub const STOPPED: &str = "the controller was told to stop";

/// Says how many runs the next controller has to go on with.
pub fn handed_over(runs: usize) {
    if runs > 0 {
        tracing::warn!(runs, "runs could not be undone in time; what they owe is paid at the next start");
    }
}

/// Runs what `serve` makes until SIGTERM or SIGINT; then tells it to stop and gives it [`GOODBYE_LIMIT`].
pub async fn until_signal<F>(serve: impl FnOnce(watch::Receiver<bool>) -> F) -> Result<(), Fault>
where
    F: Future<Output = Result<(), Fault>>,
{
    let (stop, stopped) = watch::channel(false);
    let signals = wait_for_signal()?;
    let serving = serve(stopped);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = signals => {}
    }
    tracing::info!("told to stop: calls under way are finished, runs of rules are stopped and undone");
    stop.send_replace(true);
    if let Ok(ended) = tokio::time::timeout(GOODBYE_LIMIT, serving).await {
        return ended;
    }
    tracing::warn!("not everything ended within {GOODBYE_LIMIT:?}; what runs owe is paid at the next start");
    Ok(())
}

/// Waits for parts of a process. One that ends by itself ends all: without it the rest would look alive and be
/// half dead.
pub async fn together(
    mut parts: JoinSet<Result<(), Fault>>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Fault> {
    while let Some(part) = parts.join_next().await {
        let part = part
            .unwrap_or_else(|error| Err(Fault::internal(format!("a part of the controller died: {error}"))));
        if part.is_err() || !*stopped.borrow() {
            return part.and_then(|()| Err(Fault::internal("a part of the controller ended by itself")));
        }
    }
    Ok(())
}

/// Settles what dead controllers have left, now and then.
pub async fn sweep(fleet: Fleet, cuts: Cuts, stopped: watch::Receiver<bool>) -> Result<(), Fault> {
    let stop = until(stopped);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        let swept = cuts.sweep(SWEEP_GRACE).await;
        metrics::sweeps::swept(&swept);
        for id in &swept.voided {
            tracing::info!(cut = %id, "removed a cut that was never sealed");
        }
        for id in &swept.rolled_forward {
            tracing::info!(cut = %id, "sealed a cut on the hosts that did not know of it yet");
        }
        for (id, fault) in &swept.left {
            tracing::warn!(cut = %id, %fault, "cannot settle a cut yet");
        }
        if let Err(fault) = transfers::sweep(&cuts).await {
            tracing::warn!(%fault, "cannot look for temporary snapshots yet");
        }
        if let Err(fault) = moves::sweep(&fleet).await {
            tracing::warn!(%fault, "cannot settle all moves of volumes yet");
        }
    }
}

/// Until the process is told to stop.
pub async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that nobody can tell any more: stop.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// A server that ended.
pub fn ended(what: &str, error: &tonic::transport::Error) -> Fault {
    Fault::internal(format!("the {what} server ended: {error}"))
}

/// A unix socket, with its directory.
pub fn bind(path: &Path) -> Result<UnixListener, Fault> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|error| {
            Fault::precondition(format!(
                "cannot make the directory {} of a socket: {error}",
                parent.display()
            ))
        })?;
    }
    socket::bind(path).map_err(|error| Fault::precondition(error.to_string()))
}

/// Signals are taken from here on; the future ends at the first.
fn wait_for_signal() -> Result<impl Future<Output = ()>, Fault> {
    let take =
        |kind| signal(kind).map_err(|error| Fault::internal(format!("cannot wait for signals: {error}")));
    let (mut terminate, mut interrupt) = (take(SignalKind::terminate())?, take(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
