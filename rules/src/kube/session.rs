//! A session: a command in a container whose standard input stays open. The end of the connection is the end of that
//! input, which must make it let go; at its limit the wrapper in the container ends it by itself.

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use crate::listen::Awaited;
use crate::output::{Output, join};
use crate::ports::{ExecError, SessionRequest};
use crate::session::{Ended, Followed, Held};

use super::exec::{follow, needs_shell};
use super::inventory::KubePods;
use super::stream::{Input, pod_name};
use super::wrap::{Kind, has_no_shell, preamble, wrapped};

pub(super) async fn open(pods: &KubePods, request: SessionRequest) -> Result<Held, ExecError> {
    let deadline = Instant::now() + request.limit;
    if pods.shells().is_there(&request.target) {
        let argv = wrapped(Kind::Session, &request.argv, &request.env, request.limit, request.mark);
        let lines = preamble(&request.env)
            .map_err(|why| ExecError::NotStarted { pod: pod_name(&request.target), why })?;
        match begin(pods, &request, &argv, &lines, deadline).await {
            Err(ExecError::Lost { why, .. }) if has_no_shell(&why) => {
                pods.shells().is_missing(&request.target);
            }
            outcome => return outcome,
        }
    }
    if !request.env.is_empty() {
        return Err(ExecError::NotStarted { pod: pod_name(&request.target), why: needs_shell() });
    }
    begin(pods, &request, &request.argv, "", deadline).await
}

async fn begin(
    pods: &KubePods,
    request: &SessionRequest,
    argv: &[String],
    first_lines: &str,
    deadline: Instant,
) -> Result<Held, ExecError> {
    let pod = pod_name(&request.target);
    let not_started = |why: String| ExecError::NotStarted { pod: pod.clone(), why };
    let late = || ExecError::TimedOut {
        pod: pod.clone(),
        limit: request.limit,
        still_running: true,
        output: String::new(),
    };
    let starting = pods.start(&request.target, argv, Input::Open);
    let mut process = timeout_at(deadline, starting).await.map_err(|_| late())??;
    let mut stdin =
        process.stdin().ok_or_else(|| not_started("it has no standard input; this is a bug".to_owned()))?;
    // One that has ended shows that when it is listened to.
    let _ = timeout_at(deadline, stdin.write_all(first_lines.as_bytes())).await;
    let awaited = Awaited::default();
    let (listening, limit) = (awaited.clone(), request.output_limit);
    let following = tokio::spawn(async move {
        let (mut out, mut err) = (Output::new(limit), Output::new(limit));
        let exit = timeout_at(deadline, follow(&mut process, &listening, &mut out, &mut err)).await.ok();
        drop(process);
        listening.give_up();
        let (output, omitted_bytes) = join(out, err);
        // Whether the far end has gone at its limit is not told to anybody.
        let still_running = exit.is_none();
        Ended { exit, output, omitted_bytes, still_running }
    });
    // Nothing is quicker here than following it.
    let followed = Followed { stdin: Box::new(stdin), awaited, following, lives: Box::new(|| true) };
    Held::take(followed, request, deadline).await
}
