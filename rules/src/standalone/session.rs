//! A session as a child process whose input stays open.

use std::process::Stdio;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::time::{Instant, timeout, timeout_at};

use crate::listen::{Awaited, hear};
use crate::output::{Output, join};
use crate::ports::{ExecError, SessionRequest};
use crate::session::{Ended, Followed, Held};

use super::exec::pod_name;
use super::inventory::PodDefinition;
use super::leftovers;
use super::process::{DRAIN, End, Process, Start, exit_code, read_all};
use super::supervisor::Orphaned;

pub(super) async fn open(definition: &PodDefinition, request: SessionRequest) -> Result<Held, ExecError> {
    let pod = pod_name(&request.target);
    let deadline = Instant::now() + request.limit;
    let not_started = |why| ExecError::NotStarted { pod: pod.clone(), why };
    let orphaned = Orphaned::EndAfter(request.limit);
    let start = Start { env: &request.env, mark: request.mark, orphaned, stdin: Stdio::piped };
    let mut process = Process::start(definition, &request.argv, start).await.map_err(not_started)?;
    let stdin =
        process.child.stdin.take().ok_or_else(|| not_started("it has no standard input".to_owned()))?;
    let awaited = Awaited::default();
    let (supervisor, command) = (process.child.id(), process.pid);
    let (place, mark) = (definition.clone(), request.mark);
    let listening = awaited.clone();
    let following = tokio::spawn(async move {
        let mut ended = follow(process, listening, request.output_limit, deadline).await;
        if ended.exit.is_none() {
            ended.still_running |= leftovers::end(&place, mark).await.is_err();
        }
        ended
    });
    // Asking the kernel is quicker than waiting to be told.
    let lives = move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let supervisor = supervisor.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        supervisor.is_some_and(|pid| waitid(Id::Pid(pid), flags) == Ok(WaitStatus::StillAlive))
            && leftovers::is_alive(command)
    };
    let followed = Followed { stdin: Box::new(stdin), awaited, following, lives: Box::new(lives) };
    Held::take(followed, &request, deadline).await
}

/// Reads what it prints until it ends or its limit passes; then nothing of it is left.
async fn follow(mut process: Process, awaited: Awaited, limit: usize, deadline: Instant) -> Ended {
    let (mut out, mut err) = (Output::new(limit), Output::new(limit));
    let status = timeout_at(deadline, to_its_end(&mut process, &awaited, &mut out, &mut err)).await;
    awaited.give_up();
    let (exit, still_running) = match status {
        Ok(Ok(status)) => (Some(exit_code(status)), false),
        Ok(Err(error)) => (Some(Err(error.to_string())), false),
        Err(_) => (None, process.kill().await == End::Unverified),
    };
    let (output, omitted_bytes) = join(out, err);
    Ended { exit, output, omitted_bytes, still_running }
}

async fn to_its_end(
    process: &mut Process,
    awaited: &Awaited,
    out: &mut Output,
    err: &mut Output,
) -> std::io::Result<std::process::ExitStatus> {
    let (stdout, stderr) = (process.child.stdout.take(), process.child.stderr.take());
    let listening = async {
        if let Some(mut stdout) = stdout {
            hear(&mut stdout, awaited, out).await;
        }
    };
    let reading = async { tokio::join!(listening, read_all(stderr, err)) };
    tokio::pin!(reading);
    tokio::select! {
        _ = &mut reading => process.child.wait().await,
        status = process.child.wait() => {
            // Running out of this time is what it is for.
            let _ = timeout(DRAIN, &mut reading).await;
            status
        }
    }
}
